"""The arrows between packages go one way: docs/architecture.md, "Who may import whom"."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

OURS = ("components", "dataplane", "observability", "policies", "stacks")

SIDECARS = ("router", "parent", "proxy", "enclave", "worker", "tenant")

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "dataplane.protocol": (),
    "dataplane.mesh": ("dataplane.protocol",),
    "dataplane.registry": ("dataplane.protocol", "dataplane.mesh"),
    **{
        f"dataplane.{sidecar}": ("dataplane.protocol", "dataplane.mesh", "dataplane.registry", "observability")
        for sidecar in SIDECARS
    },
    # A tenant checks the measurement log, and its operator keeps it: a library with a command of its own.
    "dataplane.log": ("dataplane.protocol", "dataplane.mesh", "observability"),
    "dataplane.tenant": (
        "dataplane.protocol",
        "dataplane.mesh",
        "dataplane.registry",
        "dataplane.log",
        "observability",
    ),
    # The root of the command line finds its commands as entry points and imports none of them.
    "dataplane.cli": ("dataplane.protocol",),
    "observability": (),
    "components": ("dataplane.protocol", "observability"),
    # The rules judge the program and share no code with it: a mistake in one is not repeated in the other.
    "policies": (),
    "stacks.local": ("dataplane", "observability"),
    "stacks": ("components", "observability", "dataplane.protocol"),
}

NO_NETWORK_IN = ("dataplane.protocol",)
NETWORK = ("aiohttp", "boto3", "botocore", "asyncio", "socket", "ssl", "requests", "urllib", "http", "time")

STAND_INS = ("stacks", "tests", "moto")
"""What production code must not be able to reach, whatever its settings say."""


def modules() -> list[tuple[str, Path]]:
    paths = [p for top in OURS for p in sorted((ROOT / top).rglob("*.py"))]
    return [(".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), p) for p in paths]


def imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively; write the whole name"
            yield node.module or "", node.lineno


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


MODULES = modules()


def test_the_tree_was_found() -> None:
    names = {name for name, _ in MODULES}
    assert {"dataplane.protocol.errors", "dataplane.mesh.settings", "observability.names"} <= names, "wrong root"


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_imports_go_one_way(name: str, path: Path) -> None:
    own = next((package for package in MAY_IMPORT if within(name, package)), None)
    if own is None:
        assert name == "dataplane", f"{name} belongs to no package of the layout"
        return
    for target, line in imports(path):
        if not any(within(target, top) for top in (*OURS, "tests", "benchmarks")):
            continue
        inside = within(target, own) and not (own == "stacks" and within(target, "stacks.local"))
        allowed = inside or any(within(target, package) for package in MAY_IMPORT[own])
        assert allowed, f"{path.relative_to(ROOT)}:{line} imports {target}, which {own} may not"


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_the_protocol_knows_no_network_and_no_clock(name: str, path: Path) -> None:
    if not any(within(name, package) for package in NO_NETWORK_IN):
        return
    for target, line in imports(path):
        assert not any(within(target, module) for module in NETWORK), f"{name}:{line} imports {target}: not sans-IO"


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_no_stand_in_is_reachable_from_production_code(name: str, path: Path) -> None:
    if within(name, "stacks"):
        return
    for target, line in imports(path):
        assert not any(within(target, stand_in) for stand_in in STAND_INS), f"{name}:{line} reaches {target}"
    # Importing by a computed name would be a way around the check above; the command line's entry points are the one
    # use, and they name what is installed, which a sidecar image without the local stack does not have.
    if name != "dataplane.cli":
        assert "import_module(" not in path.read_text(), f"{name} imports by a computed name"


def test_modules_stay_readable() -> None:
    most = 420  # about 400 lines, as CONTRIBUTING.md says
    long = {name: n for name, path in MODULES if (n := len(path.read_text().splitlines())) > most}
    assert not long, f"split by what changes together: {long}"
