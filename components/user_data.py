"""What a GPU host is told at its first boot: a cloud-config for level 1, plain settings for level 2.

**Level 1.** The AMI carries what is large or close to the kernel; user data brings the rest and starts it. Of this
project it fetches two artefacts from the model bucket, each under a key that names its SHA-256, checked after the
download: the enclave image (EIF), whose PCR0 is compared too, and the wheel, which holds the `mrgc` command and the
four systemd units. Nothing comes from a registry, so a host needs no right to one. A parent and its routers know each
other by certificates; the host's own come from SecureString parameters, for user data holds no secret.

**Level 2.** There the claim is the measured image, and user data is not measured: an image that ran scripts out of it
would attest to anything. So the text has no script; it is `KEY=value` lines that a unit *inside* the measured image
reads, and cloud-init is not in that image.

No AMI build exists yet. docs/fleet.md lists what each of the two images must carry.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from components.host_role import ARTEFACTS_PREFIX, HOST, SECRETS
from components.placement import Placement
from components.task import OTLP_ENDPOINT, collector_config

MAX_USER_DATA_BYTES: Final = 16_384
"""EC2's limit before base64 (EC2 user guide, "Instance user data"): 16 KiB.

Level 1 with the longest names takes some 11,500 bytes: 2,600 of collector settings, 5,300 of scripts and units, 1,700
of environment files, the rest YAML. A test holds it to three quarters of the limit.
"""
MOUNT_POINT: Final = "/fsx"
PARENT_PORT: Final = 8080
TLS_PATH: Final = "/etc/mrgc/tls"
LAUNCH_HOOK: Final = "mrgc-launch"
TERMINATE_HOOK: Final = "mrgc-terminate"
UNITS: Final = ("mrgc-proxy", "mrgc-enclave", "mrgc-worker", "mrgc-parent")
"""In the order in which they are started: each after what it talks to."""
HEADER_LEVEL_2: Final = "# mrgc-host 1"
"""First line of level 2's settings; cloud-init, were it there, knows no such kind of user data and runs nothing."""

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Artefacts:
    """Where level 1's hosts find the enclave image and the wheel: digests in lower-case hex, `version` the wheel's."""

    bucket_name: str
    eif_sha256: str
    pcr0: str
    wheel_sha256: str
    version: str

    def eif_key(self) -> str:
        """The enclave image's key in the bucket."""
        return f"{ARTEFACTS_PREFIX}{self.eif_sha256}/mrgc-enclave.eif"

    def wheel_key(self) -> str:
        """The wheel's key; pip takes a wheel only under its own name."""
        return f"{ARTEFACTS_PREFIX}{self.wheel_sha256}/mrgc-{self.version}-py3-none-any.whl"


@dataclass(frozen=True, kw_only=True)
class HostSettings:
    """Everything that user data says. Plain text, and nothing secret: whoever may describe instances may read it."""

    placement: Placement
    group_name: str
    file_system_dns: str
    mount_name: str
    registry_table: str
    default_model_pool: str
    log_group_name: str
    metrics_log_group_name: str
    enclave_memory_mib: int
    enclave_cpus: int
    artefacts: Artefacts | None


def user_data(settings: HostSettings, *, assurance_level: int) -> str:
    """The text for a host of an assurance level, 1 or 2.

    Raises ValueError for a value that a shell or an environment file could misread, and for text over
    `MAX_USER_DATA_BYTES`.
    """
    _check(settings)
    if assurance_level == 1:
        if settings.artefacts is None:
            raise ValueError("A host of level 1 fetches its artefacts: say which.")
        text = _cloud_config(_files(settings))
    else:
        flat: dict[str, str] = {}
        for values in environments(settings, assurance_level=assurance_level).values():
            flat |= values
        text = f"{HEADER_LEVEL_2}\n{_lines(flat)}"
    if len(text.encode()) > MAX_USER_DATA_BYTES:
        raise ValueError(f"The user data has {len(text.encode())} bytes; EC2 takes {MAX_USER_DATA_BYTES}.")
    return text


def encoded(text: str) -> str:
    """User data as a launch template takes it."""
    return base64.b64encode(text.encode()).decode()


