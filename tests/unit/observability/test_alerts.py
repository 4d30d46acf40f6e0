from __future__ import annotations

import re
from pathlib import Path

import pytest

from observability import alerts, metrics
from observability.alerts import Alert, Severity
from observability.metrics import CATALOGUE, Emitter

TABLES = ("mrgc-dev-gpu_instances", "mrgc-dev-metrics")
ALL = (*alerts.region_alerts(1200), alerts.replication_lag(TABLES), alerts.ACCELERATOR_FAILOVER)

CRITICAL = {"region-unhealthy", "replication-lag", "accelerator-failover", "fsx-free", "cleanup-failures"}
WARNING = {"health-score", "gpu-temperature", "model-load", "first-byte-p95", "router-stuck", "control-run-failed"}


def judge(alert: Alert, **samples: float) -> bool:
    """Whether one datapoint is beyond the threshold, with CloudWatch's operators and functions in Python's place."""
    if alert.expression is None:
        (value,) = samples.values()
    else:
        functions = {"MAX": max, "IF": lambda condition, one, other: one if condition else other}
        # Python evaluates both branches of a call, and CloudWatch divides by zero in silence.
        if alert.name == "cleanup-failures" and not samples["washes"]:
            value = 0.0
        else:
            value = float(eval(alert.expression, {"__builtins__": {}}, {**functions, **samples}))  # noqa: S307 - ours
    return value < alert.threshold if alert.comparison == "LessThanThreshold" else value > alert.threshold


def test_there_is_an_alarm_for_every_critical_and_every_warning_row_and_no_other() -> None:
    assert {alert.name for alert in ALL if alert.severity is Severity.CRITICAL} == CRITICAL
    assert {alert.name for alert in ALL if alert.severity is Severity.WARNING} == WARNING
    assert len(ALL) == len({alert.name for alert in ALL})


@pytest.mark.parametrize("alert", ALL, ids=lambda alert: alert.name)
def test_an_alarm_is_one_that_cloudwatch_takes_and_a_person_understands(alert: Alert) -> None:
    assert len(alert.description) <= 1024, "CloudWatch's limit"
    assert alert.summary.endswith("."), "a sentence says what is wrong"
    assert alert.runbook.endswith("."), "and another what to do"
    assert alert.because, "what silence counts as is a decision with a reason"
    assert 1 <= alert.datapoints <= alert.periods
    assert alert.period_s % 60 == 0
    assert alert.period_s * alert.periods <= 86_400, "CloudWatch looks back a day at most"
    assert all(one.metric in CATALOGUE for one in alert.series)
    assert {series.id for series in alert.series} == set(
        re.findall(r"\b[a-z][a-z0-9]*\b", alert.expression or alert.series[0].id)
    ), "the expression reads what is given, and nothing else"
    assert len(alert.series) == 1 or alert.expression, "one number is judged"


@pytest.mark.parametrize(
    ("alert", "fine", "bad"),
    [
        (alerts.REGION_UNHEALTHY, {"healthy": 1}, {"healthy": 0}),
        (alerts.ACCELERATOR_FAILOVER, {"endpoints": 1}, {"endpoints": 0}),
        (alerts.replication_lag(TABLES), {"table0": 5000, "table1": 900}, {"table0": 10, "table1": 5001}),
        (alerts.fsx_free(1200), {"free": 180 * 2**30}, {"free": 180 * 2**30 - 1}),
        (alerts.CLEANUP_FAILURES, {"failed": 5, "washes": 100}, {"failed": 6, "washes": 100}),
        (alerts.CLEANUP_FAILURES, {"failed": 0, "washes": 0}, {"failed": 1, "washes": 1}),
        (alerts.HEALTH_SCORE, {"score": 50}, {"score": 49}),
        (alerts.GPU_HOT, {"degrees": 80}, {"degrees": 81}),
        (alerts.MODEL_LOAD, {"load": 60}, {"load": 60.1}),
        (alerts.FIRST_BYTE_P95, {"p95": 1}, {"p95": 1.01}),
        (alerts.ROUTER_STUCK, {"unhealthy": 0}, {"unhealthy": 1}),
        (alerts.FAILED_RUNS, {"failed": 0}, {"failed": 1}),
    ],
    ids=lambda value: value.name if isinstance(value, Alert) else "",
)
def test_an_alarm_fires_just_beyond_its_limit(alert: Alert, fine: dict[str, float], bad: dict[str, float]) -> None:
    assert not judge(alert, **fine), "the limit itself is fine"
    assert judge(alert, **bad)


def test_free_space_is_summed_over_one_minute_only() -> None:
    alert = alerts.fsx_free(2400)
    assert alert.series[0].statistic == "Sum", "every storage target reports its own free bytes"
    assert alert.period_s == 60, "a longer period would add several minutes' samples and show too much space"


def test_a_lost_region_wakes_a_person_within_two_and_a_half_minutes() -> None:
    notices_s = 10 * 2  # the load balancer's interval and threshold
    assert notices_s + alerts.REGION_UNHEALTHY.fires_within_s <= 150


def test_lag_is_read_of_tables_by_name_and_of_no_more_than_cloudwatch_takes() -> None:
    alert = alerts.replication_lag(TABLES)
    assert [dict(series.fixed) for series in alert.series] == [{"TableName": table} for table in TABLES]
    for tables in ((), tuple(f"t{index}" for index in range(11))):
        with pytest.raises(ValueError, match="1 to 10 tables"):
            alerts.replication_lag(tables)


def test_a_critical_alarm_never_takes_silence_for_an_unknown() -> None:
    silent = [alert.name for alert in ALL if alert.severity is Severity.CRITICAL and alert.missing == "missing"]
    assert silent == [], "insufficient data calls nobody"


def test_only_alarms_on_what_nobody_emits_yet_show_insufficient_data() -> None:
    unsure = {alert.name for alert in ALL if alert.missing == "missing"}
    planned = {alert.name for alert in ALL if any(one.metric.emitter is Emitter.CONTROL for one in alert.series)}
    assert unsure == planned - {"cleanup-failures"}
    assert metrics.CONTROL_METRICS, "drop this test when the control loops exist"


def test_the_page_for_operators_lists_every_alarm() -> None:
    page = (Path(__file__).parents[3] / "docs" / "observability.md").read_text()
    rows = {cells[1].strip(" *"): cells for line in page.splitlines() if len(cells := line.split("|")) == 7}
    for alert in ALL:
        assert f"{alert.period_s} s, {alert.datapoints} of {alert.periods}" == rows[alert.name][3].strip()
        assert ("**" in rows[alert.name][1]) is (alert.severity is Severity.CRITICAL), "bold ones are critical"
