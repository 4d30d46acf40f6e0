"""What the demo says, and what it checks: every claim is shown with the evidence that it held."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim: whether it held, and by which evidence."""

    name: str
    held: bool
    evidence: str


class Narrator:
    """Prints the demo's steps and remembers its claims."""

    def __init__(self, console: Console) -> None:
        """Print on `console`; plain text where it is no terminal."""
        self.console = console
        self.claims: list[Claim] = []
        self._began = time.monotonic()
        self._step = 0

    @property
    def seconds(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._began

    @property
    def held(self) -> bool:
        """Whether every claim so far held, and there was one."""
        return bool(self.claims) and all(claim.held for claim in self.claims)

    def step(self, title: str) -> None:
        """Begin a step."""
        self._step += 1
        self.console.print()
        self.console.print(
            Text.assemble((f"{self._step}. {title}", "bold"), (f"  [{self.seconds:.0f} s]", "dim")), soft_wrap=True
        )

    def say(self, text: str, style: str = "") -> None:
        """Print a line as it is."""
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def show(self, what: RenderableType) -> None:
        """Print something rich can draw."""
        self.console.print(what)

    def claim(self, name: str, *, held: bool, evidence: str) -> bool:
        """Record a claim and show whether it held."""
        self.claims.append(Claim(name, held, evidence))
        mark = ("  held    ", "green") if held else ("  BROKEN  ", "bold red")
        self.console.print(Text.assemble(mark, name, (f" ({evidence})", "dim")), soft_wrap=True)
        return held

    def as_json(self) -> list[dict[str, Any]]:
        """Return the claims for `--json`."""
        return [{"name": claim.name, "held": claim.held, "evidence": claim.evidence} for claim in self.claims]
