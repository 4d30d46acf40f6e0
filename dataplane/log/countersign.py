"""Sigstore's signature over a head of the log, for whoever trusts Sigstore's log more than the operator's key.

What is signed is the checkpoint's text (origin, size, root), so it covers every entry below it, and signing the head
again with a new time leaves it valid. The bundle is one more static file, `sigstore/<size>.json`. The library is
a dependency group of its own (`sigstore`), loaded only here: a log works without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dataplane.log.disk import Disk
from dataplane.protocol.errors import MrgcError, SettingsError
from dataplane.protocol.transparency.checkpoint import SignedHead

MAX_BUNDLE_BYTES: Final = 1 << 18
"""256 KiB: a bundle with its certificate and its proof of inclusion is about 10 KB."""

_MISSING: Final = "The sigstore library is not installed; install it with `uv sync --group sigstore`."

Sign = Callable[[bytes], str]
"""Takes what is signed, returns the bundle as JSON; raises `CountersignError` or `SettingsError`."""


class CountersignError(MrgcError):
    """A countersignature that could not be made, or does not hold."""


def bundle_path(head: SignedHead) -> str:
    """Return where a head's bundle lies, below the log's address."""
    return f"sigstore/{head.size}.json"


def artifact(head: SignedHead) -> bytes:
    """Return what is signed."""
    return head.checkpoint.text().encode()


def countersign(disk: Disk, head: SignedHead, sign: Sign) -> str:
    """Have `head` signed and put the bundle into the log's folder; returns its path there."""
    bundle = sign(artifact(head)).encode()
    if len(bundle) > MAX_BUNDLE_BYTES:
        raise CountersignError(f"Sigstore's bundle is over {MAX_BUNDLE_BYTES} bytes; it is not kept.")
    try:
        disk.replace(bundle_path(head), bundle)
    except OSError as error:
        raise CountersignError(f"{disk.root / bundle_path(head)} can't be written ({error.strerror}).") from None
    return bundle_path(head)


def sign_with_sigstore(data: bytes) -> str:
    """Sign with the identity that this machine has: the ambient OIDC token of a CI job. Blocking, over the network."""
    try:
        from sigstore.models import ClientTrustConfig  # noqa: PLC0415 - an optional library
        from sigstore.oidc import IdentityError, IdentityToken, detect_credential  # noqa: PLC0415 - the same
        from sigstore.sign import SigningContext  # noqa: PLC0415 - the same
    except ModuleNotFoundError:
        raise SettingsError(_MISSING) from None
    try:
        token = detect_credential()
    except IdentityError as error:
        raise SettingsError(f"The identity to countersign with is refused ({type(error).__name__}).") from None
    if token is None:
        raise SettingsError(
            "There is no identity to countersign with; run it in a CI job that gives an OIDC token "
            "(such as GitHub Actions with `id-token: write`)."
        )
    try:
        context = SigningContext.from_trust_config(ClientTrustConfig.production())
        with context.signer(IdentityToken(token)) as signer:
            return signer.sign_artifact(data).to_json()
    except Exception as error:
        # The library's errors have no common base, nor do those of the HTTP client below it.
        raise CountersignError(
            f"Sigstore did not sign ({type(error).__name__}); the log is as it was, try again later."
        ) from error


def verify_with_sigstore(data: bytes, bundle: bytes, *, identity: str, issuer: str) -> None:
    """Check that `identity` (as its OIDC `issuer` names it) signed `data`; blocking.

    Sigstore's trust root is the one in the library, so nothing is fetched. Raises `CountersignError`, `SettingsError`.
    """
    try:
        from sigstore.errors import Error, VerificationError  # noqa: PLC0415 - an optional library
        from sigstore.models import Bundle, InvalidBundle  # noqa: PLC0415 - the same
        from sigstore.verify import Verifier, policy  # noqa: PLC0415 - the same
    except ModuleNotFoundError:
        raise SettingsError(_MISSING) from None
    try:
        parsed = Bundle.from_json(bundle)
    except (InvalidBundle, ValueError):
        raise CountersignError("The countersignature is no Sigstore bundle; ask the log's operator.") from None
    try:
        Verifier.production(offline=True).verify_artifact(
            data, parsed, policy.Identity(identity=identity, issuer=issuer)
        )
    except VerificationError as error:
        raise CountersignError(f"Sigstore's signature does not hold for this head and {identity}: {error}") from None
    except Error as error:
        raise CountersignError(f"Sigstore's signature can't be checked ({type(error).__name__}).") from None
