"""The loops that decide for one region: health, autoscaler, failover. They carry no traffic.

**Their program does not exist yet.** `mrgc control health|autoscaler|failover` and the function's handler
`controlplane.failover.handler` are to come; this component lays what they will run in and what they may do. Until the
control image has them, `enabled` stays false: no task runs, and no function is made. docs/fleet.md.

Health and the autoscaler are Fargate services in the private subnets, one task each. While ECS replaces a task two
may run for a moment, so the autoscaler acts under a lease; what the health loop does (mark a host unhealthy) may be
done twice. Leases are items of a strongly consistent table, whose replicas are in three regions only and are reached
from a VPC in their own region alone. Where the region has no replica, the autoscaler is a function like the failover.

The failover calls Global Accelerator, whose API is in us-west-2 and for which no VPC endpoint is known, and these
VPCs have no other way out. So it is a function outside the VPC, once a minute and in every region, under one lease for
all of them: the loss of any region leaves the others'. It is the second line; traffic leaves a failed region by health
checks, without it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import pulumi
import pulumi_aws as aws

from components.host_role import group_arn
from components.permissions import (
    Statement,
    keep_state,
    policy,
    put_metrics,
    read_hosts,
    role_name,
    send_traces,
    trust,
    use_table_key,
    write_logs,
)
from components.placement import Placement
from components.task import (
    OTLP_ENDPOINT,
    collector_container,
    environment,
    execution_statements,
    hardening,
    logging,
    task_roles,
)
from observability.metrics import NAMESPACE

Loop = Literal["health", "autoscaler", "failover"]

HOSTS_TABLE: Final = "gpu_instances"
ROUTING_TABLE: Final = "routing_state"
SCALING_TABLE: Final = "autoscaling_state"
ACCELERATOR_REGION: Final = "us-west-2"
"""Global Accelerator's API, wherever its endpoints are (its API reference)."""
CPU: Final = 512
MEMORY_MIB: Final = 1024
STOP_TIMEOUT_S: Final = 30
METRICS_PORT: Final = 8080
FUNCTION_MEMORY_MIB: Final = 512
FUNCTION_TIMEOUT_S: Final = 50
"""Less than a minute: a run ends before the next one begins."""
SCHEDULE: Final = "rate(1 minute)"
FAILURE_DAYS: Final = 14
_DAY_S: Final = 86_400


@dataclass(frozen=True, kw_only=True)
class ControlLoopsArgs:
    """`state_region`: where this region's loops reach the strongly consistent tables, its own if it has a replica.

    `image` and `collector_image`: full references by digest in this region's registry. `tables_key_arns`: the tables'
    key by region, for this one and `state_region`. `enabled`: false until the image has the programs. `pulls`: what
    lets Lambda pull the image.
    """

    placement: Placement
    cluster_arn: pulumi.Input[str]
    subnet_ids: Sequence[pulumi.Input[str]]
    security_group_id: pulumi.Input[str]
    image: str
    collector_image: str
    log_group_name: str
    collector_log_group_name: str
    table_names: Mapping[str, str]
    tables_key_arns: Mapping[str, pulumi.Input[str]]
    state_region: str
    fleet_group_name: str
    accelerator_arn: pulumi.Input[str]
    enabled: bool = False
    pulls: Sequence[pulumi.Resource] = ()

    @property
    def state_here(self) -> bool:
        """Whether this region has a replica of the strongly consistent tables."""
        return self.state_region == self.placement.region

    def services(self) -> tuple[Loop, ...]:
        """The loops that are services in the VPC."""
        return ("health", "autoscaler") if self.state_here else ("health",)

    def functions(self) -> tuple[Loop, ...]:
        """The loops that are functions outside it."""
        return ("failover",) if self.state_here else ("failover", "autoscaler")


