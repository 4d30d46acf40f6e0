"""What the ECS tasks share: their two roles, logging, the OpenTelemetry collector beside them.

The collector is the AWS Distro for OpenTelemetry. It takes its configuration from the variable `AOT_CONFIG_CONTENT`
(ADOT documentation, "ECS"), sends spans to X-Ray, and reads the program's Prometheus page and writes it as embedded
metrics to a log group, of which CloudWatch makes the metrics of namespace `MRGC`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pulumi
import pulumi_aws as aws

from components.permissions import Statement, policy, read_parameters, role_name, trust, write_logs
from components.placement import Placement
from observability.metrics import NAMESPACE, PLACE, emf_declarations
from observability.names import PROBLEM, REQUEST_ID

OTLP_PORT: Final = 4318
OTLP_ENDPOINT: Final = f"http://127.0.0.1:{OTLP_PORT}"
"""Containers of one task share a loopback (network mode awsvpc)."""
USER: Final = "10001:10001"
"""Nobody in particular, and not root; the router's Dockerfile makes this user."""
SCRAPE_INTERVAL: Final = "15s"
COLLECTOR_CPU: Final = 256
COLLECTOR_MEMORY_MIB: Final = 512
COLLECTOR_STOP_S: Final = 30
Container = dict[str, Any]


def collector_config(
    placement: Placement,
    *,
    log_group: str,
    service: str,
    target: str,
    tls: Mapping[str, str] | None = None,
) -> str:
    """The collector's configuration as JSON, which is YAML too.

    `target` is the host and port that show `/metrics`; `tls` Prometheus' `tls_config` where that is HTTPS. `service`
    names the job and the log stream. Every series gets the labels that `observability.metrics.PLACE` names.
    """
    labels = dict(zip(PLACE, (placement.environment, placement.region), strict=True))
    return json.dumps(
        {
            "extensions": {"health_check": {"endpoint": "127.0.0.1:13133"}},
            "receivers": {
                "otlp": {"protocols": {"http": {"endpoint": f"127.0.0.1:{OTLP_PORT}"}}},
                "prometheus": {"config": {"scrape_configs": [_scrape(service, target, labels, tls)]}},
            },
            "processors": {
                "memory_limiter": {"check_interval": "1s", "limit_percentage": 75, "spike_limit_percentage": 20},
                "batch": {"timeout": "5s"},
            },
            "exporters": {
                "awsxray": {"region": placement.region, "indexed_attributes": [REQUEST_ID, PROBLEM]},
                "awsemf": {
                    "region": placement.region,
                    "namespace": NAMESPACE,
                    "log_group_name": log_group,
                    "log_stream_name": f"{service}-metrics",
                    "dimension_rollup_option": "NoDimensionRollup",
                    "metric_declarations": emf_declarations(),
                },
            },
            "service": {
                "extensions": ["health_check"],
                "pipelines": {
                    "traces": {
                        "receivers": ["otlp"],
                        "processors": ["memory_limiter", "batch"],
                        "exporters": ["awsxray"],
                    },
                    "metrics": {
                        "receivers": ["prometheus"],
                        "processors": ["memory_limiter", "batch"],
                        "exporters": ["awsemf"],
                    },
                },
            },
        },
        sort_keys=True,
        separators=(",", ":"),
        # The collector reads `$` as the beginning of a variable, and `$$` as the character.
    ).replace("$", "$$")


def collector_container(
    *, placement: Placement, image: str, service: str, metrics_port: int, log_group: str
) -> Container:
    """The collector beside a program. Not essential: a task that cannot be observed still serves."""
    return {
        "name": "collector",
        "image": image,
        "essential": False,
        "cpu": COLLECTOR_CPU,
        "memory": COLLECTOR_MEMORY_MIB,
        **hardening(),
        "environment": environment(
            {
                "AOT_CONFIG_CONTENT": collector_config(
                    placement, log_group=log_group, service=service, target=f"127.0.0.1:{metrics_port}"
                )
            }
        ),
        "healthCheck": {"command": ["CMD", "/healthcheck"], "interval": 10, "timeout": 5, "retries": 3},
        "stopTimeout": COLLECTOR_STOP_S,
        "logConfiguration": logging(placement, log_group, f"{service}-collector"),
    }


def hardening() -> Container:
    """A user of its own, a root file system that cannot be written, no capabilities, a proper process 1."""
    return {
        "user": USER,
        "readonlyRootFilesystem": True,
        "linuxParameters": {"capabilities": {"drop": ["ALL"]}, "initProcessEnabled": True},
    }


