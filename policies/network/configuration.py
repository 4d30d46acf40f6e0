"""What the rules of this pack are told about a deployment: its regions, their blocks, its tiers, its listeners.

Everything has a default, which is the three regions' deployment; a fourth region is one more entry of `regions` in
the configuration of each rule that has it. A value that makes no sense is a violation of the rule, in a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from typing import Any, Final

from policies.rule import Config, ConfigurationError, Setting

TEXTS: Final[Mapping[str, Any]] = {"type": "array", "items": {"type": "string"}}

REGIONS: Final = Setting(
    name="regions",
    description="Each region of the deployment with its block of addresses in CIDR notation.",
    default={"us-east-1": "10.66.0.0/18", "us-east-2": "10.66.64.0/18", "us-west-2": "10.66.128.0/18"},
    schema={"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 1},
)
STRONG_REGIONS: Final = Setting(
    name="strongRegions",
    description="The three regions of the strongly consistent tables.",
    default=["us-east-1", "us-east-2", "us-west-2"],
    schema={**TEXTS, "minItems": 3, "maxItems": 3, "uniqueItems": True},
)
STRONG_TABLES: Final = Setting(
    name="strongTables",
    description="Tables that must be strongly consistent, by the end of their names.",
    default=["routing_state", "autoscaling_state"],
    schema=TEXTS,
)
TIERS: Final = Setting(
    name="tiers",
    description="Each tier's subnets, as CIDRs counted from the first address of a region's block.",
    default={
        "public": ["0.0.0.0/24", "0.0.1.0/24", "0.0.2.0/24"],
        "private": ["0.0.10.0/23", "0.0.12.0/23", "0.0.14.0/23"],
        "fsx": ["0.0.20.0/24", "0.0.21.0/24"],
        "transit": ["0.0.30.0/28", "0.0.30.16/28", "0.0.30.32/28"],
    },
    schema={"type": "object", "additionalProperties": TEXTS},
)
LISTENER_PORTS: Final = Setting(
    name="listenerPorts",
    description="TCP ports on which load balancers and the accelerator may listen to everyone.",
    default=[443, 8080],
    schema={"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 65535}},
)
LOG_DAYS: Final = Setting(
    name="minimumDays",
    description="Days that logs are kept at the least.",
    default=90,
    schema={"type": "integer", "minimum": 1},
)

WIDEST: Final = 8
"""Blocks further apart than a /8 would make "within the cluster" mean half the internet."""
PUBLIC: Final = "public"
"""The tier of the load balancers, the only one with a way to the internet."""


def whole(value: Any) -> int | None:
    """The whole number that configuration and properties have as 90, 90.0 or "90"; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return int(number) if math.isfinite(number) and number == int(number) else None


def blocks(config: Config) -> dict[str, IPv4Network]:
    """Each region's block. Raises ConfigurationError for what is no network, and for blocks that overlap."""
    given = REGIONS.read(config)
    if not isinstance(given, Mapping) or not given:
        raise ConfigurationError("The rule's setting regions is no object of region to CIDR; name every region.")
    found: dict[str, IPv4Network] = {}
    for region, text in given.items():
        block = network(text)
        if block is None:
            raise ConfigurationError(f"The rule's setting regions gives {region} {text!r}, which is no IPv4 network.")
        for other, taken in found.items():
            if block.overlaps(taken):
                raise ConfigurationError(f"The rule's setting regions lets {other} and {region} overlap ({block}).")
        found[str(region)] = block
    return found


def tiers(config: Config, block: IPv4Network) -> dict[IPv4Network, str]:
    """Each subnet of a region's block with the name of its tier. Raises ConfigurationError for a wrong offset."""
    found: dict[IPv4Network, str] = {}
    for tier, offsets in TIERS.read(config).items():
        for text in offsets:
            offset = network(text)
            if offset is None:
                raise ConfigurationError(f"The rule's setting tiers gives {tier} {text!r}, which is no CIDR.")
            start = IPv4Address(int(block.network_address) + int(offset.network_address))
            found[IPv4Network((start, offset.prefixlen))] = str(tier)
    return found


def tier_of(config: Config, cidr: Any) -> str | None:
    """The tier that a subnet's addresses make it, whichever region's; None for none, and for what is no network."""
    subnet = network(cidr)
    found = (tiers(config, block).get(subnet) for block in blocks(config).values() if subnet is not None)
    return next((tier for tier in found if tier is not None), None)


def ports(config: Config, setting: Setting = LISTENER_PORTS) -> frozenset[int]:
    """A setting's ports: where listeners may be, unless another is named."""
    return frozenset(number for one in setting.read(config) if (number := whole(one)) is not None)


def least(setting: Setting, config: Config) -> int:
    """A configured whole number. Raises ConfigurationError for what is none."""
    value = whole(setting.read(config))
    if value is None:
        raise ConfigurationError(f"The rule's setting {setting.name} is {setting.read(config)!r}; give a whole number.")
    return value


def network(text: Any) -> IPv4Network | None:
    """An IPv4 network in CIDR notation, or None."""
    try:
        return IPv4Network(text) if isinstance(text, str) else None
    except ValueError:
        return None


def inside(one: IPv4Network, allowed: Iterable[IPv4Network]) -> bool:
    """Whether a network is within what the allowed ones make together."""
    return any(one.subnet_of(joined) for joined in collapse_addresses(allowed))


def cluster(config: Config) -> IPv4Network:
    """The smallest network that holds every region's block: what "within the cluster" means.

    With the default's three /18 this is 10.66.0.0/16.
    """
    found = list(blocks(config).values())
    around = found[0]
    while not all(block.subnet_of(around) for block in found):
        around = around.supernet()
    if around.prefixlen < WIDEST:
        raise ConfigurationError(f"The rule's setting regions spans {around}; keep all blocks within one /{WIDEST}.")
    return around
