"""The router of one region as an ECS service on Fargate. docs/router-service.md says what it needs to run.

Two facts shape it. Ports below 1024 and files of secrets: the router is not root and reads certificate, key and
tenants from files, so the task opens port 443 by a kernel parameter, and a container that runs first writes the three
files into a volume of the task's own storage. And readiness: the router's `/health` fails while its region has no host,
which must turn traffic away and must not make ECS replace routers that work (`GRACE_S`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pulumi
import pulumi_aws as aws

from components.permissions import open_secrets, parameter_arn, read_hosts, send_traces, use_table_key, write_logs
from components.placement import Placement
from components.task import (
    COLLECTOR_CPU,
    COLLECTOR_MEMORY_MIB,
    OTLP_ENDPOINT,
    Container,
    collector_container,
    environment,
    execution_statements,
    hardening,
    logging,
    task_roles,
)
from observability.metrics import NAMESPACE, PLACE, ROUTER_IN_FLIGHT

_Dimension = aws.appautoscaling.PolicyTargetTrackingScalingPolicyConfigurationCustomizedMetricSpecificationDimensionArgs

TENANT_PORT: Final = 443
ADMIN_PORT: Final = 8080
SERVICE: Final = "router"
HOSTS_TABLE: Final = "gpu_instances"

HEALTH_INTERVAL_S: Final = 10
HEALTH_THRESHOLD: Final = 2
DRAIN_DELAY_S: Final = 25
"""Served on with health false: two failed checks of 10 s, and 5 s for the load balancer to act on them."""
DRAIN_TIMEOUT_S: Final = 105
"""The whole drain. With the 10 s that a sidecar may take beyond it, 115 s: within `STOP_TIMEOUT_S`."""
STOP_TIMEOUT_S: Final = 120
"""Longest that Fargate lets a container have between SIGTERM and SIGKILL (ECS task definition parameters)."""
DEREGISTRATION_S: Final = DRAIN_TIMEOUT_S
"""What the target group's deregistration delay should be: connections in flight live no longer than the drain."""

GRACE_S: Final = 2_147_483_647
"""Health checks never stop a task: ECS's longest grace period.

The load balancer's check asks whether the region can serve. While it has no host, replacing routers would not help,
would cut what is in flight, and would fail every deployment. A router that dies is replaced (its container is
essential); one that hangs gets no traffic, and the alarm `router-stuck` tells of it.
"""

CPU_TARGET_PERCENT: Final = 55
"""One of three zones lost puts half as much again on the rest: 55 becomes 83 %."""
IN_FLIGHT_TARGET: Final = 1024
"""Requests at once for each router, a quarter of `MAX_IN_FLIGHT`: load can double twice before any is refused."""
SCALE_OUT_COOLDOWN_S: Final = 60
SCALE_IN_COOLDOWN_S: Final = 300

FILES_PATH: Final = "/run/mrgc"
FILES: Final = {
    "TLS_CERT_FILE": "tls-certificate",
    "TLS_KEY_FILE": "tls-key",
    "HOSTS_CA_FILE": "hosts-ca",
    "HOSTS_CERT_FILE": "hosts-certificate",
    "HOSTS_KEY_FILE": "hosts-key",
    "TENANTS_FILE": "tenants",
}
"""The router's variables that name files, with each file's name: its parameter's too, below /mrgc/<env>/router/."""
MAX_TENANT_PARTS: Final = 10
"""Parameters that the tenants file may be cut into: 8 KiB each (SSM, advanced tier), some 27 tenants."""

WRITE_FILES: Final = """\
import os, pathlib
os.umask(0o077)
for variable in sorted(name for name in os.environ if name.startswith("FILE_")):
    path = pathlib.Path("/run/mrgc") / variable[8:].replace("_", "-")
    with path.open("a", encoding="utf-8") as file:
        file.write(os.environ[variable])
"""
"""Writes the variables `FILE_<part>_<name>` to files, parts in order, readable by their owner only."""

