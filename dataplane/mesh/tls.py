"""TLS contexts of the sidecars: TLS 1.3, certificates from files, mutual where an authority for peers is given."""

from __future__ import annotations

import ssl
from pathlib import Path

from dataplane.protocol.errors import SettingsError


def server_context(certificate: Path, key: Path, *, client_authority: Path | None = None) -> ssl.SSLContext:
    """The context of a listener; with `client_authority` every client must show a certificate of that authority.

    Raises SettingsError that names the file that cannot be read or does not fit.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    _load_chain(context, certificate, key)
    if client_authority is not None:
        _load_authority(context, client_authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(
    authority: Path | None = None, *, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """The context of a client: trusts `authority` only, or the system's authorities without one.

    `certificate` and `key` are shown to servers that ask. Raises SettingsError as `server_context` does.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if authority is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _load_authority(context, authority)
    if (certificate is None) != (key is None):
        raise SettingsError("A client certificate and its key come together: give both files or neither.")
    if certificate is not None and key is not None:
        _load_chain(context, certificate, key)
    return context


def _load_chain(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    for path in (certificate, key):
        _check_readable(path)
    try:
        context.load_cert_chain(certificate, key)
    except (ssl.SSLError, OSError) as error:
        raise SettingsError(
            f"{certificate} and {key} do not make a TLS identity ({_reason(error)}); "
            "give a PEM certificate chain and its unencrypted PEM key."
        ) from None


def _load_authority(context: ssl.SSLContext, authority: Path) -> None:
    _check_readable(authority)
    try:
        context.load_verify_locations(cafile=authority)
    except (ssl.SSLError, OSError) as error:
        raise SettingsError(
            f"{authority} holds no readable authority ({_reason(error)}); give PEM certificates."
        ) from None


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}); name a readable PEM file.") from None


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or type(error).__name__
