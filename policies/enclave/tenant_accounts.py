"""A rule over tenants' keys: only the tenant's own accounts, and the role that decrypts, have a part in one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from policies.enclave.keys import WITH_POLICY, allows, is_tenant_key
from policies.enclave.tenant_keys import DECRYPT, account_of
from policies.rule import Config, ConfigurationError, Resource, ResourceRule, Rule, Setting, listed

TENANT_ACCOUNTS: Final = Setting(
    name="tenantAccounts",
    description="The accounts of the tenants, twelve digits each: their principals may own and use the tenants' keys. "
    "While it is empty no account is a tenant's, and every tenant key is refused.",
    default=[],
    schema={"type": "array", "items": {"type": "string", "pattern": "^[0-9]{12}$"}},
)

_ACCOUNT: Final = re.compile(r"[0-9]{12}", re.ASCII)


def tenant_accounts(config: Config) -> frozenset[str]:
    """The configured accounts. Raises ConfigurationError where none is, or one is no account."""
    entries = listed(TENANT_ACCOUNTS.read(config))
    if not entries:
        raise ConfigurationError(
            "No tenant account is configured, so no key has an owner: set the property `tenantAccounts` of this rule "
            "to the twelve digits of each tenant's account."
        )
    for number, entry in enumerate(entries):
        if not isinstance(entry, str) or not _ACCOUNT.fullmatch(entry):
            raise ConfigurationError(
                f"tenantAccounts[{number}] of this rule's configuration is not the twelve digits of an account."
            )
    return frozenset(entries)


def own_accounts(resource: Resource, config: Config) -> Iterator[str]:
    """Whoever is allowed anything is of a configured account, or of the account of the role that decrypts.

    What the platform's account may be allowed, `tenant-key-no-platform-control` says; what names no account, or
    everyone, `tenant-key-no-bypass` refuses.
    """
    if not is_tenant_key(resource):
        return
    accounts = tenant_accounts(config)
    found = allows(resource)
    decrypting = [one for one in found if one.reaches(DECRYPT)]
    platform = {account_of(name) for one in decrypting for kind, name in one.principals if kind == "AWS"}
    for statement in found:
        for kind, name in statement.principals:
            account = account_of(name) if kind == "AWS" else None
            if account is not None and account not in accounts and account not in platform:
                yield (
                    f"{statement.label} allows {name}, of the account {account}, which is no tenant's: only a tenant's "
                    "own accounts, and the role that decrypts under attestation, have a part in its key."
                )


RULES: Final[list[Rule]] = [
    ResourceRule(
        "tenant-key-tenant-accounts",
        own_accounts,
        types=WITH_POLICY,
        settings=(TENANT_ACCOUNTS,),
        protects="A tenant's key is in the tenant's hands alone: whoever of a third account may put its policy, or "
        "wrap and use data keys under it, could undo its conditions or speak as the tenant.",
        fix="Name principals of the tenant's own accounts (the property `tenantAccounts`) and, for kms:Decrypt and "
        "kms:DescribeKey, the platform's role.",
    ),
]
