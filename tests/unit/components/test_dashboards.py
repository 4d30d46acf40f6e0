from __future__ import annotations

import json

import pulumi
import pulumi_aws as aws
import pytest

from components.dashboards import Dashboards, DashboardsArgs, RegionWatched
from components.placement import Placement
from tests.support.pulumi_program import ACCOUNT, Program, record

THREE = ("us-east-1", "us-east-2", "us-west-2")
FOUR = (*THREE, "eu-west-1")
HOME = "us-east-1"
BOARD = "cloudwatch/dashboard:Dashboard"


def boards(regions: tuple[str, ...]) -> tuple[Program, Dashboards]:
    made: list[Dashboards] = []

    def program() -> None:
        args = DashboardsArgs(
            placement=Placement(region=HOME, environment="staging", account=ACCOUNT),
            accelerator_arn=pulumi.Output.from_input("arn:aws:globalaccelerator::1:accelerator/acc"),
            listener_arn=pulumi.Output.from_input("arn:aws:globalaccelerator::1:accelerator/acc/listener/lis"),
            regions={
                region: RegionWatched(
                    load_balancer=pulumi.Output.from_input(f"net/{region}/1"),
                    target_group=f"targetgroup/{region}/1",
                    file_system=f"fs-{region}",
                    transit_gateway=pulumi.Output.from_input(f"tgw-{region}"),
                    scaling_group="hosts",
                    cluster="cluster",
                    router_service="router",
                    bucket="models",
                    flow_log_group="/mrgc/staging/flows",
                )
                for region in regions
            },
            tables=("mrgc-staging-gpu_instances",),
            eventual_tables=("mrgc-staging-gpu_instances",),
            alarm_arns=[pulumi.Output.from_input("arn:aws:cloudwatch:us-east-1:1:alarm:a")],
        )
        provider = aws.Provider(HOME, region=HOME)
        made.append(Dashboards("dashboards", args, pulumi.ResourceOptions(provider=provider)))

    return record(program), made[0]


@pytest.mark.parametrize("regions", [THREE, FOUR], ids=["three", "four"])
def test_there_is_a_dashboard_of_a_fixed_name_for_each_view(regions: tuple[str, ...]) -> None:
    program, made = boards(regions)
    names = {board.inputs["dashboardName"] for board in program.of(BOARD)}
    assert names == set(made.names.values())
    assert names == {f"mrgc-staging-{view}" for view in ("global", "networking", "storage", "security")} | {
        f"mrgc-staging-region-{region}" for region in regions
    }
    assert {program.region(board) for board in program.of(BOARD)} == {HOME}


def test_bodies_carry_what_only_aws_knows() -> None:
    program, _ = boards(THREE)
    body = json.loads(program.one(BOARD, "dashboards-networking").inputs["dashboardBody"])
    text = json.dumps(body)
    for value in ("net/us-east-2/1", "tgw-us-west-2", '"Accelerator", "acc"', '"Listener", "lis"'):
        assert value in text, value
    assert "Output" not in text, "an unresolved value would be charted by its Python name"
    assert "None" not in text, "nor one that was not set"


def test_links_lead_to_the_console_of_the_home_region() -> None:
    _, made = boards(THREE)
    assert made.links["region-us-west-2"] == (
        "https://us-east-1.console.aws.amazon.com/cloudwatch/home?region=us-east-1"
        "#dashboards/dashboard/mrgc-staging-region-us-west-2"
    )
