from __future__ import annotations

import pulumi
import pulumi_aws as aws
import pytest

from components.accelerator_alarms import AcceleratorAlarms, AcceleratorAlarmsArgs
from components.alarms import RegionAlarms, RegionAlarmsArgs
from components.placement import Placement
from observability import alerts
from tests.support.pulumi_program import ACCOUNT, Program, Recorded, record

THREE = ("us-east-1", "us-east-2", "us-west-2")
FOUR = (*THREE, "eu-west-1")
TABLES = ("mrgc-dev-gpu_instances", "mrgc-dev-cleanup_validation", "mrgc-dev-metrics")
TOPICS = {"critical": "arn:aws:sns:r:1:critical", "warning": "arn:aws:sns:r:1:warning"}
ALARM = "MetricAlarm"


def place(region: str) -> Placement:
    return Placement(region=region, environment="dev", account=ACCOUNT)


def watched(regions: tuple[str, ...] = THREE) -> Program:
    def program() -> None:
        for region in regions:
            provider = aws.Provider(region, region=region)
            RegionAlarms(
                f"alarms-{region}",
                RegionAlarmsArgs(
                    placement=place(region),
                    topics={severity: f"{arn}-{region}" for severity, arn in TOPICS.items()},
                    load_balancer_arn_suffix=pulumi.Output.from_input(f"net/{region}/1"),
                    target_group_arn_suffix=f"targetgroup/{region}/1",
                    file_system_id=f"fs-{region}",
                    capacity_gib=1200,
                    failure_queue_name=pulumi.Output.from_input(f"failures-{region}"),
                    eventual_tables=TABLES,
                    peers=[other for other in regions if other != region],
                ),
                pulumi.ResourceOptions(provider=provider),
            )
        AcceleratorAlarms(
            "alarms-accelerator",
            AcceleratorAlarmsArgs(
                placement=place("us-west-2"),
                topics={severity: f"{arn}-us-west-2" for severity, arn in TOPICS.items()},
                accelerator_arn=pulumi.Output.from_input("arn:aws:globalaccelerator::1:accelerator/acc"),
                listener_arn="arn:aws:globalaccelerator::1:accelerator/acc/listener/lis",
                regions=regions,
            ),
            pulumi.ResourceOptions(provider=aws.Provider("oregon", region="us-west-2")),
        )

    return record(program)


@pytest.fixture(scope="module", params=[THREE, FOUR], ids=["three", "four"])
def regions(request: pytest.FixtureRequest) -> tuple[str, ...]:
    found: tuple[str, ...] = request.param
    return found


@pytest.fixture(scope="module")
def program(regions: tuple[str, ...]) -> Program:
    return watched(regions)


def alarm(program: Program, name: str) -> Recorded:
    return program.one(ALARM, name)


def test_every_region_watches_itself_and_its_writes_to_every_other(program: Program, regions: tuple[str, ...]) -> None:
    own = len(alerts.region_alerts(1200))
    assert len(program.of(ALARM)) == len(regions) * (own + len(regions) - 1) + len(regions)
    for region in regions:
        for other in set(regions) - {region}:
            assert program.region(alarm(program, f"alarms-{region}-replication-lag-{other}")) == region


def test_an_alarm_tells_the_topic_of_its_severity_in_its_own_region(program: Program) -> None:
    critical = {alert.name for alert in alerts.region_alerts(1200) if alert.severity == "critical"}
    for one in program.of(ALARM):
        known = any(name in one.name for name in critical) or "replication" in one.name or "accelerator" in one.name
        severity = "critical" if known else "warning"
        wanted = [f"{TOPICS[severity]}-{program.region(one)}"]
        assert one.inputs["alarmActions"] == wanted, "a topic of another region would not hear it"
        assert one.inputs["okActions"] == wanted


def test_every_alarm_says_what_to_do_and_what_silence_means(program: Program) -> None:
    for one in program.of(ALARM):
        assert one.inputs["treatMissingData"] in {"breaching", "notBreaching", "ignore", "missing"}
        assert one.inputs["alarmDescription"].count(".") >= 2, "what is wrong, and what to do"


def test_a_plain_alarm_reads_one_metric_and_an_expression_only_its_queries(program: Program) -> None:
    for one in program.of(ALARM):
        plain = {"namespace", "metricName", "statistic", "period", "dimensions"} & set(one.inputs)
        assert len(plain) == (0 if "metricQueries" in one.inputs else 5), "AWS refuses a mixture"
        judged = [query for query in one.inputs.get("metricQueries", ()) if query.get("returnData")]
        assert len(judged) == (1 if "metricQueries" in one.inputs else 0), "one number is compared"


def test_the_region_is_watched_through_its_load_balancer(program: Program) -> None:
    one = alarm(program, "alarms-us-east-2-region-unhealthy")
    assert one.inputs["namespace"] == "AWS/NetworkELB"
    assert one.inputs["dimensions"] == {"LoadBalancer": "net/us-east-2/1", "TargetGroup": "targetgroup/us-east-2/1"}
    assert (one.inputs["comparisonOperator"], one.inputs["threshold"]) == ("LessThanThreshold", 1)


def test_the_lag_of_all_tables_towards_one_region_is_one_alarm(program: Program) -> None:
    judged, *read = alarm(program, "alarms-us-east-1-replication-lag-us-west-2").inputs["metricQueries"]
    assert judged["expression"] == "MAX([table0, table1, table2])"
    assert [query["metric"]["dimensions"] for query in read] == [
        {"TableName": table, "ReceivingRegion": "us-west-2"} for table in TABLES
    ]
    assert {query["metric"]["namespace"] for query in read} == {"AWS/DynamoDB"}


def test_free_space_is_a_share_of_the_file_systems_own_capacity(program: Program) -> None:
    judged, read = alarm(program, "alarms-us-west-2-fsx-free").inputs["metricQueries"]
    assert judged["expression"] == f"100 * free / {1200 * 2**30}"
    assert read["metric"]["dimensions"] == {"FileSystemId": "fs-us-west-2"}


def test_one_failed_run_of_a_control_function_is_told(program: Program) -> None:
    one = alarm(program, "alarms-us-west-2-control-run-failed")
    assert (one.inputs["namespace"], one.inputs["metricName"]) == ("AWS/SQS", "ApproximateNumberOfMessagesVisible")
    assert one.inputs["dimensions"] == {"QueueName": "failures-us-west-2"}, "the queue of its own region"
    assert (one.inputs["comparisonOperator"], one.inputs["threshold"]) == ("GreaterThanThreshold", 0)


def test_the_accelerators_alarms_stand_where_its_metrics_are(program: Program, regions: tuple[str, ...]) -> None:
    for region in regions:
        one = alarm(program, f"alarms-accelerator-{region}")
        assert program.region(one) == "us-west-2"
        assert one.inputs["namespace"] == "AWS/GlobalAccelerator"
        assert one.inputs["dimensions"] == {"Accelerator": "acc", "Listener": "lis", "EndpointGroup": region}


def test_what_is_ours_is_read_by_environment_and_region(program: Program) -> None:
    one = alarm(program, "alarms-us-east-1-first-byte-p95")
    assert one.inputs["namespace"] == "MRGC"
    assert one.inputs["dimensions"] == {"Environment": "dev", "Region": "us-east-1"}
