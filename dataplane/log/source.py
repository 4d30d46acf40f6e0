"""Where a log's files are read from: a folder, or a web server or bucket over HTTPS.

Nothing that comes from here is believed: sizes are bounded, and hashes and signatures are checked by the reader.
"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self
from urllib.parse import unquote, urlsplit

import aiohttp

from dataplane.mesh.address import is_loopback
from dataplane.protocol.errors import MrgcError, SettingsError
from dataplane.protocol.transparency.checkpoint import CHECKPOINT_PATH
from dataplane.protocol.transparency.tiles import Tile

FETCH_S: Final = 10.0
"""Longest wait for one file; the largest is 2 MiB."""

MAX_CONNECTIONS: Final = 4
"""Files that are fetched at once."""


class LogUnavailableError(MrgcError):
    """A log whose files could not be read; it says nothing about what they would have said."""


class MissingFileError(LogUnavailableError):
    """The server answered, and has no such file."""


class LogSource(Protocol):
    """Somewhere that files of one log can be read from; use it as `async with`."""

    address: str

    async def __aenter__(self) -> Self:
        """Open what reading needs."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""

    async def get(self, path: str, *, max_bytes: int) -> bytes:
        """Return a file's content; `MissingFileError` without one, `LogUnavailableError` if it can't be read whole."""


class FolderSource:
    """A log in a folder of this machine, such as a mounted bucket."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder)
        self._folder = folder

    async def __aenter__(self) -> Self:
        """Nothing is held open."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held open."""

    async def get(self, path: str, *, max_bytes: int) -> bytes:
        """As `LogSource.get`; in a thread, for the folder may be on a network."""
        try:
            async with asyncio.timeout(FETCH_S):
                return await asyncio.to_thread(self._read, path, max_bytes)
        except TimeoutError:
            raise LogUnavailableError(f"{self._folder / path} was not read within {FETCH_S:g} s; try again.") from None

    def _read(self, path: str, max_bytes: int) -> bytes:
        file = self._folder / path
        try:
            with file.open("rb") as stream:
                data = stream.read(max_bytes + 1)
        except (FileNotFoundError, NotADirectoryError):
            raise MissingFileError(f"The log at {self._folder} has no {path}.") from None
        except OSError as error:
            raise LogUnavailableError(f"{file} can't be read ({error.strerror}); make it readable.") from None
        if len(data) > max_bytes:
            raise LogUnavailableError(f"{file} is over {max_bytes} bytes, more than such a file can have.")
        return data


class HttpSource:
    """A log behind a URL; redirects are not followed, for the address is what was configured."""

    def __init__(self, url: str, *, tls: ssl.SSLContext | None) -> None:
        self.address = url.rstrip("/")
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open a pool of connections."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, ssl=self._tls or True),
            timeout=aiohttp.ClientTimeout(total=FETCH_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            # Bytes as they lie there: what a server compresses has no bound before it is unpacked.
            auto_decompress=False,
            headers={"Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the pool."""
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, *, max_bytes: int) -> bytes:
        """As `LogSource.get`."""
        if self._session is None:
            raise LogUnavailableError("The log's source is not open; use it as `async with source:`.")
        url = f"{self.address}/{path}"
        headers = {"Cache-Control": "no-cache"} if path == CHECKPOINT_PATH else {}
        try:
            async with self._session.get(url, headers=headers, allow_redirects=False) as response:
                if response.status in {
                    403,
                    404,
                    410,
                }:  # a bucket that may not be listed answers 403 for what is missing
                    raise MissingFileError(f"{url} is not there (HTTP status {response.status}).")
                if response.status != 200:  # noqa: PLR2004 - OK
                    raise LogUnavailableError(f"{url} answered with HTTP status {response.status}; try again later.")
                data = bytearray()
                async for chunk in response.content.iter_chunked(1 << 16):
                    data += chunk
                    if len(data) > max_bytes:
                        raise LogUnavailableError(f"{url} is over {max_bytes} bytes, more than such a file can have.")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise LogUnavailableError(
                f"{url} can't be fetched ({type(error).__name__}); check address and network."
            ) from None
        return bytes(data)


def open_source(where: str, *, tls: ssl.SSLContext | None = None) -> FolderSource | HttpSource:
    """Return the source that `where` names: `https://…`, `http://` on loopback only, `file:///…` or a folder's path.

    Raises `SettingsError`.
    """
    try:
        parts = urlsplit(where)
        host = parts.hostname
    except ValueError:
        raise SettingsError(f"The log's address {where!r} is no URL; give https://host/path or a folder.") from None
    if parts.scheme in {"http", "https"}:
        if not host or parts.query or parts.fragment:
            raise SettingsError(f"The log's address {where!r} is no URL of a log; give it as https://host/path.")
        if parts.scheme == "http" and not is_loopback(host):
            raise SettingsError(
                f"The log's address {where!r} would tell everybody on the way what is looked for; give an https:// URL."
            )
        return HttpSource(where, tls=tls if parts.scheme == "https" else None)
    if parts.scheme == "file":
        return FolderSource(Path(unquote(parts.path)))
    if "://" in where or not where:
        raise SettingsError(f"The log's address {where!r} has an unknown scheme; give https://, file:// or a folder.")
    return FolderSource(Path(where))


async def read_tile(source: LogSource, tile: Tile, *, max_bytes: int) -> bytes:
    """Return a tile's file, or the whole tile's where the part was taken away; the caller cuts it (`cut_tile`)."""
    try:
        return await source.get(tile.path, max_bytes=max_bytes)
    except MissingFileError:
        if tile.whole:
            raise
        return await source.get(tile.full.path, max_bytes=max_bytes)
