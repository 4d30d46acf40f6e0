"""What holds for every component: its arguments, its type token, its outputs; read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pulumi_program import ROOT

FILES = sorted((ROOT / "components").glob("*.py"))


def classes(path: Path) -> Iterator[ast.ClassDef]:
    yield from (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef))


def components(path: Path) -> Iterator[ast.ClassDef]:
    yield from (one for one in classes(path) if "pulumi.ComponentResource" in map(ast.unparse, one.bases))


def dataclasses(path: Path) -> Iterator[tuple[ast.ClassDef, ast.Call]]:
    for one in classes(path):
        for decorator in one.decorator_list:
            if ast.unparse(decorator).startswith("dataclass"):
                assert isinstance(decorator, ast.Call), f"{one.name} is a dataclass that can be changed"
                yield one, decorator


def test_there_are_components_to_look_at() -> None:
    assert sum(len(list(components(path))) for path in FILES) >= 25


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_dataclasses_are_frozen_and_taken_by_keyword(path: Path) -> None:
    for one, decorator in dataclasses(path):
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in decorator.keywords}
        assert (options.get("frozen"), options.get("kw_only")) == ("True", "True"), one.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_has_one_component_at_most(path: Path) -> None:
    assert len(list(components(path))) <= 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_component_is_named_by_its_file_and_class_registers_its_outputs_and_says_what_it_is(path: Path) -> None:
    for one in components(path):
        source = ast.unparse(one)
        assert f"'mrgc:{path.stem}:{one.name}'" in source, "its type token"
        assert source.count("self.register_outputs(") == 1, one.name
        assert ast.get_docstring(one), one.name
        arguments = next(part for part in one.body if isinstance(part, ast.FunctionDef) and part.name == "__init__")
        assert ast.unparse(arguments.args) == (
            f"self, name: str, args: {one.name}Args, opts: pulumi.ResourceOptions | None=None"
        )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_child_has_a_parent_and_nothing_asks_aws(path: Path) -> None:
    for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
        made = ast.unparse(call.func)
        assert not made.split(".")[-1].startswith("get_") or not made.startswith("aws."), "an invoke needs credentials"
        if made == "pulumi.ResourceOptions":
            assert "parent" in {keyword.arg for keyword in call.keywords}, f"line {call.lineno}: no parent"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_argument_of_a_component_is_used(path: Path) -> None:
    read = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    for one in classes(path):
        if not one.name.endswith("Args"):
            continue
        fields = {ast.unparse(part.target) for part in one.body if isinstance(part, ast.AnnAssign)}
        assert fields, one.name
        assert fields <= read, f"{one.name}: {sorted(fields - read)} changes nothing"
