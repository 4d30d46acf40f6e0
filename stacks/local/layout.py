"""Where a local cluster's files are. Everything lies in one directory, but for sockets where its path is too long."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from dataplane.mesh.address import MAX_UNIX_PATH

LONGEST_SOCKET = "use1-9/enclave.sock"
"""The longest name under `run`; the run directory must leave room for it in a socket's path."""

PROJECT_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths under the cluster's directory; `run` holds the Unix sockets."""

    root: Path
    run: Path

    @property
    def cluster_file(self) -> Path:
        """What clients read: endpoint, keys of the local tenants, pids. Mode 0600."""
        return self.root / "cluster.json"

    @property
    def state_file(self) -> Path:
        """What `status` and `down` read: the supervisor and every process it started."""
        return self.root / "state.json"

    @property
    def events_file(self) -> Path:
        """What happened, one JSON object a line."""
        return self.root / "events.jsonl"

    @property
    def lock_file(self) -> Path:
        """Locked while a supervisor lives."""
        return self.root / "lock"

    @property
    def spans_file(self) -> Path:
        """Every finished span, as the collector received it."""
        return self.root / "spans.jsonl"

    @property
    def logs(self) -> Path:
        """One file a process."""
        return self.root / "logs"

    @property
    def pki(self) -> Path:
        """The local authorities and certificates."""
        return self.root / "pki"

    @property
    def tenants_file(self) -> Path:
        """The routers' tenants, API keys hashed."""
        return self.root / "tenants.json"

    @property
    def accelerator_file(self) -> Path:
        """The accelerator's settings."""
        return self.root / "accelerator.json"

    @property
    def principals_file(self) -> Path:
        """The embedded AWS's principals and their secrets. Mode 0600."""
        return self.root / "principals.json"

    @property
    def fsx(self) -> Path:
        """The model store that every host mounts."""
        return self.root / "fsx"

    @property
    def fsx_tampered(self) -> Path:
        """The model store of the host with the wrong measurement."""
        return self.root / "fsx-tampered"

    @property
    def log(self) -> Path:
        """The measurement log, as the console serves it."""
        return self.root / "log"

    @property
    def model_copies(self) -> Path:
        """Below it, each worker's own copies of its models."""
        return self.root / "model-copies"

    @property
    def host_rules_file(self) -> Path:
        """Which worker configurations the enclaves take."""
        return self.root / "host_measurements.json"

    @property
    def captures(self) -> Path:
        """What the tap recorded."""
        return self.root / "captures"

    def host_run(self, region: str, number: int) -> Path:
        """Return the directory of a host's sockets."""
        return self.run / short_name(region, number)

    def socket(self, short: str, name: str) -> Path:
        """Return the path of a host's socket, such as `run/use1-0/proxy.sock`."""
        return self.run / short / f"{name}.sock"


def make_layout(root: Path) -> Layout:
    """Return the layout for a directory, making a private run directory elsewhere if sockets would not fit below it."""
    root = root.absolute()
    root.mkdir(parents=True, exist_ok=True)
    run = root / "run"
    if len(str(run / LONGEST_SOCKET).encode()) > MAX_UNIX_PATH:
        run = Path(tempfile.mkdtemp(prefix="mrgc-"))
    return Layout(root, run)


def short_name(region: str, number: int) -> str:
    """Return a host's short name: `us-east-1` and 0 make `use1-0`."""
    area, side, zone = region.split("-")
    return f"{area}{side[0]}{zone}-{number}"
