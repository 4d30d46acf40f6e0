"""The enclave's KMS path with every real part: boto3, the bridge, the proxy, TLS, and a KMS that checks attestation."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dataplane.enclave.bridge import LoopbackBridge
from dataplane.enclave.credentials import HostCredentials, RelayedCredentials
from dataplane.enclave.kms import BotoKms
from dataplane.enclave.settings import EnclaveSettings
from dataplane.mesh.address import UnixAddress
from dataplane.mesh.settings import load_settings
from dataplane.protocol.attestation.key_policy import tenant_key_policy
from dataplane.protocol.errors import ProblemError
from dataplane.protocol.link import LinkType
from stacks.local.nsm import SoftwareNsm
from stacks.local.pki import Authority, create_ca, create_nsm_root
from tests.integration.enclave_world import (
    DEADLINE_S,
    ROLE,
    ROOT,
    TENANT_ROOT,
    TENANT_USER,
    Session,
    World,
    now_ms,
    running_world,
    start_program,
)
from tests.unit.enclave.harness import PCRS, enclave


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    async with running_world(tmp_path) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", made.endpoint)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(made.ca_file))
        yield made


@contextlib.asynccontextmanager
async def decryptor(
    world: World, *, pcrs: dict[int, bytes] = PCRS, region: str = "us-east-1", root: Authority | None = None
) -> AsyncIterator[tuple[BotoKms, RelayedCredentials]]:
    """The enclave's side: NSM, bridge and boto3."""
    credentials = RelayedCredentials(clock_ms=now_ms)
    credentials.replace(world.credentials())
    bridge = LoopbackBridge(world.kms_socket, monotonic=time.monotonic)
    await bridge.start()
    nsm = SoftwareNsm(root=root or world.nsm_root, pcrs=pcrs, instance_id="i-0aaaabbbbccccdddd", clock_ms=now_ms)
    kms = BotoKms(nsm=nsm, credentials=credentials, region=region, proxy_url=bridge.url)
    try:
        yield kms, credentials
    finally:
        kms.close()
        await bridge.close()


async def opened(kms: BotoKms, key_arn: str, session: Session, **changes: Any) -> bytes:
    context, _, wrapped = session
    arguments: dict[str, Any] = {"context": context, "ciphertext": wrapped, "deadline_s": DEADLINE_S}
    return await kms.decrypt(key_arn=key_arn, **(arguments | changes))


async def refusal(
    kms: BotoKms, key_arn: str, session: tuple[dict[str, str], bytes, bytes], **changes: Any
) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        await opened(kms, key_arn, session, **changes)
    return caught.value


async def test_an_enclave_of_the_published_measurement_gets_the_data_key(world: World) -> None:
    key_arn = await world.key()
    session = await world.session(key_arn)
    async with decryptor(world) as (kms, _):
        assert await opened(kms, key_arn, session) == session[1], "the very key that the tenant has"
        assert await opened(kms, key_arn, session) == session[1], "over the same tunnel again"
        assert kms.calls == 2, "nothing is cached below the keyring"
    assert world.proxy is not None, "there is a proxy"
    assert world.proxy.tunnels.counters.accepted == 1, "boto3 kept its connection"


async def test_kms_refuses_an_enclave_of_another_measurement(world: World) -> None:
    key_arn = await world.key()
    session = await world.session(key_arn)
    async with decryptor(world, pcrs={**PCRS, 0: b"\x66" * 48}) as (kms, _):
        problem = await refusal(kms, key_arn, session)
    assert problem.code == "kms-denied", "the policy names another image"
    assert "AccessDeniedException" in problem.detail, "KMS's own code"
    assert "measurements" in problem.detail, "and what to compare"
    assert session[1].hex() not in problem.detail, "and no key"


async def test_kms_refuses_a_document_of_another_root(world: World) -> None:
    key_arn = await world.key()
    session = await world.session(key_arn)
    async with decryptor(world, root=create_nsm_root()) as (kms, _):
        assert (await refusal(kms, key_arn, session)).code == "kms-denied", "anyone can make a document"


async def test_kms_refuses_another_context_or_another_key(world: World) -> None:
    key_arn, other = await world.key(), await world.key()
    session = await world.session(key_arn)
    async with decryptor(world) as (kms, _):
        moved = session[0] | {"mrgc:tenant": "tenant-b"}
        assert (await refusal(kms, key_arn, session, context=moved)).code == "kms-denied", "the context is bound"
        assert (await refusal(kms, other, session)).code == "kms-denied", "KeyId is always given, so another is refused"
        garbage = await refusal(kms, key_arn, session, ciphertext=os.urandom(100))
        assert garbage.code == "kms-denied", "bytes that KMS never made"


async def test_a_multi_region_key_is_asked_for_in_the_enclaves_own_region(world: World) -> None:
    key_arn = await world.key()
    session = await world.session(key_arn)
    policy = json.dumps(tenant_key_policy(TENANT_ROOT, TENANT_USER, ROLE, PCRS))
    await asyncio.to_thread(
        lambda: world.client(world.admin).replicate_key(KeyId=key_arn, ReplicaRegion="us-west-2", Policy=policy)
    )
    async with decryptor(world, region="us-west-2") as (kms, _):
        assert await opened(kms, key_arn, session) == session[1], "the replica opens it"
    async with decryptor(world, region="us-east-2") as (kms, _):
        assert (await refusal(kms, key_arn, session)).code == "kms-denied", "there is no replica there"


async def test_a_single_region_key_is_asked_for_where_it_is(world: World) -> None:
    key_arn = await world.key(multi_region=False)
    session = await world.session(key_arn)
    async with decryptor(world, region="us-west-2") as (kms, _):
        assert await opened(kms, key_arn, session) == session[1], "in us-east-1, from an enclave in us-west-2"


