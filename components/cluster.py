"""One region's ECS cluster: Fargate only, with container insights.

Container insights writes its samples to a log group that it makes by itself, without a key and for ever, unless the
group is there: so it is made here, under the name that CloudWatch gives it.
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from components.key_policies import INSIGHTS
from components.placement import Placement


@dataclass(frozen=True, kw_only=True)
class RegionClusterArgs:
    """`logs_key_arn`: this region's key for logs; `log_days`: how long the samples of container insights are kept."""

    placement: Placement
    logs_key_arn: pulumi.Input[str]
    log_days: int


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
        aws.cloudwatch.LogGroup(
            f"{name}-insights",
            name=pulumi.Output.concat(INSIGHTS, "/", cluster.name, "/performance"),
            kms_key_id=args.logs_key_arn,
            retention_in_days=args.log_days,
            tags=args.placement.tags("cluster", "insights"),
            opts=pulumi.ResourceOptions(parent=self),
        )
        # The name comes from the association, so that no service is placed before there is Fargate to place it on.
        self.cluster_arn = cluster.arn
        self.cluster_name = providers.cluster_name
        self.register_outputs({"cluster_arn": self.cluster_arn, "cluster_name": self.cluster_name})
