"""`GET /attestation`: a fresh attestation document of one enclave behind this router.

What happens here says nothing of how a host serves inference: it has a circuit breaker of its own for each host, and
neither counts as an attempt nor touches the score.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from aiohttp import web

from dataplane.mesh.breaker import CircuitBreaker
from dataplane.protocol.attestation.nonces import (
    MAX_HEADER_CHARS,
    MAX_NONCE_BYTES,
    MIN_NONCE_BYTES,
    NONCES_HEADER,
    expected_nonce,
)
from dataplane.protocol.errors import AttestationError, ProblemError
from dataplane.registry.host import HostRecord
from dataplane.router.attestation_limits import AttestationLimits
from dataplane.router.choose import Candidate, choose
from dataplane.router.crowd import client_address
from dataplane.router.hosts import HostTable
from dataplane.router.tenants import Tenant
from dataplane.router.upstream import RETRY_AFTER_S

MAX_DOCUMENT_BYTES = 16 * 1024
"""Largest attestation document that a verifier takes (docs/protocol.md)."""

ATTESTATION_TIMEOUT_S = 7.0
"""Longest wait for one host's document: a parent begins one a second and waits 5 s for it, and 1 s is for the way."""

ATTESTATION_ATTEMPTS = 3

MAX_INSTANCE_CHARS = 128
"""Longest instance id that is looked up: AWS's have 19 characters."""

_NONCE = re.compile(rf"(?:[0-9a-fA-F]{{2}}){{{MIN_NONCE_BYTES},{MAX_NONCE_BYTES}}}", re.ASCII)
_HTTP_OK = 200
_HTTP_TOO_MANY = 429


@dataclass(frozen=True, slots=True)
class _Document:
    body: bytes
    nonces: str | None


class _BusyError(Exception):
    """The host is well and has no document for this asker now."""


class _FailedError(Exception):
    """The host gave no document."""


