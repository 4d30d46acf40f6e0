"""Every rule of the network pack, in the order in which `mrgc policy explain` prints them."""

from __future__ import annotations

from typing import Final

from pulumi_policy import Policy

from policies.network import (
    accelerator,
    accounts,
    acls,
    addresses,
    destinations,
    encryption,
    endpoints,
    exposure,
    load_balancers,
    logs,
    references,
    regions,
    security_groups,
    standing,
    tables,
    transit,
)
from policies.rule import Rule

RULES: Final[list[Rule]] = [
    *regions.RULES,
    *accounts.RULES,
    *references.RULES,
    *addresses.RULES,
    *exposure.RULES,
    *standing.RULES,
    *security_groups.RULES,
    *acls.RULES,
    *transit.RULES,
    *endpoints.RULES,
    *logs.RULES,
    *load_balancers.RULES,
    *accelerator.RULES,
    *encryption.RULES,
    *destinations.RULES,
    *tables.RULES,
]

POLICIES: list[Policy] = [*RULES]
