"""The NSM device's messages and limits, with the kernel's side of the ioctl played by the test."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest

from dataplane.enclave.nsm import (
    NSM_IOCTL_RAW,
    NSM_REQUEST_MAX_BYTES,
    NSM_RESPONSE_MAX_BYTES,
    DeviceNsm,
    NsmError,
)

Answer = Callable[[Any], Any]


def device(tmp_path: Path, answer: Answer, seen: list[Any] | None = None) -> DeviceNsm:
    """Return a module whose driver answers each decoded request with `answer(request)`."""

    def ioctl(_descriptor: int, request: int, message: bytearray) -> int:
        assert request == 0xC0200A00, "linux/nsm.h: _IOWR(0x0A, 0, 32 bytes)"
        question, length, room, size = struct.unpack("=QQQQ", message)
        assert length <= NSM_REQUEST_MAX_BYTES
        assert size == NSM_RESPONSE_MAX_BYTES
        decoded = cbor2.loads(ctypes.string_at(question, length))
        if seen is not None:
            seen.append(decoded)
        reply = cbor2.dumps(answer(decoded))
        ctypes.memmove(room, reply, len(reply))
        message[:] = struct.pack("=QQQQ", question, length, room, len(reply))
        return 0

    path = tmp_path / "nsm"
    path.touch()
    return DeviceNsm(device=path, ioctl=ioctl)


def test_the_ioctl_number_is_the_drivers() -> None:
    assert NSM_IOCTL_RAW == 0xC0200A00


def test_a_document_is_asked_for_and_returned(tmp_path: Path) -> None:
    seen: list[Any] = []
    nsm = device(tmp_path, lambda _: {"Attestation": {"document": b"signed"}}, seen)
    assert nsm.attest(nonce=b"n", user_data=None, public_key=b"k") == b"signed"
    assert seen == [{"Attestation": {"user_data": None, "nonce": b"n", "public_key": b"k"}}]
    assert nsm.assurance == 1
    nsm.close()
    nsm.close()


def test_random_bytes_are_gathered_over_several_calls(tmp_path: Path) -> None:
    seen: list[Any] = []
    nsm = device(tmp_path, lambda _: {"GetRandom": {"random": bytes(range(256))}}, seen)
    assert nsm.random(300) == bytes(range(256)) + bytes(range(44))
    assert seen == ["GetRandom", "GetRandom"], "requests without arguments are their name"
    nsm.close()


@pytest.mark.parametrize(
    "answer",
    [
        {"Error": "InvalidArgument"},
        {"Error": 3},
        {"Attestation": {}},
        {"Attestation": {"document": b""}},
        {"Attestation": {"document": "text"}},
        {"GetRandom": {"random": b"x"}},
        "Attestation",
        None,
    ],
)
def test_any_other_answer_is_an_error(tmp_path: Path, answer: Any) -> None:
    nsm = device(tmp_path, lambda _: answer)
    with pytest.raises(NsmError):
        nsm.attest(nonce=None, user_data=None, public_key=None)
    nsm.close()


def test_random_without_bytes_is_an_error_and_not_a_loop(tmp_path: Path) -> None:
    nsm = device(tmp_path, lambda _: {"GetRandom": {"random": b""}})
    with pytest.raises(NsmError):
        nsm.random(1)
    nsm.close()


def test_the_kernels_refusal_is_a_sentence(tmp_path: Path) -> None:
    def ioctl(*_: object) -> int:
        raise OSError(errno.EMSGSIZE, "Message too long")

    (tmp_path / "nsm").touch()
    nsm = DeviceNsm(device=tmp_path / "nsm", ioctl=ioctl)
    with pytest.raises(NsmError, match="Message too long"):
        nsm.random(1)
    nsm.close()


@pytest.mark.parametrize("field", ["nonce", "user_data", "public_key"])
def test_long_fields_are_refused_before_the_module_sees_them(tmp_path: Path, field: str) -> None:
    seen: list[Any] = []
    nsm = device(tmp_path, lambda _: {}, seen)
    fields: dict[str, bytes | None] = {"nonce": None, "user_data": None, "public_key": None, field: bytes(1025)}
    with pytest.raises(NsmError, match=field):
        nsm.attest(nonce=fields["nonce"], user_data=fields["user_data"], public_key=fields["public_key"])
    assert seen == []
    nsm.close()


def test_without_a_device_the_sentence_says_so(tmp_path: Path) -> None:
    with pytest.raises(NsmError, match="only in an enclave"):
        DeviceNsm(device=tmp_path / "missing")
