"""Rules over the global tables: in every region, recoverable to any second, and not to be deleted by a slip."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from policies.network.configuration import REGIONS, STRONG_REGIONS, STRONG_TABLES, blocks
from policies.rule import Config, ConfigurationError, Resource, ResourceRule, Rule, at, is_true, known, listed

TABLE: Final = "aws:dynamodb/table:Table"
REPLICA: Final = "aws:dynamodb/tableReplica:TableReplica"
OLD_GLOBAL: Final = "aws:dynamodb/globalTable:GlobalTable"
STRONG: Final = "STRONG"
MRSC_REPLICAS: Final = 3


def replicated(resource: Resource, config: Config) -> Iterator[str]:
    """A table is in every region; a strongly consistent one in its three."""
    if resource.type == OLD_GLOBAL:
        yield "It is a global table as of 2017, whose replicas have no protection; make a Table with replicas."
        return
    if resource.type == REPLICA:
        yield "A replica apart from its table has no consistency mode; name it among the table's replicas."
        return
    replicas = listed(known(resource.at("replicas"), "replicas"))
    home = known(resource.region, "region")
    found = sorted([str(home), *(str(known(at(one, "regionName"), "regionName")) for one in replicas)])
    modes = {str(known(at(one, "consistencyMode"), "consistencyMode") or "EVENTUAL") for one in replicas}
    name = str(known(resource.at("name"), "name") or resource.name)
    must = any(name.endswith(end) for end in STRONG_TABLES.read(config))
    if STRONG in modes and modes != {STRONG}:
        yield f"Its replicas are {' and '.join(sorted(modes))}; a table has one consistency."
    elif must and STRONG not in modes:
        yield "Leases and failover state rest on it, and its replicas are not STRONG; two regions could both hold one."
    if known(resource.at("globalTableWitness"), "globalTableWitness") not in (None, {}):
        yield "It has a witness, which holds no data; give it a third replica."
    expected = sorted(_strong_regions(config) if STRONG in modes or must else blocks(config))
    if found != expected:
        yield f"It is in {', '.join(found)}; it has to be in {', '.join(expected)}."


def _strong_regions(config: Config) -> list[str]:
    found = [str(region) for region in STRONG_REGIONS.read(config)]
    if len(set(found)) != MRSC_REPLICAS or not set(found) <= set(blocks(config)):
        raise ConfigurationError(
            f"The rule's setting strongRegions is {', '.join(found)}; give three of {', '.join(blocks(config))}."
        )
    return found


def recoverable(resource: Resource, _: Config) -> Iterator[str]:
    """A table and each of its replicas can be set back to any second, and is not deleted before that is turned off."""
    if not is_true(known(at(resource.at("pointInTimeRecovery"), "enabled"), "pointInTimeRecovery.enabled")):
        yield "pointInTimeRecovery is not enabled."
    if not is_true(known(resource.at("deletionProtectionEnabled"), "deletionProtectionEnabled")):
        yield "deletionProtectionEnabled is not true."
    for replica in listed(known(resource.at("replicas"), "replicas")):
        for key in ("pointInTimeRecovery", "deletionProtectionEnabled"):
            if not is_true(known(at(replica, key), f"replicas.{key}")):
                yield f"Its replica in {at(replica, 'regionName')} has no {key}."


RULES: Final[list[Rule]] = [
    ResourceRule(
        "tables-in-every-region",
        replicated,
        protects="Every region routes, scales and fails over by tables of its own, so that the loss of any other does "
        "not stop it; leases are held once, because their tables are strongly consistent.",
        fix="Name every region among the table's replicas, or the three strong ones with consistency_mode STRONG.",
        types=(TABLE, REPLICA, OLD_GLOBAL),
        settings=(REGIONS, STRONG_REGIONS, STRONG_TABLES),
    ),
    ResourceRule(
        "tables-are-protected",
        recoverable,
        protects="A wrong write replicates to every region within a second; a point in time is the one way back.",
        fix="Enable point-in-time recovery and deletion protection on the table and on each replica.",
        types=(TABLE,),
    ),
]
