from __future__ import annotations

import base64
import hashlib
import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.placement import Placement
from components.user_data import (
    HEADER_LEVEL_2,
    LIFECYCLE,
    MAX_USER_DATA_BYTES,
    SETUP,
    UNITS,
    Artefacts,
    HostSettings,
    allocator,
    encoded,
    environments,
    user_data,
)
from dataplane.mesh.settings import SidecarSettings, load_settings
from dataplane.parent.settings import ParentSettings
from dataplane.proxy.settings import ProxySettings
from dataplane.worker.settings import WorkerSettings
from tests.support.pulumi_program import ROOT

PCR0 = "ab" * 48
ARTEFACTS = Artefacts(bucket_name="models", eif_sha256="1" * 64, pcr0=PCR0, wheel_sha256="2" * 64, version="0.1.0")
SETTINGS = HostSettings(
    placement=Placement(region="us-east-2", environment="staging", account="123456789012"),
    group_name="mrgc-staging-gpu",
    file_system_dns="fs-0123456789abcdef0.fsx.us-east-2.amazonaws.com",
    mount_name="abcdefgh",
    registry_table="mrgc-staging-gpu_instances",
    default_model_pool="llama",
    log_group_name="/mrgc/staging/host",
    metrics_log_group_name="/mrgc/staging/collector",
    enclave_memory_mib=4096,
    enclave_cpus=2,
    artefacts=ARTEFACTS,
)


def files() -> dict[str, dict[str, Any]]:
    document = yaml.safe_load(user_data(SETTINGS, assurance_level=1))
    return {one["path"]: one for one in document["write_files"]}


def variables(*names: str) -> dict[str, str]:
    """The environment of a unit that reads these files."""
    found: dict[str, str] = {}
    for name in names:
        found |= dict(line.split("=", 1) for line in files()[f"/etc/mrgc/{name}.env"]["content"].splitlines())
    return found


def test_level_1_is_a_cloud_config_that_runs_the_setup_once() -> None:
    text = user_data(SETTINGS, assurance_level=1)
    assert text.startswith("#cloud-config\n")
    assert yaml.safe_load(text)["runcmd"] == [["/usr/local/sbin/mrgc-setup"]]


def test_level_2_runs_nothing_that_is_not_in_the_measured_image() -> None:
    text = user_data(replace(SETTINGS, artefacts=None), assurance_level=2)
    assert text.startswith(HEADER_LEVEL_2 + "\n")
    assert not text.startswith(("#!", "#cloud", "#include", "#upstart", "Content-Type")), "cloud-init would run it"
    for line in text.splitlines()[1:]:
        assert re.fullmatch(r"[A-Z0-9_]+=[A-Za-z0-9._/:-]+", line), line
    assert "TPM=none" not in text, "the unit's TPM=nitro stands"


@pytest.mark.parametrize("script", [SETUP, LIFECYCLE], ids=["setup", "lifecycle"])
def test_scripts_are_bash(script: str) -> None:
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_scripts_come_through_yaml_unchanged_and_executable() -> None:
    for name, script in {"mrgc-setup": SETUP, "mrgc-lifecycle": LIFECYCLE}.items():
        file = files()[f"/usr/local/sbin/{name}"]
        assert (file["content"], file["permissions"]) == (script, "0755")


def test_user_data_stays_within_three_quarters_of_ec2s_limit() -> None:
    longest = replace(
        SETTINGS,
        placement=Placement(region="ap-southeast-1", environment="staging", account="123456789012"),
        default_model_pool="p" * 128,
        artefacts=replace(ARTEFACTS, bucket_name="b" * 63, version="10.10.10"),
    )
    assert len(user_data(longest, assurance_level=1)) < 0.75 * MAX_USER_DATA_BYTES


def test_user_data_over_the_limit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"user data has \d+ bytes; EC2 takes 16384"):
        user_data(replace(SETTINGS, default_model_pool="p" * MAX_USER_DATA_BYTES), assurance_level=1)


def test_user_data_is_base64_in_a_launch_template() -> None:
    assert base64.b64decode(encoded("#cloud-config\n")) == b"#cloud-config\n"


