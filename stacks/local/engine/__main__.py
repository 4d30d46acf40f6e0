"""`python -m stacks.local.engine`: install the engine once; a second run does nothing and needs no network."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from stacks.local.engine.install import EngineEnvironment, EngineInstallError, install, requirement_names

EX_FAILED = 1


def main(
    *,
    venv: Annotated[Path, typer.Option(help="Where the engine's environment is, or shall be.")] = Path(".venv-engine"),
    check: Annotated[bool, typer.Option("--check", help="Only say whether it is installed.")] = False,
    where_possible: Annotated[
        bool, typer.Option("--where-possible", help="Only say so where it can't be installed; on CI that still fails.")
    ] = False,
) -> None:
    """Install vLLM for this machine's CPU into an environment of its own (about 1.8 GB, two minutes, once)."""
    console = Console(stderr=True, highlight=False)
    if check:
        if not EngineEnvironment(venv.absolute()).installed():
            console.print(f"The engine is not installed in {venv}: run `make engine`.")
            raise typer.Exit(EX_FAILED)
        console.print(f"The engine is installed in {venv}.")
        return
    began = time.monotonic()
    total, seen = len(requirement_names()), 0
    try:
        with console.status("Installing the engine") as status:

            def report(line: str) -> None:
                nonlocal seen
                fetching = line.startswith("fetching ")
                seen += fetching
                text = f"[{min(seen, total)}/{total}] {line}" if fetching else line
                status.update(f"Installing the engine: {text}")
                # Without a terminal the spinner is silent: name the steps, and only one wheel in ten.
                if not console.is_terminal and (not fetching or seen % 10 == 1):
                    console.print(f"engine: {text}", markup=False)

            fresh = install(venv, report=report)
    except EngineInstallError as error:
        console.print(str(error), markup=False, soft_wrap=True)
        if where_possible and not os.environ.get("CI"):
            console.print("Going on without the engine: what needs it is skipped.")
            return
        raise typer.Exit(EX_FAILED) from None
    if fresh:
        console.print(f"The engine is installed in {venv} ({time.monotonic() - began:.0f} s).")


if __name__ == "__main__":
    typer.run(main)
