"""What the engine's tests start from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies.packs import expand, of_pack
from stacks.packs import properties
from stacks.settings import parse
from tests.engine.engine import PACKS, Engine, scratch, stack_values
from tests.support.pulumi_program import stack_config


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """The real program with dev's configuration, in a stack of its own."""
    with scratch(tmp_path, values=stack_values("dev")) as made:
        yield made


@pytest.fixture
def packs(tmp_path: Path) -> dict[Path, Path]:
    """Both packs with the configuration that dev's settings make, as files the engine takes."""
    configuration = expand(properties(parse(stack_config("dev"))))
    found: dict[Path, Path] = {}
    for pack in PACKS:
        path = tmp_path / f"{pack.name}.json"
        path.write_text(json.dumps(of_pack(pack.name, configuration)))
        found[pack] = path
    return found