@pytest.mark.parametrize(
    ("settings", "files_read"),
    [(ParentSettings, ("host", "parent")), (ProxySettings, ("host", "proxy")), (WorkerSettings, ("host", "worker"))],
)
def test_each_sidecar_takes_the_environment_that_its_unit_reads(
    settings: type[SidecarSettings], files_read: tuple[str, str]
) -> None:
    load_settings(settings, variables(*files_read))
    unit = (ROOT / f"dataplane/{files_read[1]}/mrgc-{files_read[1]}.service").read_text()
    for name in files_read:
        assert re.search(rf"^EnvironmentFile=-?/etc/mrgc/{name}\.env$", unit, re.MULTILINE), name


def test_every_variable_is_one_that_somebody_reads() -> None:
    known = {"AWS_DEFAULT_REGION", "OTEL_EXPORTER_OTLP_ENDPOINT"}
    for settings in (ParentSettings, ProxySettings, WorkerSettings):
        known |= {name.upper() for name in settings.model_fields}
    unit = (ROOT / "dataplane/enclave/mrgc-enclave.service").read_text()
    for name, values in environments(SETTINGS, assurance_level=1).items():
        for variable in values:
            if name == "setup":
                assert variable in SETUP + LIFECYCLE or variable.endswith("LOG_GROUP"), variable
            elif name == "enclave":
                assert f"${{{variable}}}" in unit
            else:
                assert variable in known, variable


def test_a_host_reaches_the_kms_of_its_own_region_only() -> None:
    endpoints = load_settings(ProxySettings, variables("host", "proxy")).kms_endpoints
    assert {(one.host, one.port) for one in endpoints} == {("kms.us-east-2.amazonaws.com", 443)}


def test_a_host_that_is_not_measured_shows_no_tpm() -> None:
    assert load_settings(WorkerSettings, variables("host", "worker")).tpm == "none"


def test_a_parent_speaks_tls_to_routers() -> None:
    values = variables("host", "parent")
    assert {"TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CLIENT_CA_FILE"} <= values.keys()
    for name in ("host.crt", "host.key", "callers.crt"):
        assert any(value.endswith(f"/{name}") for value in values.values())
        assert name in SETUP, "the setup writes it"


def test_the_allocator_sets_aside_what_the_enclave_takes() -> None:
    assert yaml.safe_load(allocator(SETTINGS)) == {"memory_mib": 4096, "cpu_count": 2}
    assert variables("enclave") == {"ENCLAVE_CPUS": "2", "ENCLAVE_MEMORY_MIB": "4096"}


