"""What one entry of the log says: one enclave image, one host image or one model, by its measurement.

An entry is JSON with sorted keys, ASCII only, without spaces, so that there is one way to write it:

    {"format":"mrgc-measurement/1","kind":"enclave","name":"mrgc-enclave","registers":{"PCR0":"…","PCR1":"…","PCR2":"…"},
     "time_ms":1764000000000,"version":"1.4.0"}
    {"digest":"sha256:…","format":"mrgc-measurement/1","kind":"model","name":"tiny","time_ms":…,"version":"3"}

`source`, optional, says where the measured thing can be built from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, get_args

from dataplane.protocol.attestation.document import PCR_BYTES
from dataplane.protocol.attestation.verify import SECURE_BOOT_OFF_PCR7
from dataplane.protocol.transparency.errors import TransparencyError

FORMAT: Final = "mrgc-measurement/1"
Kind = Literal["enclave", "host", "model"]
KINDS: Final[tuple[str, ...]] = get_args(Kind)

MAX_ENTRY_BYTES: Final = 8192
"""24 registers of 96 hex digits are 2.6 KB; a name, a version and a source are 800 bytes. An entry bundle of 256 is
then 2 MiB at most."""
MAX_NAME: Final = 128
MAX_SOURCE: Final = 512
MAX_TIME_MS: Final = 253_402_300_799_999
"""The last millisecond of the year 9999."""
DIGEST_BYTES: Final = 32

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,127}", re.ASCII)
_SOURCE: Final = re.compile(r"[!-~]{1,512}", re.ASCII)
_REGISTER: Final = re.compile(r"PCR(?P<index>0|[1-9][0-9]?)", re.ASCII)
_DIGEST: Final = re.compile(r"sha256:(?P<hex>[0-9a-f]{64})", re.ASCII)

IMAGE: Final = (0, 1, 2)
"""An enclave image's registers: image, kernel and boot, application."""
SIGNER: Final = 8
BOOT: Final = 4
SECURE_BOOT: Final = 7
COMMAND_LINE: Final = 12
"""PCR4 alone leaves the kernel's command line open (GHSA-xrv8-2pf5-f3q7): PCR12, or PCR7, goes with it."""
LAST_REGISTER: Final = 23


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry. `registers` (48 bytes each) for an enclave or a host, `digest` (SHA-256) for a model."""

    kind: Kind
    name: str
    version: str
    time_ms: int
    registers: Mapping[int, bytes] | None = None
    digest: bytes | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no reader would accept (`TransparencyError`, reason `entry`)."""
        for what, text in (("name", self.name), ("version", self.version)):
            if not _NAME.fullmatch(text):
                raise _refused(f"its {what} is not 1 to {MAX_NAME} letters, digits or . _ / : @ + -")
        if self.source is not None and not _SOURCE.fullmatch(self.source):
            raise _refused(f"its source is not 1 to {MAX_SOURCE} printable ASCII characters")
        if type(self.time_ms) is not int or not 0 <= self.time_ms <= MAX_TIME_MS:
            raise _refused("its time is not in ms since 1970, before the year 10000")
        if self.kind == "model":
            if self.registers is not None or self.digest is None or len(self.digest) != DIGEST_BYTES:
                raise _refused("a model has a SHA-256 digest and no registers")
            if not any(self.digest):
                raise _refused("its digest is zero")
        elif self.kind in KINDS:
            if self.digest is not None or self.registers is None:
                raise _refused(f"an entry for a {self.kind} has registers and no digest")
            _check_registers(self.kind, self.registers)
        else:
            raise _refused(f"its kind is none of {', '.join(KINDS)}")

    def encode(self) -> bytes:
        """Return the entry's bytes, the only ones that `parse` reads back."""
        document: dict[str, Any] = {
            "format": FORMAT,
            "kind": self.kind,
            "name": self.name,
            "version": self.version,
            "time_ms": self.time_ms,
        }
        if self.registers is not None:
            document["registers"] = {f"PCR{index}": value.hex() for index, value in self.registers.items()}
        if self.digest is not None:
            document["digest"] = f"sha256:{self.digest.hex()}"
        if self.source is not None:
            document["source"] = self.source
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read an entry; `TransparencyError` (`entry`) for anything that `encode` would not write."""
        if len(data) > MAX_ENTRY_BYTES:
            raise _refused(f"it is over {MAX_ENTRY_BYTES} bytes")
        try:
            document = json.loads(data.decode("ascii"))
        except (ValueError, RecursionError):
            raise _refused("it is no JSON in ASCII") from None
        if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
            raise _refused(f"its format is not {FORMAT}")
        try:
            registers, digest = document.pop("registers", None), document.pop("digest", None)
            entry = cls(
                registers=None if registers is None else {_index(name): _hex(v) for name, v in registers.items()},
                digest=None if digest is None else _digest(digest),
                **document,
            )
        except (TypeError, AttributeError):
            raise _refused("it has not exactly the fields of its kind") from None
        if entry.encode() != data:
            raise _refused("it is not written in the one form that is read")
        return entry

    def same_thing(self, other: Entry) -> bool:
        """Whether both measure the same, whenever they were written."""
        mine, others = ((e.kind, e.name, e.version, dict(e.registers or {}), e.digest) for e in (self, other))
        return mine == others

    def covers(self, pcrs: Mapping[int, bytes]) -> bool:
        """Whether this is the enclave image of attested (or expected) `pcrs`.

        PCR0 to PCR2 are equal. PCR8 is compared where both name it, and a signed image (PCR8 not zero) is covered by no
        entry of an unsigned one. An expectation without PCR8 leaves the signer open, as it does in a key policy.
        """
        if self.kind != "enclave" or self.registers is None:
            return False
        compared = [*IMAGE, *({SIGNER} & self.registers.keys() & pcrs.keys())]
        known = all(pcrs.get(index) == self.registers[index] for index in compared)
        return known and (SIGNER in self.registers or not any(pcrs.get(SIGNER, b"")))


def _check_registers(kind: str, registers: Mapping[int, bytes]) -> None:
    if not all(0 <= index <= LAST_REGISTER and len(value) == PCR_BYTES for index, value in registers.items()):
        raise _refused(f"a register is not PCR0 to PCR{LAST_REGISTER} with {PCR_BYTES} bytes")
    if kind == "enclave":
        if not {*IMAGE} <= registers.keys() <= {*IMAGE, SIGNER}:
            raise _refused("an enclave image has PCR0, PCR1, PCR2, and PCR8 where it is signed")
        if not all(any(value) for value in registers.values()):
            raise _refused("a zero register is a debug image's, which measures nothing")
        return
    if BOOT not in registers or not (SECURE_BOOT in registers or COMMAND_LINE in registers):
        raise _refused("a host image has PCR4 with PCR12, or PCR4 with PCR7")
    # PCR12 is zero where the kernel's command line was not touched.
    if not all(any(value) for index, value in registers.items() if index != COMMAND_LINE):
        raise _refused("only PCR12 of a host image may be zero")
    if registers.get(SECURE_BOOT) == SECURE_BOOT_OFF_PCR7:
        # No enclave takes such a measurement (docs/attestation.md), so no reader is to believe that one does.
        raise _refused("its PCR7 is that of Secure Boot off (98441c7f…), which unrelated machines share; leave it out")


def _index(name: str) -> int:
    found = _REGISTER.fullmatch(name)
    if found is None:
        raise _refused("a register's name is not PCR0 to PCR23")
    return int(found["index"])


def _hex(text: object) -> bytes:
    try:
        return bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        return b""


def _digest(text: object) -> bytes:
    found = _DIGEST.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise _refused("its digest is not sha256: and 64 hex digits")
    return bytes.fromhex(found["hex"])


def _refused(clause: str) -> TransparencyError:
    return TransparencyError(f"The log entry is refused: {clause}.", reason="entry")
