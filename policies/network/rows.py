"""Tables of what may pass, as lines that a security reviewer reads: `gpu in tcp 8080 router`.

A line is: whose, direction (`in` or `out`), protocol (`tcp`, `udp`, `icmp`), ports (`443`, `1018-1023`, or `any`),
peer (a group's name, a CIDR, or `prefix:<service>`). What is asked for passes when a line covers it: the same, or
narrower. Ports of `icmp` are the message's type and code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any, Final, Literal

from policies.network.configuration import network, whole
from policies.rule import UNKNOWN, Config, ConfigurationError, Setting

Direction = Literal["in", "out"]
PREFIX: Final = "prefix:"
ALL_PORTS: Final = (0, 65535)
EVERY: Final = -1
"""Every ICMP type, or every code."""
PROTOCOLS: Final[Mapping[str, str]] = {"6": "tcp", "17": "udp", "1": "icmp", "58": "icmpv6", "-1": "all"}
"""Protocols that AWS takes by number."""
_WORDS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line. `ports` are inclusive; `peer` is a group, a network, or a service's prefix list."""

    whose: str
    direction: Direction
    protocol: str
    ports: tuple[int, int]
    peer: str | IPv4Network

    def covers(self, protocol: str, ports: tuple[int, int]) -> bool:
        """Whether a protocol with these ports is the line's, or narrower."""
        if protocol != self.protocol:
            return False
        if protocol == "icmp":
            return all(own in (EVERY, asked) for own, asked in zip(self.ports, ports, strict=True))
        return self.ports[0] <= ports[0] <= ports[1] <= self.ports[1]

    def admits(self, peer: str | IPv4Network) -> bool:
        """Whether a peer is the line's: the same group or list, or addresses within its own."""
        if isinstance(peer, IPv4Network):
            return isinstance(self.peer, IPv4Network) and peer.subnet_of(self.peer)
        return peer == self.peer


def read(setting: Setting, config: Config) -> tuple[Row, ...]:
    """The rows of a setting. Raises ConfigurationError, naming the line."""
    lines = setting.read(config)
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ConfigurationError(f"The rule's setting {setting.name} is no list of lines.")
    return tuple(_row(setting, line) for line in lines)


def _row(setting: Setting, line: str) -> Row:
    words = line.split()
    problem = f"The rule's setting {setting.name} has the line {line!r}; write whose, in or out, protocol, ports, peer."
    if len(words) != _WORDS or words[1] not in ("in", "out"):
        raise ConfigurationError(problem)
    whose, direction, protocol, asked, peer = words
    ports = _ports(protocol, asked)
    if protocol not in ("tcp", "udp", "icmp") or ports is None or ("/" in peer and network(peer) is None):
        raise ConfigurationError(problem)
    return Row(
        whose=whose,
        direction="in" if direction == "in" else "out",
        protocol=protocol,
        ports=ports,
        peer=network(peer) or peer,
    )


def _ports(protocol: str, text: str) -> tuple[int, int] | None:
    if text == "any":
        return (EVERY, EVERY) if protocol == "icmp" else ALL_PORTS
    first, _, last = text.partition("/" if protocol == "icmp" else "-")
    numbers = whole(first), whole(last or ("-1" if protocol == "icmp" else first))
    return None if numbers[0] is None or numbers[1] is None else (numbers[0], numbers[1])


def protocol_of(value: Any) -> str:
    """A protocol's name, whether AWS was given its name or its number; "all" for every protocol."""
    text = str(value).lower()
    return PROTOCOLS.get(text, text)


def span(protocol: str, first: Any, last: Any) -> tuple[int, int] | None:
    """The ports, or ICMP type and code, of a rule; None where they are not all given."""
    if protocol == "all":
        return ALL_PORTS
    numbers = whole(first), whole(last)
    return None if numbers[0] is None or numbers[1] is None else (numbers[0], numbers[1])


def given(properties: Mapping[str, Any], keys: Iterable[str]) -> Iterator[str]:
    """Those of `keys` that say something, also what is not known yet."""
    for key in keys:
        value = properties.get(key)
        if value is UNKNOWN or value not in (None, "", []):
            yield key
