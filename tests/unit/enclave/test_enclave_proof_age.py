"""What a binding is worth and for how long: its age, the host's clock, and the worker's configuration."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from dataplane.enclave import server
from dataplane.enclave.binding import MAX_BINDING_AGE_S
from dataplane.enclave.hostclock import MAX_LOOK_AGE_S, MAX_SKEW_MS, HostClock, WatchedNsm
from dataplane.enclave.hostrules import HostRules, read_host_rules
from dataplane.enclave.nsm import NsmError
from dataplane.protocol.errors import ProblemError, SettingsError
from dataplane.protocol.link import LinkType
from stacks.local.nsm import SoftwareNsm
from stacks.local.pki import create_nsm_root
from tests.unit.enclave.harness import CONFIG_DIGEST, PCRS, Enclave, HopWorker, enclave
from tests.unit.enclave.test_enclave_operations import HOST, genuine


async def health(running: Enclave) -> dict[str, Any]:
    return dict((await running.call(op="health")).map())


# Age.


async def test_a_binding_over_fifteen_minutes_serves_nothing_until_it_is_renewed(tmp_path: Path) -> None:
    async with enclave(tmp_path) as running:
        running.advance_s = MAX_BINDING_AGE_S - 2
        await running.watched.look()
        assert (await running.infer(running.seal())).head.status == 200, "still fresh"
        running.advance_s = MAX_BINDING_AGE_S
        await running.watched.look()
        outcome = await running.infer(running.seal())
        assert outcome.problem == "host-failed", "whatever the parent does, the enclave counts by itself"
        assert "15 minutes" in outcome.detail, "the sentence names the reason"
        assert outcome.last_map["retry_after_s"] >= 1, "another host, or this one in a moment"
        assert running.kms.calls == 1, "nothing was opened for it"
        report = await health(running)
        assert (report["ready"], report["worker"], report["binding_age_ms"] // 1000) == (False, True, 900), (
            "and health says so"
        )
        await running.bind()
        assert (await running.infer(running.seal())).head.status == 200, "renewed"
        assert (await health(running))["ready"] is True, "and ready"


async def test_a_binding_that_grows_too_old_while_a_body_arrives_is_not_sealed_to(tmp_path: Path) -> None:
    async with enclave(tmp_path) as running:
        running.advance_s = MAX_BINDING_AGE_S - 5
        await running.watched.look()
        data, _, header = running.seal()
        admitted = asyncio.Event()
        held = running.server.state.keyring.held

        def asked(**named: Any) -> bytes | None:
            admitted.set()  # a key is looked for as soon as the header was admitted
            return held(**named)

        running.server.state.keyring.held = asked  # type: ignore[method-assign] # tells when
        async with running.link() as link:
            await link.send(LinkType.OPEN, running.opening(header), timeout_s=1)
            await link.send(LinkType.DATA, data[:-1], timeout_s=1)
            await asyncio.wait_for(admitted.wait(), 2)
            running.advance_s = MAX_BINDING_AGE_S
            await running.watched.look()
            await link.send(LinkType.DATA, data[-1:], timeout_s=1)
            await link.send(LinkType.END, timeout_s=1)
            reply = await link.receive(2)
            while reply is not None and reply.type is LinkType.SPANS:
                reply = await link.receive(2)
        assert reply is not None, "it is answered"
        assert reply.type is LinkType.PROBLEM, "before a byte goes to the worker"
        assert not running.worker.seen, "the old key got nothing"


async def test_a_receipt_tells_the_age_of_the_proof(tmp_path: Path) -> None:
    async with genuine(tmp_path) as running:
        await running.bind()
        running.advance_s = 100.0
        proof = (await running.infer(running.seal(assurance=2))).receipt.proof
        assert proof is not None, "a receipt says how old its proof is"
        assert 100 <= proof["binding"] <= 102, "since the challenge"
        assert proof["binding"] <= proof["document"] <= proof["binding"] + 2, "the document was made for it"


async def test_without_a_document_a_receipt_has_the_age_of_the_binding_alone(tmp_path: Path) -> None:
    async with enclave(tmp_path) as running:
        proof = (await running.infer(running.seal())).receipt.proof
        assert proof is not None, "a binding there is"
        assert proof.keys() == {"binding"}, "nothing claims a document that was not"


# The host's clock.


@pytest.mark.parametrize("offset_ms", [-MAX_SKEW_MS - 2_000, MAX_SKEW_MS + 2_000, 24 * 3_600_000])
async def test_a_host_whose_clock_is_off_serves_nothing_until_it_is_right(tmp_path: Path, offset_ms: int) -> None:
    async with enclave(tmp_path) as running:
        running.offset_ms = offset_ms
        sealed = running.seal()
        outcome = await running.infer(sealed)
        assert outcome.problem == "host-failed", "also for a request that fits the wrong clock"
        assert "clock skew" in outcome.detail, "in clear: it says nothing of the request"
        assert running.kms.calls == 0, "before any key is asked for"
        report = await health(running)
        assert report["ready"] is False, "routers stop sending"
        assert abs(report["clock_skew_ms"] - offset_ms) < 1_000, "and an operator sees by how much"
        refused = await running.bind()
        assert refused.type is LinkType.PROBLEM, "no document is judged by a wrong clock"
        assert "clock skew" in refused.map()["detail"], "for this reason"
        running.offset_ms = 0
        assert (await running.infer(running.seal())).head.status == 200, "it recovers by itself"


@pytest.mark.parametrize("offset_ms", [MAX_SKEW_MS + 2_000, 24 * 3_600_000])
async def test_a_clock_that_was_ahead_for_a_moment_costs_no_request_once_it_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset_ms: int
) -> None:
    monkeypatch.setattr(server, "FORGET_PERIOD_S", 0.001)
    async with enclave(tmp_path) as running:
        served = running.seal()
        assert (await running.infer(served)).head.status == 200, "remembered from here on"
        running.offset_ms = offset_ms
        await asyncio.sleep(0.05)  # the window's broom has come by some times
        running.offset_ms = 0
        outcome = await running.infer(running.seal())
        assert outcome.ended is LinkType.END, "the replay window did not take the wrong time for the latest it saw"
        assert outcome.head.status == 200, "so a good request is served"
        assert (await running.infer(served)).problem == "replayed", "and what was served is not forgotten"


async def test_a_clock_that_jumps_while_a_data_key_is_fetched_is_told_as_the_hosts_fault(tmp_path: Path) -> None:
    async with enclave(tmp_path) as running:
        decrypt = running.kms.decrypt

        async def jumping(**named: Any) -> bytes:
            running.offset_ms = 3_600_000
            return await decrypt(**named)

        running.kms.decrypt = jumping  # type: ignore[method-assign] # the host's clock jumps meanwhile
        outcome = await running.infer(running.seal())
        assert outcome.problem == "host-failed", "the tenant's request was good: it is not told `expired`"
        running.kms.decrypt = decrypt  # type: ignore[method-assign]
        running.offset_ms = 0
        assert (await running.infer(running.seal())).head.status == 200, "and nothing of the wrong time stays"


async def test_a_small_skew_is_borne(tmp_path: Path) -> None:
    async with enclave(tmp_path) as running:
        for offset_ms in (-MAX_SKEW_MS + 2_000, MAX_SKEW_MS - 2_000):
            running.offset_ms = offset_ms
            assert (await running.infer(running.seal())).head.status == 200, "networks' clocks differ a little"


class Clocks:
    """Wall and monotonic clock, both set by the test, and the hypervisor's."""

    def __init__(self) -> None:
        self.wall_ms = 1_800_000_000_000
        self.true_ms = 1_800_000_000_000
        self.now_s = 50.0
        self.nsm = SoftwareNsm(
            root=create_nsm_root(), pcrs=PCRS, instance_id="i-0aaaabbbbccccdddd", clock_ms=lambda: self.true_ms
        )
        self.watched = WatchedNsm(self.nsm, clock_ms=lambda: self.wall_ms, monotonic=lambda: self.now_s)

    def attest(self) -> bytes:
        return self.watched.attest(nonce=None, user_data=None, public_key=None)

    @property
    def fault(self) -> str:
        return self.watched.clock.fault

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds
        self.wall_ms += int(seconds * 1000)
        self.true_ms += int(seconds * 1000)