class ControlLoops(pulumi.ComponentResource):
    """The loops of a region. Outputs: `service_names` and `function_names` by loop, `failure_queue_name`."""

    def __init__(self, name: str, args: ControlLoopsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mrgc:control_loops:ControlLoops", name, None, opts)
        self._args = args
        # Runs that failed, for the alarm on this queue and for whoever looks into it.
        queue = aws.sqs.Queue(
            f"{name}-failures",
            message_retention_seconds=FAILURE_DAYS * _DAY_S,
            sqs_managed_sse_enabled=True,
            tags=args.placement.tags("control", "control-failures"),
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.service_names = {loop: self._service(name, loop) for loop in args.services()}
        # Lambda refuses to create a function whose image is not in the registry yet; ECS only fails to start its tasks.
        functions = args.functions() if args.enabled else ()
        self.function_names = {loop: self._function(name, loop, queue) for loop in functions}
        self.failure_queue_name = queue.name
        self.register_outputs(
            {
                "service_names": self.service_names,
                "function_names": self.function_names,
                "failure_queue_name": self.failure_queue_name,
            }
        )

    def _table_key(self) -> pulumi.Output[str]:
        args = self._args
        regions = sorted({args.placement.region, args.state_region})
        return use_table_key([args.tables_key_arns[region] for region in regions], regions)

    def _service(self, name: str, loop: Loop) -> pulumi.Output[str]:
        args, place = self._args, self._args.placement
        roles = task_roles(
            f"{name}-{loop}",
            placement=place,
            what=loop,
            execution=execution_statements(
                place,
                images=(args.image, args.collector_image),
                log_groups=(args.log_group_name, args.collector_log_group_name),
            ),
            task=(
                *loop_statements(args, loop),
                send_traces(),
                write_logs(place, [args.collector_log_group_name], sid="WriteMetrics"),
            ),
            more={"table-key": ("task", self._table_key())},
            parent=self,
        )
        definition = aws.ecs.TaskDefinition(
            f"{name}-{loop}-task",
            family=f"mrgc-{place.environment}-{loop}",
            requires_compatibilities=["FARGATE"],
            network_mode="awsvpc",
            cpu=str(CPU),
            memory=str(MEMORY_MIB),
            runtime_platform=aws.ecs.TaskDefinitionRuntimePlatformArgs(
                cpu_architecture="X86_64", operating_system_family="LINUX"
            ),
            execution_role_arn=roles.execution.arn,
            task_role_arn=roles.task.arn,
            container_definitions=json.dumps(loop_containers(args, loop)),
            tags=place.tags("control", loop),
            opts=pulumi.ResourceOptions(parent=self),
        )
        service = aws.ecs.Service(
            f"{name}-{loop}-service",
            cluster=args.cluster_arn,
            task_definition=definition.arn,
            launch_type="FARGATE",
            platform_version="LATEST",
            desired_count=1 if args.enabled else 0,
            deployment_minimum_healthy_percent=100,
            deployment_maximum_percent=200,
            deployment_circuit_breaker=aws.ecs.ServiceDeploymentCircuitBreakerArgs(enable=True, rollback=True),
            availability_zone_rebalancing="ENABLED",
            enable_execute_command=False,
            enable_ecs_managed_tags=True,
            propagate_tags="SERVICE",
            wait_for_steady_state=False,
            network_configuration=aws.ecs.ServiceNetworkConfigurationArgs(
                subnets=list(args.subnet_ids), security_groups=[args.security_group_id], assign_public_ip=False
            ),
            tags=place.tags("control", loop),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[*roles.policies]),
        )
        return service.name

    def _function(self, name: str, loop: Loop, queue: aws.sqs.Queue) -> pulumi.Output[str]:
        args, place = self._args, self._args.placement
        child = pulumi.ResourceOptions(parent=self)
        role = aws.iam.Role(
            f"{name}-{loop}-function-role",
            name=role_name(place, f"{loop}-function"),
            assume_role_policy=trust("lambda.amazonaws.com"),
            tags=place.tags("control", f"{loop}-function"),
            opts=child,
        )
        documents: dict[str, pulumi.Input[str]] = {
            "loop": policy(*loop_statements(args, loop), send_traces(), write_logs(place, [args.log_group_name])),
            "table-key": self._table_key(),
            "failures": pulumi.Output.json_dumps(
                {
                    "Version": "2012-10-17",
                    "Statement": [{"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": queue.arn}],
                }
            ),
        }
        if loop == "failover":
            documents["accelerator"] = pulumi.Output.json_dumps(
                {"Version": "2012-10-17", "Statement": _accelerator_statements(args.accelerator_arn)}
            )
        policies = [
            aws.iam.RolePolicy(f"{name}-{loop}-function-{what}-policy", role=role.name, policy=document, opts=child)
            for what, document in documents.items()
        ]
        function = aws.lambda_.Function(
            f"{name}-{loop}-function",
            package_type="Image",
            image_uri=args.image,
            image_config=aws.lambda_.FunctionImageConfigArgs(
                entry_points=["python", "-m", "awslambdaric"], commands=[f"controlplane.{loop}.handler"]
            ),
            architectures=["x86_64"],
            role=role.arn,
            memory_size=FUNCTION_MEMORY_MIB,
            timeout=FUNCTION_TIMEOUT_S,
            # One at a time within the region; between regions the lease sees to it.
            reserved_concurrent_executions=1,
            environment=aws.lambda_.FunctionEnvironmentArgs(variables=loop_function_environment(args, loop)),
            dead_letter_config=aws.lambda_.FunctionDeadLetterConfigArgs(target_arn=queue.arn),
            logging_config=aws.lambda_.FunctionLoggingConfigArgs(log_format="JSON", log_group=args.log_group_name),
            tracing_config=aws.lambda_.FunctionTracingConfigArgs(mode="Active"),
            tags=place.tags("control", f"{loop}-function"),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[*policies, *args.pulls]),
        )
        # No second try: what a run decided a minute ago is not what the next one would decide.
        aws.lambda_.FunctionEventInvokeConfig(
            f"{name}-{loop}-once",
            function_name=function.name,
            maximum_retry_attempts=0,
            maximum_event_age_in_seconds=60,
            opts=child,
        )
        rule = aws.cloudwatch.EventRule(
            f"{name}-{loop}-schedule",
            description=f"Runs the {loop} loop once a minute",
            schedule_expression=SCHEDULE,
            state="ENABLED",
            tags=place.tags("control", f"{loop}-schedule"),
            opts=child,
        )
        aws.cloudwatch.EventTarget(
            f"{name}-{loop}-target",
            rule=rule.name,
            arn=function.arn,
            retry_policy=aws.cloudwatch.EventTargetRetryPolicyArgs(
                maximum_event_age_in_seconds=60, maximum_retry_attempts=0
            ),
            opts=child,
        )
        aws.lambda_.Permission(
            f"{name}-{loop}-scheduled",
            action="lambda:InvokeFunction",
            function=function.name,
            principal="events.amazonaws.com",
            source_arn=rule.arn,
            opts=child,
        )
        return function.name


