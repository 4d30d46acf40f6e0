"""Run the GPU worker from its environment; its subcommands name models and configurations ahead.

`mrgc worker` alone is the worker: vLLM behind one Unix socket, without a network.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from dataplane.mesh.settings import EX_USAGE, load_settings
from dataplane.protocol.errors import MrgcError, SettingsError
from dataplane.worker.configuration import config_digest, configuration
from dataplane.worker.manifest import write_manifest
from dataplane.worker.modelfolder import MANIFEST_FILE
from dataplane.worker.settings import WorkerSettings
from dataplane.worker.vllm_engine import VllmFactory

UNIT = Path(__file__).with_name("mrgc-worker.service")

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=False)


@app.callback(invoke_without_command=True)
def run(context: typer.Context) -> None:
    """Run the GPU worker from its environment: vLLM behind one Unix socket, without a network."""
    if context.invoked_subcommand is None:
        # vLLM starts its engine by importing this process's main module again, which must be the worker's.
        os.execv(sys.executable, [sys.executable, "-m", "dataplane.worker"])  # noqa: S606 - our own program, no shell


@app.command()
def manifest(folder: Annotated[Path, typer.Argument(help="a model pool's folder, weights and all")]) -> None:
    """Hash a model pool's files and put their manifest beside them; print the digest that receipts will name."""
    try:
        made = write_manifest(folder)
    except (MrgcError, OSError) as error:
        _failed(str(error), 1)
    typer.echo(f"{made.digest}  {folder / MANIFEST_FILE} ({len(made.files)} files)")


@app.command(name="configuration")
def show(
    env_file: Annotated[
        list[Path] | None,
        typer.Option(
            help="a file of the unit's variables, such as /etc/mrgc/worker.env; repeat it in the unit's order. With "
            "one, the systemd unit's own variables count and those of this shell do not."
        ),
    ] = None,
    engine_version: Annotated[
        str | None, typer.Option(help="vLLM's version on the hosts, where it is not installed here")
    ] = None,
) -> None:
    """Print the worker's configuration and its digest, as an enclave image lists it and tenants may pin it."""
    try:
        environ = dict(os.environ) if not env_file else unit_environment(UNIT.read_text(), env_file)
        settings = load_settings(WorkerSettings, environ)
        factory = VllmFactory(options=settings.vllm_options(), environ=environ)
        content = configuration(settings, factory, environ, version=engine_version)
    except SettingsError as error:
        _failed(str(error), EX_USAGE)
    except (MrgcError, OSError) as error:
        _failed(str(error), 1)
    typer.echo(json.dumps({"digest": config_digest(content).hex(), "configuration": content}, indent=2))


def unit_environment(unit: str, files: Sequence[Path]) -> dict[str, str]:
    """Return what the unit's process is given: its `Environment=`, then the files, the later over the earlier."""
    environ: dict[str, str] = {}
    for line in unit.splitlines():
        name, _, value = line.partition("=")
        if name == "Environment":
            environ |= _assignments(shlex.split(value))
    for file in files:
        lines = [line.strip() for line in file.read_text().splitlines()]
        environ |= _assignments([" ".join(shlex.split(line)) for line in lines if line and line[0] not in "#;"])
    return environ


def _assignments(words: Sequence[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    return {name: value for name, separator, value in pairs if separator}


def _failed(sentence: str, status: int) -> NoReturn:
    typer.echo(sentence, err=True)
    sys.exit(status)
