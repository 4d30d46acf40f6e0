"""The worker's key, its bindings, and the TPM behind them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dataplane.protocol.errors import ProblemError
from dataplane.protocol.hop import seal_hop, worker_binding_digest
from dataplane.protocol.wash import Wash
from dataplane.worker import identity as identity_module
from dataplane.worker.identity import PREVIOUS_KEY_S, WorkerIdentity
from dataplane.worker.tpm import MAX_DOCUMENT_BYTES, NitroTpm, Tpm, TpmError

CHALLENGE = bytes(range(32))
DIGEST = b"d" * 32


class RecordingTpm:
    """Answers with a document that names what it was asked for."""

    async def attest(self, *, nonce: bytes, user_data: bytes) -> bytes:
        return b"document:" + nonce + user_data


class MuteTpm:
    async def attest(self, *, nonce: bytes, user_data: bytes) -> bytes:
        del nonce, user_data
        raise TpmError("no device")


class Clock:
    """A monotonic clock that the test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def identity(tpm: Tpm | None = None, clock: Clock | None = None) -> WorkerIdentity:
    return WorkerIdentity(config_digest=DIGEST, clock_ms=lambda: 42, monotonic=clock or Clock(), tpm=tpm)


def sealed_to(binding: Any, message: bytes = b"message") -> bytes:
    """A hop request to the key of a binding."""
    _, sealer = seal_hop(binding["public_key"], binding["epoch"], DIGEST, os.urandom(16))
    return sealer.prefix() + sealer.seal(message, final=True)


async def test_a_hop_request_is_served_once_also_after_its_key_was_replaced() -> None:
    worker = identity()
    opener = worker.opener()
    opener.feed(sealed_to(await worker.bind(CHALLENGE)))
    assert opener.header is not None, "it opened"
    worker.serve_once(opener.header)
    await worker.bind(CHALLENGE)
    with pytest.raises(ProblemError, match="has served"):
        worker.serve_once(opener.header)
    worker.washed()
    with pytest.raises(ProblemError, match="its key has ended"):
        worker.serve_once(opener.header)


async def test_a_key_that_can_remember_no_more_serves_no_more_and_the_next_one_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identity_module, "MAX_SERVED", 1)
    worker = identity()
    binding = await worker.bind(CHALLENGE)
    served = []
    for _ in range(2):
        opener = worker.opener()
        opener.feed(sealed_to(binding))
        assert opener.header is not None, "it opened"
        served.append(opener.header)
    worker.serve_once(served[0])
    with pytest.raises(ProblemError) as refused:
        worker.serve_once(served[1])
    assert refused.value.code == "overloaded", "rather than forget what was served"
    opener = worker.opener()
    opener.feed(sealed_to(await worker.bind(CHALLENGE)))
    assert opener.header is not None, "it opened"
    worker.serve_once(opener.header)


def opens(worker: WorkerIdentity, sealed: bytes) -> bool:
    opener = worker.opener()
    try:
        opener.feed(sealed)
    except ProblemError:
        return False
    return opener.message() == b"message"


def identity_wash(worker: WorkerIdentity) -> object:
    return worker.wash


async def test_a_start_is_no_car_wash() -> None:
    worker = identity()
    binding = await worker.bind(CHALLENGE)
    assert binding["wash"] is None, "nothing was washed, so nothing says when"
    assert identity_wash(worker) is None, "nor do receipts"
    worker.washed()
    wash: Any = (await worker.bind(CHALLENGE))["wash"]
    assert wash["time"] == 42, "a wash is told to whoever binds after it, with its time"
    assert identity_wash(worker) == wash, "and receipts name the same"


async def test_without_a_tpm_the_binding_has_no_document() -> None:
    binding = await identity().bind(CHALLENGE)
    assert binding["document"] is None
    assert binding["config_digest"] == DIGEST


async def test_the_document_binds_key_epoch_configuration_wash_and_challenge() -> None:
    worker = identity(RecordingTpm())
    binding: Any = await worker.bind(CHALLENGE)
    expected = worker_binding_digest(binding["public_key"], binding["epoch"], DIGEST, None)
    assert binding["document"] == b"document:" + CHALLENGE + expected
    worker.washed()
    binding = await worker.bind(CHALLENGE)
    wash = Wash.from_map(binding["wash"], "binding")
    expected = worker_binding_digest(binding["public_key"], binding["epoch"], DIGEST, wash)
    assert binding["document"] == b"document:" + CHALLENGE + expected, "the wash's time is part of what is signed"


