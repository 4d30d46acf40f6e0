"""Binding, rotation, age, skew and washes in any order: the real enclave's rules and the real worker's keys.

The enclave is not listening: its `bind` is driven over a link in memory, and a request passes the very gate that
admission and sealing pass. Clocks are virtual.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dataplane.enclave.binding import MAX_BINDING_AGE_S
from dataplane.enclave.credentials import RelayedCredentials
from dataplane.enclave.hostclock import MAX_LOOK_AGE_S, MAX_SKEW_MS, WatchedNsm
from dataplane.enclave.identity import read_identity
from dataplane.enclave.inbound import Inbound
from dataplane.enclave.infer import Inference
from dataplane.enclave.nsm import NsmError
from dataplane.enclave.server import EnclaveServer
from dataplane.mesh.address import UnixAddress
from dataplane.mesh.linkio import LinkStream
from dataplane.protocol import cbor
from dataplane.protocol.errors import ProblemError
from dataplane.protocol.header import RequestHeader, encryption_context
from dataplane.protocol.hop import seal_hop
from dataplane.protocol.link import LinkMessage, LinkType
from dataplane.worker.identity import PREVIOUS_KEY_S, WorkerIdentity
from dataplane.worker.tpm import TpmError
from observability.tracing import Telemetry
from stacks.local.nsm import SoftwareNsm
from stacks.local.pki import create_nsm_root
from tests.unit.enclave.harness import CONFIG_DIGEST, KEY_ARN, PCRS, HeldKms
from tests.unit.enclave.test_enclave_operations import HOST, INSTANCE, TPM_PCRS, GenuineNsm

ROOT = create_nsm_root()
START_MS = time.time_ns() // 10**6
"""The root is as old as this process; nothing depends on the value."""
OTHER = "i-0ffffffffffffffff"


class Clocks:
    """True time, the host's error, and both sides' monotonic clocks, which run alike."""

    def __init__(self) -> None:
        self.passed_s = 0.0
        self.error_ms = 0

    def true_ms(self) -> int:
        return START_MS + int(self.passed_s * 1000)

    def host_ms(self) -> int:
        return self.true_ms() + self.error_ms

    def monotonic(self) -> float:
        return self.passed_s


class FlakyNsm(GenuineNsm):
    """A module that may fail."""

    fails = False

    def attest(self, *, nonce: bytes | None, user_data: bytes | None, public_key: bytes | None) -> bytes:
        if self.fails:
            raise NsmError("no answer")
        return super().attest(nonce=nonce, user_data=user_data, public_key=public_key)


class HostTpm:
    """The host's NitroTPM, or another host's, or none that works."""

    def __init__(self, clocks: Clocks) -> None:
        self.mode = "good"
        made: dict[str, SoftwareNsm] = {}
        for mode, pcrs, instance in (
            ("good", TPM_PCRS, INSTANCE),
            ("other image", {**TPM_PCRS, 12: b"\x66" * 48}, INSTANCE),
            ("other host", TPM_PCRS, OTHER),
        ):
            made[mode] = SoftwareNsm(
                root=ROOT, pcrs=pcrs, instance_id=instance, clock_ms=clocks.true_ms, pcr_field="nitrotpm_pcrs"
            )
        self._made = made

    async def attest(self, *, nonce: bytes, user_data: bytes) -> bytes:
        if self.mode == "broken":
            raise TpmError("no device")
        return self._made[self.mode].attest(nonce=nonce, user_data=user_data, public_key=None)


class MemoryLink:
    """The enclave's side of a bind exchange: keeps the challenge."""

    def __init__(self) -> None:
        self.challenge = b""

    async def send(self, kind: LinkType, payload: object = b"", *, timeout_s: float) -> None:
        del timeout_s
        if kind is LinkType.HOP_DATA:
            self.challenge = cast("bytes", payload)


class MemoryInbound:
    """What the parent sends in a bind exchange: made when it is read, from the challenge."""

    def __init__(self, answer: Callable[[], bytes | None]) -> None:
        self._answer = answer
        self._messages: list[LinkMessage] | None = None

    async def next(self, timeout_s: float | None = None) -> LinkMessage:
        del timeout_s
        if self._messages is None:
            answer = self._answer()
            self._messages = (
                [LinkMessage(LinkType.HOP_ABORT, cbor.encode({"reason": "host-failed"}))]
                if answer is None
                else [LinkMessage(LinkType.HOP_DATA, answer), LinkMessage(LinkType.HOP_END, b"")]
            )
        return self._messages.pop(0)


@dataclass
class Sealed:
    """A hop request on its way, and which key it is for."""

    data: bytes
    epoch: bytes


@dataclass
class Key:
    """What is known of one of the worker's keys: the washes before it, and when another took its place."""

    washes: int
    replaced_s: float | None = None


@dataclass
class Model:
    """What ought to be true, told apart from how the programs keep it."""

    washes: int = 0
    keys: dict[bytes, Key] = field(default_factory=dict)
    bound: float | None = None
    """When the enclave's binding was challenged."""


