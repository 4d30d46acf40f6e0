"""Every rule of the enclave pack, in the order in which `mrgc policy explain` prints them."""

from __future__ import annotations

from typing import Final

from pulumi_policy import Policy

from policies.enclave import hosts, images, key_care, logins, origins, roles, tenant_accounts, tenant_keys
from policies.rule import Rule

RULES: Final[list[Rule]] = [
    *tenant_keys.RULES,
    *tenant_accounts.RULES,
    *key_care.RULES,
    *roles.RULES,
    *hosts.RULES,
    *logins.RULES,
    *images.RULES,
    *origins.RULES,
]

POLICIES: list[Policy] = [*RULES]
