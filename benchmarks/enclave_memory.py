"""What an enclave's memory grows to under as many streams as it takes, beside the bound in docs/enclave.md.

    .venv/bin/python benchmarks/enclave_memory.py [--streams 512] [--scenario answering] [--json]

A fresh enclave for every scenario: `EnclaveServer` with its own limits, in a process of its own, over a Unix socket.
This process is parent and worker. Its resident memory (VmRSS, VmHWM) is read from /proc, so Linux only.

- `answering`: every stream has sent the largest message, and waits for the worker's first token;
- `locked`: every stream has sent 4 MB of frames, and its data key does not come;
- `stalled`: every stream has sent the largest message, then sends on and reads nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from dataplane.enclave.credentials import RelayedCredentials
from dataplane.enclave.hostclock import WatchedNsm
from dataplane.enclave.identity import read_identity
from dataplane.enclave.memory import MAX_REQUEST_BYTES
from dataplane.enclave.server import MAX_CONNECTIONS, EnclaveServer
from dataplane.mesh.address import AddressError, UnixAddress, connect
from dataplane.mesh.linkio import LinkStream, LinkTimeoutError
from dataplane.protocol import cbor
from dataplane.protocol.envelope import RequestSealer
from dataplane.protocol.errors import LinkError
from dataplane.protocol.header import RequestHeader, encryption_context
from dataplane.protocol.link import LinkType
from dataplane.protocol.message import RequestMessage
from dataplane.protocol.suite import MAX_MESSAGE_BYTES
from observability.tracing import Telemetry
from stacks.local.nsm import SoftwareNsm
from stacks.local.pki import create_nsm_root

MIB = 1024 * 1024
KEY_ARN = "arn:aws:kms:us-east-1:111122223333:key/mrk-00000000000000000000000000000001"
REQUESTS_MIB = MAX_REQUEST_BYTES / MIB * 9 / 8 + 4
"""The budget, an eighth of slack, and the copies of one message."""
CONNECTIONS_MIB = MAX_CONNECTIONS / 2
"""512 KiB each (dataplane/enclave/server.py)."""
SCENARIOS = ("answering", "locked", "stalled")
SLOW = b"slow"
"""How a wrapped key starts for which the KMS of this benchmark gives no answer."""
WAIT_S = 120.0
SETTLE_S = 1.0
FLOOD_AFTER_S = 3.0
"""When a stalled stream begins to send on: its data key has come by then, and its message has been sealed."""
DEADLINE_MS = 600_000


def now_ms() -> int:
    """Wall clock, ms since 1970."""
    return int(time.time() * 1000)


def data_key(wrapped: bytes) -> bytes:
    """What this benchmark's KMS opens a wrapped key to."""
    return hashlib.sha256(wrapped).digest()


class BenchmarkKms:
    """Answers at once, or never for keys that start with `SLOW`."""

    calls = 0

    async def decrypt(self, *, key_arn: str, context: Mapping[str, str], ciphertext: bytes, deadline_s: float) -> bytes:
        """Return the data key."""
        del key_arn, context, deadline_s
        if ciphertext.startswith(SLOW):
            await asyncio.sleep(WAIT_S * 10)
        return data_key(ciphertext)


async def serve(path: str) -> None:
    """Run the enclave until this process is ended."""
    root = create_nsm_root()
    pcrs = {number: bytes([16 + number]) * 48 for number in range(3)}
    software = SoftwareNsm(root=root, pcrs=pcrs, instance_id="i-0aaaabbbbccccdddd", clock_ms=now_ms)
    nsm = WatchedNsm(software, clock_ms=now_ms, monotonic=time.monotonic)
    server = EnclaveServer(
        address=UnixAddress(path),
        nsm=nsm,
        identity=read_identity(nsm),
        kms=BenchmarkKms(),
        credentials=RelayedCredentials(clock_ms=now_ms),
        telemetry=Telemetry.relayed("enclave", region="us-east-1"),
        clock_ms=now_ms,
        monotonic=time.monotonic,
        attestation_roots=[root.certificate],
    )
    await server.start()
    await asyncio.Event().wait()


@dataclass(frozen=True)
class Measured:
    """Resident MiB of one enclave, and how many of its streams were taken."""

    scenario: str
    streams: int
    taken: int
    refused: int
    idle_mib: float
    held_mib: float
    peak_mib: float

    @property
    def bound_mib(self) -> float:
        """What docs/enclave.md allows it."""
        return self.idle_mib + REQUESTS_MIB + CONNECTIONS_MIB