class AttestationPage:
    """Answers the page; one for each router."""

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        hosts: HostTable,
        limits: AttestationLimits,
        monotonic: Callable[[], float],
        randrange: Callable[[int], int],
        region: str,
    ) -> None:
        """Keep the parts; the caller owns the session."""
        self._session = session
        self._hosts = hosts
        self._limits = limits
        self._monotonic = monotonic
        self._randrange = randrange
        self._region = region
        self._breakers: dict[str, CircuitBreaker] = {}

    async def handle(self, request: web.BaseRequest, tenant: Tenant | None) -> web.Response:
        """Answer the document, or raise `ProblemError`; the host's id is in `X-MRGC-Instance`.

        `tenant` is whose API key was given, or None where none was: then the peer's address is what is limited.
        """
        nonce = request.query.get("nonce", "")
        if not _NONCE.fullmatch(nonce):
            raise ProblemError(
                "malformed-envelope", "The query's nonce must be 16 to 64 bytes in hex: GET /attestation?nonce=<hex>."
            )
        now = self._monotonic()
        if tenant is not None:
            self._limits.admit_tenant(tenant.id, now=now)
        else:
            peer = None if request.transport is None else request.transport.get_extra_info("peername")
            self._limits.admit_address(client_address(peer), now=now)
        wanted = request.query.get("instance")
        if wanted is None:
            return await self._any(nonce)
        return await self._one(wanted, nonce)

    async def _one(self, instance_id: str, nonce: str) -> web.Response:
        """Answer the document of one named host."""
        record = self._hosts.routable_record(instance_id) if len(instance_id) <= MAX_INSTANCE_CHARS else None
        if record is None:
            raise ProblemError(
                "not-found",
                f"This router knows no host {instance_id[:64]!r} in {self._region} that takes requests; ask in the "
                "region that the receipt names, or without an instance for any host.",
            )
        if not self._breaker(instance_id).allow(self._monotonic()):
            raise self._none_gave(1)
        try:
            return self._answer(instance_id, await self._attempt(record, nonce))
        except _BusyError:
            raise self._busy() from None
        except _FailedError:
            raise self._none_gave(1) from None

    async def _any(self, nonce: str) -> web.Response:
        """Answer the document of whichever host gives one."""
        tried: set[str] = set()
        busy = False
        while len(tried) < ATTESTATION_ATTEMPTS:
            chosen = choose(self._candidates(tried), randrange=self._randrange)
            if chosen is None:
                break
            tried.add(chosen.instance_id)
            record = self._hosts.routable_record(chosen.instance_id)
            if record is None or not self._breaker(chosen.instance_id).allow(self._monotonic()):
                continue
            try:
                return self._answer(chosen.instance_id, await self._attempt(record, nonce))
            except _BusyError:
                busy = True
            except _FailedError:
                continue
        if busy:
            raise self._busy()
        if tried:
            raise self._none_gave(len(tried))
        raise ProblemError("no-capacity", "No host can be asked now; try again.", retry_after_s=RETRY_AFTER_S)

    def _candidates(self, tried: set[str]) -> list[Candidate]:
        """Return the routable hosts whose own breaker lets a question through; breakers of hosts that left go."""
        now = self._monotonic()
        known = {record.instance_id for record in self._hosts.records()}
        for name in [name for name in self._breakers if name not in known]:
            if self._hosts.routable_record(name) is None:
                del self._breakers[name]
        return [
            candidate
            for candidate in self._hosts.candidates(None, without=tried)
            if self._breaker(candidate.instance_id).would_allow(now)
        ]

    def _breaker(self, instance_id: str) -> CircuitBreaker:
        return self._breakers.setdefault(instance_id, CircuitBreaker())

    async def _attempt(self, record: HostRecord, nonce: str) -> _Document:
        """Ask one host whose breaker was asked, and report to the breaker."""
        breaker = self._breaker(record.instance_id)
        try:
            document = await self._fetch(record.address, nonce)
        except _BusyError:
            breaker.success(self._monotonic())  # it answered, and well
            raise
        except _FailedError:
            breaker.failure(self._monotonic())
            raise
        except BaseException:
            breaker.release(self._monotonic())
            raise
        breaker.success(self._monotonic())
        return document

    async def _fetch(self, address: str, nonce: str) -> _Document:
        """Return what the host gave; raises `_BusyError` or `_FailedError`."""
        try:
            async with (
                asyncio.timeout(ATTESTATION_TIMEOUT_S),
                self._session.get(
                    address.rstrip("/") + "/attestation", params={"nonce": nonce.lower()}, allow_redirects=False
                ) as response,
            ):
                if response.status == _HTTP_TOO_MANY:
                    raise _BusyError
                if response.status != _HTTP_OK or response.content_type != "application/cbor":
                    raise _FailedError
                nonces = response.headers.get(NONCES_HEADER)
                if nonces is not None:
                    # What a tenant would refuse is the host's failure, and another host may do better.
                    expected_nonce(bytes.fromhex(nonce), nonces[: MAX_HEADER_CHARS + 1])
                document = bytearray()
                while piece := await response.content.readany():
                    document += piece
                    if len(document) > MAX_DOCUMENT_BYTES:
                        response.close()
                        raise _FailedError
        except (aiohttp.ClientError, OSError, AttestationError):
            raise _FailedError from None
        if not document:
            raise _FailedError
        return _Document(bytes(document), nonces)

    def _answer(self, instance_id: str, document: _Document) -> web.Response:
        headers = {"X-MRGC-Instance": instance_id, "X-MRGC-Region": self._region, "Cache-Control": "no-store"}
        if document.nonces is not None:
            headers[NONCES_HEADER] = document.nonces
        return web.Response(body=document.body, content_type="application/cbor", headers=headers)

    def _busy(self) -> ProblemError:
        return ProblemError(
            "overloaded",
            "Too many attestation documents are asked for; each serves a bounded number: try again in a second.",
            retry_after_s=RETRY_AFTER_S,
        )

    def _none_gave(self, tried: int) -> ProblemError:
        return ProblemError(
            "host-failed", f"None of {tried} hosts gave a document; try again.", retry_after_s=RETRY_AFTER_S
        )