def test_nothing_is_known_of_a_clock_before_the_first_document() -> None:
    clocks = Clocks()
    assert "clock skew" in clocks.fault, "no proof, no service"
    clocks.attest()
    assert clocks.fault == "", "the first document proves it"


def test_every_document_is_a_look_at_the_time_whatever_it_was_made_for() -> None:
    clocks = Clocks()
    clocks.watched.attest(nonce=b"n" * 16, user_data=b"u", public_key=b"k")
    assert clocks.watched.clock.skew_ms == 0, "KMS calls and tenants' documents cost no extra one"


def test_a_clock_that_jumps_between_two_documents_is_seen_at_once() -> None:
    clocks = Clocks()
    clocks.attest()
    clocks.pass_s(30)
    assert clocks.watched.clock.skew_ms == 0, "time passes alike"
    clocks.wall_ms += MAX_SKEW_MS + 1
    assert "ahead of" in clocks.fault, "by the enclave's monotonic clock"
    clocks.wall_ms -= 2 * MAX_SKEW_MS + 2
    assert "behind" in clocks.fault, "in either direction"


def test_a_module_that_gives_no_documents_any_more_is_not_trusted_on() -> None:
    clocks = Clocks()
    clocks.attest()
    clocks.pass_s(MAX_LOOK_AGE_S)
    assert clocks.fault == "", "counted on for so long"
    clocks.pass_s(1)
    assert "no time" in clocks.fault, "and not for ever"
    clocks.attest()
    assert clocks.fault == "", "until it answers again"


