"""What enclave and worker may let leave them: one table of every attribute, metric and figure, with its class.

Exact token counts and times are content: an answer's length alone gives a translation's language in three of four
cases, sizes and times of tokens its topic (arXiv 2412.15431, 2511.03675). So what leaves towards the host is closed:

- **H**, host-side: what router and parent see anyway, or are told in clear. It may go anywhere.
- **A**, aggregate: leaves enclave and worker only as totals that `dataplane/worker/release.py` has released.
- **S**, sealed: one request's own figures, to its tenant alone, inside the sealed receipt.

What is not in the table is not let out: `disclosed` drops it from replies, `observability.relayed` from spans.
"""

from __future__ import annotations

import enum
import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from observability import metrics, names

logger = logging.getLogger(__name__)


class Disclosure(enum.StrEnum):
    """Where something may go; the module's head says it in full."""

    HOST = "H"
    AGGREGATE = "A"
    SEALED = "S"


class Where(enum.StrEnum):
    """What a row is a row of."""

    RELAYED = "attribute of a span that enclave or worker make"
    HOST_SPAN = "attribute of a span that tenant, router or parent make"
    STATS = "member of the worker's stats reply"
    HEALTH = "member of the enclave's health reply"
    METRIC = "metric at GET /metrics"
    RECORD = "field of a host's record in the registry"


@dataclass(frozen=True, slots=True)
class Row:
    """One name, its class, and why it has that class. `*` in a member's name stands for a model pool's."""

    where: Where
    name: str
    disclosure: Disclosure
    reason: str


H, A, S = Disclosure.HOST, Disclosure.AGGREGATE, Disclosure.SEALED

_IN_CLEAR: Final = "in clear in the request's HTTP headers and envelope header"
_TOLD: Final = "told in clear by PROBLEM, ABORT or the HTTP status"
_OWN: Final = "what the process that writes it has seen or decided itself"
_LENGTH: Final = "says how long prompt or answer is, and by that what they are"
_CONTENT: Final = "says something of the content, which is answered inside the sealed response"
_PLAIN: Final = "the same whatever requests say"
_ONE_A_REQUEST: Final = "moves once a request or session, and the parent carries every one of them"
_RELEASED: Final = "a total over at least four requests, in whole thousands"

RELAYED: Final = (
    Row(Where.RELAYED, names.TENANT, H, _IN_CLEAR),
    Row(Where.RELAYED, names.MODEL_POOL, H, _IN_CLEAR),
    Row(Where.RELAYED, names.ASSURANCE, H, "the enclave's health reply says it, and the worker's binding decides it"),
    Row(Where.RELAYED, names.PROBLEM, H, _TOLD),
    Row(Where.RELAYED, names.KMS_REGION, H, "the proxy sees which KMS endpoint a tunnel leads to"),
    Row(Where.RELAYED, names.CACHED_KEY, H, "without it there is a tunnel to KMS, which the proxy carries"),
    Row(Where.RELAYED, names.FRAMES, H, "frames have their heads in clear"),
    Row(Where.RELAYED, names.CIPHERTEXT_BYTES, H, "the parent carried them"),
    Row(Where.RELAYED, names.ENGINE, H, "the stats reply says it"),
    Row(Where.RELAYED, names.HTTP_STATUS, S, _CONTENT),
    Row(Where.RELAYED, names.GEN_AI_OPERATION, S, "the path is part of the sealed message"),
    Row(Where.RELAYED, names.GEN_AI_REQUEST_MODEL, S, "the body's model is part of the sealed message"),
    Row(Where.RELAYED, names.GEN_AI_INPUT_TOKENS, S, _LENGTH),
    Row(Where.RELAYED, names.GEN_AI_OUTPUT_TOKENS, S, _LENGTH),
    Row(Where.RELAYED, names.CACHED_TOKENS, S, "answers guesses at what this key's tenant asked before"),
    Row(Where.RELAYED, names.TTFT_MS, S, "grows with the prompt's length and shrinks with what the cache holds"),
)

HOST_SPANS: Final = tuple(
    Row(Where.HOST_SPAN, name, H, reason)
    for name, reason in (
        (names.TENANT, _IN_CLEAR),
        (names.MODEL_POOL, _IN_CLEAR),
        (names.REQUEST_ID, _IN_CLEAR),
        (names.INSTANCE, _OWN),
        (names.ATTEMPT, _OWN),
        (names.ATTEMPTS, _OWN),
        (names.SCORE, _OWN),
        (names.PROBLEM, _TOLD),
        (names.ASSURANCE, _IN_CLEAR),
        (names.KMS_REGION, _IN_CLEAR),
        (names.CACHED_KEY, "whether this session's data key was there already: its id is in clear in the header"),
        (names.FRAMES, _OWN),
        (names.CIPHERTEXT_BYTES, _OWN),
        (names.HTTP_STATUS, "the outer status; the inner one is sealed"),
        (names.ENGINE, "the stats reply says it"),
    )
)

