"""The worker's key, its bindings, and the TPM behind them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dataplane.protocol.errors import ProblemError
from dataplane.protocol.hop import seal_hop, worker_binding_digest
from dataplane.worker.identity import WorkerIdentity
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


def identity(tpm: Tpm | None = None) -> WorkerIdentity:
    return WorkerIdentity(config_digest=DIGEST, clock_ms=lambda: 42, tpm=tpm)


async def test_without_a_tpm_the_binding_has_no_document() -> None:
    binding = await identity().bind(CHALLENGE)
    assert binding["document"] is None
    assert binding["wash_ms"] == 42
    assert binding["config_digest"] == DIGEST


async def test_the_document_binds_key_epoch_configuration_and_challenge() -> None:
    binding: Any = await identity(RecordingTpm()).bind(CHALLENGE)
    expected = worker_binding_digest(binding["public_key"], binding["epoch"], DIGEST)
    assert binding["document"] == b"document:" + CHALLENGE + expected


async def test_a_host_whose_tpm_fails_is_not_bound_at_a_lower_level() -> None:
    with pytest.raises(ProblemError) as caught:
        await identity(MuteTpm()).bind(CHALLENGE)
    assert caught.value.code == "host-failed"


async def test_what_is_sealed_to_one_epoch_does_not_open_in_the_next() -> None:
    worker = identity()
    binding: Any = await worker.bind(CHALLENGE)
    _, sealer = seal_hop(binding["public_key"], binding["epoch"], DIGEST, os.urandom(16))
    sealed = sealer.prefix() + sealer.seal(b"message", final=True)
    opener = worker.opener()
    opener.feed(sealed)
    assert opener.message() == b"message"
    worker.rotate()
    with pytest.raises(ProblemError):
        worker.opener().feed(sealed)


def test_a_private_key_is_in_no_repr() -> None:
    worker = identity()
    assert "private" not in repr(vars(worker)["_current"])


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