class Host:
    """Parent and worker of one enclave."""

    def __init__(self, address: UnixAddress, scenario: str) -> None:
        """Talk to the enclave at `address`."""
        self._address = address
        self._scenario = scenario
        self._key = X25519PrivateKey.generate()
        self._links: list[LinkStream] = []
        self._senders: list[asyncio.Task[None]] = []
        self.taken = 0
        self.refused = 0

    async def bind(self) -> None:
        """Have the enclave take this worker's key."""
        async with asyncio.timeout(WAIT_S):
            while True:
                with contextlib.suppress(AddressError):
                    link = LinkStream(*await connect(self._address, timeout_s=5))
                    break
                await asyncio.sleep(0.05)
        await link.send(LinkType.OPEN, {"op": "bind"}, timeout_s=5)
        await link.receive(WAIT_S)
        await link.receive(WAIT_S)
        answer = {
            "public_key": self._key.public_key().public_bytes_raw(),
            "epoch": bytes(16),
            "wash": None,
            "config_digest": bytes(32),
            "document": None,
        }
        await link.send(LinkType.HOP_DATA, cbor.encode(answer), timeout_s=5)
        await link.send(LinkType.HOP_END, timeout_s=5)
        reply = await link.receive(WAIT_S)
        assert reply is not None  # noqa: S101 - a benchmark's own check
        assert reply.type is LinkType.REPLY, "the worker must be taken"  # noqa: S101 - a benchmark's own check
        await link.close()

    def _envelope(self) -> tuple[RequestHeader, bytes]:
        locked = self._scenario == "locked"
        wrapped = (SLOW if locked else b"fast") + os.urandom(180)
        context = encryption_context("tenant-a", os.urandom(16).hex(), now_ms() // 1000 + 600)
        header = RequestHeader(
            rid=os.urandom(16),
            iat=now_ms(),
            tenant="tenant-a",
            model="tiny",
            kms=KEY_ARN,
            ctx=context,
            wrapped=wrapped,
            assurance=0,
            pad=4096 if locked else 0,
        )
        body = os.urandom(MAX_MESSAGE_BYTES - 80)
        message = RequestMessage(path="/v1/completions", content_type="application/json", body=body).encode()
        sealer = RequestSealer(header, data_key(wrapped))
        frames = sealer.seal_message(message, frame_size=1030 if locked else 16_384)
        return header, sealer.prefix() + b"".join(frames)

    async def stream(self) -> None:
        """Open one stream and bring it to where the scenario holds it."""
        link = LinkStream(*await connect(self._address, timeout_s=WAIT_S))
        self._links.append(link)
        header, envelope = self._envelope()
        opening = {"op": "infer", "kms": header.kms, "tenant": header.tenant, "model": header.model}
        opening |= {"request_id": "r", "deadline_ms": DEADLINE_MS}  # type: ignore[dict-item] # one map, two types
        with contextlib.suppress(LinkError):  # refused while it still sends
            await link.send(LinkType.OPEN, opening, timeout_s=WAIT_S)
            await link.send(LinkType.DATA, envelope, timeout_s=WAIT_S)
            await link.send(LinkType.END, timeout_s=WAIT_S)
        if self._scenario == "answering":
            await self._until_delivered(link)
        elif self._scenario == "stalled":
            self._senders.append(asyncio.create_task(self._flood(link)))

    async def _until_delivered(self, link: LinkStream) -> None:
        while (message := await link.receive(WAIT_S)) is not None:
            if message.type is LinkType.HOP_END:
                self.taken += 1
                return
            if message.type is LinkType.PROBLEM:
                self.refused += 1
                return

    async def _flood(self, link: LinkStream) -> None:
        """Fill every buffer on the way with one more message than fits."""
        await asyncio.sleep(FLOOD_AFTER_S)
        with contextlib.suppress(LinkError):
            while True:
                await link.send(LinkType.HOP_DATA, bytes(65_536), timeout_s=WAIT_S * 10)

    async def look(self) -> None:
        """Count the refused streams of a scenario that reads nothing: each has a PROBLEM waiting."""
        if self._scenario == "answering":
            return
        for link in self._links:
            try:
                message = await link.receive(0.05)
                if message is not None and message.type is LinkType.SPANS:
                    message = await link.receive(0.05)
            except LinkTimeoutError:
                self.taken += 1  # it waits for its key
            except LinkError:
                self.refused += 1  # its PROBLEM was lost with the connection that it closed
            else:
                refused = message is None or message.type is LinkType.PROBLEM
                self.refused += refused
                self.taken += not refused

    def close(self) -> None:
        """Let go of everything."""
        for sender in self._senders:
            sender.cancel()
        for link in self._links:
            link.abort()


def resident_mib(pid: int, field: str) -> float:
    """Return VmRSS or VmHWM of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{pid}/status has no {field}")


async def measure(scenario: str, streams: int) -> Measured:
    """Run one scenario against a fresh enclave."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "enclave.sock")
        command = [sys.executable, __file__, "--serve", path]
        with subprocess.Popen(command) as enclave:  # noqa: ASYNC220 - nothing else runs yet
            host = Host(UnixAddress(path), scenario)
            try:
                await host.bind()
                idle = resident_mib(enclave.pid, "VmRSS")
                # A few at a time: the envelopes are made here, and this process is not what is measured.
                gate = asyncio.Semaphore(8)

                async def one() -> None:
                    async with gate:
                        await host.stream()

                await asyncio.gather(*(one() for _ in range(streams)))
                await asyncio.sleep(SETTLE_S + (2 * FLOOD_AFTER_S if scenario == "stalled" else 0))
                held, peak = resident_mib(enclave.pid, "VmRSS"), resident_mib(enclave.pid, "VmHWM")
                await host.look()
            finally:
                host.close()
                enclave.kill()
    return Measured(scenario, streams, host.taken, host.refused, round(idle, 1), round(held, 1), round(peak, 1))


def main() -> None:
    """Measure and print a line a scenario."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--streams", type=int, default=MAX_CONNECTIONS)
    parser.add_argument("--scenario", choices=SCENARIOS, action="append")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--serve", metavar="SOCKET", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve))
        return
    passed = False
    for scenario in options.scenario or SCENARIOS:
        found = asyncio.run(measure(scenario, options.streams))
        passed |= found.peak_mib > found.bound_mib
        if options.json:
            print(json.dumps(asdict(found)), flush=True)
            continue
        print(
            f"{found.scenario:10} {found.streams} streams: {found.taken} taken, {found.refused} refused; "
            f"resident {found.idle_mib} MiB idle, {found.held_mib} held, {found.peak_mib} at most; "
            f"the bound is {found.bound_mib:.0f}",
            flush=True,
        )
    if passed:
        sys.exit("An enclave took more than docs/enclave.md says.")


if __name__ == "__main__":
    main()
