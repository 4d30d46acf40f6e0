from __future__ import annotations

import re
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dataplane.mesh.admission import Admission
from dataplane.mesh.health import Health
from dataplane.parent.exposition import ParentMetrics
from dataplane.parent.report import PARTS
from dataplane.parent.view import EnclaveReport, HostView, WorkerReport
from dataplane.router.metrics import RouterMetrics
from observability import metrics
from observability.metrics import CATALOGUE, DATAPLANE_METRICS, Emitter, Kind, Metric

# Amazon CloudWatch API reference, MetricDatum: the units that are used here, out of StandardUnit.
UNITS = {"Seconds", "Milliseconds", "Bytes", "Percent", "Count", "None"}


def router_page() -> str:
    page = RouterMetrics()
    page.requests.labels("ok").inc()
    page.attempts.labels("ok").inc()
    page.retries_refused.labels("budget").inc()
    return page.render().decode()


def parent_page() -> str:
    view = HostView()
    view.count("ok")
    view.enclave = EnclaveReport.from_reply({"assurance": 1})
    view.worker = WorkerReport.from_reply({"engine": "vllm"})
    health = Health(PARTS, monotonic=lambda: 0.0)
    page = ParentMetrics(view, health, Admission(max_in_flight=1), gpu_memory_utilization=0.9, spans_dropped=lambda: 0)
    return page.text("text/plain")[0].decode()


def shown(page: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Kind and labels of each metric on a page, by the name of its samples, as a scraper sees them."""
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for family in text_string_to_metric_families(page):
        if family.name.endswith("_created"):
            continue  # when a series began, which prometheus_client adds to every counter and histogram
        labels = tuple(sorted({label for sample in family.samples for label in sample.labels} - {"le"}))
        name = family.name + "_total" if family.type == "counter" else family.name
        found[name] = (family.type, labels)
    return found


def test_the_catalogue_and_the_dataplane_name_the_same_metrics_with_the_same_labels() -> None:
    catalogue = {metric.name: (metric.kind.value, metric.dimensions[2:]) for metric in DATAPLANE_METRICS}
    assert catalogue == shown(router_page()) | shown(parent_page()), "a chart of a name that nobody shows stays empty"


def test_nothing_is_listed_twice() -> None:
    keys = [(metric.namespace, metric.name) for metric in CATALOGUE]
    assert len(keys) == len(set(keys))


def test_every_constant_of_the_module_is_in_the_catalogue() -> None:
    constants = [value for value in vars(metrics).values() if isinstance(value, Metric)]
    assert {metric.name for metric in constants} == {metric.name for metric in CATALOGUE}


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_a_metric_is_one_that_cloudwatch_takes(metric: Metric) -> None:
    assert metric.unit in UNITS, "CloudWatch refuses other units"
    assert re.fullmatch(r"[A-Za-z0-9_]{1,255}", metric.name), "and other names"
    assert 0 < len(set(metric.dimensions)) == len(metric.dimensions) <= 30, "and more than 30 dimensions"
    assert metric.says, "whoever reads the catalogue learns what a sample is"
    assert metric.namespace.startswith("AWS/") is (metric.emitter is Emitter.AWS), "AWS's namespaces are AWS's"


def test_what_is_ours_says_where_it_comes_from() -> None:
    ours = [metric for metric in CATALOGUE if metric.namespace == metrics.NAMESPACE]
    assert all(metric.dimensions[:2] == ("Environment", "Region") for metric in ours)
    assert not [metric for metric in ours if {"Tenant", "tenant", "request_id"} & set(metric.dimensions)], (
        "no dimension names a tenant or a request"
    )


def test_the_collector_is_told_of_every_metric_of_the_dataplane_once_but_histograms() -> None:
    declared: list[tuple[str, tuple[str, ...]]] = [
        (selector, tuple(names))
        for declaration in metrics.emf_declarations()
        for selector in declaration["metric_name_selectors"]
        for names in declaration["dimensions"]
    ]
    wanted = [(metric.name, metric.dimensions) for metric in DATAPLANE_METRICS if metric.kind is not Kind.HISTOGRAM]
    found: list[Any] = [
        (name, names) for name, _ in wanted for selector, names in declared if re.fullmatch(selector, name)
    ]
    assert sorted(found) == sorted(wanted), "each is selected by exactly one declaration, with its own dimensions"
    assert len(declared) == len(wanted)
