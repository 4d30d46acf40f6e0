"""What the demo says, and what it checks: every claim is shown with the evidence that it held."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim: whether it held, by which evidence, what that rests on, and seconds from the demo's begin."""

    name: str
    held: bool
    evidence: str
    rests_on: str
    seconds: float


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

    def claim(self, name: str, *, held: bool, evidence: str, rests_on: str) -> bool:
        """Record a claim and show whether it held, with its number and the time, and what it rests on."""
        self.claims.append(Claim(name, held, evidence, rests_on, self.seconds))
        mark = ("  held    ", "green") if held else ("  BROKEN  ", "bold red")
        head = f"{len(self.claims):>2}. {name}"
        self.console.print(Text.assemble(mark, head, (f"  [{self.seconds:.1f} s]", "dim")), soft_wrap=True)
        self.say(f"              {evidence}", "dim")
        self.say(f"              rests on {rests_on}", "dim")
        return held

    def as_json(self) -> list[dict[str, Any]]:
        """Return the claims for `--json`."""
        return [
            {
                "number": number,
                "name": claim.name,
                "held": claim.held,
                "evidence": claim.evidence,
                "rests_on": claim.rests_on,
                "seconds": round(claim.seconds, 1),
            }
            for number, claim in enumerate(self.claims, start=1)
        ]
