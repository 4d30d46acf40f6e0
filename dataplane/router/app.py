"""The router put together: its parts, its two listeners, its loop over the registry, and its drain."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Callable
from typing import Self

from aiohttp import web

from dataplane.mesh.admission import Admission
from dataplane.mesh.budget import RetryBudget
from dataplane.mesh.tls import client_context, server_context
from dataplane.protocol.errors import MrgcError, ProblemError
from dataplane.registry.registry import Registry
from dataplane.router.attestation import AttestationPage
from dataplane.router.attestation_limits import AttestationLimits
from dataplane.router.choose import WarmTable
from dataplane.router.forward import Forwarder
from dataplane.router.head import read_credentials, read_fields
from dataplane.router.hosts import HostRefresher, HostTable
from dataplane.router.inference import InferenceHandler
from dataplane.router.limits import TenantLimits
from dataplane.router.metrics import RouterMetrics
from dataplane.router.pages import health_page, hosts_page, metrics_page, models_page
from dataplane.router.replay import ReplayStore
from dataplane.router.server import RouterServer, problem_response
from dataplane.router.settings import RouterSettings
from dataplane.router.tenants import Tenant, TenantDirectory
from dataplane.router.upstream import make_session
from observability.tracing import Telemetry

ADMIN_CONNECTIONS = 64
"""Connections to the admin listener: a scraper, a health check and a few people."""

ABORT_GRACE_S = 1.0
"""Time for requests that were cut to let go of what they hold, before the session to the hosts is closed."""

logger = logging.getLogger(__name__)


class Router:
    """One router. Use as `async with Router(...) as router`, then `drain`; leaving cuts what is left.

    `randrange` is the source of chance, `monotonic` seconds, `clock_ms` ms since 1970. `port` and `admin_port` may be 0
    for a free one, whatever the settings say.
    """

    def __init__(
        self,
        settings: RouterSettings,
        *,
        registry: Registry,
        telemetry: Telemetry,
        monotonic: Callable[[], float] = time.monotonic,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        randrange: Callable[[int], int] = random.randrange,
        port: int | None = None,
        admin_port: int | None = None,
    ) -> None:
        """Read every file that the settings name; raises `SettingsError`. Nothing is bound yet."""
        self._settings = settings
        self._telemetry = telemetry
        self._monotonic = monotonic
        self._randrange = randrange
        self.port = settings.http_port if port is None else port
        self.admin_port = settings.admin_port if admin_port is None else admin_port
        self._tls: ssl.SSLContext | None = None
        if settings.tls_cert_file is not None and settings.tls_key_file is not None:
            self._tls = server_context(settings.tls_cert_file, settings.tls_key_file)
        self._hosts_tls: ssl.SSLContext | None = None
        if settings.hosts_ca_file is not None:
            self._hosts_tls = client_context(
                settings.hosts_ca_file, certificate=settings.hosts_cert_file, key=settings.hosts_key_file
            )
        self.limits = TenantLimits()
        self.tenants = TenantDirectory(
            settings.tenants_file, changed=lambda tenants: self.limits.keep_only(tenants.ids)
        )
        self.metrics = RouterMetrics()
        self.hosts = HostTable(monotonic=monotonic, clock_ms=clock_ms, tls_only=self._hosts_tls is not None)
        self.store = ReplayStore(total_bytes=settings.replay_total_bytes)
        self.admission = Admission(max_in_flight=settings.max_in_flight)
        self._refresher = HostRefresher(
            registry=registry,
            table=self.hosts,
            region=settings.mrgc_region,
            interval_s=settings.registry_refresh_s,
            failed=self.metrics.registry_failures.inc,
        )
        self._draining = False
        self._closing = False
        self._refreshing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Read the registry once, then listen; raises `MrgcError` if a port can't be bound."""
        settings = self._settings
        self._session = make_session(connect_timeout_s=settings.connect_timeout_s, tls=self._hosts_tls)
        try:
            self.server = RouterServer(
                self._dispatch, max_connections=settings.max_connections, max_strangers=settings.max_strangers
            )
            self._inference = self._make_inference()
            self._attestation = AttestationPage(
                session=self._session,
                hosts=self.hosts,
                limits=AttestationLimits(now=self._monotonic()),
                monotonic=self._monotonic,
                randrange=self._randrange,
                region=settings.mrgc_region,
            )
            self._admin = RouterServer(self._dispatch_admin, max_connections=ADMIN_CONNECTIONS)
            self._bind_gauges()
            self.admin_port = await self._admin.listen(settings.admin_host, self.admin_port, tls=None)
            await self._refresher.refresh()
            self.port = await self.server.listen(settings.http_host, self.port, tls=self._tls)
        except BaseException:
            await self._close()
            raise
        self._refreshing = asyncio.create_task(self._refresher.run(), name="registry")
        logger.info("routing", extra={"port": self.port, "admin_port": self.admin_port, "hosts": self.hosts.routable})
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening, cut what is left and let go of everything."""
        await self._close()

    async def failed(self) -> None:
        """Wait until the loop over the registry ends by itself, which is a bug, and raise `MrgcError` then."""
        if self._refreshing is not None:
            await asyncio.wait({self._refreshing})
            error = None if self._refreshing.cancelled() else self._refreshing.exception()
            raise MrgcError(f"The loop that reads the registry ended ({type(error).__name__}); restart the router.")

    async def drain(self) -> bool:
        """Leave in order, within `drain_timeout_s`: say not ready, finish what is in flight, then refuse the rest.

        First health turns false while everything is still served, for `drain_delay_s`, so that load balancers send
        new connections elsewhere; then nothing new is taken. Return whether all that was in flight could finish.
        """
        settings = self._settings
        limit = self._monotonic() + settings.drain_timeout_s
        self._draining = True
        logger.info("draining", extra={"in_flight": self.admission.in_flight})
        await asyncio.sleep(settings.drain_delay_s)
        self._closing = True
        self.server.stop_listening()
        self.server.close_idle()
        try:
            async with asyncio.timeout(max(0.0, limit - self._monotonic())):
                await self.admission.idle()
        except TimeoutError:
            logger.warning("cutting what did not finish in time", extra={"in_flight": self.admission.in_flight})
            return False
        return True

    async def abort(self) -> None:
        """Cut every tenant's connection that is left, and wait a moment for the requests on them to let go."""
        self._draining = self._closing = True
        self.server.stop_listening()
        await self.server.close_all(grace_s=ABORT_GRACE_S)

    async def _close(self) -> None:
        self._draining = self._closing = True
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait({self._refreshing})
        for server in (getattr(self, "server", None), getattr(self, "_admin", None)):
            if server is not None:
                server.stop_listening()
                await server.close_all(grace_s=ABORT_GRACE_S)
        await self._session.close()

    def _make_inference(self) -> InferenceHandler:
        settings = self._settings
        forwarder = Forwarder(
            session=self._session,
            hosts=self.hosts,
            warm=WarmTable(),
            budget=RetryBudget(now=self._monotonic()),
            metrics=self.metrics,
            telemetry=self._telemetry,
            monotonic=self._monotonic,
            randrange=self._randrange,
            max_attempts=settings.max_attempts,
            first_byte_timeout_s=settings.first_byte_timeout_s,
        )
        return InferenceHandler(
            tenants=self.tenants,
            limits=self.limits,
            admission=self.admission,
            forwarder=forwarder,
            store=self.store,
            metrics=self.metrics,
            telemetry=self._telemetry,
            monotonic=self._monotonic,
            region=settings.mrgc_region,
            body_idle_s=settings.body_idle_s,
            stream_idle_s=settings.stream_idle_s,
            write_stall_s=settings.write_stall_s,
            draining=lambda: self._draining,
            closing=lambda: self._closing,
            prove=self.server.prove,
        )

    def _bind_gauges(self) -> None:
        self.metrics.in_flight.set_function(lambda: self.admission.in_flight)
        self.metrics.connections.set_function(lambda: len(self.server.connections))
        self.metrics.hosts.set_function(lambda: self.hosts.routable)
        self.metrics.replay_bytes.set_function(lambda: self.store.used)

    async def _dispatch(self, request: web.BaseRequest) -> web.StreamResponse:
        page = (request.method, request.path)
        if page == ("POST", "/inference"):
            return await self._inference.handle(request)
        try:
            if page == ("GET", "/health"):
                response = self._health()
            elif page == ("GET", "/models"):
                response = models_page(self._tenant_of(request), self.hosts)
            elif page == ("GET", "/attestation"):
                tenant = self._tenant_of(request) if "Authorization" in request.headers else None
                response = await self._attestation.handle(request, tenant)
            else:
                raise _not_found(request, "POST /inference, GET /attestation, GET /models, GET /health")
        except ProblemError as problem:
            response = problem_response(problem, {"X-MRGC-Region": self._settings.mrgc_region})
        if self._draining or not request.content.is_eof():
            response.force_close()
        return response

    def _tenant_of(self, request: web.BaseRequest) -> Tenant:
        credentials = read_credentials(read_fields(request.raw_headers))
        tenant = self.tenants.current.authenticate(credentials.tenant, credentials.api_key)
        self.server.prove(request)
        return tenant

    async def _dispatch_admin(self, request: web.BaseRequest) -> web.StreamResponse:
        page = (request.method, request.path)
        if page == ("GET", "/health"):
            return self._health()
        if page == ("GET", "/metrics"):
            return metrics_page(self.metrics)
        if page == ("GET", "/hosts"):
            return hosts_page(self.hosts)
        return problem_response(_not_found(request, "GET /health, GET /metrics, GET /hosts"), {})

    def _health(self) -> web.Response:
        return health_page(self.hosts, draining=self._draining, region=self._settings.mrgc_region)


def _not_found(request: web.BaseRequest, pages: str) -> ProblemError:
    return ProblemError("not-found", f"There is no {request.method[:16]} {request.path[:64]!r} here, only {pages}.")
