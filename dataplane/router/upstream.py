"""One attempt on one host: send the request, wait for the first piece of the answer, judge what came."""

from __future__ import annotations

import asyncio
import enum
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack

import aiohttp

from dataplane.mesh.deadline import Deadline
from dataplane.protocol.errors import MAX_PROBLEM_BYTES, MrgcError, ProblemError, parse_problem
from dataplane.router.hosts import Flight
from dataplane.router.replay import RequestBody

KEEPALIVE_S = 15.0
"""How long an idle connection to a host is kept: well below the 75 s after which hosts close theirs, so that a
request is seldom sent into a connection that is just being closed."""

RETRY_AFTER_S = 1
"""What a refusal that may pass soon says in `Retry-After`: half a heartbeat of the registry."""

MAX_RETRY_AFTER_S = 60
"""Longest wait that a refusal of a host is passed on with: twice the longest time that this router leaves a failed host
alone (mesh/breaker.py), and what a tenant of one request a minute waits (limits.py)."""

_MAX_DIGITS = 18
"""Longest number that is read at all: a header may have 8,190 digits."""

LOOK_S = 1.0
"""How often a reader that waits looks whether its connection is still there."""

_HTTP_OK = 200
_NO_HEADERS = ("User-Agent", "Accept", "Accept-Encoding")


class Verdict(enum.Enum):
    """What a failed attempt says of the host."""

    FAILED = "failed"
    FULL = "full"
    SLOW = "slow"
    NOTHING = "nothing"


class AttemptError(MrgcError):
    """An attempt that gave no answer: the problem for the tenant, whether another host may do better, and a verdict."""

    def __init__(self, problem: ProblemError, *, retry: bool, verdict: Verdict) -> None:
        """Keep the three."""
        super().__init__(problem.detail)
        self.problem = problem
        self.retry = retry
        self.verdict = verdict


class BrokenStreamError(MrgcError):
    """An answer that stopped before its end; `by_host` tells a host's fault from a deadline that passed."""

    def __init__(self, message: str, *, by_host: bool) -> None:
        """Keep the sentence and the cause."""
        super().__init__(message)
        self.by_host = by_host


