"""The tenant and the public log: what it trusts is an entry there, or nothing is sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dataplane.log.pin import LogPin
from dataplane.log.source import LogUnavailableError
from dataplane.protocol.errors import MrgcError, SettingsError
from dataplane.protocol.transparency.errors import TransparencyError
from dataplane.tenant.config import load_cluster
from dataplane.tenant.errors import RequestError
from dataplane.tenant.transparency import (
    MAX_UNCHECKED_S,
    RECHECK_S,
    RETRY_S,
    LogGuard,
    check_logged,
    cluster_pin,
)
from tests.support.measurement_log import NOW_S, SIGNER, forge, image, images, make_log, store
from tests.unit.tenant.fake_cluster import Answer, FakeCluster, running
from tests.unit.tenant.test_tenant_config import cluster_file

BODY = json.dumps({"model": "tiny", "messages": []}).encode()


def pcrs(number: int) -> Mapping[int, bytes]:
    registers = image(number).registers
    assert registers is not None, "an image has registers"
    return registers


def attested(number: int) -> Mapping[int, bytes]:
    """As a document shows them: sixteen registers, those that measure nothing zero."""
    return {index: bytes(48) for index in range(16)} | dict(pcrs(number))


def pin(folder: Path, state: Path) -> LogPin:
    return LogPin(url=str(folder), key=SIGNER.verifier, state=state)


class Clock:
    """Virtual time: `sleep` returns when the test has moved the clock far enough."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        event = asyncio.Event()
        self._sleepers.append((self.now + seconds, event))
        await event.wait()

    async def pass_(self, seconds: float) -> None:
        self.now += seconds
        due = [event for at, event in self._sleepers if at <= self.now]
        self._sleepers = [(at, event) for at, event in self._sleepers if at > self.now]
        for event in due:
            event.set()
        for _ in range(5):
            await asyncio.sleep(0)


class Log:
    """What each check finds, in turn; the last again and again."""

    def __init__(self, *found: MrgcError | None) -> None:
        self.found = list(found)
        self.checks = 0

    async def __call__(self) -> None:
        self.checks += 1
        found = self.found.pop(0) if len(self.found) > 1 else self.found[0]
        if found is not None:
            raise found


FORK = TransparencyError("The log was forked.", reason="fork")
NOT_THERE = TransparencyError("The image is none of the entries.", reason="not-included")
AWAY = LogUnavailableError("The log can't be fetched.")


async def guarded(log: Log) -> tuple[LogGuard, Clock]:
    clock = Clock()
    guard = LogGuard(log, monotonic=clock, sleep=clock.sleep)
    await guard.start()
    guard.require()
    await clock.pass_(0)
    return guard, clock


def refused(guard: LogGuard) -> str:
    with pytest.raises(RequestError) as caught:
        guard.require()
    assert (caught.value.code, caught.value.status, caught.value.attempts) == ("measurement-log", 503, 0), (
        "nothing left"
    )
    return str(caught.value)


async def test_a_measurement_that_is_an_entry_is_proved_with_its_place(tmp_path: Path) -> None:
    folder = make_log(tmp_path, images(300))
    (found,) = await check_logged(pin(folder, tmp_path / "head"), [attested(7)])
    assert (found.log, found.size, found.index) == ("mrgc.example/log", 300, 7), "which log, how long, where"
    assert (found.name, found.version, found.time_ms, found.head_s) == ("mrgc-enclave", "v7", 7, NOW_S), "what and when"
    assert (tmp_path / "head").exists(), "the head is remembered for the next time"


async def test_an_image_that_was_made_for_one_tenant_is_refused(tmp_path: Path) -> None:
    """A genuine enclave, attested by AWS, whose image nobody else was told of."""
    folder = make_log(tmp_path, images(20))
    with pytest.raises(TransparencyError, match="send it nothing") as caught:
        await check_logged(pin(folder, tmp_path / "head"), [attested(3), attested(700)])
    assert caught.value.reason == "not-included", "one public image does not cover another"


async def test_a_tenant_that_saw_more_is_not_shown_less(tmp_path: Path) -> None:
    state = tmp_path / "head"
    await check_logged(pin(make_log(tmp_path, images(20)), state), [pcrs(3)])
    entries = [entry.encode() for entry in images(30)]
    for lying, reason in ((entries[:19], "rewound"), ([entries[29], *entries[1:25]], "fork")):
        folder = forge(tmp_path / reason, lying)
        with pytest.raises(TransparencyError) as caught:
            await check_logged(pin(folder, state), [pcrs(3)])
        assert caught.value.reason == reason, "though the image that it trusts is in both"


async def test_a_check_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataplane.tenant.transparency.CHECK_S", 0.05)
    monkeypatch.setattr("dataplane.log.source.FolderSource.get", _never)
    with pytest.raises(LogUnavailableError, match="not read within"):
        await check_logged(pin(make_log(tmp_path, images(2)), tmp_path / "head"), [pcrs(0)])


async def _never(*_: object, **__: object) -> bytes:
    await asyncio.Event().wait()
    return b""


async def test_a_guard_does_not_start_on_a_log_that_is_refused() -> None:
    for fault in (FORK, NOT_THERE, AWAY):
        with pytest.raises(type(fault)):
            await LogGuard(Log(fault)).start()