def environments(settings: HostSettings, *, assurance_level: int) -> dict[str, dict[str, str]]:
    """The variables of each environment file below /etc/mrgc, by its name (docs: parent, enclave, worker).

    `host` is read by proxy, worker and parent; INSTANCE_ID joins it at boot. `setup` is for the two scripts.
    """
    worker = {"TPM": "none"} if assurance_level == 1 else {}
    artefacts = settings.artefacts
    fetched = (
        {
            "BUCKET": artefacts.bucket_name,
            "EIF_KEY": artefacts.eif_key(),
            "EIF_SHA256": artefacts.eif_sha256,
            "EIF_PCR0": artefacts.pcr0.lower(),
            "WHEEL_KEY": artefacts.wheel_key(),
            "WHEEL_SHA256": artefacts.wheel_sha256,
        }
        if artefacts is not None and assurance_level == 1
        else {}
    )
    return {
        "host": {
            "MRGC_REGION": settings.placement.region,
            "AWS_DEFAULT_REGION": settings.placement.region,
            "FSX_MOUNT_POINT": MOUNT_POINT,
            "DEFAULT_MODEL_POOL": settings.default_model_pool,
            "REGISTRY_TABLE": settings.registry_table,
        },
        # ADVERTISED_URL joins at boot: https, by the instance's private name, which the certificate is for.
        "parent": {
            "OTEL_EXPORTER_OTLP_ENDPOINT": OTLP_ENDPOINT,
            "HTTP_PORT": str(PARENT_PORT),
            "TLS_CERT_FILE": f"{TLS_PATH}/{SECRETS['host-certificate']}",
            "TLS_KEY_FILE": f"{TLS_PATH}/{SECRETS['host-key']}",
            "TLS_CLIENT_CA_FILE": f"{TLS_PATH}/{SECRETS['callers-ca']}",
        },
        # The own region's KMS only: the others' have no endpoint in this VPC, and there is no other way out.
        "proxy": {"KMS_ENDPOINTS": f"kms.{settings.placement.region}.amazonaws.com:443"},
        # The unit says TPM=nitro; a host that is not measured has nothing to show.
        "worker": worker,
        "enclave": {
            "ENCLAVE_CPUS": str(settings.enclave_cpus),
            "ENCLAVE_MEMORY_MIB": str(settings.enclave_memory_mib),
        },
        "setup": {
            "FSX_DNS": settings.file_system_dns,
            "FSX_MOUNT_NAME": settings.mount_name,
            "GROUP_NAME": settings.group_name,
            "LAUNCH_HOOK": LAUNCH_HOOK,
            "TERMINATE_HOOK": TERMINATE_HOOK,
            "SECRETS_PATH": settings.placement.path(HOST),
            "LOG_GROUP": settings.log_group_name,
            "METRICS_LOG_GROUP": settings.metrics_log_group_name,
            **fetched,
        },
    }


def allocator(settings: HostSettings) -> str:
    """/etc/nitro_enclaves/allocator.yaml: memory in MiB and cores that the instance gives up for the enclave."""
    return f"---\nmemory_mib: {settings.enclave_memory_mib}\ncpu_count: {settings.enclave_cpus}\n"


