"""The policy packs without an engine: explain every rule, judge an exported state, write a pack's configuration.

This needs Pulumi's Python packages; where they are not installed, `mrgc` says which is missing and has its other
commands, for it loads a command's module only when the command is called.
"""

from __future__ import annotations

import difflib
import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from policies.configuration import read_configurations
from policies.packs import PACKS, expand, explanations, of_pack
from policies.rule import ConfigurationError
from policies.runner import Pack, PackError, Violation, directory, judge
from policies.state import StateError, read_state

EX_FAILED = 1
EX_MISUSED = 2

INDENT: Final = 12
"""Columns before a text: two, a label, and the longest label's width."""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

PackOption = Annotated[str | None, typer.Option("--pack", help="enclave or network; both without it.")]
EifVersions = Annotated[
    list[str] | None, typer.Option("--eif-version", help="Version of the image of a measurements.json; repeatable.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


def _failed(sentence: str, code: int = EX_FAILED) -> typer.Exit:
    Console(stderr=True).print(sentence, markup=False, highlight=False, soft_wrap=True)
    return typer.Exit(code)


def _packs(pack: str | None) -> tuple[str, ...]:
    if pack is not None and pack not in PACKS:
        raise _failed(f"There is no pack {pack!r}: it is one of {', '.join(PACKS)}.", EX_MISUSED)
    return tuple(PACKS) if pack is None else (pack,)


@app.command()
def explain(
    *,
    rules: Annotated[list[str] | None, typer.Argument(metavar="[RULE]...", help="Only these rules.")] = None,
    pack: PackOption = None,
    names_only: Annotated[bool, typer.Option("--list", help="Print a name a line, and nothing else.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print every rule, or those named, with what it protects, how to satisfy it, and its configuration."""
    names = _packs(pack)
    found = _named(list(explanations(names)), rules or [], pack)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    if names_only:
        for rule in found:
            typer.echo(f"{rule['pack']:<8} {rule['rule']}")
        return
    console = Console(highlight=False)
    for name in names:
        mine = [rule for rule in found if rule["pack"] == name]
        if not rules:
            console.print(f"[bold]{name}[/bold]: {len(mine)} rules\n")
        for rule in mine:
            _explain(console, rule)


def _named(rules: list[dict[str, Any]], wanted: list[str], pack: str | None) -> list[dict[str, Any]]:
    """The rules with these names, in the packs' order; all without names. Exits 2 for a name that none has."""
    known = [rule["rule"] for rule in rules]
    for name in wanted:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else "`mrgc policy explain --list` names them all."
            where = f"the pack {pack}" if pack else "either pack"
            raise _failed(f"There is no rule {name!r} in {where}: {hint}", EX_MISUSED)
    return [rule for rule in rules if not wanted or rule["rule"] in wanted]


def _explain(console: Console, rule: Mapping[str, Any]) -> None:
    heading = f"{rule['rule']} ({rule['pack']}, {rule['level']}; judges {rule['judges']})"
    console.print(heading, style="bold cyan", markup=False, soft_wrap=True)
    _entry(console, "protects", rule["protects"])
    _entry(console, "fix", rule["fix"])
    for key, schema in rule["configuration"].items():
        default = json.dumps(schema.get("default"))
        _entry(console, "set", f"{key} (default {default}): {schema.get('description', '')}")
    console.print()


def _entry(console: Console, label: str, text: str) -> None:
    """Print a labelled text in lines as wide as the terminal, names and numbers whole however long they are."""
    lines = textwrap.wrap(text, console.width - INDENT, break_long_words=False, break_on_hyphens=False)
    for number, line in enumerate(lines):
        console.print(f"  {'' if number else label:<{INDENT - 2}}{line}", markup=False, soft_wrap=True)


@app.command()
def check(
    *,
    state: Annotated[Path, typer.Option("--state", help="What `pulumi stack export` wrote.")],
    config: Annotated[
        list[Path] | None, typer.Option("--config", help="JSON: properties, rules, or measurements.json; repeatable.")
    ] = None,
    eif_version: EifVersions = None,
    pack: PackOption = None,
    as_json: AsJson = False,
) -> None:
    """Judge an exported state by the packs; exit code 1 where a rule is broken or could not be decided."""
    names = _packs(pack)
    violations: list[Violation] = []
    try:
        subjects = read_state(state)
        configuration = expand(read_configurations(config or [], eif_version or []))
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
    sources: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="JSON: properties, rules, or a build's measurements.json.")
    ],
    eif_version: EifVersions = None,
    pack: Annotated[str, typer.Option("--pack", help="enclave or network.")],
) -> None:
    """Print a pack's configuration, rule by rule, as `pulumi --policy-pack-config` takes it."""
    _packs(pack)
    try:
        found = of_pack(pack, expand(read_configurations(sources, eif_version or [])))
    except ConfigurationError as error:
        raise _failed(str(error)) from None
    typer.echo(json.dumps(found, indent=2))


def _report(violations: list[Violation], resources: int, packs: tuple[str, ...], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([_plain(one) for one in violations], indent=2))
        return
    console = Console(highlight=False)
    fixes = {rule["rule"]: rule["fix"] for rule in explanations(packs)}
    for one in violations:
        console.print(f"{_level(one)}  {one.rule} ({one.pack})", style="bold", markup=False, soft_wrap=True)
        _entry(console, "resource", one.urn or "(the stack as a whole)")
        _entry(console, "wrong", one.message)
        _entry(console, "fix", fixes.get(one.rule, ""))
        console.print()
    broken = sum(one.mandatory for one in violations)
    undecided = sum(one.undecided for one in violations)
    said = f"{resources} resources judged by {' and '.join(packs)}: {broken} violations, {undecided} undecided."
    console.print(said, soft_wrap=True)


def _level(one: Violation) -> str:
    if one.undecided:
        return "undecided"
    return "mandatory" if one.mandatory else "advisory"


def _plain(one: Violation) -> Mapping[str, Any]:
    fix = next((rule["fix"] for rule in explanations([one.pack]) if rule["rule"] == one.rule), "")
    return {
        "level": _level(one),
        "pack": one.pack,
        "rule": one.rule,
        "urn": one.urn,
        "message": one.message,
        "fix": fix,
    }