async def test_every_binding_brings_a_new_key_and_the_one_before_opens_for_a_while() -> None:
    clock = Clock()
    worker = identity(clock=clock)
    first: Any = await worker.bind(CHALLENGE)
    before = sealed_to(first)
    second: Any = await worker.bind(CHALLENGE)
    assert first["public_key"] != second["public_key"], "a key lives for one binding"
    assert first["epoch"] != second["epoch"] == worker.epoch, "and has a name of its own"
    assert opens(worker, before), "what was sealed just before the binding is not lost"
    clock.now_s += PREVIOUS_KEY_S - 0.001
    assert opens(worker, before), "within the grace"
    clock.now_s += 0.001
    assert not opens(worker, before), "and not after it"
    assert opens(worker, sealed_to(second)), "the current key has no end of its own"


async def test_a_key_of_before_a_wash_opens_nothing_any_more() -> None:
    worker = identity()
    bindings: list[Any] = [await worker.bind(CHALLENGE) for _ in range(3)]
    waiting = worker.opener()  # a connection whose request has not come yet
    worker.washed()
    for binding in bindings:
        assert not opens(worker, sealed_to(binding)), "no grace across a wash"
    with pytest.raises(ProblemError):
        waiting.feed(sealed_to(bindings[-1]))


async def test_bindings_that_got_lost_do_not_push_out_the_key_that_the_enclave_holds() -> None:
    clock = Clock()
    worker = identity(clock=clock)
    held: Any = await worker.bind(CHALLENGE)
    for pause_s in (0, 1, 2, 4, 8, 10, 10, 10, 10):  # as the parent tries again
        clock.now_s += pause_s
        await worker.bind(CHALLENGE)
        assert opens(worker, sealed_to(held)), "the enclave still seals to this one"


class WashingTpm:
    """Has the host washed while it makes a document."""

    def __init__(self) -> None:
        self.worker: WorkerIdentity | None = None

    async def attest(self, *, nonce: bytes, user_data: bytes) -> bytes:
        del nonce, user_data
        assert self.worker is not None
        self.worker.washed()
        return b"document"


async def test_a_wash_during_a_binding_ends_that_binding() -> None:
    tpm = WashingTpm()
    worker = tpm.worker = identity(tpm)
    with pytest.raises(ProblemError, match="bind it again"):
        await worker.bind(CHALLENGE)


async def test_a_binding_that_fails_leaves_the_key_as_it_was() -> None:
    worker = identity(MuteTpm())
    epoch = worker.epoch
    with pytest.raises(ProblemError):
        await worker.bind(CHALLENGE)
    assert worker.epoch == epoch, "a host whose TPM fails for a moment goes on under its binding"


async def test_a_host_whose_tpm_fails_is_not_bound_at_a_lower_level() -> None:
    with pytest.raises(ProblemError) as caught:
        await identity(MuteTpm()).bind(CHALLENGE)
    assert caught.value.code == "host-failed"


def test_a_private_key_is_in_no_repr() -> None:
    worker = identity()
    worker.rotate()
    assert "private" not in repr(vars(worker)["_current"])
    assert "private" not in repr(vars(worker)["_previous"])


def program(folder: Path, text: str) -> Path:
    path = folder / "nitro-tpm-attest"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


async def test_the_programs_arguments_and_output_are_those_of_nitro_tpm_attest(tmp_path: Path) -> None:
    tpm = NitroTpm(program=program(tmp_path, 'echo "$1 $3"; cat "$2" "$4"'))
    document = await tpm.attest(nonce=b"NONCE", user_data=b"DATA")
    assert document == b"--nonce --user-data\nNONCEDATA"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("exit 3", "exit status 3"),
        ("true", "0 bytes"),
        (f"head -c {MAX_DOCUMENT_BYTES + 1} /dev/zero", "16385 bytes"),
        ("exec sleep 30", "did not answer"),
    ],
)
async def test_a_program_that_fails_is_a_tpm_error(tmp_path: Path, text: str, word: str) -> None:
    tpm = NitroTpm(program=program(tmp_path, text), timeout_s=0.2 if "sleep" in text else 10.0)
    with pytest.raises(TpmError, match=word):
        await tpm.attest(nonce=b"n", user_data=b"u")


async def test_a_missing_program_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(TpmError, match="aws-nitro-tpm-tools"):
        await NitroTpm(program=tmp_path / "none").attest(nonce=b"n", user_data=b"u")
