"""The assurance level that a stack claims, as the pack is configured with it."""

from __future__ import annotations

from typing import Final

from policies.rule import Config, ConfigurationError, Setting

ATTESTED_HOST: Final = 2
"""Level 2: the host itself is attested, so nobody may be able to log into it."""

LEVEL: Final = Setting(
    name="assuranceLevel",
    description="The assurance level that this stack claims: 1, the host's root could read a worker's memory; 2, the "
    "host is attested too. Unless it is set to 1, the stack is held to level 2.",
    default=ATTESTED_HOST,
    schema={"type": "integer", "enum": [1, 2]},
)


def attested_host(config: Config) -> bool:
    """Whether level 2 is claimed. Raises ConfigurationError for what is no level."""
    level = LEVEL.read(config)
    # bool is an int in Python, and `true` is no level.
    if isinstance(level, bool) or level not in {1, 2}:
        raise ConfigurationError(f"assuranceLevel of this rule's configuration is {level!r}; it is 1 or 2.")
    return bool(level == ATTESTED_HOST)