def environment(values: Mapping[str, str]) -> list[dict[str, str]]:
    """Variables in ECS's form, sorted by name as ECS returns them."""
    return [{"name": name, "value": values[name]} for name in sorted(values)]


def logging(placement: Placement, group: str, prefix: str) -> dict[str, Any]:
    """Standard output to a log group that exists; a full buffer drops lines and never blocks the program."""
    return {
        "logDriver": "awslogs",
        "options": {
            "awslogs-group": group,
            "awslogs-region": placement.region,
            "awslogs-stream-prefix": prefix,
            "mode": "non-blocking",
            "max-buffer-size": "16m",
        },
    }


def repository_arn(placement: Placement, image: str) -> str:
    """The ECR repository's ARN of `<registry>/<repository>@sha256:...`. Raises ValueError for an image by tag."""
    path, _, digest = image.partition("@")
    registry, _, repository = path.partition("/")
    if not digest.startswith("sha256:") or not repository:
        raise ValueError(f"The image {image!r} is not <registry>/<repository>@sha256:<digest>; name it by its digest.")
    if not registry.startswith(f"{placement.account}.dkr.ecr.{placement.region}."):
        raise ValueError(
            f"The image {image!r} is not in this account's registry of {placement.region}; tasks reach no other."
        )
    return placement.arn("ecr", f"repository/{repository}")


def execution_statements(
    placement: Placement, *, images: Sequence[str], log_groups: Sequence[str], parameters: Sequence[str] = ()
) -> list[Statement]:
    """What ECS itself does for a task: pull its images, open its log streams, read its parameters (by name)."""
    statements: list[Statement] = [
        # GetAuthorizationToken knows no resources.
        {"Sid": "LogIn", "Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"},
        {
            "Sid": "PullImages",
            "Effect": "Allow",
            "Action": ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            "Resource": sorted({repository_arn(placement, image) for image in images}),
        },
        write_logs(placement, sorted(set(log_groups))),
    ]
    if parameters:
        statements.append(read_parameters(placement, parameters))
    return statements


@dataclass(frozen=True, kw_only=True)
class TaskRoles:
    """The role that ECS uses for a task, the one that the task itself has, and their policies to wait for."""

    execution: aws.iam.Role
    task: aws.iam.Role
    policies: tuple[pulumi.Resource, ...]


def task_roles(
    name: str,
    *,
    placement: Placement,
    what: str,
    execution: Sequence[Statement],
    task: Sequence[Statement],
    more: Mapping[str, tuple[str, pulumi.Input[str]]] | None = None,
    parent: pulumi.Resource,
) -> TaskRoles:
    """Two roles with one inline policy each. `more`: further policies by name, each ("task" or "execution", document).

    `what` is the roles' place in their fixed names; a document in `more` may be known only after creation.
    """
    opts = pulumi.ResourceOptions(parent=parent)
    roles = {
        kind: aws.iam.Role(
            f"{name}-{kind}-role",
            name=role_name(placement, f"{what}-{kind}"),
            assume_role_policy=trust("ecs-tasks.amazonaws.com", account=placement.account),
            tags=placement.tags(what, f"{what}-{kind}"),
            opts=opts,
        )
        for kind in ("execution", "task")
    }
    documents: dict[str, tuple[str, pulumi.Input[str]]] = {
        "execution": ("execution", policy(*execution)),
        "task": ("task", policy(*task)),
        **(more or {}),
    }
    policies = tuple(
        aws.iam.RolePolicy(f"{name}-{label}-policy", role=roles[kind].name, policy=document, opts=opts)
        for label, (kind, document) in documents.items()
    )
    return TaskRoles(execution=roles["execution"], task=roles["task"], policies=policies)


def _scrape(service: str, target: str, labels: Mapping[str, str], tls: Mapping[str, str] | None) -> dict[str, Any]:
    return {
        "job_name": f"mrgc-{service}",
        "scrape_interval": SCRAPE_INTERVAL,
        **({} if tls is None else {"scheme": "https", "tls_config": dict(tls)}),
        "static_configs": [{"targets": [target], "labels": dict(labels)}],
        # The client library's own series (process_, python_, up, scrape_) would be paid for and watched by nobody.
        "metric_relabel_configs": [{"source_labels": ["__name__"], "regex": "mrgc_.*", "action": "keep"}],
    }