SETUP: Final = r"""#!/bin/bash
# Makes this instance an MRGC host: store, enclave memory, artefacts, units. cloud-init runs it once.
set -euo pipefail
set -a; . /etc/mrgc/host.env; . /etc/mrgc/setup.env; set +a
fail() { echo "mrgc-setup: $*" >&2; exit 1; }
retry() { for _ in $(seq 30); do "$@" && return 0; sleep 5; done; fail "gave up: $*"; }
imds=http://169.254.169.254/latest
token=$(curl -sSf -m 5 -X PUT "$imds/api/token" -H "X-aws-ec2-metadata-token-ttl-seconds: 300")
meta() { curl -sSf -m 5 -H "X-aws-ec2-metadata-token: $token" "$imds/meta-data/$1"; }
id=$(meta instance-id)
name=$(meta local-hostname)
echo "INSTANCE_ID=$id" >>/etc/mrgc/host.env
echo "ADVERTISED_URL=https://$name:8080" >>/etc/mrgc/parent.env
echo "HOST_NAME=$name" >>/etc/mrgc/setup.env
sed -i -e "s/@INSTANCE_ID@/$id/" -e "s/@HOST_NAME@/$name/" /etc/mrgc/collector.yaml /etc/mrgc/fluent-bit.conf

for group in mrgc tss; do getent group "$group" >/dev/null || groupadd --system "$group"; done
for user in mrgc-parent mrgc-proxy mrgc-worker; do
  id "$user" >/dev/null 2>&1 || useradd --system --user-group --no-create-home --shell /sbin/nologin "$user"
done
systemd-tmpfiles --create /etc/tmpfiles.d/mrgc.conf

# Certificate, key and callers' authorities: for the parent, and for the collector, which reads its metrics.
! id aoc >/dev/null 2>&1 || usermod -aG mrgc-parent aoc
install -d -m 0750 -g mrgc-parent /etc/mrgc/tls
secret() { # parameter, file
  aws ssm get-parameter --with-decryption --name "$SECRETS_PATH/$1" --query Parameter.Value --output text |
    install -m 0640 -g mrgc-parent /dev/stdin "/etc/mrgc/tls/$2"
}
retry secret host-certificate host.crt
retry secret host-key host.key
retry secret callers-ca callers.crt

mkdir -p "$FSX_MOUNT_POINT"
line="$FSX_DNS@tcp:/$FSX_MOUNT_NAME $FSX_MOUNT_POINT lustre relatime,flock,_netdev 0 0"
grep -qF "$line" /etc/fstab || echo "$line" >>/etc/fstab
systemctl daemon-reload
mounted() {
  mountpoint -q "$FSX_MOUNT_POINT" ||
    mount -t lustre -o relatime,flock "$FSX_DNS@tcp:/$FSX_MOUNT_NAME" "$FSX_MOUNT_POINT"
}
retry mounted

fetch() { # key, SHA-256, file
  retry aws s3 cp --only-show-errors "s3://$BUCKET/$1" "$3"
  echo "$2  $3" | sha256sum --check --quiet || { rm -f "$3"; fail "$1 is not what its name says"; }
}
mkdir -p /opt/mrgc
fetch "$EIF_KEY" "$EIF_SHA256" /opt/mrgc/mrgc-enclave.eif
wheel="/opt/mrgc/${WHEEL_KEY##*/}"
fetch "$WHEEL_KEY" "$WHEEL_SHA256" "$wheel"
python=/opt/mrgc/.venv/bin/python
pcr0=$(nitro-cli describe-eif --eif-path /opt/mrgc/mrgc-enclave.eif |
  "$python" -c 'import json, sys; print(json.load(sys.stdin)["Measurements"]["PCR0"].lower())')
[ "$pcr0" = "$EIF_PCR0" ] || fail "the enclave image measures $pcr0, published is $EIF_PCR0"
"$python" -m pip install --quiet --no-index --no-deps --force-reinstall "$wheel"
units=$("$python" -c 'import dataplane, pathlib; print(pathlib.Path(dataplane.__file__).parent)')
for part in proxy enclave worker parent; do
  install -m 0644 "$units/$part/mrgc-$part.service" /etc/systemd/system/
done
systemctl daemon-reload

systemctl enable --now nitro-enclaves-allocator.service
# Neither is worth a host: without them it serves and is not seen.
/opt/aws/aws-otel-collector/bin/aws-otel-collector-ctl -c /etc/mrgc/collector.yaml -a start ||
  echo "mrgc-setup: no collector" >&2
systemctl enable --now mrgc-logs.service || echo "mrgc-setup: no log shipper" >&2
for part in proxy enclave worker parent lifecycle; do systemctl enable --now "mrgc-$part.service"; done
"""

LIFECYCLE: Final = r"""#!/bin/bash
# Tells the fleet when this host serves, and drains it when it has to go.
set -uo pipefail
imds=http://169.254.169.254/latest
meta() {
  local token
  token=$(curl -sf -m 2 -X PUT "$imds/api/token" -H "X-aws-ec2-metadata-token-ttl-seconds: 60") || return 1
  curl -sf -m 2 -H "X-aws-ec2-metadata-token: $token" "$imds/meta-data/$1"
}
finish() { # hook
  aws autoscaling complete-lifecycle-action --auto-scaling-group-name "$GROUP_NAME" \
    --lifecycle-hook-name "$1" --lifecycle-action-result CONTINUE --instance-id "$INSTANCE_ID"
}
ready() {
  curl -sf -m 4 -o /dev/null --cacert callers.crt --cert host.crt --key host.key "https://$HOST_NAME:8080/health"
}
cd /etc/mrgc/tls || exit 1
tries=0
while sleep 5; do
  if [ "$(meta autoscaling/target-lifecycle-state)" = Terminated ] || meta spot/instance-action >/dev/null; then
    systemctl stop mrgc-parent.service # drains: docs/parent.md
    systemctl stop mrgc-worker.service mrgc-enclave.service mrgc-proxy.service
    finish "$TERMINATE_HOOK"
    exit 0
  fi
  # Ready: the enclave has credentials and the worker's key, and the worker has answered a request.
  if [ "$tries" -lt 60 ] && ready; then
    # Refused where no hook waits, as after a restart of this program: then it is given up.
    if finish "$LAUNCH_HOOK"; then tries=60; else tries=$((tries + 1)); fi
  fi
done
"""

