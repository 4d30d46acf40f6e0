"""What to do next, as commands that can be pasted: after `up`, and after the demo."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stacks.local.options import DEFAULT_DIRECTORY

PROXY_PORT = 8090
"""Where `mrgc tenant proxy` listens unless it is told otherwise."""


def short(path: Path) -> str:
    """A path as a person here would type it: relative where it lies below the working folder."""
    absolute, here = path.absolute(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


def program() -> str:
    """How to call `mrgc` from the working folder."""
    return short(Path(sys.executable).with_name("mrgc"))


def after_up(cluster: Mapping[str, Any], cluster_file: Path) -> list[str]:
    """Ask, serve an application, look, stop: a command a line, for the cluster that `cluster_file` describes."""
    mrgc, root = shlex.quote(program()), cluster_file.parent
    tenant = cluster["tenants"][0]["id"]
    where = f"--cluster {shlex.quote(short(cluster_file))} --tenant {tenant}"
    place = "" if root.absolute() == DEFAULT_DIRECTORY.absolute() else f" --dir {shlex.quote(short(root))}"
    return [
        f'ask      {mrgc} tenant ask {where} "Why is the sky blue?"',
        f"proxy    {mrgc} tenant proxy {where}",
        f"         serves OpenAI clients at http://127.0.0.1:{PROXY_PORT}/v1, any api_key, model {cluster['model']}",
        f"console  {cluster['console']}",
        f"status   {mrgc} local status{place}",
        f"down     {mrgc} local down{place}" + (" (or `make down`)" if not place else ""),
    ]


def after_demo(engine: str) -> list[str]:
    """Where to go from the demo."""
    other = (
        "make demo ENGINE=vllm        the same with real vLLM on this machine's CPU (Linux on x86-64)"
        if engine == "synthetic"
        else "make demo ENGINE=synthetic   the same with made-up words, sooner"
    )
    return [
        "make up                      the same cluster, left running, and how to use it",
        "make demo KEEP=1             this demo, with what survives of it left running",
        other,
        "THREAT_MODEL.md              what each assurance level proves, and what nothing proves",
    ]