def test_a_document_without_a_time_changes_nothing() -> None:
    clock = HostClock(clock_ms=lambda: 0, monotonic=lambda: 0.0)
    clock.observe(b"\xff")
    assert clock.skew_ms is None, "what can't be read proves nothing"
    with pytest.raises(ProblemError) as caught:
        clock.check()
    assert caught.value.code == "host-failed", "another host may do better"
    assert caught.value.retry_after_s, "later this one as well"


class SilentNsm:
    """A module that fails."""

    assurance = 1
    asked = 0

    def __init__(self) -> None:
        self.often = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    def attest(self, *, nonce: bytes | None, user_data: bytes | None, public_key: bytes | None) -> bytes:
        del nonce, user_data, public_key
        self.asked += 1
        if self.asked == 3:
            self.loop.call_soon_threadsafe(self.often.set)
        raise NsmError("no answer")

    def random(self, size: int) -> bytes:
        return bytes(size)


async def test_the_clock_is_looked_at_again_and_a_failing_module_ends_nothing() -> None:
    silent = SilentNsm()
    watched = WatchedNsm(silent, clock_ms=lambda: 0, monotonic=lambda: 0.0)
    looking = asyncio.create_task(watched.keep_looking(period_s=0.004))
    await asyncio.wait_for(silent.often.wait(), 5)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)