STATS: Final = (
    *(Row(Where.STATS, name, H, _PLAIN) for name in ("engine", "ready", "epoch", "accepted")),
    Row(Where.STATS, "waiting", H, "requests in flight beyond what runs: the parent has each of them open"),
    Row(Where.STATS, "running", H, "requests in flight up to the engine's capacity, never sequences of its scheduler"),
    Row(Where.STATS, "in_flight", H, "the parent has each of them open"),
    Row(Where.STATS, "kv_cache_usage", A, "grows with every running prompt and answer; a mean, in sixteenths"),
    Row(Where.STATS, "gpu.available", H, _PLAIN),
    Row(Where.STATS, "gpu.total_mb", H, _PLAIN),
    Row(
        Where.STATS, "gpu.used_mb", H, "whoever has a shell on the host may ask the driver; in sixteenths all the same"
    ),
    *(
        Row(Where.STATS, f"models.{name}", H, "loading is caused by the pool's name, which is in clear")
        for name in ("fsx_available", "loaded", "available", "total_loads", "failed_loads", "avg_load_s")
    ),
    *(
        Row(Where.STATS, f"models.details.*.{name}", H, _PLAIN)
        for name in ("digest", "runner", "loads", "failed_loads")
    ),
    Row(Where.STATS, "models.details.*.in_use", H, "the parent has each of them open, under the pool's name"),
    Row(Where.STATS, "requests.total", H, "the parent carried each of them"),
    Row(Where.STATS, "requests.failed", H, _TOLD),
    Row(Where.STATS, "requests.avg_s", A, "released seconds through released requests"),
    Row(Where.STATS, "released.requests", A, "those that the released totals are of"),
    *(
        Row(Where.STATS, f"released.{name}", A, _RELEASED)
        for name in ("prompt_tokens", "completion_tokens", "cached_tokens")
    ),
    *(
        Row(Where.STATS, f"released.{name}", A, "a total over at least four requests, in whole seconds")
        for name in ("prefill_s", "decode_s")
    ),
)

HEALTH: Final = (
    *(
        Row(Where.HEALTH, name, H, _PLAIN)
        for name in (
            "ready",
            "credentials",
            "worker",
            "assurance",
            "pcr0",
            "worker_epoch",
        )
    ),
    Row(Where.HEALTH, "binding_age_ms", H, "the parent carried the binding"),
    Row(Where.HEALTH, "clock_skew_ms", H, "of the host's own clock, against the hypervisor's"),
    *(Row(Where.HEALTH, name, H, _ONE_A_REQUEST) for name in ("data_keys", "replay_entries", "kms_calls", "requests")),
)

_RELEASED_METRICS: Final = (
    metrics.KV_CACHE,
    metrics.RELEASED_REQUESTS,
    metrics.PROMPT_TOKENS,
    metrics.COMPLETION_TOKENS,
    metrics.CACHED_TOKENS,
    metrics.PREFILL_SECONDS,
    metrics.DECODE_SECONDS,
)
METRICS: Final = tuple(
    Row(Where.METRIC, metric.name, A, "as released in the stats reply")
    if metric in _RELEASED_METRICS
    else Row(Where.METRIC, metric.name, H, _OWN)
    for metric in metrics.DATAPLANE_METRICS
)

RECORD: Final = (
    *(Row(Where.RECORD, name, H, _PLAIN) for name in ("instance_id", "region", "address", "pools", "capacity")),
    *(Row(Where.RECORD, name, H, _PLAIN) for name in ("assurance", "engine", "reported_ms")),
    *(Row(Where.RECORD, name, H, _OWN) for name in ("state", "latency_ms", "health")),
    *(Row(Where.RECORD, name, H, "the parent has each of them open") for name in ("queue_depth", "running")),
)

TABLE: Final = (*RELAYED, *HOST_SPANS, *STATS, *HEALTH, *METRICS, *RECORD)

RELAYED_ATTRIBUTES: Final = frozenset(row.name for row in RELAYED if row.disclosure is H)
"""All that a relayed span may carry."""

RELAYED_SPANS: Final = frozenset(
    {names.ENCLAVE_REQUEST, names.ENCLAVE_OPEN, names.KMS_DECRYPT, names.ENCLAVE_SEAL, names.WORKER_GENERATE}
)
"""Names that a relayed span may have; that there is such a span is visible in the host link's messages."""

TICK_NS: Final = 20_000_000
"""Relayed times are rounded to 20 ms, the time for which the enclave gathers tokens into a frame: the parent sees when
frames come, and a relayed span shall tell it no more than that."""


@functools.lru_cache(maxsize=256)
def refused(name: str) -> None:
    """Say once that something was about to leave which the table does not let out; tests put an error in its place.

    `name` is a name in our code, or a model pool's member's; values are never given.
    """
    logger.error("%s was kept back: observability/disclosure.py does not let it out", name)


def disclosed(where: Where, reply: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a reply may leave as it is: the members that `where` has with class H, or A and released.

    A member that the table lacks, or has as sealed, is left out and told to `refused`.
    """
    allowed = [tuple(row.name.split(".")) for row in TABLE if row.where is where and row.disclosure is not S]
    return _kept(reply, allowed, str(where))


def _kept(reply: Mapping[str, Any], allowed: list[tuple[str, ...]], path: str) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in reply.items():
        below = [entry[1:] for entry in allowed if entry and entry[0] in (name, "*")]
        if () in below:
            kept[name] = value
        elif below and isinstance(value, Mapping):
            kept[name] = _kept(value, below, f"{path} {name}")
        else:
            refused(f"{path} {name}")
    return kept
