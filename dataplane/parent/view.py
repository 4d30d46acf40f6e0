"""What the parent knows of its enclave, its worker and its own work: plain values that loops write and pages read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dataplane.protocol.errors import MrgcError

EPOCH_BYTES = 16
MAX_EPOCHS = 64
"""Epochs believed of one worker: the current one, and those that its grace still accepts."""
MAX_NAMES = 256
"""Model pools believed of one worker; the registry's records take as many."""
ENGINES = ("vllm", "synthetic")
AVERAGE_WEIGHT = 0.2
"""Weight of the newest value in a moving average: the last ten requests make up nine tenths of it."""

FORGIVENESS = 0.02
"""Weight of one quiet look at the worker: at one a second half of a bad record is gone in 35 s."""


class ReplyError(MrgcError):
    """A REPLY of enclave or worker without what the host link's page says it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveReport:
    """The enclave's answer to `health`, as far as the parent acts on it.

    `binding_age_ms` is how old the worker's binding is, `clock_skew_ms` how far this host's clock is ahead of the
    hypervisor's; None where the enclave can't say.
    """

    ready: bool
    credentials: bool
    worker: bool
    assurance: int
    worker_epoch: bytes | None
    figures: Mapping[str, int]
    binding_age_ms: int | None = None
    clock_skew_ms: int | None = None

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any]) -> EnclaveReport:
        """Read a REPLY map; raises ReplyError."""
        epoch = reply.get("worker_epoch")
        if not (epoch is None or (isinstance(epoch, bytes) and len(epoch) in (0, EPOCH_BYTES))):
            raise ReplyError("The enclave's health reply has a worker_epoch that is not 16 bytes.")
        assurance = _number(reply.get("assurance"))
        if assurance not in (0, 1, 2):
            raise ReplyError("The enclave's health reply has an assurance that is not 0, 1 or 2.")
        names = ("data_keys", "replay_entries", "kms_calls", "requests")
        return cls(
            ready=reply.get("ready") is True,
            credentials=reply.get("credentials") is True,
            worker=reply.get("worker") is True,
            assurance=int(assurance),
            worker_epoch=epoch or None,
            figures={name: int(_number(reply.get(name))) for name in names},
            binding_age_ms=_whole(reply.get("binding_age_ms")),
            clock_skew_ms=_whole(reply.get("clock_skew_ms")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """The worker's answer to `stats`. Memory in MB, times in seconds, `kv_cache_usage` 0 to 1.

    `epoch` names its newest key, `accepted` all that it accepts now.

    `kv_cache_usage`, `released` and the average in `requests` are totals that the worker has released, never a
    request's own figures (docs/observability.md, "What may leave").
    """

    engine: str
    ready: bool
    epoch: bytes | None
    waiting: int
    running: int
    kv_cache_usage: float
    gpu: Mapping[str, Any]
    models: Mapping[str, Any]
    requests: Mapping[str, Any]
    released: Mapping[str, Any]
    accepted: tuple[bytes, ...] = ()

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any]) -> WorkerReport:
        """Read a REPLY map; raises ReplyError."""
        engine = reply.get("engine")
        if engine not in ENGINES:
            raise ReplyError(f"The worker's stats name the engine {str(engine)[:32]!r}; expected vllm or synthetic.")
        epoch = reply.get("epoch")
        if epoch is not None and not (isinstance(epoch, bytes) and len(epoch) in (0, EPOCH_BYTES)):
            raise ReplyError("The worker's stats have an epoch that is not 16 bytes.")
        return cls(
            engine=engine,
            ready=reply.get("ready") is True,
            epoch=epoch or None,
            waiting=int(_number(reply.get("waiting"))),
            running=int(_number(reply.get("running"))),
            kv_cache_usage=_number(reply.get("kv_cache_usage")),
            gpu=_map(reply.get("gpu")),
            models=_map(reply.get("models")),
            requests=_map(reply.get("requests")),
            accepted=_epochs(reply.get("accepted")),
            released=_map(reply.get("released")),
        )

    def accepts(self, epoch: bytes | None) -> bool:
        """Whether a request under that epoch's key would be opened now."""
        return epoch is not None and (epoch == self.epoch or epoch in self.accepted)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Pools in memory."""
        return _names(self.models.get("loaded"))

    @property
    def available(self) -> tuple[str, ...]:
        """Pools that can be served, loaded ones included, sorted."""
        return tuple(sorted({*_names(self.models.get("available")), *self.loaded}))[:MAX_NAMES]


@dataclass(slots=True)
class HostView:
    """The latest of everything; a report that is None has not come, or the last attempt to get it failed.

    `renewing` says that a binding which still serves is being renewed: enclave and worker may name different keys.
    """

    enclave: EnclaveReport | None = None
    worker: WorkerReport | None = None
    fsx_available: bool = False
    first_byte_ms: float = 0.0
    success: float = 1.0
    failed_reports: int = 0
    bound_epochs: int = 0
    renewing: bool = False
    handovers: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)

    def bound(self, assurance: int, epoch: bytes) -> None:
        """The enclave has just taken the worker's key `epoch`; reports asked for before know nothing of it."""
        self.bound_epochs += 1
        if self.worker is not None:
            accepted = tuple(each for each in (epoch, self.worker.epoch, *self.worker.accepted) if each is not None)
            self.worker = replace(self.worker, epoch=epoch, accepted=accepted[:MAX_EPOCHS])
        if self.enclave is not None:
            self.enclave = replace(self.enclave, worker=True, worker_epoch=epoch, assurance=assurance, binding_age_ms=0)

    def count(self, outcome: str) -> None:
        """One request has ended with `outcome`: `ok`, `aborted`, `client-gone` or a problem's code."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def note_first_byte(self, elapsed_s: float) -> None:
        """A response has begun `elapsed_s` after its request."""
        milliseconds = elapsed_s * 1000
        if self.first_byte_ms == 0.0:
            self.first_byte_ms = milliseconds
        self.first_byte_ms += AVERAGE_WEIGHT * (milliseconds - self.first_byte_ms)

    def note_success(self, *, ok: bool) -> None:
        """The host did (or did not) what it should for one request."""
        self.success += AVERAGE_WEIGHT * ((1.0 if ok else 0.0) - self.success)

    def forgive(self) -> None:
        """Some quiet time has passed: failures weigh less, or a host that gets no requests could never recover."""
        self.success += FORGIVENESS * (1.0 - self.success)


def _number(value: Any) -> float:
    """A figure that is no number, or a negative one, counts as 0: figures inform and decide nothing alone."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        return 0
    return value


def _whole(value: Any) -> int | None:
    return value if type(value) is int and abs(value) < 2**53 else None


def _epochs(value: Any) -> tuple[bytes, ...]:
    listed = value[:MAX_EPOCHS] if isinstance(value, list | tuple) else ()
    return tuple(each for each in listed if isinstance(each, bytes) and len(each) == EPOCH_BYTES)


def _map(value: Any) -> Mapping[str, Any]:
    return {str(key): entry for key, entry in value.items()} if isinstance(value, dict) else {}


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        return ()
    return tuple(name for name in value if isinstance(name, str) and 0 < len(name) <= 128)[:MAX_NAMES]  # noqa: PLR2004 - a pool's name has at most 128 characters


def figure(values: Mapping[str, Any], name: str) -> float:
    """A figure of a report's map, 0 when it is none."""
    return _number(values.get(name))
