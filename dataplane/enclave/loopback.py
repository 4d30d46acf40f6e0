"""What a bare enclave lacks at start: its loopback interface is down, and its kernel's random pool is young."""

from __future__ import annotations

import fcntl
import socket
import struct
from pathlib import Path

from dataplane.enclave.nsm import Nsm
from dataplane.protocol.errors import MrgcError

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
_IFREQ = struct.Struct("16sH22x")
"""`struct ifreq` with its flags (netdevice(7)): 40 bytes on 64-bit Linux."""

SEED_BYTES = 256
"""What the NSM gives in one request; the kernel's pool holds 32 bytes, so it is filled many times over."""

RANDOM_DEVICE = Path("/dev/random")


def bring_up_loopback(interface: str = "lo") -> None:
    """Set `interface` up; needs CAP_NET_ADMIN unless it is up already. Raises `MrgcError`."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, _IFREQ.pack(interface.encode(), 0))
            _, flags = _IFREQ.unpack(answer)
            if not flags & _IFF_UP:
                fcntl.ioctl(sock, _SIOCSIFFLAGS, _IFREQ.pack(interface.encode(), flags | _IFF_UP))
    except OSError as error:
        raise MrgcError(
            f"The interface {interface} can't be brought up ({error.strerror}); start the enclave's program as root."
        ) from error


def seed_kernel(nsm: Nsm, device: Path = RANDOM_DEVICE) -> None:
    """Mix the NSM's random bytes into the kernel's pool, which every key of this process comes from (random(4))."""
    with device.open("wb", buffering=0) as pool:
        pool.write(nsm.random(SEED_BYTES))
