"""The policy packs without an engine: explain every rule, judge an exported state, write a pack's configuration.

This needs Pulumi's Python packages; where they are not installed, `mrgc` says which is missing and has its other
commands, for it loads a command's module only when the command is called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from policies.packs import PACKS, expand, explanations, of_pack, read_configuration
from policies.rule import ConfigurationError
from policies.runner import Pack, PackError, Violation, directory, judge
from policies.state import StateError, read_state

EX_FAILED = 1
EX_MISUSED = 2

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

PackOption = Annotated[str | None, typer.Option("--pack", help="enclave or network; both without it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


def _failed(sentence: str, code: int = EX_FAILED) -> typer.Exit:
    Console(stderr=True).print(sentence, markup=False, highlight=False, soft_wrap=True)
    return typer.Exit(code)


def _packs(pack: str | None) -> tuple[str, ...]:
    if pack is not None and pack not in PACKS:
        raise _failed(f"There is no pack {pack!r}: it is one of {', '.join(PACKS)}.", EX_MISUSED)
    return tuple(PACKS) if pack is None else (pack,)


@app.command()
def explain(*, pack: PackOption = None, as_json: AsJson = False) -> None:
    """Print every rule with what it protects, how to satisfy it, and its configuration."""
    names = _packs(pack)
    rules = list(explanations(names))
    if as_json:
        typer.echo(json.dumps(rules, indent=2))
        return
    console = Console(highlight=False)
    for name in names:
        mine = [rule for rule in rules if rule["pack"] == name]
        console.print(f"[bold]{name}[/bold]: {len(mine)} rules\n")
        for rule in mine:
            console.print(f"[bold cyan]{rule['rule']}[/bold cyan] ({rule['level']}; judges {rule['judges']})")
            console.print(f"  protects  {escape(rule['protects'])}")
            console.print(f"  fix       {escape(rule['fix'])}")
            for key, schema in rule["configuration"].items():
                setting = f"{key} (default {json.dumps(schema.get('default'))}): {schema.get('description', '')}"
                console.print(f"  set       {escape(setting)}")
            console.print()


@app.command()
def check(
    *,
    state: Annotated[Path, typer.Option("--state", help="What `pulumi stack export` wrote.")],
    config: Annotated[Path | None, typer.Option("--config", help="JSON: properties, or rules as Pulumi has.")] = None,
    pack: PackOption = None,
    as_json: AsJson = False,
) -> None:
    """Judge an exported state by the packs; exit code 1 where a rule is broken or could not be decided."""
    names = _packs(pack)
    violations: list[Violation] = []
    try:
        subjects = read_state(state)
        configuration = expand({} if config is None else read_configuration(config))
        for name in names:
            with Pack(directory(name)) as running:
                running.configure(of_pack(name, configuration))
                violations += judge(running, subjects)
    except (StateError, ConfigurationError, PackError) as error:
        raise _failed(str(error)) from None
    _report(violations, len(subjects), names, as_json=as_json)
    if any(one.mandatory or one.undecided for one in violations):
        raise typer.Exit(EX_FAILED)


@app.command("config")
def write_config(
    *,
    source: Annotated[Path, typer.Argument(metavar="FILE", help="JSON whose keys are properties or rules.")],
    pack: Annotated[str, typer.Option("--pack", help="enclave or network.")],
) -> None:
    """Print a pack's configuration, rule by rule, as `pulumi --policy-pack-config` takes it."""
    _packs(pack)
    try:
        found = of_pack(pack, expand(read_configuration(source)))
    except ConfigurationError as error:
        raise _failed(str(error)) from None
    typer.echo(json.dumps(found, indent=2))


def _report(violations: list[Violation], resources: int, packs: tuple[str, ...], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([_plain(one) for one in violations], indent=2))
        return
    console = Console(highlight=False)
    if violations:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for heading in ("level", "rule", "resource", "what is wrong"):
            table.add_column(heading, overflow="fold")
        for one in violations:
            name = one.urn.rpartition("::")[2] or "(the stack)"
            table.add_row(_level(one), escape(one.rule), escape(name), escape(one.message))
        console.print(table)
    broken = sum(one.mandatory for one in violations)
    undecided = sum(one.undecided for one in violations)
    console.print(f"{resources} resources judged by {' and '.join(packs)}: {broken} violations, {undecided} undecided.")


def _level(one: Violation) -> str:
    if one.undecided:
        return "undecided"
    return "mandatory" if one.mandatory else "advisory"


def _plain(one: Violation) -> Mapping[str, Any]:
    return {"level": _level(one), "pack": one.pack, "rule": one.rule, "urn": one.urn, "message": one.message}