ALIVE: Final = (
    "import http.client; c = http.client.HTTPConnection('127.0.0.1', 8080, timeout=4); "
    "c.request('GET', '/health'); c.getresponse().read()"
)
"""Any answer is a living router: 503 says that the region cannot serve, which is the load balancer's business."""


@dataclass(frozen=True, kw_only=True)
class RouterServiceArgs:
    """`image` and `collector_image`: full references by digest in this region's registry. `cpu` in units of 1/1024.

    `target_group_arns`: IP target groups, each to the router's port 443; `listeners`: what attaches them to a load
    balancer, for ECS refuses a target group without one. `table_names`: by the tables' short names. `secrets_key_arn`:
    the key of the SecureString parameters, None for the account's `aws/ssm`.
    """

    placement: Placement
    cluster_arn: pulumi.Input[str]
    cluster_name: pulumi.Input[str]
    subnet_ids: Sequence[pulumi.Input[str]]
    security_group_id: pulumi.Input[str]
    target_group_arns: Sequence[pulumi.Input[str]]
    image: str
    collector_image: str
    cpu: int
    memory_mib: int
    min: int
    max: int
    log_group_name: str
    collector_log_group_name: str
    table_names: Mapping[str, str]
    tables_key_arn: pulumi.Input[str]
    listeners: Sequence[pulumi.Resource] = ()
    tenant_parts: int = 1
    secrets_key_arn: pulumi.Input[str] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.tenant_parts <= MAX_TENANT_PARTS:
            raise ValueError(
                f"tenant_parts is {self.tenant_parts}; the tenants file has 1 to {MAX_TENANT_PARTS} parts."
            )


