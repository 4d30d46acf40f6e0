"""One region's ECS cluster: Fargate only, with container insights."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from components.placement import Placement


@dataclass(frozen=True, kw_only=True)
class RegionClusterArgs:
    """`placement`: the cluster's region."""

    placement: Placement


class RegionCluster(pulumi.ComponentResource):
    """The cluster of the router and the control loops. Outputs: `cluster_arn`, `cluster_name`.

    Nothing can be executed in its tasks: no service of it enables ECS Exec, and the cluster is not set up for it.
    """

    def __init__(self, name: str, args: RegionClusterArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mrgc:cluster:RegionCluster", name, None, opts)
        cluster = aws.ecs.Cluster(
            f"{name}-ecs",
            # Enhanced: figures by task and container, so that one bad router shows up beside its peers.
            settings=[aws.ecs.ClusterSettingArgs(name="containerInsights", value="enhanced")],
            tags=args.placement.tags("cluster", "tasks"),
            opts=pulumi.ResourceOptions(parent=self),
        )
        providers = aws.ecs.ClusterCapacityProviders(
            f"{name}-fargate",
            cluster_name=cluster.name,
            capacity_providers=["FARGATE"],
            opts=pulumi.ResourceOptions(parent=self),
        )
        # The name comes from the association, so that no service is placed before there is Fargate to place it on.
        self.cluster_arn = cluster.arn
        self.cluster_name = providers.cluster_name
        self.register_outputs({"cluster_arn": self.cluster_arn, "cluster_name": self.cluster_name})
