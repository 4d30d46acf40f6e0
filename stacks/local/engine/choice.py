"""Which engine a local cluster runs, and the sentence that says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stacks.local.engine.install import EngineEnvironment
from stacks.local.engine.machine import obstacle
from stacks.local.layout import PROJECT_ROOT
from stacks.local.options import Engine

ENGINE_ROOT: Final = PROJECT_ROOT / ".venv-engine"
"""The environment that `make engine` makes."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine, and a sentence for whoever did not name one: what runs, why, and how to have the other."""

    engine: Engine
    sentence: str


def choose(
    wanted: Engine | None, *, root: Path = ENGINE_ROOT, hindrance: Callable[[Path], str | None] = obstacle
) -> Choice:
    """Take what was asked for; without that real vLLM where it is installed, and the synthetic engine elsewhere."""
    if wanted == "synthetic":
        return Choice("synthetic", "Engine: synthetic, as asked: made-up words, and every answer says so.")
    if wanted == "vllm":
        return Choice("vllm", "Engine: vLLM on this machine's CPU, as asked, with a tiny model: its text is gibberish.")
    if EngineEnvironment(root).installed():
        return Choice(
            "vllm",
            f"Engine: vLLM on this machine's CPU, for it is installed in {root.name}, with a tiny model: its text is "
            "gibberish. ENGINE=synthetic (--engine synthetic) is quicker and answers in words.",
        )
    why = hindrance(root)
    more = (
        "`make demo ENGINE=vllm` installs the real one (1.8 GB, some minutes)"
        if why is None
        else f"the real one can't be installed: {why}"
    )
    return Choice(
        "synthetic", f"Engine: synthetic (made-up words, and every answer says so), for vLLM is not installed; {more}."
    )
