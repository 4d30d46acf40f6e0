"""Signature Version 4, checked: botocore signs what came in again, and the signatures must be equal.

Source: IAM user guide, "Signing AWS API requests". Query-string signatures and chunked payloads are refused: KMS
clients use neither.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from stacks.local.aws.errors import AwsError
from stacks.local.aws.principals import AccessKey, Identity

MAX_SKEW_S = 300
"""A signature is good for five minutes around its time."""

REQUIRED_HEADERS = frozenset({"host", "x-amz-date", "x-amz-target"})

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[A-Z0-9]{1,128})/(?P<date>[0-9]{8})/(?P<region>[a-z0-9-]{1,32})/"
    r"(?P<service>[a-z0-9-]{1,32})/aws4_request, ?SignedHeaders=(?P<headers>[a-z0-9;-]{1,2048}), ?"
    r"Signature=(?P<signature>[0-9a-f]{64})"
)
_DATE = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRequest:
    """A request as it came in; header names in lower case, `path` as on the wire with its query."""

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """Who signed, and for which region."""

    identity: Identity
    region: str


def verify(request: SignedRequest, *, find: Callable[[str], AccessKey | None], now_ms: int, service: str) -> Verified:
    """Return who signed the request for this service; raises `AwsError` with AWS's code for what is wrong."""
    header = request.headers.get("authorization", "")
    if not header:
        raise AwsError("MissingAuthenticationTokenException", "Request is missing Authentication Token")
    scope = _AUTHORIZATION.fullmatch(header)
    if scope is None:
        raise AwsError("IncompleteSignatureException", "The Authorization header is not Signature Version 4.")
    if scope["service"] != service:
        raise AwsError("InvalidSignatureException", f"Credential should be scoped to correct service: '{service}'.")
    key = find(scope["key"])
    if key is None:
        raise AwsError("UnrecognizedClientException", "The security token included in the request is invalid.")
    signed = scope["headers"].split(";")
    _check_headers(request, key, frozenset(signed))
    moment = _check_time(request, scope["date"], now_ms)
    expected = _signature(request, signed, key, scope, moment)
    if not hmac.compare_digest(expected, scope["signature"]):
        raise AwsError(
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided.",
        )
    # After the signature, so that nobody learns of a key's state without the key.
    if key.expires_ms is not None and key.expires_ms <= now_ms:
        raise AwsError("ExpiredTokenException", "The security token included in the request is expired")
    return Verified(identity=key.identity, region=scope["region"])


def _check_headers(request: SignedRequest, key: AccessKey, signed: frozenset[str]) -> None:
    needed = REQUIRED_HEADERS if key.session_token is None else REQUIRED_HEADERS | {"x-amz-security-token"}
    missing = sorted(name for name in needed if name not in signed or name not in request.headers)
    if missing:
        raise AwsError("IncompleteSignatureException", f"The signature does not cover {missing[0]}.")
    token = request.headers.get("x-amz-security-token")
    if not hmac.compare_digest((token or "").encode(), (key.session_token or "").encode()):
        raise AwsError("UnrecognizedClientException", "The security token included in the request is invalid.")
    digest = request.headers.get("x-amz-content-sha256")
    if digest is not None and digest != hashlib.sha256(request.body).hexdigest():
        raise AwsError("InvalidSignatureException", "X-Amz-Content-SHA256 is not the digest of the body.")


def _check_time(request: SignedRequest, date: str, now_ms: int) -> str:
    moment = request.headers["x-amz-date"]
    try:
        at = datetime.strptime(moment, _DATE).replace(tzinfo=UTC)
    except ValueError:
        raise AwsError("IncompleteSignatureException", "X-Amz-Date is not of the form 20260101T000000Z.") from None
    if moment[:8] != date:
        raise AwsError("InvalidSignatureException", "The credential's date is not that of X-Amz-Date.")
    if abs(at.timestamp() - now_ms / 1000) > MAX_SKEW_S:
        raise AwsError("InvalidSignatureException", f"Signature expired: {moment} is not within {MAX_SKEW_S} s.")
    return moment


def _signature(request: SignedRequest, signed: list[str], key: AccessKey, scope: re.Match[str], moment: str) -> str:
    """Sign the same method, path, headers and body with the key's secret."""
    credentials = Credentials(key.access_key_id, key.secret_access_key, key.session_token)
    auth = SigV4Auth(credentials, scope["service"], scope["region"])
    again = AWSRequest(
        method=request.method,
        url=f"https://{request.headers['host']}{request.path}",
        headers={name: request.headers.get(name, "") for name in signed},
        data=request.body,
    )
    again.context["timestamp"] = moment
    text = auth.string_to_sign(again, auth.canonical_request(again))
    return str(auth.signature(text, again))
