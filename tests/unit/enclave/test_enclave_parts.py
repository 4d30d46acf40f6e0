"""Small parts of the enclave: where KMS is asked, what its errors mean, identity, loopback, settings."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError, NoCredentialsError

from dataplane.enclave.binding import MAX_BINDING_AGE_S, WorkerBinding
from dataplane.enclave.credentials import HostCredentials, RelayedCredentials
from dataplane.enclave.identity import attested_region, read_identity
from dataplane.enclave.kms import MAX_WAITING, BotoKms, decrypt_target, problem_of
from dataplane.enclave.loopback import bring_up_loopback, seed_kernel
from dataplane.enclave.settings import EnclaveSettings
from dataplane.mesh.settings import load_settings
from dataplane.protocol.attestation.document import parse_cose, parse_payload
from dataplane.protocol.errors import MrgcError, ProblemError, SettingsError
from dataplane.protocol.recipient import RecipientError
from stacks.local.nsm import SoftwareNsm
from stacks.local.pki import create_nsm_root

DATA = Path(__file__).parents[2] / "data/attestation"
KEY = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
MULTI = "arn:aws:kms:us-east-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"


def nsm(region: str = "us-east-1", pcrs: dict[int, bytes] | None = None) -> SoftwareNsm:
    return SoftwareNsm(
        root=create_nsm_root(),
        pcrs=pcrs or {0: b"\x01" * 48},
        instance_id="i-0aaaabbbbccccdddd",
        clock_ms=lambda: time.time_ns() // 10**6,
        region=region,
    )


def test_a_multi_region_key_is_asked_for_at_home_and_others_where_they_are() -> None:
    assert decrypt_target(MULTI, own_region="us-west-2") == ("us-west-2", MULTI.replace("us-east-1", "us-west-2")), (
        "the replica is near, and survives its primary's region"
    )
    assert decrypt_target(KEY, own_region="us-west-2") == ("us-east-1", KEY), "there is only one"


@pytest.mark.parametrize(
    "arn",
    [
        "",
        "mrk-1",
        "arn:aws:kms:us-east-1:111122223333:alias/mine",
        "arn:aws:kms:us-east-1:1111:key/mrk-1",
        "arn:aws:kms:evil.example.com/:111122223333:key/1",
        "arn:aws:kms:us-east-1:111122223333:key/1\n",
        "arn:aws:kms:eu-west-1:111122223333:key/1234abcd",
        "arn:aws:s3:us-east-1:111122223333:key/1",
    ],
)
def test_what_is_no_key_within_reach_is_denied(arn: str) -> None:
    with pytest.raises(ProblemError) as caught:
        decrypt_target(arn, own_region="us-east-1")
    assert caught.value.code == "kms-denied", "no name of a host is made from it"


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("AccessDeniedException", "kms-denied"),
        ("InvalidCiphertextException", "kms-denied"),
        ("IncorrectKeyException", "kms-denied"),
        ("NotFoundException", "kms-denied"),
        ("DisabledException", "kms-denied"),
        ("KMSInvalidStateException", "kms-denied"),
        ("ThrottlingException", "host-failed"),
        ("KMSInternalException", "host-failed"),
        ("DependencyTimeoutException", "host-failed"),
        ("ExpiredTokenException", "host-failed"),
        ("UnrecognizedClientException", "host-failed"),
        ("SomethingNew", "host-failed"),
    ],
)
def test_errors_of_kms_are_the_tenants_or_the_hosts(code: str, problem: str) -> None:
    error = ClientError({"Error": {"Code": code, "Message": "role arn:secret is not"}}, "Decrypt")
    found = problem_of(error, KEY)
    assert found.code == problem, f"{code} means that"
    assert code in found.detail, "the code is said"
    assert "secret" not in found.detail, "the message is not: it quotes principals"
    assert (found.retry_after_s is not None) == (problem == "host-failed"), "retrying helps only with the host's"


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url="https://x"),
        ConnectTimeoutError(endpoint_url="https://x"),
        NoCredentialsError(),
        RecipientError("does not open"),
    ],
)
def test_an_unreachable_kms_is_the_hosts_failure(error: Exception) -> None:
    found = problem_of(error, KEY)
    assert found.code == "host-failed", "another host may reach it"
    assert "https://x" not in found.detail, "its text is not repeated"


async def test_too_many_waiting_calls_are_overloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = RelayedCredentials(clock_ms=lambda: 0)
    kms = BotoKms(nsm=nsm(), credentials=credentials, region="us-east-1", proxy_url=None)
    try:
        arguments = {"key_arn": KEY, "context": {}, "ciphertext": b"x", "deadline_s": 0.05}
        with pytest.raises(ProblemError, match="no valid AWS credentials"):
            await kms.decrypt(**arguments)  # type: ignore[arg-type] # one dictionary for three calls
        credentials.replace(
            HostCredentials(access_key_id="a", secret_access_key="b", session_token="c", expires_ms=2**50)
        )
        done = asyncio.Event()
        loop = asyncio.get_running_loop()

        def slow(*_: object) -> bytes:
            asyncio.run_coroutine_threadsafe(done.wait(), loop).result(5)
            return b"k" * 32

        monkeypatch.setattr(kms, "_decrypt", slow)
        with pytest.raises(ProblemError, match=r"did not come within 0\.05 s: KMS or this host"):
            await kms.decrypt(**arguments)  # type: ignore[arg-type] # as above
        assert kms._waiting == 1, "a thread that still runs keeps its place"
        monkeypatch.setattr(kms, "_waiting", MAX_WAITING)
        with pytest.raises(ProblemError) as caught:
            await kms.decrypt(**arguments)  # type: ignore[arg-type] # as above
        assert caught.value.code == "overloaded", "no unbounded queue of blocked threads"
        done.set()
    finally:
        kms.close()


def test_identity_comes_from_the_enclaves_own_document() -> None:
    identity = read_identity(nsm(region="us-west-2", pcrs={0: b"\x09" * 48}))
    assert identity.region == "us-west-2", "from the certificate's name: one image serves every region"
    assert identity.instance_id == "i-0aaaabbbbccccdddd", "from the module's id"
    assert identity.pcr0 == b"\x09" * 48, "what it measures"


def test_a_region_that_the_document_denies_is_refused() -> None:
    assert read_identity(nsm(), region="us-east-1").region == "us-east-1", "agreeing is fine"
    with pytest.raises(SettingsError, match="attestation document says 'us-east-1'"):
        read_identity(nsm(), region="us-west-2")


@pytest.mark.parametrize("name", ["enclave-definite-map.bin", "enclave-indefinite-map.bin", "enclave-debug.bin"])
def test_genuine_documents_name_their_region(name: str) -> None:
    document = parse_payload(parse_cose((DATA / name).read_bytes()).payload)
    assert attested_region(document) == "us-east-1", "where AWS's samples were made"


def test_a_document_of_another_maker_names_none() -> None:
    document = parse_payload(parse_cose((DATA / "not-aws-root.bin").read_bytes()).payload)
    assert attested_region(document) is None, "its certificate is called otherwise"


def test_a_loopback_that_is_up_stays_up_and_a_missing_one_is_a_sentence() -> None:
    bring_up_loopback()
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert server.getsockname()[1] > 0, "loopback works"
    with pytest.raises(MrgcError, match="nosuch0 can't be brought up"):
        bring_up_loopback("nosuch0")


def test_the_modules_random_bytes_go_into_the_kernels_pool(tmp_path: Path) -> None:
    pool = tmp_path / "random"
    pool.touch()
    seed_kernel(nsm(), pool)
    assert len(set(pool.read_bytes())) > 64, "256 random bytes, not zeros"


def test_settings_name_every_fault_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(
            EnclaveSettings,
            {"ENCLAVE_LISTEN_ADDRESS": "5000", "MRGC_REGION": "mars", "MAX_CONNECTIONS": "0"},
        )
    for name in ("ENCLAVE_LISTEN_ADDRESS", "MRGC_REGION", "MAX_CONNECTIONS"):
        assert name in str(caught.value), "one run tells all that is wrong"


def test_a_binding_tells_the_ages_of_its_proof() -> None:
    worker = WorkerBinding(
        public_key=b"p" * 32,
        epoch=b"\xab" * 16,
        config_digest=b"c" * 32,
        wash=None,
        host_attested=True,
        bound_s=100.0,
        document_s=1.5,
    )
    assert worker.proof(107.9) == {"binding": 7, "document": 9}, "whole seconds, the document's age at the time added"
    assert replace(worker, document_s=None).proof(107.9) == {"binding": 7}, "no document, no age of one"
    worker.check_age(100.0 + MAX_BINDING_AGE_S - 0.001)
    for now_s in (100.0 + MAX_BINDING_AGE_S, 99.0):
        with pytest.raises(ProblemError, match="binding is older"):
            worker.check_age(now_s)