async def test_credentials_that_kms_does_not_know_are_the_hosts_failure(world: World) -> None:
    key_arn = await world.key()
    session = await world.session(key_arn)
    async with decryptor(world) as (kms, credentials):
        wrong = world.credentials()
        credentials.replace(
            HostCredentials(
                access_key_id=wrong.access_key_id,
                secret_access_key="not-the-secret-of-it",
                session_token=wrong.session_token,
                expires_ms=wrong.expires_ms,
            )
        )
        problem = await refusal(kms, key_arn, session)
        assert problem.code == "host-failed", "another host has other credentials"
        assert problem.retry_after_s == 1, "and this one soon again"
        credentials.replace(world.credentials())
        assert await opened(kms, key_arn, session) == session[1], "renewed credentials serve at once"


async def test_without_a_proxy_kms_is_unreachable_and_the_host_has_failed(world: World) -> None:
    key_arn = await world.key()
    session = await world.session(key_arn)
    async with decryptor(world) as (kms, _):
        assert world.proxy is not None, "there is a proxy"
        await world.proxy.close()
        assert (await refusal(kms, key_arn, session)).code == "host-failed", "not the tenant's fault"


async def test_a_proxy_that_does_not_allow_the_endpoint_stops_the_call(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_arn = await world.key()
    session = await world.session(key_arn)
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", f"https://localhost:{world.port}")
    async with decryptor(world) as (kms, _):
        assert (await refusal(kms, key_arn, session)).code == "host-failed", "localhost is not in the list"
    assert world.proxy is not None, "there is a proxy"
    assert world.proxy.refused_tunnels >= 1, "the proxy refused it"


async def test_a_kms_with_another_certificate_is_not_talked_to(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_arn = await world.key()
    session = await world.session(key_arn)
    other, _ = create_ca().save(tmp_path, "other")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(other))
    async with decryptor(world) as (kms, _):
        assert (await refusal(kms, key_arn, session)).code == "host-failed", "TLS ends in the enclave, and it checks"


async def test_a_session_costs_one_call_of_a_real_kms(world: World, tmp_path: Path) -> None:
    key_arn = await world.key()
    session = await world.session(key_arn)
    async with (
        decryptor(world) as (kms, credentials),
        enclave(tmp_path, decryptor=kms, credentials=credentials) as running,
    ):
        credentials.replace(world.credentials())  # the harness gave made-up ones
        for _ in range(3):
            outcome = await running.infer(running.seal(session=session, kms=key_arn))
            assert outcome.body == b"token", "sealed for the tenant, opened by it"
        assert kms.calls == 1, "one call for three requests of a session"


@pytest.mark.processes
async def test_the_enclaves_own_program_serves_says_nothing_secret_and_stops(world: World, tmp_path: Path) -> None:
    key_arn = await world.key()
    session = await world.session(key_arn)
    policy = json.dumps(tenant_key_policy(TENANT_ROOT, TENANT_USER, ROLE, PCRS))
    await asyncio.to_thread(
        lambda: world.client(world.admin).replicate_key(KeyId=key_arn, ReplicaRegion="us-east-2", Policy=policy)
    )
    address = UnixAddress(f"{tmp_path}/main.sock")
    program = await start_program(world, address=address, visit=address, region="us-east-2")
    key, visitor = world.credentials(), program.visitor
    try:
        assert (await visitor.bind()).type is LinkType.REPLY, "it takes a worker"
        await program.give_credentials(key)
        visitor.worker.chunks = (b"the secret ", b"answer")
        sealed = visitor.seal(b'{"prompt": "the secret prompt"}', session=session, kms=key_arn)
        outcome = await visitor.infer(sealed)
        assert outcome.body == b"the secret answer", "the whole program answers"
        assert outcome.receipt.region == "us-east-2", "the region of its document"
        assert (await visitor.infer(sealed)).problem == "replayed", "and remembers"
    finally:
        log = await program.stop()
    assert program.process.returncode == 0, "stopped as asked"
    assert "the enclave is ready" in log, "there is a log"
    for secret in (session[1].hex(), repr(session[1])[2:-1], key.secret_access_key, key.session_token, "secret"):
        assert secret not in log, "no key, credential, prompt or answer in it, at DEBUG"


@pytest.mark.processes
async def test_a_wrong_setting_ends_the_program_with_one_sentence_each(tmp_path: Path) -> None:
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "stacks.local.enclave",
        env={"PATH": os.environ["PATH"], "PCR0": "00", "NSM_ROOT_FILE": str(tmp_path), "KMS_PROXY_ADDRESS": "8000"},
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(DEADLINE_S):
        _, errors = await program.communicate()
    assert program.returncode == 64, "EX_USAGE"
    for name in ("PCR0", "PCR1", "PCR2", "NSM_ROOT_KEY_FILE", "KMS_PROXY_ADDRESS"):
        assert name in errors.decode(), "every fault at once"


@pytest.mark.skipif(Path("/dev/nsm").exists(), reason="runs where there is no Nitro Secure Module")
@pytest.mark.processes
async def test_the_images_program_refuses_to_run_outside_an_enclave() -> None:
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dataplane.enclave", env={}, cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(DEADLINE_S):
        _, errors = await program.communicate()
    assert program.returncode == 1, "failed"
    assert "/dev/nsm can't be opened" in errors.decode(), "there is no software NSM in the image"


def test_the_defaults_are_the_production_layout() -> None:
    settings = load_settings(EnclaveSettings, {})
    assert str(settings.kms_proxy_address) == "vsock:3:8000", "the parent instance's port"
    assert settings.mrgc_region == "", "the attestation document says it"
