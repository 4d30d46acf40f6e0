"""What a person sees of a cluster: stages while it comes up, crashes, and a table of what runs."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from stacks.local.status import ClusterStatus, ProcessStatus

_STYLES = {"running": "green", "stopped": "dim", "crashed": "bold red", "lost": "bold red"}


class Reporter:
    """Shows events as they come: bars on a terminal, one line a finished stage elsewhere."""

    def __init__(self, console: Console) -> None:
        """Draw on `console`."""
        self._console = console
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def show(self, event: dict[str, Any]) -> None:
        """Show one event."""
        kind = event["kind"]
        if kind == "stage":
            self._begin(event)
        elif kind == "progress":
            self._advance(event)
        elif kind == "done":
            self._finish(event)
        elif kind == "crash":
            self._crash(event)
        elif kind == "stopped" and event["swept"]:
            self._console.print(f"  {len(event['swept'])} processes did not stop when asked and were killed.")

    def close(self) -> None:
        """Remove the bars."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        self._tasks.clear()

    def _begin(self, event: dict[str, Any]) -> None:
        if not self._console.is_terminal:
            return
        if self._bars is None:
            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.fields[name]:<8}"),
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
            )
            self._bars.start()
        self._tasks[event["name"]] = self._bars.add_task(
            event["detail"], total=event["total"] or None, name=event["name"]
        )

    def _advance(self, event: dict[str, Any]) -> None:
        if self._bars is not None and event["name"] in self._tasks:
            self._bars.update(self._tasks[event["name"]], completed=event["done"])
        elif not self._console.is_terminal:
            self._console.print(
                f"  [{event['t']:6.1f} s] {event['name']} {event['done']}/{event['total']}", markup=False
            )

    def _finish(self, event: dict[str, Any]) -> None:
        if self._bars is not None and event["name"] in self._tasks:
            self._bars.remove_task(self._tasks.pop(event["name"]))
        self._console.print(
            Text.assemble(("  done ", "green"), f"{event['name']:<8}", (f"{event['seconds']:6.1f} s", "dim"))
        )
        if self._bars is not None and not self._tasks:
            self.close()

    def _crash(self, event: dict[str, Any]) -> None:
        self._console.print(
            Text.assemble(("  crashed ", "bold red"), f"{event['name']} (pid {event['pid']}): {event['how']}")
        )
        for line in event["tail"]:
            self._console.print(f"    {line}", style="dim", markup=False, highlight=False, soft_wrap=True)


def status_table(status: ClusterStatus) -> Table:
    """Return the processes, a row each, by region and host."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("region", "host", "process", "pid", "state"):
        table.add_column(column, style="" if column == "process" else "dim", no_wrap=True)
    for process in sorted(status.processes, key=_order):
        state = f"{process.state}{f' ({process.how})' if process.how else ''}"
        table.add_row(
            process.region or "-",
            process.host or "-",
            process.role,
            str(process.pid),
            Text(state, style=_STYLES.get(process.state, "")),
        )
    return table


def _order(process: ProcessStatus) -> tuple[str, str, str]:
    return process.region, process.host, process.name
