"""The accelerator's sockets: bytes pass, connections stay, deaths are resets, and the admin API says why it refuses."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from dataplane.protocol.errors import SettingsError
from stacks.local.accelerator.admin import application
from stacks.local.accelerator.probe import probe
from stacks.local.accelerator.relay import Relay
from stacks.local.accelerator.settings import AcceleratorSettings, HealthSettings, read_settings
from stacks.local.accelerator.state import AcceleratorState

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
REGIONS = ("us-east-1", "us-east-2", "us-west-2")


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


def naming(region: str) -> Handler:
    """An endpoint that says its region, then echoes until the client ends."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(region.encode() + b"\n")
        while data := await reader.read(1024):
            writer.write(data)
        writer.close()

    return handle


def settings_for(ports: dict[str, int], **changes: object) -> AcceleratorSettings:
    groups = [
        {"region": region, "endpoints": [{"name": region, "port": port, "health_url": f"http://127.0.0.1:{port}/"}]}
        for region, port in ports.items()
    ]
    return AcceleratorSettings.model_validate({"listen_port": 1, "admin_port": 2, "groups": groups, **changes})


def healthy_state(settings: AcceleratorSettings) -> AcceleratorState:
    state = AcceleratorState(settings, draw=lambda: 0.5)
    for name in state.endpoints:
        state.record_check(name, passed=True)
    return state


@asynccontextmanager
async def accelerated(**changes: object) -> AsyncIterator[tuple[AcceleratorState, Relay, int]]:
    async with (
        serving(naming(REGIONS[0])) as a,
        serving(naming(REGIONS[1])) as b,
        serving(naming(REGIONS[2])) as c,
    ):
        settings = settings_for(dict(zip(REGIONS, (a, b, c), strict=True)), **changes)
        state = healthy_state(settings)
        relay = Relay(state, connect_timeout_s=1.0)
        async with serving(relay.handle) as port:
            yield state, relay, port
            await relay.close()


async def test_bytes_pass_both_ways_and_a_half_close_is_passed_on() -> None:
    async with accelerated() as (state, _, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x" * 200_000)
        writer.write_eof()
        data = await reader.read(-1)
        assert data == b"us-east-1\n" + b"x" * 200_000, "every byte, in order, after our half close"
        writer.close()
        assert state.opened["us-east-1"] == 1, "one connection was opened to the nearest region"


async def test_a_client_elsewhere_goes_to_its_own_region() -> None:
    async with accelerated(clients={"127.0.0.3": "us-west-2"}) as (_, _, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.3", 0))
        assert await reader.readline() == b"us-west-2\n", "its source address says where it is"
        writer.close()


async def test_an_established_connection_stays_when_dial_weight_and_health_change() -> None:
    async with accelerated() as (state, _, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.readline() == b"us-east-1\n"
        state.set_dial("us-east-1", 0)
        state.set_weight("us-east-1", 0)
        for _ in range(2):
            state.record_check("us-east-1", passed=False)
        writer.write(b"still here\n")
        assert await reader.readline() == b"still here\n", "established connections do not move"
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", port)
        assert await other_reader.readline() == b"us-east-2\n", "a new one goes to the next region"
        writer.close()
        other_writer.close()


async def test_a_reset_of_the_endpoint_is_a_reset_for_the_client() -> None:
    async def dying(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(1, 13, linger)  # SOL_SOCKET, SO_LINGER
        writer.transport.abort()

    async with serving(dying) as endpoint:
        relay = Relay(healthy_state(settings_for({"us-east-1": endpoint})), connect_timeout_s=1.0)
        async with serving(relay.handle) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"?")
            with pytest.raises(ConnectionResetError):
                await reader.read(-1)
            writer.close()
            await relay.close()


async def test_cutting_an_endpoint_resets_its_connections_only() -> None:
    async with accelerated(clients={"127.0.0.3": "us-west-2"}) as (state, relay, port):
        east, east_writer = await asyncio.open_connection("127.0.0.1", port)
        west, west_writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.3", 0))
        await east.readline()
        await west.readline()
        relay.cut("us-east-1")
        with pytest.raises(ConnectionResetError):
            await east.read(-1)
        west_writer.write(b"on\n")
        assert await west.readline() == b"on\n", "the other region's connection is untouched"
        assert state.active["us-east-1"] == 0, "the count came back, once"
        east_writer.close()
        west_writer.close()


async def test_an_endpoint_that_refuses_is_a_reset_and_is_counted() -> None:
    async with serving(naming("gone")) as endpoint:
        pass
    state = healthy_state(settings_for({"us-east-1": endpoint}))
    relay = Relay(state, connect_timeout_s=1.0)
    async with serving(relay.handle) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with pytest.raises(ConnectionResetError):
            await reader.read(-1)
        writer.close()
    assert state.refused["us-east-1"] == 1, "refused connections can be seen in the status"


async def test_probes_follow_the_health_answer_and_report_the_turn() -> None:
    status = [200]

    async def health(_: web.Request) -> web.Response:
        return web.Response(status=status[0])

    app = web.Application()
    app.router.add_get("/", health)
    async with TestServer(app) as server:
        state = AcceleratorState(settings_for({"us-east-1": server.port or 0}), draw=lambda: 0.5)
        turned: list[str] = []
        task = asyncio.create_task(
            probe(state, HealthSettings(interval_s=0.01, timeout_s=1.0), on_unhealthy=turned.append)
        )

        async def until(wanted: str) -> None:
            async with asyncio.timeout(5):
                while state.status()["groups"][0]["endpoints"][0]["health"] != wanted:  # noqa: ASYNC110 - the state has no event
                    await asyncio.sleep(0.01)

        await until("healthy")
        status[0] = 503
        await until("unhealthy")
        assert turned == ["us-east-1"], "the turn is told once"
        status[0] = 200
        await until("healthy")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_the_admin_api_changes_dials_and_weights_and_refuses_nonsense() -> None:
    state = healthy_state(settings_for({"us-east-1": 1, "us-east-2": 2}))
    async with TestClient(TestServer(application(state))) as client:
        answer = await client.put("/dial", json={"region": "us-east-1", "dial": 10})
        assert (await answer.json())["groups"][0]["dial"] == 10, "the answer shows the change"
        answer = await client.put("/weight", json={"endpoint": "us-east-2", "weight": 0})
        assert (await answer.json())["groups"][1]["endpoints"][0]["weight"] == 0
        for path, body, code in (
            ("/dial", {"region": "us-east-1", "dial": 101}, 400),
            ("/dial", {"region": "eu-west-1", "dial": 1}, 404),
            ("/weight", {"endpoint": "us-east-2", "weight": 256}, 400),
            ("/weight", {"endpoint": "nobody", "weight": 1}, 404),
            ("/weight", {"endpoint": "us-east-2", "weight": True}, 400),
        ):
            answer = await client.put(path, data=json.dumps(body))
            assert answer.status == code, f"{body} must be refused"
            assert (await answer.json())["error"].endswith("."), "with a sentence"


def test_a_wrong_settings_file_names_every_fault(tmp_path: Path) -> None:
    path = tmp_path / "accelerator.json"
    path.write_text('{"listen_port": 0, "groups": [], "admin_port": 1, "extra": 1}')
    with pytest.raises(SettingsError) as caught:
        read_settings(path)
    for field in ("listen_port", "groups", "extra", str(path)):
        assert field in str(caught.value), f"{field} is named"
    with pytest.raises(SettingsError, match="can't be read"):
        read_settings(tmp_path / "missing.json")
