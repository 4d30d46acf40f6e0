"""What dashboards are made of: the resources of a cluster, and the values that they give to metrics' dimensions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionFacts:
    """One region's resources, each as CloudWatch's dimensions name it.

    `load_balancer` and `target_group` are ARN suffixes (`net/...`, `targetgroup/...`); `table_names` are not here, for
    every region has the same.
    """

    region: str
    load_balancer: str
    target_group: str
    file_system: str
    transit_gateway: str
    scaling_group: str
    cluster: str
    router_service: str
    bucket: str
    flow_log_group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """What all dashboards are made of.

    `accelerator` and `listener` are the ids at the end of their ARNs. `eventual_tables` are the physical names of the
    tables that report a replication lag. `alarms` are ARNs; without any, their widget is left out.
    """

    environment: str
    accelerator: str
    listener: str
    regions: tuple[RegionFacts, ...]
    tables: tuple[str, ...]
    eventual_tables: tuple[str, ...]
    alarms: tuple[str, ...] = ()


Values = Callable[[RegionFacts], dict[str, str]]
"""From a region to the values of a metric's dimensions there."""


def balancer(facts: RegionFacts) -> dict[str, str]:
    """The load balancer's and its targets'."""
    return {"TargetGroup": facts.target_group, "LoadBalancer": facts.load_balancer}


def gateway(facts: RegionFacts) -> dict[str, str]:
    """The transit gateway's."""
    return {"TransitGateway": facts.transit_gateway}


def files(facts: RegionFacts) -> dict[str, str]:
    """The Lustre file system's."""
    return {"FileSystemId": facts.file_system}


def bucket(facts: RegionFacts) -> dict[str, str]:
    """The model bucket's."""
    return {"BucketName": facts.bucket, "StorageType": "StandardStorage"}


def group(facts: RegionFacts) -> dict[str, str]:
    """The GPU hosts' scaling group's."""
    return {"AutoScalingGroupName": facts.scaling_group}


def service(facts: RegionFacts) -> dict[str, str]:
    """The router service's."""
    return {"ClusterName": facts.cluster, "ServiceName": facts.router_service}


def place(cluster: ClusterFacts, **labels: str) -> Values:
    """Those of what the dataplane emits, with `labels` of one series."""

    def dimensions(facts: RegionFacts) -> dict[str, str]:
        return {"Environment": cluster.environment, "Region": facts.region, **labels}

    return dimensions
