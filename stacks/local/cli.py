"""The whole cluster on this machine: up, status, down, and a demo that shows and checks it."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dataplane.protocol.errors import MrgcError
from stacks.local.engine.choice import choose
from stacks.local.files import read_json
from stacks.local.hints import after_up
from stacks.local.launch import STOP_TIMEOUT_S, Launch
from stacks.local.options import DEFAULT_DIRECTORY, DEFAULT_PORT, MAX_HOSTS, REGIONS, ClusterOptions, Engine
from stacks.local.report import Reporter, status_table
from stacks.local.status import read_status, summarize, take_down

EX_FAILED = 1

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Directory = Annotated[Path, typer.Option("--dir", help="Where the cluster keeps its files.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Port = Annotated[int, typer.Option(min=1, max=65_535, help="The endpoint's port on 127.0.0.1.")]
EngineOption = Annotated[
    Engine | None, typer.Option(help="vllm, or synthetic (made-up words); without it vllm where it is installed.")
]


def failed(error: MrgcError) -> typer.Exit:
    """Print an error's sentence; returns what to raise."""
    Console(stderr=True).print(str(error), markup=False, highlight=False, soft_wrap=True)
    return typer.Exit(EX_FAILED)


@app.command()
def up(
    *,
    detach: Annotated[bool, typer.Option("--detach", help="Return once it is ready, and leave it running.")] = False,
    regions: Annotated[int, typer.Option(min=1, max=len(REGIONS), help="How many regions.")] = len(REGIONS),
    hosts: Annotated[int, typer.Option(min=1, max=MAX_HOSTS, help="How many hosts in each region.")] = 2,
    engine: EngineOption = None,
    port: Port = DEFAULT_PORT,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Start the cluster; it is ready when every region has answered a sealed request."""
    console = Console(stderr=True, highlight=False)
    reporter = Reporter(console)
    choice = choose(engine)
    console.print(choice.sentence, markup=False, soft_wrap=True)
    options = ClusterOptions(
        directory=directory.absolute(), regions=regions, hosts=hosts, engine=choice.engine, port=port
    )
    _signals()
    launch: Launch | None = None
    try:
        launch = Launch(options, detach=detach)
        if launch.follow(reporter.show, until_ready=True):
            console.print(f"Ready: https://127.0.0.1:{port}, described in {launch.cluster_file}", soft_wrap=True)
            for line in after_up(read_json(launch.cluster_file) or {}, launch.cluster_file):
                console.print(f"  {line}", markup=False, soft_wrap=True)
            if detach:
                return
            console.print("Ctrl-C stops it.")
            launch.follow(reporter.show, until_ready=False)
    except MrgcError as error:
        reporter.close()
        raise failed(error) from None
    except KeyboardInterrupt:
        reporter.close()
        console.print("Stopping.")
        if launch is not None:
            launch.stop(reporter.show)
        # As asked: stopping is how a foreground cluster ends.
    finally:
        reporter.close()


@app.command()
def status(*, directory: Directory = DEFAULT_DIRECTORY, as_json: AsJson = False) -> None:
    """Say what runs, what crashed and why; exit code 1 unless everything runs."""
    console = Console(highlight=False)
    try:
        found = read_status(directory.absolute())
    except MrgcError as error:
        raise failed(error) from None
    if as_json:
        typer.echo(json.dumps(found.as_json() if found else {"running": False, "healthy": False, "processes": []}))
    elif found is None:
        console.print(f"No cluster was ever started in {directory}; `mrgc local up` starts one.", soft_wrap=True)
    else:
        console.print(summarize(found), soft_wrap=True)
        if found.running:
            console.print(status_table(found))
        for process in found.faults if found.running else ():
            console.print(f"\n{process.name} ({process.how}), the end of {process.log}:", style="red", soft_wrap=True)
            for line in process.as_json()["tail"]:
                console.print(f"    {line}", style="dim", markup=False, soft_wrap=True)
    if found is None or not found.healthy:
        raise typer.Exit(EX_FAILED)


@app.command()
def down(*, directory: Directory = DEFAULT_DIRECTORY) -> None:
    """Stop the cluster, and end whatever a killed one left behind."""
    console = Console(stderr=True, highlight=False)
    root = directory.absolute()
    try:
        found = read_status(root)
        if found is None or not (found.running or found.strays):
            console.print(f"No cluster is running in {directory}.", soft_wrap=True)
            return
        swept = take_down(root, timeout_s=STOP_TIMEOUT_S)
        left = read_status(root)
    except MrgcError as error:
        raise failed(error) from None
    if left is not None and (left.running or left.strays):
        pids = ", ".join(map(str, left.strays or (left.supervisor,)))
        raise failed(MrgcError(f"Processes {pids} would not end; end them by hand."))
    extra = f" {len(swept)} that nobody watched any more were killed." if swept else ""
    stopped = sum(1 for process in found.processes if process.state == "running")
    console.print(f"Stopped {stopped} processes.{extra}", soft_wrap=True)


@app.command()
def demo(
    *,
    engine: EngineOption = None,
    regions: Annotated[int, typer.Option(min=2, max=len(REGIONS), help="How many regions.")] = len(REGIONS),
    hosts: Annotated[int, typer.Option(min=1, max=MAX_HOSTS, help="How many hosts in each region.")] = 1,
    port: Port = DEFAULT_PORT,
    directory: Directory = DEFAULT_DIRECTORY,
    keep: Annotated[bool, typer.Option("--keep", help="Leave what survives the demo running at its end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Up, an encrypted question, a refused enclave, a region killed under load, a summary, down; 0 only if all held."""
    from stacks.local.demo.run import run_demo  # noqa: PLC0415 - openai takes a second to import

    _signals()
    choice = choose(engine)
    options = ClusterOptions(
        directory=directory.absolute(),
        regions=regions,
        hosts=hosts,
        engine=choice.engine,
        port=port,
        tampered=True,
        tap=True,
    )
    try:
        held = run_demo(options, engine_said=choice.sentence, keep=keep, as_json=as_json)
    except MrgcError as error:
        raise failed(error) from None
    except KeyboardInterrupt:
        raise typer.Exit(EX_FAILED) from None
    if not held:
        raise typer.Exit(EX_FAILED)


def _signals() -> None:
    """Let SIGTERM and a closed terminal stop as Ctrl-C does."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)
