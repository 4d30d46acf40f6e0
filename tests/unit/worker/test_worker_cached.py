"""Whether a tenant is told how much of its prompt the prefix cache held: only where the pool says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stacks.local.synthetic import SyntheticFactory
from stacks.local.synthetic_cost import SyntheticCosts

FAST = SyntheticCosts(step_s=0.0, per_sequence_s=0.0, prefill_tokens_per_s=1e9)
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
PROMPT = "the same prompt, long enough for a block of the cache or two. " * 8


def bodies() -> list[tuple[str, dict[str, Any]]]:
    chat: dict[str, Any] = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 2}
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    completion: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 2}
    return [
        (CHAT, chat),
        (CHAT, chat | streamed),
        (COMPLETIONS, completion),
        (COMPLETIONS, completion | streamed),
    ]


@pytest.mark.parametrize("reports", [False, True])
async def test_cached_tokens_are_told_only_where_the_pool_reports_them(
    run_worker: Callable[..., Any], add_pool: Callable[..., Path], *, reports: bool
) -> None:
    add_pool("pool", options={"report_cached_tokens": True} if reports else {})
    async with run_worker(SyntheticFactory(costs=FAST, clock_ms=lambda: 1), default_model_pool="pool") as (
        _,
        client,
        _t,
    ):
        for path, body in bodies():
            for _ in range(2):
                answered = await client.ask(path, body, pool="pool")
            assert answered.tail is not None, answered.problem
            assert ("cached_tokens" in answered.tail.usage) is reports, "in what the receipt gets"
            assert (b"cached_tokens" in answered.body) is reports, f"in the body of {path}"
            if reports:
                assert answered.tail.usage["cached_tokens"] > 0, "control: the second time the cache held it"


def test_extra_arguments_are_no_way_round() -> None:
    from dataplane.worker.prepare import NOT_THE_TENANTS, prepare  # noqa: PLC0415 - needed here alone

    extra: dict[str, object] = dict.fromkeys(NOT_THE_TENANTS, "x") | {"harmless": 1}
    body = json.dumps({"prompt": "x", "vllm_xargs": extra}).encode()
    call = prepare(path=COMPLETIONS, body=body, pool="pool", cache_salt="s", priority=0)
    assert json.loads(call.body)["vllm_xargs"] == {"harmless": 1}, "vLLM takes these as if they stood outside"