def loop_statements(args: ControlLoopsArgs, loop: Loop) -> list[Statement]:
    """What a loop may do, as far as it is known before anything exists."""
    place, tables = args.placement, args.table_names
    metrics = put_metrics(NAMESPACE)
    if loop == "failover":
        return [
            read_hosts(place, tables[HOSTS_TABLE], own_region_only=False),
            keep_state(place, tables[ROUTING_TABLE], region=args.state_region),
            metrics,
        ]
    # The Describe actions know no resource.
    look = _allow("LookAtFleet", ["autoscaling:DescribeAutoScalingGroups"], "*")
    fleet = group_arn(place, args.fleet_group_name)
    if loop == "health":
        return [
            read_hosts(place, tables[HOSTS_TABLE]),
            look,
            _allow("MarkHosts", ["autoscaling:SetInstanceHealth"], fleet),
            metrics,
        ]
    return [
        read_hosts(place, tables[HOSTS_TABLE]),
        keep_state(place, tables[SCALING_TABLE], region=args.state_region),
        look,
        _allow(
            "SizeFleet",
            ["autoscaling:SetDesiredCapacity", "autoscaling:TerminateInstanceInAutoScalingGroup"],
            fleet,
        ),
        _allow("ReadMetrics", ["cloudwatch:GetMetricData"], "*"),
        metrics,
    ]


