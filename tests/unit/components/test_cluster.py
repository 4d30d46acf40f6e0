from __future__ import annotations

import pulumi
import pulumi_aws as aws
import pytest

from components.cluster import RegionCluster, RegionClusterArgs
from components.placement import Placement
from tests.support.aws_outputs import identity
from tests.support.pulumi_program import ACCOUNT, Program, record

KEY = f"arn:aws:kms:us-east-2:{ACCOUNT}:key/logs"


@pytest.fixture(scope="module")
def program() -> Program:
    def run() -> None:
        provider = aws.Provider("aws-us-east-2", region="us-east-2")
        RegionCluster(
            "cluster-us-east-2",
            RegionClusterArgs(
                placement=Placement(region="us-east-2", environment="dev", account=ACCOUNT),
                logs_key_arn=KEY,
                log_days=90,
            ),
            pulumi.ResourceOptions(provider=provider),
        )

    return record(run)


def test_a_cluster_shows_figures_by_task_and_container(program: Program) -> None:
    cluster = program.one("ecs/cluster:Cluster")
    assert cluster.inputs["settings"] == [{"name": "containerInsights", "value": "enhanced"}]
    assert "configuration" not in cluster.inputs, "it is not set up for executing commands in tasks"


def test_the_samples_of_container_insights_are_encrypted_and_end(program: Program) -> None:
    name = identity("aws:ecs/cluster:Cluster", "cluster-us-east-2-ecs")
    group = program.one("cloudwatch/logGroup:LogGroup").inputs
    assert group["name"] == f"/aws/ecs/containerinsights/{name}/performance", "CloudWatch makes its own elsewhere"
    assert (group["kmsKeyId"], group["retentionInDays"]) == (KEY, 90)


def test_a_cluster_runs_on_fargate_only(program: Program) -> None:
    assert program.one("ecs/clusterCapacityProviders:ClusterCapacityProviders").inputs["capacityProviders"] == [
        "FARGATE"
    ]


def test_a_cluster_stands_in_its_region_under_its_component(program: Program) -> None:
    component = program.one("mrgc:cluster:RegionCluster")
    for kind in ("ecs/cluster:Cluster", "ecs/clusterCapacityProviders:ClusterCapacityProviders"):
        assert program.one(kind).parent == component.urn
        assert program.region(program.one(kind)) == "us-east-2"
    assert program.one("ecs/cluster:Cluster").inputs["tags"]["mrgc:component"] == "cluster"
