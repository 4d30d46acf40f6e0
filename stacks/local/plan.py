"""The processes of a local cluster, as plain values: which program, which environment, which port, in which order.

Pure: ports and paths are given, nothing is started and nothing is read. The variables are each sidecar's own settings
(docs of the sidecars); the plan only says what loopback makes of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataplane.protocol.errors import MrgcError
from stacks.local.layout import PROJECT_ROOT, Layout, short_name
from stacks.local.options import MODEL_POOL, TAMPERED_POOL, ClusterOptions
from stacks.local.supervisor import ProcessSpec

FIXED_PORTS = 4
"""Embedded AWS over HTTP and over HTTPS, the accelerator's admin port, the console."""

REGION_PORTS = 2
"""A router's TLS and admin ports."""

HOST_PORTS = 2
"""A parent's port, and the tap's in front of it."""

LOOPBACK = "127.0.0.1"
ROLES = ("proxy", "worker", "enclave", "parent")
"""A host's processes, in the order in which they are started."""

DRAIN_TIMEOUT_S = 3
"""On one machine nobody waits half a minute for a drain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPlan:
    """One host: its processes by role, in the order of `ROLES`."""

    region: str
    id: str
    short: str
    pool: str
    engine: str
    port: int
    tap_port: int | None
    tampered: bool
    processes: Mapping[str, ProcessSpec]

    @property
    def parent(self) -> str:
        """The parent's URL."""
        return f"http://{LOOPBACK}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionPlan:
    """One region: its router and its hosts."""

    name: str
    port: int
    admin_port: int
    router: ProcessSpec
    hosts: tuple[HostPlan, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole cluster."""

    options: ClusterOptions
    layout: Layout
    aws: ProcessSpec
    accelerator: ProcessSpec
    console: ProcessSpec
    tap: ProcessSpec | None
    regions: tuple[RegionPlan, ...]
    aws_port: int
    kms_port: int
    admin_port: int
    console_port: int

    @property
    def hosts(self) -> Iterator[HostPlan]:
        """Every host of every region."""
        return (host for region in self.regions for host in region.hosts)

    @property
    def aws_url(self) -> str:
        """The embedded AWS over HTTP."""
        return f"http://{LOOPBACK}:{self.aws_port}"

    def stop_order(self) -> list[list[str]]:
        """Names in the order in which they end: who sends requests first, who answers them last."""
        hosts = [host.processes for host in self.hosts]
        return [
            [self.accelerator.name, self.console.name],
            [region.router.name for region in self.regions],
            [processes["parent"].name for processes in hosts],
            [processes[role].name for processes in hosts for role in ("enclave", "worker")],
            [processes["proxy"].name for processes in hosts],
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """What the plan puts into environments and never into a file that the plan writes."""

    access_key_id: str
    secret_access_key: str = field(repr=False)


class PlanError(MrgcError):
    """Options that make no cluster."""


def ports_needed(options: ClusterOptions) -> int:
    """Return how many ports `make_plan` takes beside the endpoint's."""
    hosts = options.regions * options.hosts + int(options.tampered)
    return FIXED_PORTS + options.regions * REGION_PORTS + hosts * HOST_PORTS


def instance_id(region: str, number: int) -> str:
    """Return a host's instance id: shaped like EC2's, the same in every run."""
    return f"i-{hashlib.sha256(f'{region}/{number}'.encode()).hexdigest()[:17]}"


def make_plan(
    options: ClusterOptions,
    layout: Layout,
    *,
    ports: list[int],
    python: str,
    engine_python: str,
    pcrs: Mapping[int, bytes],
    router_keys: Secrets,
) -> Plan:
    """Lay out every process.

    `ports` are `ports_needed(options)` free ports; `pcrs` (PCR0 to PCR2, 48 bytes each) are what a good enclave
    measures; `router_keys` let the routers read the registry (hosts use their instance role). Raises `PlanError` for
    too few ports.
    """
    if len(ports) < ports_needed(options):
        raise PlanError(f"The plan needs {ports_needed(options)} ports and was given {len(ports)}.")
    builder = _Builder(options, layout, iter(ports), python, engine_python, pcrs, router_keys)
    return builder.plan()


@dataclass(slots=True)
class _Builder:
    options: ClusterOptions
    layout: Layout
    ports: Iterator[int]
    python: str
    engine_python: str
    pcrs: Mapping[int, bytes]
    router_keys: Secrets
    aws_port: int = 0
    kms_port: int = 0

    def plan(self) -> Plan:
        self.aws_port, self.kms_port, admin_port, console_port = (next(self.ports) for _ in range(FIXED_PORTS))
        regions = tuple(self._region(name) for name in self.options.region_names)
        return Plan(
            options=self.options,
            layout=self.layout,
            aws=self._aws(),
            accelerator=self._process(
                "accelerator",
                ("-m", "stacks.local.accelerator", str(self.layout.accelerator_file)),
                {},
            ),
            console=self._process(
                "console", ("-m", "stacks.local.console", str(self.layout.root), str(console_port)), {}
            ),
            tap=self._tap(regions) if self.options.tap else None,
            regions=regions,
            aws_port=self.aws_port,
            kms_port=self.kms_port,
            admin_port=admin_port,
            console_port=console_port,
        )

    def _process(
        self,
        name: str,
        arguments: tuple[str, ...],
        env: Mapping[str, str],
        *,
        python: str | None = None,
        **where: str,
    ) -> ProcessSpec:
        return ProcessSpec(
            name=name,
            argv=(python or self.python, *arguments),
            # -m finds the project's packages from wherever `mrgc` was called.
            env={"PYTHONPATH": str(PROJECT_ROOT), "PYTHONUNBUFFERED": "1", **env},
            log=self.layout.logs / f"{name}.log",
            **({"role": name} | where),
        )

    def _aws(self) -> ProcessSpec:
        certificate, key = self.layout.pki / "server.pem", self.layout.pki / "server.key.pem"
        return self._process(
            "aws",
            ("-m", "stacks.local.aws"),
            {
                "AWS_HTTP_HOST": LOOPBACK,
                "AWS_HTTP_PORT": str(self.aws_port),
                "AWS_HTTPS_PORT": str(self.kms_port),
                "TLS_CERT_FILE": str(certificate),
                "TLS_KEY_FILE": str(key),
                "PRINCIPALS_FILE": str(self.layout.principals_file),
                "NSM_ROOT_FILE": str(self.layout.pki / "nsm-root.pem"),
                "SPANS_FILE": str(self.layout.spans_file),
            },
        )

    def _tap(self, regions: tuple[RegionPlan, ...]) -> ProcessSpec:
        routes = ",".join(f"{host.tap_port}:{host.port}" for host in regions[0].hosts if host.tap_port)
        return self._process("tap", ("-m", "stacks.local.demo.tap", routes, str(self.layout.captures)), {})

    def _region(self, region: str) -> RegionPlan:
        port, admin_port = (next(self.ports) for _ in range(REGION_PORTS))
        first = region == self.options.region_names[0]
        hosts = [self._host(region, number, tapped=first and self.options.tap) for number in range(self.options.hosts)]
        if first and self.options.tampered:
            hosts.append(self._host(region, self.options.hosts, tampered=True))
        router = self._process(
            f"router-{short_name(region, 0)[:-2]}",
            ("-m", "dataplane.router"),
            {
                **self._common(region, f"router-{region}"),
                **self._telemetry(),
                "HTTP_HOST": LOOPBACK,
                "HTTP_PORT": str(port),
                "ADMIN_HOST": LOOPBACK,
                "ADMIN_PORT": str(admin_port),
                "TLS_CERT_FILE": str(self.layout.pki / "server.pem"),
                "TLS_KEY_FILE": str(self.layout.pki / "server.key.pem"),
                "TENANTS_FILE": str(self.layout.tenants_file),
                # A drain is awaited, so serving on for the load balancer's sake is kept short.
                "DRAIN_DELAY_S": "0.5",
                "AWS_ENDPOINT_URL_DYNAMODB": f"http://{LOOPBACK}:{self.aws_port}",
                "AWS_ACCESS_KEY_ID": self.router_keys.access_key_id,
                "AWS_SECRET_ACCESS_KEY": self.router_keys.secret_access_key,
            },
            role="router",
            region=region,
        )
        return RegionPlan(name=region, port=port, admin_port=admin_port, router=router, hosts=tuple(hosts))

    def _host(self, region: str, number: int, *, tapped: bool = False, tampered: bool = False) -> HostPlan:
        port, tap_port = (next(self.ports) for _ in range(HOST_PORTS))
        host_id, short = instance_id(region, number), short_name(region, number)
        pool = TAMPERED_POOL if tampered else MODEL_POOL
        engine = "synthetic" if tampered else self.options.engine
        fsx = self.layout.fsx_tampered if tampered else self.layout.fsx
        common = self._common(region, host_id)
        where = {"region": region, "host": host_id}
        socket = {name: f"unix:{self.layout.socket(short, name)}" for name in ("proxy", "enclave", "kms", "worker")}
        processes = {
            "proxy": self._process(
                f"proxy-{short}",
                ("-m", "dataplane.proxy"),
                common
                | {
                    "PARENT_ADDRESS": socket["proxy"],
                    "ENCLAVE_ADDRESS": socket["enclave"],
                    "KMS_LISTEN_ADDRESS": socket["kms"],
                    "KMS_ENDPOINTS": f"{LOOPBACK}:{self.kms_port}",
                },
                role="proxy",
                **where,
            ),
            "worker": self._process(
                f"worker-{short}",
                ("-m", "stacks.local.worker"),
                common
                | self._worker(engine, fsx, pool, socket["worker"])
                | {"MODEL_CACHE_DIR": str(self.layout.model_copies / short)},
                python=self.engine_python if engine == "vllm" else self.python,
                role="worker",
                **where,
            ),
            "enclave": self._process(
                f"enclave-{short}",
                ("-m", "stacks.local.enclave"),
                common | self._enclave(socket, tampered=tampered),
                role="enclave",
                **where,
            ),
            "parent": self._process(
                f"parent-{short}",
                ("-m", "dataplane.parent"),
                common
                | self._telemetry()
                | {
                    "HTTP_HOST": LOOPBACK,
                    "HTTP_PORT": str(port),
                    "ADVERTISED_URL": f"http://{LOOPBACK}:{tap_port if tapped else port}",
                    "ENCLAVE_PROXY_ADDRESS": socket["proxy"],
                    "WORKER_ADDRESS": socket["worker"],
                    "FSX_MOUNT_POINT": str(fsx),
                    "DEFAULT_MODEL_POOL": pool,
                    "AWS_ENDPOINT_URL_DYNAMODB": f"http://{LOOPBACK}:{self.aws_port}",
                    "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{LOOPBACK}:{self.aws_port}",
                },
                role="parent",
                **where,
            ),
        }
        return HostPlan(
            region=region,
            id=host_id,
            short=short,
            pool=pool,
            engine=engine,
            port=port,
            tap_port=tap_port if tapped else None,
            tampered=tampered,
            processes=processes,
        )

    def _common(self, region: str, identity: str) -> dict[str, str]:
        return {
            "MRGC_REGION": region,
            "AWS_REGION": region,
            "AWS_DEFAULT_REGION": region,
            "INSTANCE_ID": identity,
            "DRAIN_TIMEOUT_S": str(DRAIN_TIMEOUT_S),
        }

    def _telemetry(self) -> dict[str, str]:
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{LOOPBACK}:{self.aws_port}"}

    def _worker(self, engine: str, fsx: Path, pool: str, address: str) -> dict[str, str]:
        return {
            "ENGINE": engine,
            "WORKER_LISTEN_ADDRESS": address,
            "FSX_MOUNT_POINT": str(fsx),
            "DEFAULT_MODEL_POOL": pool,
            # Several engines share the machine's cores: one thread each, or they wait for one another.
            "OMP_NUM_THREADS": "1",
        }

    def _enclave(self, socket: Mapping[str, str], *, tampered: bool) -> dict[str, str]:
        pcrs = {number: bytes(value) for number, value in self.pcrs.items()}
        if tampered:
            # One changed byte of the image is another PCR0 altogether; this is one.
            pcrs[0] = hashlib.sha384(b"another image" + pcrs[0]).digest()
        return {
            "ENCLAVE_LISTEN_ADDRESS": socket["enclave"],
            "KMS_PROXY_ADDRESS": socket["kms"],
            "AWS_ENDPOINT_URL_KMS": f"https://{LOOPBACK}:{self.kms_port}",
            "AWS_CA_BUNDLE": str(self.layout.pki / "ca.pem"),
            "NSM_ROOT_FILE": str(self.layout.pki / "nsm-root.pem"),
            "NSM_ROOT_KEY_FILE": str(self.layout.pki / "nsm-root.key.pem"),
            "HOST_MEASUREMENTS_FILE": str(self.layout.host_rules_file),
            **{f"PCR{number}": value.hex() for number, value in pcrs.items()},
        }


def accelerator_settings(plan: Plan) -> dict[str, Any]:
    """Return the accelerator's settings file: one endpoint a region, checked at its router's `/health`."""
    return {
        "listen_port": plan.options.port,
        "admin_port": plan.admin_port,
        "groups": [
            {
                "region": region.name,
                "endpoints": [
                    {
                        "name": region.name,
                        "port": region.port,
                        "health_url": f"https://{LOOPBACK}:{region.port}/health",
                    }
                ],
            }
            for region in plan.regions
        ],
        "health": {"interval_s": plan.options.health_interval_s, "timeout_s": 2.0},
    }
