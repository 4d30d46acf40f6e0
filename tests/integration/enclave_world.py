"""An embedded AWS over HTTPS, the enclave proxy in front of it, a tenant with a key, and the enclave's own program."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from aiohttp import web

from dataplane.enclave.credentials import HostCredentials
from dataplane.mesh.address import UnixAddress
from dataplane.mesh.settings import load_settings
from dataplane.mesh.tls import server_context
from dataplane.protocol.attestation.key_policy import tenant_key_policy
from dataplane.protocol.header import encryption_context
from dataplane.protocol.link import LinkType
from dataplane.proxy.server import ProxyServer
from dataplane.proxy.settings import ProxySettings
from stacks.local.aws.app import EmbeddedAws
from stacks.local.aws.principals import Directory, new_principal
from stacks.local.pki import create_ca, create_nsm_root, create_server_certificate
from tests.unit.enclave.harness import PCRS, Enclave

ROOT = Path(__file__).parents[2]
TENANT_ROOT = "arn:aws:iam::111122223333:root"
TENANT_USER = "arn:aws:iam::111122223333:user/tenant-a"
ROLE = "arn:aws:iam::999900001111:role/mrgc-host"
DEADLINE_S = 20.0

Session = tuple[dict[str, str], bytes, bytes]
"""Encryption context, data key and wrapped data key."""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class World:
    """An embedded AWS on HTTPS, the proxy in front of it, and a tenant with a key."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path
        self.ca = create_ca()
        self.nsm_root = create_nsm_root()
        self.ca_file, _ = self.ca.save(tmp_path, "ca")
        self.nsm_files = self.nsm_root.save(tmp_path, "nsm")
        self.certificate = create_server_certificate(self.ca).save(tmp_path, "server")
        self.admin, self.user = new_principal(TENANT_ROOT), new_principal(TENANT_USER)
        self.directory = Directory([self.admin, self.user], role_arn=ROLE, clock_ms=now_ms)
        self.aws = EmbeddedAws(
            directory=self.directory, nsm_roots=[self.nsm_root.certificate], spans_file=None, clock_ms=now_ms
        )
        self.port = 0
        self.kms_socket = UnixAddress(f"{tmp_path}/kms.sock")
        self.proxy: ProxyServer | None = None

    @property
    def endpoint(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def client(self, principal: Any, region: str = "us-east-1") -> Any:
        return boto3.client(
            "kms",
            region_name=region,
            endpoint_url=self.endpoint,
            aws_access_key_id=principal.access_key_id,
            aws_secret_access_key=principal.secret_access_key,
            verify=str(self.ca_file),
        )

    async def key(self, pcrs: dict[int, bytes] = PCRS, *, multi_region: bool = True) -> str:
        policy = tenant_key_policy(TENANT_ROOT, TENANT_USER, ROLE, pcrs)
        answer = await asyncio.to_thread(
            lambda: self.client(self.admin).create_key(Policy=json.dumps(policy), MultiRegion=multi_region)
        )
        return str(answer["KeyMetadata"]["Arn"])

    async def session(self, key_arn: str, tenant: str = "tenant-a") -> tuple[dict[str, str], bytes, bytes]:
        context = encryption_context(tenant, os.urandom(16).hex(), now_ms() // 1000 + 600)
        answer = await asyncio.to_thread(
            lambda: self.client(self.user).generate_data_key(
                KeyId=key_arn, KeySpec="AES_256", EncryptionContext=context
            )
        )
        return context, answer["Plaintext"], answer["CiphertextBlob"]

    def credentials(self) -> HostCredentials:
        key = self.directory.role_credentials()
        assert key.session_token is not None, "a role's credentials have a token"
        assert key.expires_ms is not None, "and an end"
        return HostCredentials(
            access_key_id=key.access_key_id,
            secret_access_key=key.secret_access_key,
            session_token=key.session_token,
            expires_ms=key.expires_ms,
        )


@contextlib.asynccontextmanager
async def running_world(tmp_path: Path) -> AsyncIterator[World]:
    """Run the embedded AWS and the proxy."""
    made = World(tmp_path)
    runner = web.AppRunner(made.aws.application(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        made.port = sock.getsockname()[1]
        site = web.SockSite(runner, sock, ssl_context=server_context(*made.certificate))
        await site.start()
        made.proxy = ProxyServer(
            load_settings(
                ProxySettings,
                {
                    "PARENT_ADDRESS": f"unix:{tmp_path}/proxy.sock",
                    "ENCLAVE_ADDRESS": f"unix:{tmp_path}/enclave.sock",
                    "KMS_LISTEN_ADDRESS": str(made.kms_socket),
                    "KMS_ENDPOINTS": f"127.0.0.1:{made.port}",
                    "DRAIN_TIMEOUT_S": "0.1",
                },
            ),
            monotonic=time.monotonic,
        )
        await made.proxy.start()
        try:
            yield made
        finally:
            await made.proxy.close()
            await runner.cleanup()


@dataclass
class Program:
    """The enclave's program in a process of its own."""

    process: asyncio.subprocess.Process
    reading: asyncio.Task[tuple[bytes, bytes]]
    visitor: Enclave

    async def stop(self) -> str:
        """End it as an operator does and return its log."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        async with asyncio.timeout(DEADLINE_S):
            _, errors = await self.reading
        return errors.decode()

    async def give_credentials(self, key: HostCredentials) -> None:
        reply = await self.visitor.call(
            op="credentials",
            access_key_id=key.access_key_id,
            secret_access_key=key.secret_access_key,
            session_token=key.session_token,
            expires_ms=key.expires_ms,
        )
        assert reply.type is LinkType.REPLY, "credentials are taken"


async def start_program(
    world: World, *, address: UnixAddress, visit: UnixAddress, region: str = "us-east-1", drain_s: float = 0.1
) -> Program:
    """Start an enclave at `address`; its visitor is a parent and a tenant who come in at `visit`."""
    environ = {
        "PATH": os.environ["PATH"],
        "LOG_LEVEL": "DEBUG",
        "ENCLAVE_LISTEN_ADDRESS": str(address),
        "KMS_PROXY_ADDRESS": str(world.kms_socket),
        "MRGC_REGION": region,
        "INSTANCE_ID": "i-0aaaabbbbccccdddd",
        "NSM_ROOT_FILE": str(world.nsm_files[0]),
        "NSM_ROOT_KEY_FILE": str(world.nsm_files[1]),
        "DRAIN_TIMEOUT_S": str(drain_s),
        "AWS_ENDPOINT_URL_KMS": world.endpoint,
        "AWS_CA_BUNDLE": str(world.ca_file),
        **{f"PCR{index}": value.hex() for index, value in PCRS.items()},
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "stacks.local.enclave", env=environ, cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    visitor = Enclave(world.path / "unused")  # its own server is never started
    visitor.address = visit
    program = Program(process, asyncio.create_task(process.communicate()), visitor)
    await eventually(lambda: Path(address.path).is_socket() or program.reading.done())
    await eventually(lambda: program.reading.done() or _answers(address))
    return program


def _answers(address: UnixAddress) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(address.path)
        except OSError:
            return False
        return True


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)
