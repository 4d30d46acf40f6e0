"""The Nitro Secure Module: attestation documents and random bytes, through `/dev/nsm`.

One ioctl carries a CBOR request and its CBOR answer (linux/nsm.h, `NSM_IOCTL_RAW`; messages as in
aws-nitro-enclaves-nsm-api, src/api). A request without arguments is its name; one with arguments is a map of its name
to them; so are the answers, and an error is `{"Error": code}`.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import cbor2

from dataplane.protocol.attestation.document import MAX_DOCUMENT_BYTES, MAX_PUBLIC_KEY_BYTES, MAX_SENT_NONCE_BYTES
from dataplane.protocol.errors import MrgcError

NSM_DEVICE = Path("/dev/nsm")

NSM_REQUEST_MAX_BYTES = 0x1000
NSM_RESPONSE_MAX_BYTES = 0x3000
"""The driver's limits (linux/nsm.h)."""

_NSM_MAGIC = 0x0A
_READ_WRITE = 3


class NsmError(MrgcError):
    """The NSM refused a request, or there is no NSM."""


class Nsm(Protocol):
    """What an enclave asks of its security module."""

    @property
    def assurance(self) -> int:
        """1 where the documents are signed by AWS Nitro, 0 for a software stand-in."""
        ...

    def attest(self, *, nonce: bytes | None, user_data: bytes | None, public_key: bytes | None) -> bytes:
        """Return a fresh attestation document (COSE_Sign1, at most 16 KiB) over these fields; `NsmError`."""
        ...

    def random(self, size: int) -> bytes:
        """Return `size` random bytes; `NsmError`."""
        ...


class _IoVec(ctypes.Structure):
    """`struct nsm_iovec`: address and length of a buffer."""

    _fields_ = (("address", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _NsmRaw(ctypes.Structure):
    """`struct nsm_raw`: request and response; the driver writes the response's length back."""

    _fields_ = (("request", _IoVec), ("response", _IoVec))


NSM_IOCTL_RAW = (_READ_WRITE << 30) | (ctypes.sizeof(_NsmRaw) << 16) | (_NSM_MAGIC << 8)
"""`_IOWR(0x0A, 0, struct nsm_raw)` of <asm-generic/ioctl.h>, which x86-64 and arm64 use."""

Ioctl = Callable[[int, int, bytearray], object]


def _kernel_ioctl(descriptor: int, request: int, argument: bytearray) -> object:
    return fcntl.ioctl(descriptor, request, argument, True)  # noqa: FBT003 - the standard library's positional flag


class DeviceNsm:
    """The genuine module. Calls block for milliseconds; an event loop makes them in a thread."""

    assurance = 1

    def __init__(self, *, device: Path = NSM_DEVICE, ioctl: Ioctl = _kernel_ioctl) -> None:
        """Open the device; `NsmError` where there is none (this is no Nitro enclave)."""
        self._ioctl = ioctl
        try:
            self._descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise NsmError(
                f"The Nitro Secure Module at {device} can't be opened ({error.strerror}); it exists only in an enclave."
            ) from error

    def close(self) -> None:
        """Close the device; closing twice is the same as once."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def attest(self, *, nonce: bytes | None, user_data: bytes | None, public_key: bytes | None) -> bytes:
        """Return a fresh attestation document signed by Nitro."""
        check_fields(nonce=nonce, user_data=user_data, public_key=public_key)
        arguments = {"user_data": user_data, "nonce": nonce, "public_key": public_key}
        document = self._request({"Attestation": arguments}, "Attestation").get("document")
        if not isinstance(document, bytes) or not 0 < len(document) <= MAX_DOCUMENT_BYTES:
            raise NsmError("The Nitro Secure Module answered without an attestation document.")
        return document

    def random(self, size: int) -> bytes:
        """Return `size` bytes of the module's entropy; it gives up to 256 a call."""
        gathered = bytearray()
        while len(gathered) < size:
            portion = self._request("GetRandom", "GetRandom").get("random")
            if not isinstance(portion, bytes) or not portion:
                raise NsmError("The Nitro Secure Module answered without random bytes.")
            gathered += portion
        return bytes(gathered[:size])

    def _request(self, request: Any, name: str) -> dict[str, Any]:
        """Send one message and return the arguments of its answer."""
        sent = cbor2.dumps(request)
        if len(sent) > NSM_REQUEST_MAX_BYTES:
            raise NsmError(f"A {name} request of {len(sent)} bytes is over the module's {NSM_REQUEST_MAX_BYTES}.")
        question = ctypes.create_string_buffer(sent, len(sent))
        answer = ctypes.create_string_buffer(NSM_RESPONSE_MAX_BYTES)
        message = _NsmRaw(
            request=_IoVec(ctypes.addressof(question), len(sent)),
            response=_IoVec(ctypes.addressof(answer), NSM_RESPONSE_MAX_BYTES),
        )
        raw = bytearray(bytes(message))
        try:
            self._ioctl(self._descriptor, NSM_IOCTL_RAW, raw)
        except OSError as error:
            raise NsmError(f"The Nitro Secure Module refused a {name} request ({error.strerror}).") from error
        length = min(_NsmRaw.from_buffer_copy(raw).response.length, NSM_RESPONSE_MAX_BYTES)
        return _answer(answer.raw[:length], name)


def check_fields(*, nonce: bytes | None, user_data: bytes | None, public_key: bytes | None) -> None:
    """Raise `NsmError` for a field that is longer than every version of the module takes."""
    limits = (
        ("nonce", nonce, MAX_SENT_NONCE_BYTES),
        ("user_data", user_data, MAX_SENT_NONCE_BYTES),
        ("public_key", public_key, MAX_PUBLIC_KEY_BYTES),
    )
    for name, value, most in limits:
        if value is not None and len(value) > most:
            raise NsmError(f"{name} of an attestation document has {len(value)} bytes; at most {most} are taken.")


def _answer(data: bytes, name: str) -> dict[str, Any]:
    try:
        answer = cbor2.loads(data)
    except (cbor2.CBORDecodeError, ValueError, TypeError) as error:
        raise NsmError("The Nitro Secure Module's answer is not CBOR.") from error
    if isinstance(answer, dict) and isinstance(answer.get(name), dict):
        return dict(answer[name])
    code = answer.get("Error") if isinstance(answer, dict) else None
    detail = f"error {code}" if isinstance(code, str) else "an answer to something else"
    raise NsmError(f"The Nitro Secure Module answered a {name} request with {detail}.")