def make_session(*, connect_timeout_s: float, tls: ssl.SSLContext | None) -> aiohttp.ClientSession:
    """Return the one session to all hosts; no proxy, no cookies, no redirects, no decompression, no own timeouts.

    `tls` is for hosts with an `https` address; without it those are held to the system's authorities.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S, ssl=True if tls is None else tls),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=_NO_HEADERS,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s),
    )


class Answer:
    """An answer whose first piece has come. `close` ends everything that the attempt holds, and must be called."""

    def __init__(self, response: aiohttp.ClientResponse, *, first: bytes, flight: Flight, held: ExitStack) -> None:
        """Take over `response` and `held`."""
        self.first = first
        self.flight = flight
        self._response = response
        self._held = held
        self._ended = False

    async def next(self, *, idle_s: float, deadline: Deadline) -> bytes:
        """Return the next piece, or b"" at the clean end; raises `BrokenStreamError` at any other."""
        remaining_s = deadline.remaining_s
        try:
            piece = await _read(self._response, min(idle_s, remaining_s))
        except TimeoutError:
            if remaining_s <= idle_s:
                raise BrokenStreamError("The deadline passed in the middle of the answer.", by_host=False) from None
            raise BrokenStreamError(f"The host sent nothing for {idle_s:g} s.", by_host=True) from None
        except (aiohttp.ClientError, OSError) as error:
            raise BrokenStreamError(f"The host's answer broke off ({type(error).__name__}).", by_host=True) from None
        if not piece:
            self._ended = True
        return piece

    def close(self) -> None:
        """Release the connection after a clean end and cut it otherwise, so that the host stops at once."""
        if self._ended:
            self._response.release()
        else:
            self._response.close()
        self._held.close()


async def send(
    session: aiohttp.ClientSession,
    *,
    url: str,
    name: str,
    headers: Mapping[str, str],
    body: RequestBody,
    first_byte_timeout_s: float,
    deadline: Deadline,
) -> tuple[aiohttp.ClientResponse, bytes]:
    """Return the response and its first piece; raises `AttemptError`, and the caller closes nothing then."""
    remaining_s = deadline.remaining_s
    try:
        async with asyncio.timeout(min(first_byte_timeout_s, remaining_s)):
            response = await session.post(url, data=_pieces(body), headers=headers, allow_redirects=False)
            try:
                return response, await _first_piece(response, name)
            except BaseException:
                response.close()
                raise
    except (aiohttp.ClientError, OSError) as error:
        if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientError):
            raise _timed_out(name, body, first_byte_timeout_s, remaining_s) from None
        if body.fault is not None:
            raise AttemptError(body.fault, retry=False, verdict=Verdict.NOTHING) from None
        raise _host_failed(f"Host {name} {_why(error)}.") from None


async def _pieces(body: RequestBody) -> AsyncIterator[bytes]:
    async for piece in body.stream():
        yield piece


async def _first_piece(response: aiohttp.ClientResponse, name: str) -> bytes:
    """Return the first piece of a good answer, or raise what the answer amounts to."""
    if response.status != _HTTP_OK:
        raise await _refusal(response, name)
    if response.content_type != "application/octet-stream":
        raise _host_failed(f"Host {name} answered with {response.content_type[:64]!r}, which is no envelope.")
    if "chunked" not in response.headers.get("Transfer-Encoding", "").lower() and response.content_length is None:
        # Delimited by the connection's end, so a truncated answer could not be told from a whole one.
        raise _host_failed(f"Host {name} answered without saying where its answer ends.")
    first = await _read(response, None)
    if not first:
        raise _host_failed(f"Host {name} answered with nothing.")
    return first


async def _read(response: aiohttp.ClientResponse, limit_s: float | None) -> bytes:
    """Return the next piece, b"" at the end; raises `TimeoutError` after `limit_s` seconds (None: the caller times it).

    When a host sends no HTTP in the middle of a body, aiohttp closes the connection and does not tell the body's
    reader. So a reader that waits looks after its connection now and then.
    """
    left_s = limit_s
    while True:
        slice_s = LOOK_S if left_s is None else min(LOOK_S, left_s)
        try:
            async with asyncio.timeout(slice_s):
                return await response.content.readany()
        except TimeoutError:
            connection = response.connection
            if connection is None or connection.protocol is None or not connection.protocol.connected:
                raise aiohttp.ClientPayloadError("the connection is gone") from None
            if left_s is not None:
                left_s -= slice_s
                if left_s <= 0:
                    raise


async def _refusal(response: aiohttp.ClientResponse, name: str) -> AttemptError:
    body = bytearray()
    while len(body) <= MAX_PROBLEM_BYTES:
        piece = await _read(response, None)
        if not piece:
            break
        body += piece
    retry_after = bounded_retry_after(response.headers.get("Retry-After"))
    problem = parse_problem(response.status, bytes(body), retry_after=retry_after)
    if problem is None:
        return _host_failed(f"Host {name} answered {response.status} without a problem document of ours.")
    if problem.code == "host-failed":
        verdict = Verdict.FAILED
    elif problem.code in {"overloaded", "no-capacity"}:
        verdict = Verdict.FULL
    elif problem.code == "deadline-exceeded":
        verdict = Verdict.SLOW
    else:
        verdict = Verdict.NOTHING
    retry = problem.problem.retry_elsewhere
    if retry and problem.retry_after_s is None:
        problem.retry_after_s = RETRY_AFTER_S
    return AttemptError(problem, retry=retry, verdict=verdict)


def bounded_retry_after(text: str | None) -> str | None:
    """Return whole seconds of at most `MAX_RETRY_AFTER_S` as text, or None for what is no such number or far too long.

    A date (RFC 9110, section 10.2.3) is none: no host of ours sends one.
    """
    if text is None or len(text) > _MAX_DIGITS or not (text.isascii() and text.isdigit()):
        return None
    return str(min(int(text), MAX_RETRY_AFTER_S))


def _timed_out(name: str, body: RequestBody, first_byte_timeout_s: float, remaining_s: float) -> AttemptError:
    if remaining_s <= first_byte_timeout_s:
        # A body that was still on its way when the time ran out says nothing of the host.
        verdict = Verdict.SLOW if body.complete else Verdict.NOTHING
        problem = ProblemError("deadline-exceeded", f"The deadline passed while host {name} was working.")
        return AttemptError(problem, retry=False, verdict=verdict)
    if not body.complete:
        problem = ProblemError(
            "malformed-envelope",
            f"The body was not complete after {first_byte_timeout_s:g} s ({body.received} bytes); send it faster.",
        )
        return AttemptError(problem, retry=False, verdict=Verdict.NOTHING)
    return _host_failed(f"Host {name} sent nothing for {first_byte_timeout_s:g} s.")


def _host_failed(sentence: str) -> AttemptError:
    problem = ProblemError("host-failed", sentence, retry_after_s=RETRY_AFTER_S)
    return AttemptError(problem, retry=True, verdict=Verdict.FAILED)


def _why(error: OSError | aiohttp.ClientError) -> str:
    """Say what happened, without the library's own text: that may quote what was sent."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "took too long to connect to"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "shows a certificate that is not of the hosts' authority or not for its address"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "can't be connected to"
    if isinstance(error, aiohttp.InvalidURL):
        return "is registered under an address that is no URL"
    if isinstance(error, aiohttp.ClientResponseError):
        return "answered with something that is not HTTP"
    return "closed the connection before its answer"
