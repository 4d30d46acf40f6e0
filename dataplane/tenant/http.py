"""HTTPS to the cluster: one pool of kept-alive connections, and fresh ones for retries.

An established connection stays with the region that it was made to, even while that region drains or fails (AWS Global
Accelerator moves new connections only). So a retry never reuses a connection, and none that was refused on is kept.
"""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp
from aiohttp.connector import Connection

from dataplane.mesh.address import is_loopback
from dataplane.protocol.errors import MAX_PROBLEM_BYTES, ProblemError, SettingsError, parse_problem
from dataplane.tenant.errors import UNREACHABLE, RequestError
from dataplane.tenant.retry import RETRIED_STATUSES

OK = 200
"""The one status that carries an envelope."""
CONNECT_S = 5.0
"""Longest TCP connect: three round trips between any two AWS regions are under 1 s."""
MAX_CONNECTIONS = 1024
"""Connections of one client; more requests than that wait for one, within their deadline."""
MAX_ANSWER_BYTES = 1 << 20
"""Longest answer of `GET`: a list of models or an attestation document (16 KiB)."""


class AttemptError(Exception):
    """One attempt that failed: the error to give if it was the last, and whether another may do better."""

    def __init__(self, error: RequestError, *, retry: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry = retry


def checked_endpoint(endpoint: str) -> str:
    """`endpoint` without a trailing slash; SettingsError unless it is https (or http on loopback)."""
    try:
        parts = urlsplit(endpoint)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if not host or parts.scheme not in {"http", "https"} or parts.path.strip("/") or parts.query:
        raise SettingsError(f"The endpoint {endpoint!r} is no URL of a cluster; give it as https://host[:port].")
    if parts.scheme == "http" and not is_loopback(host):
        raise SettingsError(f"The endpoint {endpoint!r} would carry the API key in clear; give an https:// URL.")
    return endpoint.rstrip("/")


class _Response(aiohttp.ClientResponse):
    """A response whose connection is kept only if it is a 200."""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Read the head; a short body that came with it has given the connection back to the pool already."""
        protocol = connection.protocol
        await super().start(connection)
        if self.status != OK and protocol is not None:
            if connection.closed:
                protocol.close()
            else:
                protocol.force_close()
        return self


class ClusterHttp:
    """The HTTP shell of a tenant: sends one attempt and names what went wrong with it."""

    def __init__(self, *, endpoint: str, tls: ssl.SSLContext | None) -> None:
        self.endpoint = checked_endpoint(endpoint)
        self._tls = tls
        self._kept: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._kept = self._session(force_close=False)
        self._fresh = self._session(force_close=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in (self._kept, self._fresh):
            if session is not None:
                await session.close()
        self._kept = self._fresh = None

    def _session(self, *, force_close: bool) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=MAX_CONNECTIONS, force_close=force_close, ssl=self._tls if self._tls is not None else True
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            response_class=_Response,
        )

    async def open(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        attempt: int,
        timeout_s: float,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> aiohttp.ClientResponse:
        """Send attempt number `attempt` (from 1) and return a response of status 200, its body unread.

        Raises AttemptError for everything else.
        """
        session = self._kept if attempt == 1 else self._fresh
        if session is None:
            raise SettingsError("The client is not open; use it as `async with client:`.")
        try:
            async with asyncio.timeout(timeout_s):
                response = await session.request(
                    method,
                    self.endpoint + path,
                    headers=headers,
                    params=params,
                    # A file is written in pieces; a padded envelope has several MiB.
                    data=None if body is None else io.BytesIO(body),
                    allow_redirects=False,
                )
                if response.status == OK:
                    return response
                try:
                    raise await self._refusal(response, attempt)
                finally:
                    response.close()
        except aiohttp.ClientConnectorCertificateError:
            raise self._unreachable("its certificate is not trusted; name its CA file", attempt, retry=False) from None
        except aiohttp.ClientConnectorSSLError as error:
            reason = getattr(error.os_error, "reason", None) or "handshake failed"
            raise self._unreachable(f"TLS failed ({reason}); try again", attempt, retry=True) from None
        except aiohttp.ClientConnectorError as error:
            reason = error.strerror or "no connection"
            raise self._unreachable(
                f"it cannot be connected to ({reason}); check that the cluster is up", attempt, retry=True
            ) from None
        except (aiohttp.ClientError, ConnectionError, aiohttp.http.HttpProcessingError):
            raise self._unreachable("the connection broke before the answer; try again", attempt, retry=True) from None
        except TimeoutError:
            raise deadline_passed(attempt) from None

    async def get(
        self, path: str, *, headers: Mapping[str, str], attempt: int, timeout_s: float, params: Mapping[str, str]
    ) -> bytes:
        """The whole answer of a GET, at most `MAX_ANSWER_BYTES`; raises AttemptError as `open` does."""
        body, _ = await self.fetch(path, headers=headers, attempt=attempt, timeout_s=timeout_s, params=params)
        return body

    async def fetch(
        self, path: str, *, headers: Mapping[str, str], attempt: int, timeout_s: float, params: Mapping[str, str]
    ) -> tuple[bytes, Mapping[str, str]]:
        """The same with the answer's headers, whose names may be looked up in any case."""
        started = asyncio.get_running_loop().time()
        response = await self.open("GET", path, headers=headers, attempt=attempt, timeout_s=timeout_s, params=params)
        try:
            left_s = timeout_s - (asyncio.get_running_loop().time() - started)
            async with asyncio.timeout(left_s):
                body = await read_at_most(response, MAX_ANSWER_BYTES)
        except aiohttp.ClientError:
            raise self._unreachable("the connection broke midway; try again", attempt, retry=True) from None
        except TimeoutError:
            raise deadline_passed(attempt) from None
        finally:
            response.release()
        if body is None:
            raise self._unreachable(f"its answer is over {MAX_ANSWER_BYTES} bytes", attempt, retry=False)
        return body, response.headers

    def _unreachable(self, what: str, attempt: int, *, retry: bool) -> AttemptError:
        text = f"{self.endpoint} gave no answer: {what}."
        return AttemptError(RequestError(text, code=UNREACHABLE, status=502, attempts=attempt), retry=retry)

    async def _refusal(self, response: aiohttp.ClientResponse, attempt: int) -> AttemptError:
        body = await read_at_most(response, MAX_PROBLEM_BYTES) or b""
        problem = parse_problem(response.status, body, retry_after=response.headers.get("Retry-After"))
        retry = response.status in RETRIED_STATUSES
        if problem is None:
            text = (
                f"{self.endpoint} answered HTTP {response.status} without saying why; try again or tell its operator."
            )
            status = response.status if response.status in RETRIED_STATUSES else 502
            return AttemptError(RequestError(text, code="host-failed", status=status, attempts=attempt), retry=retry)
        return AttemptError(from_problem(problem, attempt), retry=retry)


def from_problem(problem: ProblemError, attempts: int) -> RequestError:
    """A problem as the tenant's own error."""
    return RequestError(
        problem.detail,
        code=problem.code,
        status=problem.status,
        attempts=attempts,
        retry_after_s=problem.retry_after_s,
    )


def deadline_passed(attempt: int) -> AttemptError:
    """The tenant's own deadline passed."""
    text = "The deadline passed before the cluster had answered; allow more time or try again."
    return AttemptError(RequestError(text, code="deadline-exceeded", status=504, attempts=attempt), retry=False)


async def read_at_most(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    """The response's body, or None when it is longer than `limit` bytes."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)