def loop_environment(args: ControlLoopsArgs, loop: Loop) -> dict[str, str]:
    """A loop's variables, which its program is to read."""
    place, tables = args.placement, args.table_names
    shared = {
        "MRGC_REGION": place.region,
        "MRGC_ENVIRONMENT": place.environment,
        "REGISTRY_TABLE": tables[HOSTS_TABLE],
    }
    if loop == "health":
        return {**shared, "FLEET_GROUP": args.fleet_group_name}
    state = {"STATE_TABLE": tables[ROUTING_TABLE if loop == "failover" else SCALING_TABLE]}
    leased = {**shared, **state, "STATE_REGION": args.state_region}
    return leased if loop == "failover" else {**leased, "FLEET_GROUP": args.fleet_group_name}


def loop_function_environment(args: ControlLoopsArgs, loop: Loop) -> dict[str, pulumi.Input[str]]:
    """The same for a function; the failover learns the accelerator's ARN and where its API is."""
    values: dict[str, pulumi.Input[str]] = dict(loop_environment(args, loop))
    if loop == "failover":
        values |= {"ACCELERATOR_ARN": args.accelerator_arn, "ACCELERATOR_REGION": ACCELERATOR_REGION}
    return values


def loop_containers(args: ControlLoopsArgs, loop: Loop) -> list[dict[str, Any]]:
    """A loop's task: `mrgc control <loop>` and the collector."""
    place = args.placement
    program = {
        "name": loop,
        "image": args.image,
        "essential": True,
        "cpu": CPU // 2,
        "memory": MEMORY_MIB // 2,
        **hardening(),
        "entryPoint": ["mrgc"],
        "command": ["control", loop],
        "environment": environment({**loop_environment(args, loop), "OTEL_EXPORTER_OTLP_ENDPOINT": OTLP_ENDPOINT}),
        "dependsOn": [{"containerName": "collector", "condition": "START"}],
        "stopTimeout": STOP_TIMEOUT_S,
        "logConfiguration": logging(place, args.log_group_name, loop),
    }
    collector = collector_container(
        placement=place,
        image=args.collector_image,
        service=loop,
        metrics_port=METRICS_PORT,
        log_group=args.collector_log_group_name,
    )
    return [program, collector]


def _allow(sid: str, actions: Sequence[str], resource: str) -> Statement:
    return {"Sid": sid, "Effect": "Allow", "Action": list(actions), "Resource": resource}


def _accelerator_statements(arn: pulumi.Input[str]) -> list[dict[str, Any]]:
    """Look at one accelerator, and change its endpoint groups' weights and dials; nothing creates or deletes."""
    return [
        {
            "Sid": "MoveTraffic",
            "Effect": "Allow",
            "Action": [
                "globalaccelerator:DescribeAccelerator",
                "globalaccelerator:DescribeEndpointGroup",
                "globalaccelerator:ListEndpointGroups",
                "globalaccelerator:ListListeners",
                "globalaccelerator:UpdateEndpointGroup",
            ],
            "Resource": [arn, pulumi.Output.concat(arn, "/*")],
        },
        {
            # Global Accelerator asks with the caller's permissions whether an endpoint is there (its developer guide,
            # "Identity and access management"); the call knows no resource.
            "Sid": "SeeEndpoints",
            "Effect": "Allow",
            "Action": "elasticloadbalancing:DescribeLoadBalancers",
            "Resource": "*",
        },
    ]
