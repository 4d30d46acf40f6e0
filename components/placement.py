"""Where a component stands and how its resources are tagged: the one place that tags come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PROJECT: Final = "mrgc"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """One region of one environment in one account.

    `region` is an AWS region's name, `environment` the stack's (`dev`, `staging`, `prod`), `account` twelve digits.
    Plain values all, so that names and ARNs made of them are known before anything is planned.
    """

    region: str
    environment: str
    account: str

    def tags(self, component: str, name: str | None = None) -> dict[str, str]:
        """Tags of one resource: whose it is, and `Name` where consoles show one."""
        tags = {**self.default_tags(), "mrgc:component": component}
        return tags if name is None else {**tags, "Name": f"{PROJECT}-{self.environment}-{name}"}

    def default_tags(self) -> dict[str, str]:
        """Tags of everything in this place; also the provider's, so that nothing is created without them."""
        return {"mrgc:project": PROJECT, "mrgc:environment": self.environment, "mrgc:region": self.region}

    def arn(self, service: str, resource: str, *, region: str | None = None) -> str:
        """An ARN in this account; `region` "" for global services."""
        where = self.region if region is None else region
        return f"arn:aws:{service}:{where}:{self.account}:{resource}"

    def path(self, *parts: str) -> str:
        """The hierarchical name of a parameter or a log group: `/mrgc/dev/...`."""
        return "/" + "/".join((PROJECT, self.environment, *parts))
