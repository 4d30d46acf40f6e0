"""`mrgc`: one command whose subcommands are the entry points of the group "mrgc.commands".

A command is loaded only when it is called, so that `mrgc tenant` never pays for the router and an image
without the local stack has no `mrgc local`. A command is either a Typer application or a function without
arguments that runs a sidecar from its environment. `mrgc --help` reads their first docstring line from the
source, importing none of them.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console
from rich.table import Table

GROUP = "mrgc.commands"
DISTRIBUTION = "mrgc"

EX_DONE = 0
EX_FAILED = 1
EX_MISUSED = 2


def commands() -> dict[str, EntryPoint]:
    """Every installed command by name, sorted."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def summary(point: EntryPoint) -> str:
    """The first docstring line of what an entry point names, read from source without importing its module.

    An application object has no docstring of its own, so its module's is taken.
    """
    try:
        spec = importlib.util.find_spec(point.module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        return "(not installed)"
    try:
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return "(unreadable)"
    text: str | None = None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == point.attr:
            text = ast.get_docstring(node)
    text = text or ast.get_docstring(tree) or ""
    return text.strip().split("\n", 1)[0]


def main(arguments: Sequence[str] | None = None, *, available: Mapping[str, EntryPoint] | None = None) -> NoReturn:
    """Run `mrgc` with `arguments` (the process's own when None) and exit: 0 done, 1 failed, 2 misused."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    found = commands() if available is None else available
    if not words or words[0] in {"--help", "-h", "help"}:
        _print_help(found)
        sys.exit(EX_DONE if words else EX_MISUSED)
    if words[0] in {"--version", "-V"}:
        Console().print(f"mrgc {_version()}", highlight=False)
        sys.exit(EX_DONE)
    name, rest = words[0], words[1:]
    if name not in found:
        close = difflib.get_close_matches(name, list(found), n=1)
        hint = f"did you mean `mrgc {close[0]}`?" if close else "`mrgc --help` lists what there is."
        _misused(f"`mrgc {name}` is no command of this installation: {hint}")
    _run(name, found[name], rest)


def _run(name: str, point: EntryPoint, rest: list[str]) -> NoReturn:
    try:
        target = point.load()
    except ModuleNotFoundError as missing:
        _failed(f"`mrgc {name}` cannot be loaded because {missing.name} is not installed: install it and retry.")
    if isinstance(target, typer.Typer):
        target(args=rest, prog_name=f"mrgc {name}")
        sys.exit(EX_DONE)
    if rest and rest[0] in {"--help", "-h"}:
        Console().print(f"Usage: mrgc {name}\n\n{_documentation(target)}", highlight=False, markup=False)
        sys.exit(EX_DONE)
    if rest:
        _misused(f"`mrgc {name}` takes no arguments and was given {rest[0]!r}: set its environment instead.")
    target()
    sys.exit(EX_DONE)


def _documentation(target: Callable[[], object]) -> str:
    return (target.__doc__ or "Runs one sidecar from its environment.").strip()


def _version() -> str:
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown (not installed)"


def _print_help(found: Mapping[str, EntryPoint]) -> None:
    console = Console()
    console.print("Usage: mrgc COMMAND [OPTIONS]\n", highlight=False, markup=False)
    console.print("A confidential inference cluster over three regions.\n", highlight=False)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column(style="bold cyan", no_wrap=True)
    table.add_column()
    for name, point in found.items():
        table.add_row(name, summary(point))
    console.print(table)
    console.print(
        "\n`mrgc COMMAND --help` says more; `mrgc --version` says which version this is.",
        highlight=False,
        markup=False,
    )


def _misused(sentence: str) -> NoReturn:
    Console(stderr=True).print(sentence, highlight=False, markup=False, soft_wrap=True)
    sys.exit(EX_MISUSED)


def _failed(sentence: str) -> NoReturn:
    Console(stderr=True).print(sentence, highlight=False, markup=False, soft_wrap=True)
    sys.exit(EX_FAILED)
