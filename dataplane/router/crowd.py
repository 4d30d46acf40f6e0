"""Which connection has to go when there are too many. Pure; sockets are the caller's.

A connection is a stranger's until a tenant's API key was given on it. Strangers of one address are bounded, and when
there is no room the one that has waited longest goes, not the one that comes: whoever opens connections and sends
nothing drives out their own first, and a client that sends its head at once is served meanwhile. A connection on which
a request is being answered is never cut for another.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

MAX_STRANGERS = 1_024
"""Strangers' connections of one address. Behind a load balancer that passes no addresses on, each of its nodes is one
address: with three zones, three tenths of all connections may be strangers'. A client that sends its head within a
second loses to nobody who opens fewer than a thousand connections a second."""

IPV6_PREFIX = 64
"""One subscriber has a /64 at least (RFC 6177), so addresses within it are one client's."""

K = TypeVar("K", bound=Hashable)


def client_address(peername: Any) -> str:
    """Return what a peer counts as: its IPv4 address, or its IPv6 /64; "" for what has no address.

    `peername` is what a transport says. It is the client itself where the load balancer keeps clients' addresses, and
    otherwise one of the load balancer's own.
    """
    try:
        address = ipaddress.ip_address(str(peername[0]).partition("%")[0])
    except (TypeError, IndexError, ValueError):
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        if mapped is not None:
            return str(mapped)
        return str(ipaddress.IPv6Network((int(address), IPV6_PREFIX), strict=False))
    return str(address)


class Crowd(Generic[K]):
    """All connections by age; at most `most`, and `most_strangers` of one address. `busy` tells those in use."""

    def __init__(self, *, most: int, most_strangers: int, busy: Callable[[K], bool]) -> None:
        """Nobody is there yet."""
        self._most = most
        self._most_strangers = most_strangers
        self._busy = busy
        self._addresses: dict[K, str] = {}
        self._strangers: OrderedDict[K, None] = OrderedDict()
        self._known: OrderedDict[K, None] = OrderedDict()
        self._by_address: dict[str, OrderedDict[K, None]] = {}

    def __len__(self) -> int:
        return len(self._addresses)

    @property
    def addresses(self) -> int:
        """Addresses that have a stranger's connection: never more than there are connections."""
        return len(self._by_address)

    def add(self, connection: K, address: str) -> list[K]:
        """Count one in; return those that have to go now, which are counted out. It may be the new one itself."""
        self._addresses[connection] = address
        self._strangers[connection] = None
        own = self._by_address.setdefault(address, OrderedDict())
        own[connection] = None
        gone = []
        if len(own) > self._most_strangers:
            gone.append(self._oldest_idle(own, but=connection) or connection)
            self.remove(gone[0])
        if len(self._addresses) > self._most:
            oldest = self._oldest_idle(self._strangers, but=connection) or self._oldest_idle(
                self._known, but=connection
            )
            gone.append(oldest or connection)
            self.remove(gone[-1])
        return gone

    def prove(self, connection: K) -> None:
        """Note that the connection is a tenant's; one that is not counted is left alone."""
        if connection in self._strangers:
            self._forget_stranger(connection)
            self._known[connection] = None
        elif connection in self._known:
            self._known.move_to_end(connection)

    def remove(self, connection: K) -> None:
        """Count one out; calling it again does nothing."""
        if connection in self._strangers:
            self._forget_stranger(connection)
        self._known.pop(connection, None)
        self._addresses.pop(connection, None)

    def _forget_stranger(self, connection: K) -> None:
        del self._strangers[connection]
        address = self._addresses[connection]
        own = self._by_address[address]
        del own[connection]
        if not own:
            del self._by_address[address]

    def _oldest_idle(self, among: OrderedDict[K, None], *, but: K) -> K | None:
        return next((one for one in among if one is not but and not self._busy(one)), None)