class RouterService(pulumi.ComponentResource):
    """The service with its roles and its scaling. Outputs: `service_name`, `task_role_arn`."""

    def __init__(self, name: str, args: RouterServiceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mrgc:router_service:RouterService", name, None, opts)
        place = args.placement
        table = args.table_names[HOSTS_TABLE]
        more: dict[str, tuple[str, pulumi.Input[str]]] = {
            "table-key": ("task", use_table_key([args.tables_key_arn], [place.region]))
        }
        if args.secrets_key_arn is not None:
            more["secrets-key"] = ("execution", open_secrets(place, args.secrets_key_arn))
        roles = task_roles(
            name,
            placement=place,
            what=SERVICE,
            execution=execution_statements(
                place,
                images=(args.image, args.collector_image),
                log_groups=(args.log_group_name, args.collector_log_group_name),
                parameters=tuple(secret_parameters(place, args.tenant_parts).values()),
            ),
            task=(
                read_hosts(place, table),
                send_traces(),
                write_logs(place, [args.collector_log_group_name], sid="WriteMetrics"),
            ),
            more=more,
            parent=self,
        )
        definition = aws.ecs.TaskDefinition(
            f"{name}-task",
            family=f"mrgc-{place.environment}-{SERVICE}",
            requires_compatibilities=["FARGATE"],
            network_mode="awsvpc",
            cpu=str(args.cpu),
            memory=str(args.memory_mib),
            runtime_platform=aws.ecs.TaskDefinitionRuntimePlatformArgs(
                cpu_architecture="X86_64", operating_system_family="LINUX"
            ),
            execution_role_arn=roles.execution.arn,
            task_role_arn=roles.task.arn,
            volumes=[aws.ecs.TaskDefinitionVolumeArgs(name="files")],
            container_definitions=json.dumps(router_containers(args)),
            tags=place.tags(SERVICE, SERVICE),
            opts=pulumi.ResourceOptions(parent=self),
        )
        service = aws.ecs.Service(
            f"{name}-service",
            cluster=args.cluster_arn,
            task_definition=definition.arn,
            launch_type="FARGATE",
            platform_version="LATEST",
            desired_count=args.min,
            deployment_minimum_healthy_percent=100,
            deployment_maximum_percent=200,
            deployment_circuit_breaker=aws.ecs.ServiceDeploymentCircuitBreakerArgs(enable=True, rollback=True),
            availability_zone_rebalancing="ENABLED",
            health_check_grace_period_seconds=GRACE_S,
            enable_execute_command=False,
            enable_ecs_managed_tags=True,
            propagate_tags="SERVICE",
            # The region's first deployment has no host to become ready with; waiting would hold up the whole program.
            wait_for_steady_state=False,
            network_configuration=aws.ecs.ServiceNetworkConfigurationArgs(
                subnets=list(args.subnet_ids), security_groups=[args.security_group_id], assign_public_ip=False
            ),
            load_balancers=[
                aws.ecs.ServiceLoadBalancerArgs(
                    target_group_arn=arn, container_name=SERVICE, container_port=TENANT_PORT
                )
                for arn in args.target_group_arns
            ],
            tags=place.tags(SERVICE, SERVICE),
            # How many there are is the scaling's from the first minute on.
            opts=pulumi.ResourceOptions(
                parent=self, depends_on=[*roles.policies, *args.listeners], ignore_changes=["desiredCount"]
            ),
        )
        self._scale(name, args, service)
        self.service_name = service.name
        self.task_role_arn = roles.task.arn
        self.register_outputs({"service_name": self.service_name, "task_role_arn": self.task_role_arn})

    def _scale(self, name: str, args: RouterServiceArgs, service: aws.ecs.Service) -> None:
        """Follow the CPU and the requests at once, whichever asks for more."""
        place, opts = args.placement, pulumi.ResourceOptions(parent=self)
        target = aws.appautoscaling.Target(
            f"{name}-scaling",
            service_namespace="ecs",
            scalable_dimension="ecs:service:DesiredCount",
            resource_id=pulumi.Output.concat("service/", args.cluster_name, "/", service.name),
            min_capacity=args.min,
            max_capacity=args.max,
            tags=place.tags(SERVICE),
            opts=opts,
        )
        follow = aws.appautoscaling.PolicyTargetTrackingScalingPolicyConfigurationArgs
        for what, configuration in {
            "cpu": follow(
                target_value=CPU_TARGET_PERCENT,
                scale_out_cooldown=SCALE_OUT_COOLDOWN_S,
                scale_in_cooldown=SCALE_IN_COOLDOWN_S,
                predefined_metric_specification=(
                    aws.appautoscaling.PolicyTargetTrackingScalingPolicyConfigurationPredefinedMetricSpecificationArgs(
                        predefined_metric_type="ECSServiceAverageCPUUtilization"
                    )
                ),
            ),
            "in-flight": follow(
                target_value=IN_FLIGHT_TARGET,
                scale_out_cooldown=SCALE_OUT_COOLDOWN_S,
                scale_in_cooldown=SCALE_IN_COOLDOWN_S,
                customized_metric_specification=(
                    aws.appautoscaling.PolicyTargetTrackingScalingPolicyConfigurationCustomizedMetricSpecificationArgs(
                        namespace=NAMESPACE,
                        metric_name=ROUTER_IN_FLIGHT.name,
                        # Every router's collector writes this series, so its average is that of one router.
                        statistic="Average",
                        dimensions=[
                            _Dimension(name=name, value=value)
                            for name, value in zip(PLACE, (place.environment, place.region), strict=True)
                        ],
                    )
                ),
            ),
        }.items():
            aws.appautoscaling.Policy(
                f"{name}-scaling-{what}",
                policy_type="TargetTrackingScaling",
                service_namespace=target.service_namespace,
                scalable_dimension=target.scalable_dimension,
                resource_id=target.resource_id,
                target_tracking_scaling_policy_configuration=configuration,
                opts=opts,
            )


def secret_parameters(placement: Placement, tenant_parts: int = 1) -> dict[str, str]:
    """The SecureString parameters by the variable that ECS puts each into. An operator makes them, not this program.

    Their values would else be in the program's state. The tenants file may be cut into several.
    """
    single = {name: [placement.path(SERVICE, name)] for name in FILES.values()}
    parts = {**single, "tenants": [placement.path(SERVICE, "tenants", str(part)) for part in range(tenant_parts)]}
    return {
        f"FILE_{number:02d}_{name.replace('-', '_')}": parameter
        for name, parameters in parts.items()
        for number, parameter in enumerate(parameters)
    }


def router_environment(placement: Placement, registry_table: str) -> dict[str, str]:
    """The router's variables (docs/routing.md)."""
    return {
        "MRGC_REGION": placement.region,
        "REGISTRY_TABLE": registry_table,
        "HTTP_HOST": "0.0.0.0",  # noqa: S104 - the load balancer's target; its security group says who reaches it
        "HTTP_PORT": str(TENANT_PORT),
        "ADMIN_HOST": "0.0.0.0",  # noqa: S104 - the load balancer's health check comes here
        "ADMIN_PORT": str(ADMIN_PORT),
        **{variable: f"{FILES_PATH}/{name}" for variable, name in FILES.items()},
        "DRAIN_DELAY_S": str(DRAIN_DELAY_S),
        "DRAIN_TIMEOUT_S": str(DRAIN_TIMEOUT_S),
        "OTEL_EXPORTER_OTLP_ENDPOINT": OTLP_ENDPOINT,
    }


def router_containers(args: RouterServiceArgs) -> list[Container]:
    """The task's three containers: the writer of files, the router, the collector."""
    place = args.placement
    files: Container = {
        "name": "files",
        "image": args.image,
        "essential": False,
        "cpu": 0,
        **hardening(),
        "entryPoint": ["python", "-c", WRITE_FILES],
        "secrets": [
            {"name": variable, "valueFrom": parameter_arn(place, parameter)}
            for variable, parameter in sorted(secret_parameters(place, args.tenant_parts).items())
        ],
        "mountPoints": [{"sourceVolume": "files", "containerPath": FILES_PATH, "readOnly": False}],
        "logConfiguration": logging(place, args.log_group_name, "files"),
    }
    router: Container = {
        "name": SERVICE,
        "image": args.image,
        "essential": True,
        "cpu": args.cpu - COLLECTOR_CPU,
        "memory": args.memory_mib - COLLECTOR_MEMORY_MIB,
        **hardening(),
        "dependsOn": [
            {"containerName": "files", "condition": "SUCCESS"},
            # Only started, not healthy: the router does not wait for who watches it. It also stops before it.
            {"containerName": "collector", "condition": "START"},
        ],
        "environment": environment(router_environment(place, args.table_names[HOSTS_TABLE])),
        "portMappings": [
            {"containerPort": port, "hostPort": port, "protocol": "tcp"} for port in (TENANT_PORT, ADMIN_PORT)
        ],
        "mountPoints": [{"sourceVolume": "files", "containerPath": FILES_PATH, "readOnly": True}],
        # Every port is free to bind in this task, so that a user who is not root can listen on 443.
        "systemControls": [{"namespace": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],
        # Two sockets a request (tenant and host), 10,000 connections at most, and the registry's.
        "ulimits": [{"name": "nofile", "softLimit": 65_536, "hardLimit": 65_536}],
        "healthCheck": {
            "command": ["CMD", "python", "-c", ALIVE],
            "interval": HEALTH_INTERVAL_S,
            "timeout": 5,
            "retries": 3,
            "startPeriod": 30,
        },
        "stopTimeout": STOP_TIMEOUT_S,
        "logConfiguration": logging(place, args.log_group_name, SERVICE),
    }
    collector = collector_container(
        placement=place,
        image=args.collector_image,
        service=SERVICE,
        metrics_port=ADMIN_PORT,
        log_group=args.collector_log_group_name,
    )
    return [files, router, collector]
