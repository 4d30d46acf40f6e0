"""Mutual TLS between router and parent: who gets in, who is believed, and that a broken answer stays broken."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from dataplane.mesh.tls import client_context
from stacks.local.pki import Authority, create_ca, create_server_certificate
from tests.support.whole_path import INSTANCE, Options, WholePath, chat, whole_path
from tests.unit.router.harness import head

SERVER_ONLY = (ExtendedKeyUsageOID.SERVER_AUTH,)
CLIENT_ONLY = (ExtendedKeyUsageOID.CLIENT_AUTH,)
MUST_END_S = 10


@dataclass(frozen=True)
class Files:
    """Where one party's certificate and key are, and the authority that it believes."""

    certificate: Path
    key: Path
    authority: Path

    def context(self) -> ssl.SSLContext:
        return client_context(self.authority, certificate=self.certificate, key=self.key)


class Mesh:
    """An authority for hosts and one for routers, a host's certificate and a router's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts, self.routers = create_ca(), create_ca()
        self.hosts_file, _ = self.hosts.save(folder, "hosts-ca")
        self.routers_file, _ = self.routers.save(folder, "routers-ca")
        self.host = self.issue("host", self.hosts, usages=SERVER_ONLY)
        self.router = self.issue("router", self.routers, usages=CLIENT_ONLY)

    def issue(self, name: str, authority: Authority, **fields: Any) -> Files:
        certificate, key = create_server_certificate(authority, **fields).save(self.folder, name)
        return Files(certificate, key, self.hosts_file)

    def options(self, *, host: Files | None = None, router: dict[str, Any] | None = None) -> Options:
        host = host or self.host
        return Options(
            parent={
                "TLS_CERT_FILE": str(host.certificate),
                "TLS_KEY_FILE": str(host.key),
                "TLS_CLIENT_CA_FILE": str(self.routers_file),
            },
            router={
                "hosts_ca_file": self.hosts_file,
                "hosts_cert_file": self.router.certificate,
                "hosts_key_file": self.router.key,
                **(router or {}),
            },
            hosts_tls=self.router.context(),
        )


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


async def answer_to(path: WholePath, tls: ssl.SSLContext | None) -> bytes:
    """What the parent says to a request of somebody with `tls`; nothing where the door stays closed."""
    try:
        async with asyncio.timeout(MUST_END_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", path.parent_port, ssl=tls)
            try:
                writer.write(head("GET", "/health"))
                return await reader.readline()
            finally:
                writer.close()
    except (ssl.SSLError, ConnectionError):
        return b""


async def test_a_sealed_request_passes_and_its_answer_opens(tmp_path: Path, mesh: Mesh) -> None:
    async with whole_path(tmp_path, mesh.options()) as path:
        assert path.parent_address.startswith("https://"), "the registered address says how to speak to it"
        sealed = path.seal()
        reply = await path.ask(sealed)
        assert (reply.status, reply.clean) == (200, True), reply.body
        opener = sealed[1].response_opener()
        opener.feed(reply.body)
        opener.finish()
        reply = await path.router.get("/attestation?nonce=" + "ab" * 32)
        assert (reply.status, reply.headers["x-mrgc-instance"]) == (200, INSTANCE), "documents come the same way"


async def test_a_parent_lets_in_routers_and_nobody_else(tmp_path: Path, mesh: Mesh) -> None:
    strangers = {
        "no certificate": client_context(mesh.hosts_file),
        "a certificate of another authority": mesh.issue("stranger", create_ca()).context(),
        "a certificate of the hosts' authority": mesh.issue("neighbour", mesh.hosts).context(),
        "a certificate that is not for clients": mesh.issue("server", mesh.routers, usages=SERVER_ONLY).context(),
        "no TLS": None,
    }
    async with whole_path(tmp_path, mesh.options()) as path:
        assert b" 200 " in await answer_to(path, mesh.router.context()), "control: a router is let in"
        for who, tls in strangers.items():
            assert b"200" not in await answer_to(path, tls), f"somebody with {who} is told nothing"
        assert (await path.ask()).status == 200, "and routers are served as before"


async def test_a_router_gives_nothing_to_a_host_of_another_authority(tmp_path: Path, mesh: Mesh) -> None:
    other, _ = create_ca().save(tmp_path, "other-ca")
    async with whole_path(tmp_path, mesh.options(router={"hosts_ca_file": other})) as path:
        reply = await path.ask()
        assert (reply.status, reply.code) == (502, "host-failed"), reply.body
        assert "certificate that is not of the hosts' authority" in reply.problem["detail"], "it says why"
        assert path.enclave.server.state.requests == 0, "the host saw nothing of the request"


async def test_a_router_gives_nothing_to_a_host_whose_certificate_is_for_elsewhere(tmp_path: Path, mesh: Mesh) -> None:
    elsewhere = mesh.issue("elsewhere", mesh.hosts, names=["host.elsewhere"], addresses=[])
    options = mesh.options(host=elsewhere)
    assert options.hosts_tls is not None, "these tests look at the parent's health under any name"
    options.hosts_tls.check_hostname = False
    async with whole_path(tmp_path, options) as path:
        reply = await path.ask()
        assert (reply.status, reply.code) == (502, "host-failed"), "one host can't stand in for another"
        assert "not for its address" in reply.problem["detail"], "it says why"


async def test_a_router_with_tls_gives_nothing_to_a_host_in_clear(tmp_path: Path, mesh: Mesh) -> None:
    async with whole_path(tmp_path, mesh.options()) as path:
        await path.register(path.parent_address.replace("https://", "http://"))
        reply = await path.ask()
        assert (reply.status, reply.code) == (503, "no-capacity"), "whatever the registry says"
        page = await path.router.get("/hosts", admin=True)
        assert b'"routable": false' in page.body, "and the operator sees it"


async def test_a_host_that_does_not_shake_hands_costs_the_time_to_connect(tmp_path: Path, mesh: Mesh) -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    mute = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with mute, whole_path(tmp_path, mesh.options(router={"connect_timeout_s": 0.2})) as path:
        await path.register(f"https://127.0.0.1:{mute.sockets[0].getsockname()[1]}")
        async with asyncio.timeout(MUST_END_S / 2):
            reply = await path.ask()
        assert (reply.status, reply.code) == (502, "host-failed"), reply.body
        assert "took too long to connect to" in reply.problem["detail"], "it says why"


async def test_an_answer_that_breaks_behind_tls_is_broken_for_the_tenant(tmp_path: Path, mesh: Mesh) -> None:
    async with whole_path(tmp_path, mesh.options()) as path:
        sealed = path.seal(chat(max_tokens=2_000))
        asking = asyncio.create_task(path.ask(sealed))
        async with asyncio.timeout(MUST_END_S):
            while not path.worker.pools.engine_load().running:  # noqa: ASYNC110 - the engine has no event for it
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        await path.enclave.server.close(drain_s=0)
        reply = await asyncio.wait_for(asking, MUST_END_S)
        assert reply.status == 200, "the answer had begun"
        assert not reply.clean, "and a TLS connection that ends is no clean end"