LIFECYCLE_UNIT: Final = """\
[Unit]
Description=MRGC lifecycle: reports this host ready, drains it when it goes
After=mrgc-parent.service

[Service]
EnvironmentFile=/etc/mrgc/host.env
EnvironmentFile=/etc/mrgc/setup.env
ExecStart=/usr/local/sbin/mrgc-lifecycle
Restart=on-failure
RestartSec=5

[Install]
WantedBy=multi-user.target
"""

LOGS_UNIT: Final = """\
[Unit]
Description=MRGC logs: the units' journal to CloudWatch
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/opt/fluent-bit/bin/fluent-bit -c /etc/mrgc/fluent-bit.conf
Restart=always
RestartSec=5

[Install]
WantedBy=multi-user.target
"""


def fluent_bit(settings: HostSettings) -> str:
    """Fluent Bit's configuration: the journal of this host's units into one stream of the hosts' log group."""
    filters = "".join(f"    Systemd_Filter _SYSTEMD_UNIT={unit}.service\n" for unit in (*UNITS, "mrgc-lifecycle"))
    return (
        "[SERVICE]\n    Flush 5\n"
        f"[INPUT]\n    Name systemd\n    Tag host\n    Systemd_Filter_Type Or\n{filters}"
        f"[OUTPUT]\n    Name cloudwatch_logs\n    Match *\n    region {settings.placement.region}\n"
        f"    log_group_name {settings.log_group_name}\n    log_stream_name @INSTANCE_ID@\n    auto_create_group Off\n"
    )


def _files(settings: HostSettings) -> dict[str, tuple[str, str]]:
    """Path to mode and content."""
    collector = collector_config(
        settings.placement,
        log_group=settings.metrics_log_group_name,
        service=HOST,
        target=f"@HOST_NAME@:{PARENT_PORT}",
        tls={
            "ca_file": f"{TLS_PATH}/callers.crt",
            "cert_file": f"{TLS_PATH}/host.crt",
            "key_file": f"{TLS_PATH}/host.key",
        },
    )
    found = {
        f"/etc/mrgc/{name}.env": ("0644", _lines(values))
        for name, values in environments(settings, assurance_level=1).items()
    }
    return {
        **found,
        "/etc/nitro_enclaves/allocator.yaml": ("0644", allocator(settings)),
        "/etc/tmpfiles.d/mrgc.conf": ("0644", "d /run/mrgc 0770 root mrgc\n"),
        "/etc/mrgc/collector.yaml": ("0644", collector + "\n"),
        "/etc/mrgc/fluent-bit.conf": ("0644", fluent_bit(settings)),
        "/etc/systemd/system/mrgc-logs.service": ("0644", LOGS_UNIT),
        "/etc/systemd/system/mrgc-lifecycle.service": ("0644", LIFECYCLE_UNIT),
        "/usr/local/sbin/mrgc-lifecycle": ("0755", LIFECYCLE),
        "/usr/local/sbin/mrgc-setup": ("0755", SETUP),
    }


def _cloud_config(files: Mapping[str, tuple[str, str]]) -> str:
    parts = ["#cloud-config", "write_files:"]
    for path, (mode, content) in files.items():
        parts += [f"- path: {path}", f"  permissions: '{mode}'", "  content: |"]
        parts += [f"    {line}" if line else "" for line in content.rstrip("\n").split("\n")]
    parts += ["runcmd:", "- [/usr/local/sbin/mrgc-setup]", ""]
    return "\n".join(parts)


def _lines(values: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in values.items())


def _check(settings: HostSettings) -> None:
    """Let nothing through that a shell, an environment file or a mount option could take for something else."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        leading = field.name.endswith("log_group_name")  # log groups begin with a slash
        if isinstance(value, str) and not _SAFE.fullmatch(value[1:] if leading and value[:1] == "/" else value):
            raise ValueError(f"{field.name} is {value!r}; letters, digits, dots, slashes and dashes are what is taken.")
    if settings.artefacts is None:
        return
    for name in ("eif_sha256", "wheel_sha256"):
        if not _SHA256.fullmatch(getattr(settings.artefacts, name)):
            raise ValueError(f"{name} is {getattr(settings.artefacts, name)!r}; expected 64 lower-case hex digits.")
    for name in ("bucket_name", "version", "pcr0"):
        if not _SAFE.fullmatch(getattr(settings.artefacts, name)):
            raise ValueError(f"{name} is {getattr(settings.artefacts, name)!r}, which is no such name.")
