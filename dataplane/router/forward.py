"""From a routed request to an answer that has begun: choose a host, try it, and try another while that is safe."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import aiohttp
from opentelemetry.trace import Span, StatusCode

from dataplane.mesh.budget import RetryBudget
from dataplane.mesh.deadline import Deadline
from dataplane.protocol.errors import ProblemError
from dataplane.router.choose import Candidate, WarmTable, choose
from dataplane.router.head import CONTENT_TYPE, RouteRequest
from dataplane.router.hosts import Flight, HostTable
from dataplane.router.metrics import RouterMetrics
from dataplane.router.replay import RequestBody
from dataplane.router.upstream import RETRY_AFTER_S, Answer, AttemptError, Verdict, send
from observability import names
from observability.tracing import Telemetry, traceparent_of


@dataclass(slots=True)
class Trail:
    """What a request has been through: how many hosts were tried, and the last one's id."""

    attempts: int = 0
    instance_id: str | None = None
    tried: set[str] = field(default_factory=set)


class Forwarder:
    """Gets answers from hosts. `randrange(n)` is the source of chance for the choice of a host."""

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        hosts: HostTable,
        warm: WarmTable,
        budget: RetryBudget,
        metrics: RouterMetrics,
        telemetry: Telemetry,
        monotonic: Callable[[], float],
        randrange: Callable[[int], int],
        max_attempts: int,
        first_byte_timeout_s: float,
    ) -> None:
        """Keep the parts; the caller owns the session."""
        self._session = session
        self._hosts = hosts
        self._warm = warm
        self._budget = budget
        self._metrics = metrics
        self._telemetry = telemetry
        self._monotonic = monotonic
        self._randrange = randrange
        self._max_attempts = max_attempts
        self._first_byte_timeout_s = first_byte_timeout_s

    async def forward(
        self, route: RouteRequest, body: RequestBody, *, request_id: str, deadline: Deadline, parent: Span, trail: Trail
    ) -> Answer:
        """Return an answer whose first piece has come; the caller closes it.

        Nothing has gone to the tenant until this returns, so another host may be tried: on another instance than
        those before, with the whole body at hand, within `max_attempts` and the retry budget. Raises `ProblemError`.
        """
        self._budget.record_request(self._monotonic())
        last: ProblemError | None = None
        while True:
            deadline.check("a host was being found")
            picked = self._pick(route, trail)
            if picked is None:
                if last is not None:
                    self._metrics.retries_refused.labels("no-host").inc()
                raise last or self._no_host(route.model)
            candidate, flight = picked
            with ExitStack() as held:
                held.callback(flight.end)
                if last is not None and not self._budget.try_retry(self._monotonic()):
                    self._metrics.retries_refused.labels("budget").inc()
                    raise last
                trail.attempts += 1
                trail.tried.add(candidate.instance_id)
                trail.instance_id = candidate.instance_id
                try:
                    answer = await self._attempt(
                        route, body, flight, held, score=candidate.score, request_id=request_id, deadline=deadline,
                        parent=parent, attempt=trail.attempts,
                    )  # fmt: skip
                except AttemptError as error:
                    last = error.problem
                    self._metrics.attempts.labels(last.code).inc()
                    if not error.retry or not self._may_retry(body, trail):
                        raise last from None
                else:
                    self._metrics.attempts.labels("ok").inc()
                    self._warm.remember(route.tenant, route.affinity, candidate.instance_id)
                    return answer

    def _pick(self, route: RouteRequest, trail: Trail) -> tuple[Candidate, Flight] | None:
        warm = self._warm.lookup(route.tenant, route.affinity)
        candidates = self._hosts.candidates(route.model, without=trail.tried)
        while candidates:
            chosen = choose(candidates, randrange=self._randrange, warm=warm)
            if chosen is None:
                break
            flight = self._hosts.begin(chosen.instance_id)
            if flight is not None:
                return chosen, flight
            candidates.remove(chosen)
        return None

    async def _attempt(
        self,
        route: RouteRequest,
        body: RequestBody,
        flight: Flight,
        held: ExitStack,
        *,
        score: float,
        request_id: str,
        deadline: Deadline,
        parent: Span,
        attempt: int,
    ) -> Answer:
        record = flight.host.record
        span = held.enter_context(
            self._telemetry.span(
                names.ROUTER_FORWARD,
                parent=parent,
                attributes={names.INSTANCE: record.instance_id, names.ATTEMPT: attempt, names.SCORE: score},
            )
        )
        try:
            response, first = await send(
                self._session,
                url=record.address.rstrip("/") + "/inference",
                name=record.instance_id,
                headers=_headers(route, request_id, deadline, traceparent_of(span)),
                body=body,
                first_byte_timeout_s=self._first_byte_timeout_s,
                deadline=deadline,
            )
        except AttemptError as error:
            _report(flight, error.verdict)
            span.set_attribute(names.PROBLEM, error.problem.code)
            span.set_status(StatusCode.ERROR, error.problem.code)
            raise
        flight.answered()
        body.stop_keeping()
        return Answer(response, first=first, flight=flight, held=held.pop_all())

    def _may_retry(self, body: RequestBody, trail: Trail) -> bool:
        if trail.attempts >= self._max_attempts:
            self._metrics.retries_refused.labels("attempts").inc()
            return False
        if not body.replayable:
            self._metrics.retries_refused.labels("body").inc()
            return False
        return True

    def _no_host(self, pool: str) -> ProblemError:
        if not self._hosts.knows_pool(pool):
            return ProblemError(
                "unknown-model-pool", f"No host here serves a model pool named {pool!r}; GET /models lists the pools."
            )
        return ProblemError(
            "no-capacity",
            f"No host of the model pool {pool!r} can take a request now; try again as Retry-After says.",
            retry_after_s=RETRY_AFTER_S,
        )


def _headers(route: RouteRequest, request_id: str, deadline: Deadline, traceparent: str) -> dict[str, str]:
    """Return what the host needs; the API key ends here."""
    headers = {
        "Content-Type": CONTENT_TYPE,
        "X-KMS-Key-ARN": route.kms,
        "X-Tenant-ID": route.tenant,
        "X-Model-Pool": route.model,
        "X-Request-ID": request_id,
        "X-Deadline-Ms": str(deadline.remaining_ms),
    }
    if traceparent:
        headers["traceparent"] = traceparent
    if route.framing.length is not None:
        headers["Content-Length"] = str(route.framing.length)
    return headers


def _report(flight: Flight, verdict: Verdict) -> None:
    if verdict is Verdict.FAILED:
        flight.failed()
    elif verdict is Verdict.FULL:
        flight.full()
    elif verdict is Verdict.SLOW:
        flight.slow()
