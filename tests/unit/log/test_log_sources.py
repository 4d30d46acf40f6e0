"""A log over HTTP, as a bucket serves it, and as a hostile server does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from dataplane.log.reader import LogReader
from dataplane.log.source import FolderSource, HttpSource, LogUnavailableError, MissingFileError, open_source
from dataplane.protocol.errors import SettingsError
from dataplane.protocol.transparency.view import LogView
from tests.support.measurement_log import NOW_S, SIGNER, image, images, make_log

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/{path:.+}", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/log"
    finally:
        await runner.cleanup()


def bucket(folder: Path) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        file = folder / request.match_info["path"].removeprefix("log/")
        return web.FileResponse(file) if file.is_file() else web.Response(status=404)

    return answer


async def get(url: str, *, max_bytes: int = 100) -> bytes:
    async with HttpSource(url, tls=None) as source:
        return await source.get("checkpoint", max_bytes=max_bytes)


async def test_a_log_is_read_over_http_as_from_its_folder(tmp_path: Path) -> None:
    async with serving(bucket(make_log(tmp_path, images(300)))) as url, open_source(url + "/") as source:
        reader = LogReader(source, LogView(SIGNER.verifier), clock_s=lambda: NOW_S)
        assert (await reader.update()).size == 300, "its head"
        found = await reader.find(lambda entry: entry == image(7))
        assert found is not None, "and an entry"
        assert found.index == 7, "with its proof"


@pytest.mark.parametrize(
    ("status", "error"), [(404, MissingFileError), (403, MissingFileError), (500, LogUnavailableError)]
)
async def test_a_status_says_whether_the_file_is_missing_or_the_server_is(status: int, error: type[Exception]) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    async with serving(answer) as url:
        with pytest.raises(error):
            await get(url)


async def test_a_file_without_end_is_cut_off() -> None:
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(10_000):
            await response.write(bytes(1 << 16))
            sent += 1
        return response

    async with serving(answer) as url:
        with pytest.raises(LogUnavailableError, match="over 100 bytes"):
            await get(url)
    assert sent < 10_000, "the rest was not waited for"


async def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    async with serving(bucket(make_log(tmp_path, images(1)))) as honest:

        async def answer(_: web.Request) -> web.StreamResponse:
            raise web.HTTPFound(f"{honest}/checkpoint")

        async with serving(answer) as url:
            with pytest.raises(LogUnavailableError, match="302"):
                await get(url, max_bytes=1000)


async def test_compressed_bytes_are_not_unpacked() -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})

    async with serving(answer) as url:
        assert await get(url) == b"\x1f\x8b", "a bomb stays as small as it came"


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(LogUnavailableError, match="can't be fetched"):
        await get("http://127.0.0.1:1/log")


async def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataplane.log.source.FETCH_S", 0.05)
    released = asyncio.Event()

    async def answer(_: web.Request) -> web.StreamResponse:
        await released.wait()
        return web.Response()

    async with serving(answer) as url:
        with pytest.raises(LogUnavailableError, match="TimeoutError"):
            await get(url)
        released.set()


async def test_a_folders_file_is_bounded_too(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_bytes(bytes(101))
    with pytest.raises(LogUnavailableError, match="over 100 bytes"):
        await FolderSource(tmp_path).get("checkpoint", max_bytes=100)
    with pytest.raises(MissingFileError):
        await FolderSource(tmp_path).get("tile/0/000", max_bytes=100)
    (tmp_path / "tile").mkdir()
    with pytest.raises(LogUnavailableError, match="directory"):
        await FolderSource(tmp_path).get("tile", max_bytes=100)


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ("https://mrgc.example/log", HttpSource),
        ("http://127.0.0.1:8000/log", HttpSource),
        ("file:///srv/my%20log", FolderSource),
        ("/srv/log", FolderSource),
        ("log", FolderSource),
    ],
)
def test_an_address_names_its_kind_of_source(where: str, kind: type) -> None:
    assert isinstance(open_source(where), kind), where


@pytest.mark.parametrize(
    "where", ["", "http://mrgc.example/log", "ftp://mrgc.example/log", "https://", "https://x/?a=b", "https://[x/log"]
)
def test_an_address_that_is_none_is_refused(where: str) -> None:
    with pytest.raises(SettingsError):
        open_source(where)