async def test_a_module_that_hangs_does_not_silence_the_watch(caplog: pytest.LogCaptureFixture) -> None:
    clocks = Clocks()
    clocks.attest()
    over, told = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hanging(**fields: Any) -> bytes:
        del fields
        over.wait(10)
        raise NsmError("over")

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "clock skew" in record.getMessage():
                loop.call_soon_threadsafe(told.set)

    clocks.nsm.attest = hanging  # type: ignore[method-assign] # as /dev/nsm may
    clocks.pass_s(MAX_LOOK_AGE_S + 1)
    handler = Told()
    logging.getLogger("dataplane.enclave.hostclock").addHandler(handler)
    looking = asyncio.create_task(clocks.watched.keep_looking(period_s=0.004, timeout_s=0.001))
    try:
        await asyncio.wait_for(told.wait(), 2)
    finally:
        over.set()
        logging.getLogger("dataplane.enclave.hostclock").removeHandler(handler)
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    assert "gave no time" in caplog.text, "an operator reads that the module hangs, and that its time is too old"


async def test_no_document_is_made_while_others_ask_often_enough() -> None:
    clocks = Clocks()
    clocks.attest()
    made = 0
    original = clocks.nsm.attest

    def counting(**fields: Any) -> bytes:
        nonlocal made
        made += 1
        return original(**fields)

    clocks.nsm.attest = counting  # type: ignore[method-assign] # counts
    looking = asyncio.create_task(clocks.watched.keep_looking(period_s=0.004))
    await asyncio.sleep(0.05)
    assert made == 0, "the module is left to KMS: its monotonic clock stands still here, so no look is due"
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)


# The worker's configuration.


async def test_a_worker_of_another_configuration_is_refused_at_every_level(tmp_path: Path) -> None:
    async with enclave(tmp_path, bound=False, configurations=frozenset({b"\x01" * 32})) as running:
        reply = (await running.bind()).map()
        assert reply["code"] == "host-failed", "the image says which configurations it takes"
        assert CONFIG_DIGEST.hex() in reply["detail"], "the operator sees which one was shown"
        assert (await running.infer(running.seal())).problem == "host-failed", "nothing is sealed to it"
        assert running.server.state.level == 0, "software"


async def test_a_worker_that_changes_its_configuration_is_no_longer_bound(tmp_path: Path) -> None:
    async with enclave(tmp_path, configurations=frozenset({CONFIG_DIGEST})) as running:
        assert (await running.infer(running.seal())).head.status == 200, "the listed one is taken"
        other = HopWorker()
        answer = other.answer_challenge(b"").replace(CONFIG_DIGEST, b"\x09" * 32)
        assert (await running.bind(answer)).type is LinkType.PROBLEM, "the other is not"
        assert (await running.infer(running.seal())).problem == "host-failed", "and the first is not trusted on"


async def test_level_2_needs_a_list_of_configurations(tmp_path: Path) -> None:
    async with genuine(tmp_path) as running:
        running.server.binder.configurations = frozenset()
        assert (await running.bind()).map()["assurance"] == 1, "its worker may be set up in any way"


def test_the_rules_of_an_image_are_read_from_one_file(tmp_path: Path) -> None:
    path = tmp_path / "hosts.json"
    hosts = '{"allowed": [{"4": "' + HOST[4].hex() + '", "12": "' + HOST[12].hex() + '"}]'
    path.write_text(hosts + ', "configurations": ["' + "ab" * 32 + '"]}')
    assert read_host_rules(path) == HostRules(allowed=[HOST], configurations=frozenset({b"\xab" * 32})), "both lists"
    path.write_text('{"configurations": ["' + "ab" * 32 + '"]}')
    assert read_host_rules(path) == HostRules(configurations=frozenset({b"\xab" * 32})), "enforced below level 2 too"
    path.write_text(hosts + "}")
    with pytest.raises(SettingsError, match="mrgc worker configuration"):
        read_host_rules(path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"configurations": []}',
        '{"configurations": ["ab"]}',
        '{"configurations": [7]}',
        '{"configurations": ["xy"]}',
        '{"configurations": {}}',
        '{"allowed": [{}], "configurations": ["' + "ab" * 32 + '"]}',
    ],
)
def test_rules_that_say_nothing_or_nonsense_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "hosts.json"
    path.write_text(content)
    with pytest.raises(SettingsError, match="host measurements"):
        read_host_rules(path)