async def test_a_guard_that_was_not_started_lets_nothing_pass() -> None:
    assert "not checked" in refused(LogGuard(Log(None))), "closed until the log was asked"


async def test_a_guard_asks_again_every_quarter_of_an_hour() -> None:
    log = Log(None)
    guard, clock = await guarded(log)
    for number in range(2, 6):
        await clock.pass_(RECHECK_S)
        assert log.checks == number, "once a quarter of an hour"
        guard.require()
    await guard.close()
    assert "not checked" in refused(guard), "a closed guard lets nothing pass"


async def test_a_fork_closes_the_guard_for_good() -> None:
    log = Log(None, FORK, None)
    guard, clock = await guarded(log)
    await clock.pass_(RECHECK_S)
    assert refused(guard) == "The log was forked.", "the sentence says what happened"
    await clock.pass_(10 * RECHECK_S)
    assert refused(guard) == "The log was forked.", "and no later head makes it unhappen"
    assert log.checks == 2, "so nobody asks again"
    await guard.close()


async def test_an_image_that_is_published_late_opens_the_guard_again() -> None:
    guard, clock = await guarded(Log(None, NOT_THERE, NOT_THERE, None))
    await clock.pass_(RECHECK_S)
    refused(guard)
    await clock.pass_(RETRY_S)
    refused(guard)
    await clock.pass_(RETRY_S)
    guard.require()
    await guard.close()


async def test_a_log_that_cannot_be_asked_is_forgiven_for_an_hour() -> None:
    log = Log(None, AWAY)
    guard, clock = await guarded(log)
    await clock.pass_(RECHECK_S)
    guard.require()
    await clock.pass_(MAX_UNCHECKED_S - RECHECK_S - 1)
    guard.require()
    await clock.pass_(2)
    assert "not checked for over 3600 s" in refused(guard), "then nothing is sent"
    log.found = [None]
    await clock.pass_(RETRY_S)
    guard.require()
    await guard.close()


async def test_a_guard_whose_task_died_lets_nothing_pass() -> None:
    class Broken(Log):
        async def __call__(self) -> None:
            await super().__call__()
            if self.checks > 1:
                raise RuntimeError

    guard, clock = await guarded(Broken(None))
    await clock.pass_(RECHECK_S)
    refused(guard)
    await guard.close()


async def test_no_prompt_leaves_while_the_log_is_refused() -> None:
    clock, log = Clock(), Log(None, FORK)
    guard = LogGuard(log, monotonic=clock, sleep=clock.sleep)
    async with running(FakeCluster(otherwise=lambda _: Answer())) as cluster, cluster.client(log=guard) as client:
        await client.complete("/v1/chat/completions", BODY, model="tiny")
        await clock.pass_(0)
        await clock.pass_(RECHECK_S)
        with pytest.raises(RequestError, match="was forked"):
            await client.complete("/v1/chat/completions", BODY, model="tiny")
        with pytest.raises(RequestError, match="was forked"):
            async with client.infer("/v1/chat/completions", BODY, model="tiny"):
                pass
    assert len(cluster.seen) == 1, "the cluster saw the first request alone"
    assert guard._task is None, "and the client ended its guard"


async def test_a_client_does_not_open_on_an_image_that_is_not_logged(tmp_path: Path) -> None:
    guard = LogGuard.of(pin(make_log(tmp_path, images(2)), tmp_path / "head"), [pcrs(7)])
    async with running(FakeCluster()) as cluster:
        with pytest.raises(TransparencyError, match="none of the 2 entries"):
            async with cluster.client(log=guard):
                pass
    assert not cluster.seen, "nothing was sent"


async def test_a_client_opens_again_once_it_is_logged(tmp_path: Path) -> None:
    where = pin(make_log(tmp_path, images(2)), tmp_path / "head")
    with pytest.raises(TransparencyError):
        await check_logged(where, [pcrs(7)])
    store(tmp_path).append([image(7)], time_s=NOW_S)
    assert (await check_logged(where, [pcrs(7)]))[0].index == 2, "public now"


def test_a_log_without_measurements_to_look_for_is_a_mistake(tmp_path: Path) -> None:
    nothing: Sequence[Mapping[int, bytes]] = ()
    with pytest.raises(SettingsError, match="MRGC_MEASUREMENTS"):
        LogGuard.of(pin(tmp_path, tmp_path / "head"), nothing)


def test_a_cluster_file_names_its_log(tmp_path: Path) -> None:
    assert load_cluster(cluster_file(tmp_path)).log is None, "none unless it says one"
    log = {"url": "http://127.0.0.1:8080/log", "key": str(SIGNER.verifier), "assurance": "mock"}
    found = load_cluster(cluster_file(tmp_path, log=log)).log
    assert found is not None, "the local stack's own"
    assert (found.url, found.key) == (log["url"], SIGNER.verifier), "as it says"
    assert found.mock, "and called what it is"
    assert found.state.parent == tmp_path / "log-heads", "its head is remembered beside the file"


@pytest.mark.parametrize(
    "entry", ["x", {}, {"url": "x"}, {"url": 5, "key": str(SIGNER.verifier)}, {"url": "x", "key": "y"}]
)
def test_a_cluster_file_with_half_a_log_is_refused(tmp_path: Path, entry: Any) -> None:
    with pytest.raises(SettingsError):
        cluster_pin(entry, tmp_path / "cluster.json")
