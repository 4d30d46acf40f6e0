"""The router's small pages: health, models, and what only the operator sees (metrics, hosts)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from aiohttp import web

from dataplane.registry.host import HostRecord
from dataplane.router.hosts import HostTable
from dataplane.router.metrics import CONTENT_TYPE, RouterMetrics
from dataplane.router.tenants import Tenant


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


def models_page(_tenant: Tenant, hosts: HostTable) -> web.Response:
    """Answer the model pools that routable hosts serve; they are for tenants, and the same for each."""
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