class Bindings(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clocks = Clocks()
        self.tpm = HostTpm(self.clocks)
        self.nsm = FlakyNsm(root=ROOT, pcrs=PCRS, instance_id=INSTANCE, clock_ms=self.clocks.true_ms)
        self.watched = WatchedNsm(self.nsm, clock_ms=self.clocks.host_ms, monotonic=self.clocks.monotonic)
        self.server = self.loop.run_until_complete(self.make_server())
        self.model = Model()
        self.looked_s = 0.0
        self.answers: list[bytes] = []
        self.sealed: list[Sealed] = []
        self.start_worker()
        self.renew()

    async def make_server(self) -> EnclaveServer:
        return EnclaveServer(
            address=UnixAddress("/nowhere"),
            nsm=self.watched,
            identity=read_identity(self.watched),
            kms=HeldKms(),
            credentials=RelayedCredentials(clock_ms=self.clocks.host_ms),
            telemetry=Telemetry.relayed("enclave", region="us-east-1"),
            clock_ms=self.clocks.host_ms,
            monotonic=self.clocks.monotonic,
            host_measurements=[HOST],
            configurations=frozenset({CONFIG_DIGEST}),
            attestation_roots=[ROOT.certificate],
        )

    def teardown(self) -> None:
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    # What the world does.

    @rule()
    def start_worker(self) -> None:
        """The worker's process starts anew: its keys of before are gone."""
        self.worker = WorkerIdentity(
            config_digest=CONFIG_DIGEST,
            clock_ms=self.clocks.host_ms,
            monotonic=self.clocks.monotonic,
            tpm=self.tpm,
        )
        self.model.keys = {self.worker.epoch: Key(self.model.washes)}

    @rule(seconds=st.sampled_from([0.5, 30.0, PREVIOUS_KEY_S, 200.0, 600.0, MAX_BINDING_AGE_S - 1]))
    def wait(self, seconds: float) -> None:
        self.clocks.passed_s += seconds

    @rule(error_ms=st.sampled_from([0, 0, 1_000, MAX_SKEW_MS, -MAX_SKEW_MS, MAX_SKEW_MS + 1, -MAX_SKEW_MS - 1, 2**40]))
    def set_clock(self, error_ms: int) -> None:
        self.clocks.error_ms = error_ms

    @rule(fails=st.booleans())
    def module(self, *, fails: bool) -> None:
        self.nsm.fails = fails

    @rule(mode=st.sampled_from(["good", "good", "other image", "other host", "broken"]))
    def host(self, mode: str) -> None:
        self.tpm.mode = mode

    @rule()
    def wash(self) -> None:
        self.worker.washed()
        self.model.washes += 1
        self.model.keys = {self.worker.epoch: Key(self.model.washes)}

    @rule()
    def rotate(self) -> None:
        self.replaced(self.worker.epoch)
        self.worker.rotate()
        self.model.keys[self.worker.epoch] = Key(self.model.washes)

    def replaced(self, epoch: bytes) -> None:
        self.model.keys[epoch].replaced_s = self.clocks.passed_s

    # What the parent does.

    def answer(self, how: str, challenge: bytes) -> bytes | None:
        """The worker's answer as the parent passes it on, or None."""
        if how == "nobody":
            return None
        if how == "old answer" and self.answers:
            return self.answers[0]
        old = self.worker.epoch
        try:
            made = drive(self.worker.bind(challenge))
        except ProblemError:
            return None
        self.replaced(old)
        self.model.keys[self.worker.epoch] = Key(self.model.washes)
        self.answers.append(cbor.encode(made))
        return None if how == "lost" else self.answers[-1]

    @rule(how=st.sampled_from(["whole", "whole", "whole", "lost", "nobody", "old answer"]))
    def bind(self, how: str) -> None:
        """Let the enclave challenge the worker; the parent may lose the answer, or show one of before."""
        before, known = self.server.state.worker, len(self.answers)
        if not self.nsm.fails:
            self.looked_s = self.clocks.passed_s
        link = MemoryLink()
        inbound = MemoryInbound(lambda: self.answer(how, link.challenge))
        try:
            self.loop.run_until_complete(self.server.binder.bind(cast("LinkStream", link), cast("Inbound", inbound)))
            refused = ""
        except ProblemError as problem:
            refused = problem.code
        shown = len(self.answers) > known and how != "lost"
        if not refused:
            assert shown, "only an answer to this challenge is taken"
            assert self.tpm.mode == "good", "a document that fails is refused, and is no lower level"
            assert not self.fault(), "no document is judged under a clock that can't be taken"
            self.model.bound = self.clocks.passed_s
            return
        assert refused == "host-failed", "nothing else can go wrong with a host"
        after = self.server.state.worker
        assert after is None or after is before, "what failed binds nothing new"
        judged = (shown or (how == "old answer" and known > 0)) and not self.fault()
        assert not judged or after is None, "a worker that was judged and refused is not trusted on"
        if after is None:
            self.model.bound = None
        good = shown and self.tpm.mode == "good" and self.clocks.error_ms == 0
        assert not good or self.fault(), "a good answer under a good clock is taken"

    @rule()
    def renew(self) -> None:
        """A host that is well binds: most hosts, most of the time."""
        self.host("good")
        self.module(fails=False)
        self.set_clock(0)
        self.bind("whole")
        assert self.model.bound == self.clocks.passed_s, "nothing stands in the way"

    @rule()
    def look(self) -> None:
        if not self.nsm.fails:
            self.loop.run_until_complete(self.watched.look())
            self.looked_s = self.clocks.passed_s

    def fault(self) -> bool:
        """Whether the host's clock can't be taken, by the model."""
        return abs(self.clocks.error_ms) > MAX_SKEW_MS or self.clocks.passed_s - self.looked_s > MAX_LOOK_AGE_S

    # What a tenant's request meets.

    @rule(level=st.sampled_from([0, 1, 2]))
    def request(self, level: int) -> None:
        """A request passes the gate, or not: exactly when it should."""
        inference = Inference(self.server.state, cast("LinkStream", None), cast("Inbound", None), {}, deadline_s=5.0)
        bound = self.model.bound
        fresh = bound is not None and self.clocks.passed_s - bound < MAX_BINDING_AGE_S
        try:
            worker = inference._bound(header(level, self.clocks.host_ms()))
        except ProblemError:
            assert self.fault() or not fresh, "a request is refused for a reason"
            return
        assert not self.fault(), "nothing is served under a clock that can't be taken"
        assert fresh, "nothing is served under a binding over 15 minutes"
        assert inference._level == 2, "and all that is bound here was attested"
        assert inference._proof["binding"] < MAX_BINDING_AGE_S, "as the receipt tells"
        _, sealer = seal_hop(worker.public_key, worker.epoch, worker.config_digest, bytes(16))
        data = sealer.prefix() + sealer.seal(b"prompt", final=True)
        self.sealed.append(Sealed(data, worker.epoch))

    @rule(
        seconds=st.sampled_from([1.0, PREVIOUS_KEY_S, MAX_BINDING_AGE_S / 2, MAX_BINDING_AGE_S - 1, MAX_BINDING_AGE_S])
    )
    def request_later(self, seconds: float) -> None:
        """A request under a clock and a module that are well, so that the binding's age alone decides."""
        self.wait(seconds)
        self.set_clock(0)
        self.module(fails=False)
        self.look()
        self.request(2)

    @rule(
        then=st.lists(st.sampled_from(["wash", "start_worker", "renew", "rotate"]), max_size=2),
        seconds=st.sampled_from([0.0, 1.0, PREVIOUS_KEY_S]),
    )
    def round_trip(self, then: list[str], seconds: float) -> None:
        """A request that is served, what may happen meanwhile, and its delivery."""
        self.renew()
        self.request(2)
        for happens in then:
            getattr(self, happens)()
        self.clocks.passed_s += seconds
        self.deliver(-1)

    @precondition(lambda self: self.sealed)
    @rule(which=st.integers(0, 50))
    def deliver(self, which: int) -> None:
        """A hop request reaches the worker, at once or late: it opens exactly while its key is accepted."""
        sealed = self.sealed[which % len(self.sealed)]
        key = self.model.keys.get(sealed.epoch)
        opener = self.worker.opener()
        try:
            opener.feed(sealed.data)
            opened = True
        except ProblemError:
            opened = False
        if key is None or key.washes != self.model.washes:
            assert not opened, "a key of before a wash, or of another process, opens nothing"
            return
        live = key.replaced_s is None or self.clocks.passed_s - key.replaced_s < PREVIOUS_KEY_S
        if not live:
            assert not opened, "the grace is over"
        elif key.replaced_s is None:
            assert opened, "the current key opens"

    @invariant()
    def health_agrees(self) -> None:
        """What routers are told is what requests meet (credentials aside, which this host has none of)."""
        bound = self.model.bound
        assert (self.server.state.worker is not None) == (bound is not None), "the model follows"
        told = self.server.health()
        assert told["ready"] is False, "without credentials it never is"
        assert told["worker"] is (bound is not None), "a binding is told, fresh or not"


def drive(coroutine: Any) -> Any:
    """Run a coroutine that never waits, inside a loop that runs already."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waited")


def header(level: int, now_ms: int) -> RequestHeader:
    return RequestHeader(
        rid=bytes(16),
        iat=now_ms,
        tenant="tenant-a",
        model="tiny",
        kms=KEY_ARN,
        ctx=encryption_context("tenant-a", "00" * 16, now_ms // 1000 + 600),
        wrapped=bytes(180),
        assurance=level,
        pad=0,
    )


Bindings.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestBindings = Bindings.TestCase
