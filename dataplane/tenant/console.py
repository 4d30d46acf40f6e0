"""What the commands of `mrgc tenant` share: one sentence and an exit code for a failure, one object for a script."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

import typer
from rich.console import Console

from dataplane.protocol.errors import MrgcError, SettingsError

T = TypeVar("T")

EX_FAILED = 1
EX_MISUSED = 2

err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
out = Console(highlight=False, markup=False, soft_wrap=True)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, or exit with one sentence: 2 for what was given wrongly, 1 for what failed."""
    return call(lambda: asyncio.run(work))


def call(work: Callable[[], T]) -> T:
    """The same for a function."""
    try:
        return work()
    except SettingsError as error:
        fail(str(error), EX_MISUSED)
    except MrgcError as error:
        fail(str(error), EX_FAILED)
    except KeyboardInterrupt:
        fail("Interrupted.", EX_FAILED)


def fail(sentence: str, code: int) -> NoReturn:
    """Say why on standard error and exit."""
    err.print(sentence, style="red")
    raise typer.Exit(code)


def print_json(document: object) -> None:
    """Print one JSON object on a line."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    sys.stdout.flush()