def test_nothing_secret_is_in_user_data() -> None:
    text = user_data(SETTINGS, assurance_level=1)
    assert not re.search(r"PRIVATE KEY|AKIA[0-9A-Z]{16}|aws_secret|password", text, re.IGNORECASE)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mount_name": "a b"}, "mount_name is 'a b'"),
        ({"file_system_dns": "x;reboot"}, "file_system_dns is 'x;reboot'"),
        ({"default_model_pool": "$(id)"}, "default_model_pool"),
        ({"group_name": "a\nTPM=none"}, "group_name"),
        ({"registry_table": ""}, "registry_table"),
        ({"artefacts": replace(ARTEFACTS, eif_sha256="1" * 63)}, "eif_sha256"),
        ({"artefacts": replace(ARTEFACTS, wheel_sha256="A" * 64)}, "wheel_sha256"),
        ({"artefacts": replace(ARTEFACTS, bucket_name="a b")}, "bucket_name"),
        ({"artefacts": None}, "fetches its artefacts"),
    ],
)
def test_a_value_that_a_shell_could_misread_is_refused(change: Mapping[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        user_data(replace(SETTINGS, **change), assurance_level=1)


def test_logs_of_every_unit_are_shipped() -> None:
    content = files()["/etc/mrgc/fluent-bit.conf"]["content"]
    for unit in UNITS:
        assert f"_SYSTEMD_UNIT={unit}.service" in content
    assert "log_group_name /mrgc/staging/host" in content


class Machine:
    """The scripts' surroundings: the written files below a folder, and commands that write down how they were called.

    What would change this machine is a stub; curl, aws and nitro-cli answer as AWS would.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.eif, self.wheel = b"an enclave image", b"a wheel"
        self.state, self.ready, self.pcr0 = "InService", True, PCR0
        self.settings = replace(
            SETTINGS,
            artefacts=replace(
                ARTEFACTS,
                eif_sha256=hashlib.sha256(self.eif).hexdigest(),
                wheel_sha256=hashlib.sha256(self.wheel).hexdigest(),
            ),
        )

    def run(self, script: str, *, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        document = yaml.safe_load(user_data(self.settings, assurance_level=1))
        for one in document["write_files"]:
            path = self.root / one["path"].lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._moved(one["content"]))
        (self.root / "etc/systemd/system").mkdir(parents=True, exist_ok=True)
        (self.root / "etc/fstab").touch()
        (self.root / "etc/mrgc/tls").mkdir(exist_ok=True)
        self._stubs()
        path = f"{self.root}/bin:/usr/bin:/bin"
        return subprocess.run(
            ["bash", "-c", self._moved(script)],
            env={"PATH": path, **self._lifecycle_environment()},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    @property
    def calls(self) -> list[str]:
        log = self.root / "calls"
        return log.read_text().splitlines() if log.exists() else []

    def read(self, path: str) -> str:
        return (self.root / path).read_text()

    def _moved(self, text: str) -> str:
        for folder in ("/etc/", "/opt/"):
            text = re.sub(rf"(?<![\w}}]){folder}", f"{self.root}{folder}", text)
        return text.replace("FSX_MOUNT_POINT=/fsx", f"FSX_MOUNT_POINT={self.root}/fsx")

    def _lifecycle_environment(self) -> dict[str, str]:
        return {
            "GROUP_NAME": "mrgc-staging-gpu",
            "LAUNCH_HOOK": "mrgc-launch",
            "TERMINATE_HOOK": "mrgc-terminate",
            "INSTANCE_ID": "i-0123",
            "HOST_NAME": "ip-10-66-74-5.us-east-2.compute.internal",
        }

    def _stubs(self) -> None:
        log = self.root / "calls"
        meta = {
            "api/token": "echo token",
            "instance-id": "echo i-0123",
            "local-hostname": "echo ip-10-66-74-5.us-east-2.compute.internal",
            "target-lifecycle-state": f"echo {self.state}",
            "spot/instance-action": "exit 22",
            ":8080/health": "exit 0" if self.ready else "exit 22",
        }
        answers = "".join(f'case "$*" in *{ending}*) {then}; exit 0;; esac\n' for ending, then in meta.items())
        (self.root / "eif").write_bytes(self.eif)
        (self.root / "wheel").write_bytes(self.wheel)
        stubs = {
            "curl": answers + "exit 22",
            "aws": (
                f'echo "aws $*" >>{log}\n'
                f'case "$*" in *s3*enclave.eif*) cp {self.root}/eif "${{@: -1}}";;'
                f' *s3*whl*) cp {self.root}/wheel "${{@: -1}}";; *get-parameter*) echo pem;; esac'
            ),
            "nitro-cli": f"""echo '{{"Measurements": {{"PCR0": "{self.pcr0.upper()}"}}}}'""",
            # The groups do not exist here.
            "install": 'args=(); while [ $# -gt 0 ]; do case "$1" in -g) shift;; *) args+=("$1");; esac; shift; done\n'
            '/usr/bin/install "${args[@]}"',
            "mountpoint": "exit 1",
            "getent": "exit 2",
            "id": "exit 1",
            "sleep": f"[ -e {self.root}/over ] && exit 1; touch {self.root}/slept; exit 0",
        }
        for name in ("systemctl", "mount", "groupadd", "useradd", "usermod", "systemd-tmpfiles", "pip-stub"):
            stubs[name] = f'echo "{name} $*" >>{log}'
        folder = self.root / "bin"
        folder.mkdir(exist_ok=True)
        for name, body in stubs.items():
            (folder / name).write_text(f"#!/bin/bash\n{body}\n")
            (folder / name).chmod(0o755)
        python = self.root / "opt/mrgc/.venv/bin/python"
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text(
            f'#!/bin/bash\nif [ "$2" = pip ]; then pip-stub "${{@: -1}}"; else cd {ROOT} && exec /usr/bin/env -i '
            f'PYTHONPATH={ROOT} python3 "$@"; fi\n'
        )
        python.chmod(0o755)
        agent = self.root / "opt/aws/aws-otel-collector/bin/aws-otel-collector-ctl"
        agent.parent.mkdir(parents=True, exist_ok=True)
        agent.write_text(f'#!/bin/bash\necho "collector $*" >>{log}\n')
        agent.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_setup_mounts_the_store_and_starts_everything_in_order(machine: Machine) -> None:
    done = machine.run(SETUP)
    assert done.returncode == 0, done.stderr
    started = [call for call in machine.calls if call.startswith("systemctl enable")]
    assert [call.split()[-1] for call in started] == [
        "nitro-enclaves-allocator.service",
        "mrgc-logs.service",
        *(f"{unit}.service" for unit in UNITS),
        "mrgc-lifecycle.service",
    ]
    source = "fs-0123456789abcdef0.fsx.us-east-2.amazonaws.com@tcp:/abcdefgh"
    assert f"mount -t lustre -o relatime,flock {source} {machine.root}/fsx" in machine.calls
    assert machine.read("etc/fstab") == f"{source} {machine.root}/fsx lustre relatime,flock,_netdev 0 0\n"


def test_the_setup_installs_exactly_the_units_of_this_project(machine: Machine) -> None:
    machine.run(SETUP)
    for part in ("proxy", "enclave", "worker", "parent"):
        unit = (ROOT / f"dataplane/{part}/mrgc-{part}.service").read_text()
        assert machine.read(f"etc/systemd/system/mrgc-{part}.service") == unit


@pytest.mark.parametrize("part", ["proxy", "worker", "parent"])
def test_systemd_never_gives_a_part_up_that_fails_at_once_and_often(part: str) -> None:
    unit, _, service = (ROOT / f"dataplane/{part}/mrgc-{part}.service").read_text().partition("[Service]")
    assert "\nRestart=always\n" in service, "what ended is started again"
    assert "\nStartLimitIntervalSec=0\n" in unit, (
        "systemd's own limit, five starts in ten seconds, would leave a host down for a fault that passes by itself"
    )


def test_the_setup_tells_the_host_who_it_is(machine: Machine) -> None:
    machine.run(SETUP)
    assert "INSTANCE_ID=i-0123\n" in machine.read("etc/mrgc/host.env")
    assert "ADVERTISED_URL=https://ip-10-66-74-5.us-east-2.compute.internal:8080\n" in machine.read(
        "etc/mrgc/parent.env"
    )
    for name in ("collector.yaml", "fluent-bit.conf"):
        assert "@" not in machine.read(f"etc/mrgc/{name}"), "every placeholder is filled in"
    assert machine.read("etc/mrgc/tls/host.key") == "pem\n"


def test_an_artefact_that_is_not_what_its_name_says_stops_the_setup(machine: Machine) -> None:
    machine.eif = b"another image"
    done = machine.run(SETUP)
    assert done.returncode != 0
    assert "is not what its name says" in done.stderr
    assert not any("mrgc-parent.service" in call for call in machine.calls)


def test_an_enclave_image_of_another_measurement_stops_the_setup(machine: Machine) -> None:
    machine.pcr0 = "cd" * 48
    done = machine.run(SETUP)
    assert done.returncode != 0
    assert f"measures {'cd' * 48}, published is {PCR0}" in done.stderr
    assert not any("mrgc-enclave.service" in call for call in machine.calls)


def lifecycle_until_over(machine: Machine) -> list[str]:
    """Run the loop for its first three rounds."""
    bounded = LIFECYCLE.replace("while sleep 5", "rounds=0; while [ $((rounds += 1)) -le 3 ] && sleep 5")
    machine.run(bounded)
    return machine.calls


def test_a_host_that_serves_finishes_the_launch_once(machine: Machine) -> None:
    finished = [call for call in lifecycle_until_over(machine) if "complete-lifecycle-action" in call]
    assert len(finished) == 1
    assert "--lifecycle-hook-name mrgc-launch --lifecycle-action-result CONTINUE --instance-id i-0123" in finished[0]


def test_a_host_that_does_not_serve_finishes_nothing(machine: Machine) -> None:
    machine.ready = False
    assert lifecycle_until_over(machine) == []


def test_a_host_that_must_go_drains_before_it_says_so(machine: Machine) -> None:
    machine.state = "Terminated"
    assert [
        re.sub(r"--auto.*--lifecycle-hook-name (\S+).*", r"\1", call) for call in lifecycle_until_over(machine)
    ] == [
        "systemctl stop mrgc-parent.service",
        "systemctl stop mrgc-worker.service mrgc-enclave.service mrgc-proxy.service",
        "aws autoscaling complete-lifecycle-action mrgc-terminate",
    ]
