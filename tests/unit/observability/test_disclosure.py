"""The table of what may leave, against what the code emits; and what becomes of anything else."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from dataplane.registry.host import HostRecord
from observability import disclosure, metrics, names
from observability.disclosure import TABLE, Disclosure, Where, disclosed, refused

DOCS = Path(__file__).parents[3] / "docs" / "observability.md"


def of(where: Where, *classes: Disclosure) -> set[str]:
    return {row.name for row in TABLE if row.where is where and (not classes or row.disclosure in classes)}


def test_every_name_has_one_row_and_a_reason() -> None:
    keys = [(row.where, row.name) for row in TABLE]
    assert len(keys) == len(set(keys)), "a name with two classes has none"
    assert all(len(row.reason) > 8 for row in TABLE), "a class without a reason is a guess"


def test_every_attribute_metric_and_field_of_the_code_is_in_the_table() -> None:
    assert of(Where.HOST_SPAN) == names.ALLOWED_ATTRIBUTES, "what a span may carry anywhere"
    assert of(Where.RELAYED, Disclosure.HOST) <= names.ALLOWED_ATTRIBUTES, "a relayed span carries no more than others"
    assert of(Where.METRIC) == {metric.name for metric in metrics.DATAPLANE_METRICS}, "router's and parent's pages"
    assert of(Where.RECORD) == {field.name for field in fields(HostRecord)}, "the registry's record"


def test_a_sealed_figure_is_in_no_list_of_what_may_leave() -> None:
    sealed = {row.name for row in TABLE if row.disclosure is Disclosure.SEALED}
    assert {names.GEN_AI_INPUT_TOKENS, names.GEN_AI_OUTPUT_TOKENS, names.CACHED_TOKENS, names.TTFT_MS} <= sealed
    assert not sealed & disclosure.RELAYED_ATTRIBUTES, "the relayed spans' list has class H alone"
    tokens = sealed - {names.HTTP_STATUS}  # the outer status is a host's to see
    assert not tokens & names.ALLOWED_ATTRIBUTES, "and no process may put a count on any span"


def test_counts_and_times_of_requests_leave_as_aggregates_only() -> None:
    for row in TABLE:
        if row.where in (Where.STATS, Where.METRIC) and any(
            word in row.name for word in ("token", "prefill", "decode", "kv_cache", "avg_s", "released")
        ):
            assert row.disclosure is Disclosure.AGGREGATE, f"{row.name} is made of requests' own figures"


def test_what_the_table_lacks_is_left_out_of_a_reply_and_told_by_name_alone(kept_back: list[str]) -> None:
    reply: dict[str, Any] = {
        "engine": "vllm",
        "last_prompt": "the secret",
        "requests": {"total": 3, "failed": 0, "avg_s": 0.0, "last_tokens": 4711},
        "gpu": 7,
        "models": {"details": {"tiny": {"digest": "ab", "prompt": "the secret"}}},
    }
    assert disclosed(Where.STATS, reply) == {
        "engine": "vllm",
        "requests": {"total": 3, "failed": 0, "avg_s": 0.0},
        "models": {"details": {"tiny": {"digest": "ab"}}},
    }, "listed members pass, whole or in part"
    assert len(kept_back) == 4, "each other one is told"
    assert not any("secret" in name or "4711" in name for name in kept_back), "by name, never by value"
    kept_back.clear()


def test_a_sealed_row_never_passes(monkeypatch: pytest.MonkeyPatch, kept_back: list[str]) -> None:
    row = disclosure.Row(Where.STATS, "tokens", Disclosure.SEALED, "for this test alone")
    monkeypatch.setattr(disclosure, "TABLE", (*TABLE, row))
    assert disclosed(Where.STATS, {"tokens": 1}) == {}, "S is for the tenant, and no reply is"
    kept_back.clear()


def test_the_page_names_what_is_sealed_and_what_is_aggregated() -> None:
    page = DOCS.read_text()
    for row in TABLE:
        if row.where in (Where.RELAYED, Where.METRIC) and row.disclosure is not Disclosure.HOST:
            assert f"`{row.name}`" in page, f"docs/observability.md does not name {row.name}"


def test_production_says_what_it_kept_back_by_name_and_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        refused("the attribute x of worker.generate")
    assert caplog.text.count("the attribute x of worker.generate was kept back") == 1, "found, and no flood"
