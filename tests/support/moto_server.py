"""An AWS that is not AWS: moto's server, in a process of its own or in a container."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Final

from testcontainers.core.container import DockerContainer

IMAGE: Final = f"motoserver/moto:{version('moto')}"
"""The container's moto is the one that is installed, so that what both cannot do is the same."""

PORT: Final = 5000
START_S: Final = 60.0


@contextmanager
def moto_process(log: Path) -> Iterator[str]:
    """The endpoint of a moto server on this machine; it ends with the context. Its log is written to `log`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (
        log.open("w") as lines,
        subprocess.Popen(command, env=environment, stdout=lines, stderr=subprocess.STDOUT) as server,
    ):
        try:
            yield _answering(f"http://127.0.0.1:{port}")
        finally:
            server.terminate()


@contextmanager
def moto_container() -> Iterator[str]:
    """The endpoint of a moto server in a container, which goes with the context. Needs a Docker engine."""
    with DockerContainer(IMAGE).with_exposed_ports(PORT) as container:
        yield _answering(f"http://{container.get_container_host_ip()}:{container.get_exposed_port(PORT)}")


def _answering(endpoint: str) -> str:
    """The endpoint, once it answers. Raises TimeoutError after `START_S`."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{endpoint}/moto-api/data.json", timeout=5):  # noqa: S310 - ours, http
                return endpoint
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise TimeoutError(f"moto did not answer at {endpoint} within {START_S:.0f} s.")
