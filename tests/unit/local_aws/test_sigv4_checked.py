"""SigV4 as botocore writes it is accepted, and everything that was changed on the way is not."""

from __future__ import annotations

import itertools
import re
from datetime import UTC, datetime

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from stacks.local.aws.errors import AwsError
from stacks.local.aws.principals import AccessKey, Directory, new_principal
from stacks.local.aws.sigv4 import SignedRequest, Verified, verify

USER = new_principal("arn:aws:iam::111122223333:user/tenant-a")
ROLE = "arn:aws:iam::999900001111:role/mrgc-host"


def now_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)


def directory(clock: list[int] | None = None, lifetime_s: float = 900) -> Directory:
    return Directory(
        [USER], role_arn=ROLE, clock_ms=(lambda: clock[0]) if clock is not None else now_ms, lifetime_s=lifetime_s
    )


def signed(key: AccessKey, body: bytes = b"{}", *, service: str = "kms", **headers: str) -> SignedRequest:
    """Sign as a client does."""
    request = AWSRequest(
        method="POST",
        url="http://127.0.0.1:4566/",
        headers={"X-Amz-Target": "TrentService.Decrypt", "Content-Type": "application/x-amz-json-1.1", **headers},
        data=body,
    )
    credentials = Credentials(key.access_key_id, key.secret_access_key, key.session_token)
    SigV4Auth(credentials, service, "us-west-2").add_auth(request)
    sent = {name.lower(): str(value) for name, value in request.headers.items()}
    return SignedRequest(method="POST", path="/", headers=sent | {"host": "127.0.0.1:4566"}, body=body)


def check(request: SignedRequest, known: Directory, *, at_ms: int | None = None) -> Verified:
    return verify(request, find=known.find, now_ms=now_ms() if at_ms is None else at_ms, service="kms")


def code(request: SignedRequest, known: Directory, *, at_ms: int | None = None) -> str:
    with pytest.raises(AwsError) as caught:
        check(request, known, at_ms=at_ms)
    return caught.value.code


def key_of(known: Directory) -> AccessKey:
    key = known.find(USER.access_key_id)
    assert key is not None
    return key


def changed(request: SignedRequest, **headers: str | None) -> SignedRequest:
    kept = dict(request.headers)
    for name, value in headers.items():
        if value is None:
            del kept[name.replace("_", "-")]
        else:
            kept[name.replace("_", "-")] = value
    return SignedRequest(method=request.method, path=request.path, headers=kept, body=request.body)


def test_a_signed_request_names_its_caller_and_region() -> None:
    known = directory()
    verified = check(signed(key_of(known)), known)
    assert verified.identity.arn == USER.arn
    assert verified.region == "us-west-2"


def test_whatever_is_changed_breaks_the_signature() -> None:
    known = directory()
    good = signed(key_of(known))
    bad = "InvalidSignatureException"
    assert code(SignedRequest(method="POST", path="/", headers=good.headers, body=b"{ }"), known) == bad
    assert code(SignedRequest(method="POST", path="/x", headers=good.headers, body=b"{}"), known) == bad
    assert code(SignedRequest(method="PUT", path="/", headers=good.headers, body=b"{}"), known) == bad
    assert code(changed(good, x_amz_target="TrentService.PutKeyPolicy"), known) == bad
    assert code(changed(good, host="elsewhere"), known) == bad
    for old, new in (("/us-west-2/", "/us-east-1/"), ("/kms/", "/dynamodb/")):
        assert code(changed(good, authorization=good.headers["authorization"].replace(old, new)), known) == bad
    assert code(changed(good, x_amz_content_sha256="0" * 64), known) == bad


def test_a_missing_or_foreign_authorization_is_named() -> None:
    known = directory()
    good = signed(key_of(known))
    assert code(changed(good, authorization=None), known) == "MissingAuthenticationTokenException"
    assert code(changed(good, authorization="Bearer x"), known) == "IncompleteSignatureException"
    text = re.sub("Credential=[A-Z0-9]+/", "Credential=AKIAUNKNOWN/", good.headers["authorization"])
    assert code(changed(good, authorization=text), known) == "UnrecognizedClientException"
    text = good.headers["authorization"].replace(";x-amz-target", "")
    assert text != good.headers["authorization"]
    assert code(changed(good, authorization=text), known) == "IncompleteSignatureException"
    assert code(changed(good, x_amz_target=None), known) == "IncompleteSignatureException"


def test_a_signature_is_good_for_five_minutes() -> None:
    known = directory()
    request = signed(key_of(known))
    made = now_ms()
    check(request, known, at_ms=made + 295_000)
    check(request, known, at_ms=made - 295_000)
    assert code(request, known, at_ms=made + 302_000) == "InvalidSignatureException"
    assert code(request, known, at_ms=made - 302_000) == "InvalidSignatureException"


def test_temporary_credentials_need_their_token_and_end_on_time() -> None:
    clock = [now_ms()]
    known = directory(clock, lifetime_s=60)
    key = known.role_credentials()
    request = signed(key)
    identity = check(request, known, at_ms=clock[0]).identity
    assert ROLE in identity.names
    assert "assumed-role" in identity.arn
    assert code(changed(request, x_amz_security_token="another"), known) == "UnrecognizedClientException"
    assert code(changed(request, x_amz_security_token=None), known) == "IncompleteSignatureException"
    assert key.expires_ms is not None
    check(request, known, at_ms=key.expires_ms - 1)
    assert code(request, known, at_ms=key.expires_ms) == "ExpiredTokenException"


def test_the_role_gets_new_credentials_once_half_their_life_is_over() -> None:
    clock = [1_000_000]
    known = directory(clock, lifetime_s=60)
    first = known.role_credentials()
    clock[0] += 29_999
    assert known.role_credentials() is first
    clock[0] += 1
    second = known.role_credentials()
    assert second.access_key_id != first.access_key_id
    assert known.find(first.access_key_id) is first, "the old ones are good until they end"


def test_secrets_are_in_no_repr() -> None:
    known = directory()
    for value in (USER, key_of(known), known.role_credentials(), signed(known.role_credentials())):
        shown = repr(value)
        secrets = [USER.secret_access_key, known.role_credentials().secret_access_key]
        assert not any(secret in shown for secret in secrets)
    assert len(set(itertools.chain([USER.access_key_id], [new_principal(USER.arn).access_key_id]))) == 2
