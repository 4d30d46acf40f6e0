"""The router's small pages: health, models, attestation, and what only the operator sees (metrics, hosts)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import aiohttp
from aiohttp import web

from dataplane.protocol.errors import ProblemError
from dataplane.registry.host import HostRecord
from dataplane.router.choose import choose
from dataplane.router.head import read_credentials, read_fields
from dataplane.router.hosts import HostTable
from dataplane.router.limits import TokenBucket
from dataplane.router.metrics import CONTENT_TYPE, RouterMetrics
from dataplane.router.tenants import TenantDirectory
from dataplane.router.upstream import RETRY_AFTER_S

MAX_DOCUMENT_BYTES = 16 * 1024
"""Largest attestation document that a verifier takes (docs/protocol.md)."""

ATTESTATION_TIMEOUT_S = 5.0
"""Longest wait for one host's document; an NSM answers within milliseconds."""

ATTESTATION_ATTEMPTS = 3

ATTESTATIONS_PER_S = 20.0
ATTESTATION_BURST = 40.0
"""Documents a second for all callers together: anyone may ask, and each costs an enclave one signature of its NSM."""

_NONCE = re.compile(r"(?:[0-9a-fA-F]{2}){16,64}")
_HTTP_OK = 200


def health_page(hosts: HostTable, *, draining: bool, region: str) -> web.Response:
    """Answer whether this router can serve: 200 with at least one routable host and no drain, else 503."""
    routable = hosts.routable
    ready = routable > 0 and not draining
    if draining:
        status = "draining"
    elif ready:
        status = "ready"
    else:
        status = "no-hosts" if hosts.refreshed else "starting"
    document = {"status": status, "ready": ready, "region": region, "routable_hosts": routable}
    return web.json_response(document, status=200 if ready else 503, headers={"Cache-Control": "no-store"})


def hosts_page(hosts: HostTable) -> web.Response:
    """Answer every host with its score, as the router sees it now."""
    return web.json_response({"hosts": [asdict(view) for view in hosts.views()]})


def metrics_page(metrics: RouterMetrics) -> web.Response:
    """Answer the figures in Prometheus' text format."""
    return web.Response(body=metrics.render(), headers={"Content-Type": CONTENT_TYPE})


def models_page(request: web.BaseRequest, tenants: TenantDirectory, hosts: HostTable) -> web.Response:
    """Answer the model pools that routable hosts serve, to a tenant; raises `ProblemError`."""
    credentials = read_credentials(read_fields(request.raw_headers))
    tenants.current.authenticate(credentials.tenant, credentials.api_key)
    return web.json_response({"models": list_models(hosts.records())}, headers={"Cache-Control": "no-store"})


def list_models(records: list[HostRecord]) -> list[dict[str, Any]]:
    """Return one entry per pool and engine; `assurance` is the least that any of its hosts has."""
    found: dict[tuple[str, str], list[int]] = {}
    for record in records:
        for pool in record.pools:
            found.setdefault((pool, record.engine), []).append(record.assurance)
    return [
        {"id": pool, "engine": engine, "assurance": min(levels), "hosts": len(levels)}
        for (pool, engine), levels in sorted(found.items())
    ]


class AttestationPage:
    """Fetches a fresh attestation document from one enclave behind this router."""

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        hosts: HostTable,
        monotonic: Callable[[], float],
        randrange: Callable[[int], int],
        region: str,
    ) -> None:
        """Keep the parts; the caller owns the session."""
        self._session = session
        self._hosts = hosts
        self._monotonic = monotonic
        self._randrange = randrange
        self._region = region
        self._bucket = TokenBucket(rate=ATTESTATIONS_PER_S, burst=ATTESTATION_BURST, now=monotonic())

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answer the document, or raise `ProblemError`; the host's id is in `X-MRGC-Instance`."""
        nonce = request.query.get("nonce", "")
        if not _NONCE.fullmatch(nonce):
            raise ProblemError(
                "malformed-envelope", "The query's nonce must be 16 to 64 bytes in hex: GET /attestation?nonce=<hex>."
            )
        if self._bucket.take(self._monotonic()) > 0:
            raise ProblemError("overloaded", "Too many attestations are asked for; try again.", retry_after_s=1)
        tried: set[str] = set()
        while len(tried) < ATTESTATION_ATTEMPTS:
            chosen = choose(self._hosts.candidates(None, without=tried), randrange=self._randrange)
            if chosen is None:
                break
            tried.add(chosen.instance_id)
            flight = self._hosts.begin(chosen.instance_id)
            if flight is None:
                continue
            try:
                document = await self._fetch(flight.host.record.address, nonce)
                if document is None:
                    flight.failed()
                    continue
            finally:
                flight.end()
            return web.Response(
                body=document,
                content_type="application/cbor",
                headers={
                    "X-MRGC-Instance": chosen.instance_id,
                    "X-MRGC-Region": self._region,
                    "Cache-Control": "no-store",
                },
            )
        if tried:
            raise ProblemError(
                "host-failed", f"None of {len(tried)} hosts gave a document; try again.", retry_after_s=RETRY_AFTER_S
            )
        raise ProblemError("no-capacity", "No host can be asked now; try again.", retry_after_s=RETRY_AFTER_S)

    async def _fetch(self, address: str, nonce: str) -> bytes | None:
        """Return the host's document, or None if it has none to give."""
        try:
            async with (
                asyncio.timeout(ATTESTATION_TIMEOUT_S),
                self._session.get(
                    address.rstrip("/") + "/attestation", params={"nonce": nonce.lower()}, allow_redirects=False
                ) as response,
            ):
                if response.status != _HTTP_OK or response.content_type != "application/cbor":
                    return None
                document = bytearray()
                while piece := await response.content.readany():
                    document += piece
                    if len(document) > MAX_DOCUMENT_BYTES:
                        response.close()
                        return None
                return bytes(document) or None
        except (aiohttp.ClientError, OSError):
            return None
