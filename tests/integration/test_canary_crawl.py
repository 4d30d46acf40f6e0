"""A marked prompt and its answer go the whole way; then everything that anybody but the tenant can read is searched.

Searched for are the prompt, the answer and the exact counts of both: every page of router, parent, worker and enclave,
the registry, every log line at the finest level, and every span, relayed ones included.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from observability import names
from observability.tracing import Telemetry
from tests.support.parent_host import RecordingForwarder
from tests.support.whole_path import Options, WholePath, whole_path
from tests.unit.router.harness import POOL

CANARY = "canary-4f1c9e"
PROMPT_TOKENS, ANSWER_TOKENS = 1373, 337
"""Counts that nothing else here has; the synthetic engine makes one token of four bytes."""

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0"
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


def prompt() -> str:
    around = len("user\n\n")
    return (f"{CANARY} " * PROMPT_TOKENS)[: 4 * PROMPT_TOKENS - around]


def request(**more: Any) -> bytes:
    message = {"role": "user", "content": prompt()}
    return json.dumps({"model": POOL, "messages": [message], "max_tokens": ANSWER_TOKENS} | more).encode()


class Watched:
    """Where spans of every process go in this test."""

    def __init__(self) -> None:
        self.forwarder = RecordingForwarder()
        self.exporter = InMemorySpanExporter()
        self.telemetry = [Telemetry.exporting(name, self.exporter) for name in ("parent", "router")]

    def options(self) -> Options:
        parent, router = self.telemetry
        return Options(router={"telemetry": router}, parent_telemetry=parent, spans=self.forwarder, step_s=0.0)

    def spans(self) -> dict[str, str]:
        for telemetry in self.telemetry:
            telemetry.shutdown()
        found = {f"span of {span.name}": span.to_json() for span in self.exporter.get_finished_spans()}
        for batch in self.forwarder.batches:
            for resource in ExportTraceServiceRequest.FromString(batch).resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        # Ids are drawn at random, and as text look like numbers now and then.
                        ids = f"{span.trace_id.hex()} {span.span_id.hex()}"
                        span.trace_id = span.span_id = span.parent_span_id = b""
                        found[f"relayed span of {span.name}"] = f"{ids} {resource.resource} {span}"
        return found


async def crawl(path: WholePath) -> dict[str, str]:
    """Every page that anybody can ask for, by name."""
    found: dict[str, str] = {}
    async with aiohttp.ClientSession() as session:
        for page in ("/metrics", "/health", "/stats", f"/attestation?nonce={'ab' * 16}"):
            for accept in ("application/json", "text/plain", "application/openmetrics-text"):
                async with session.get(path.parent_address + page, headers={"Accept": accept}) as response:
                    found[f"parent {page} as {accept}"] = repr(await response.read())
    for page in ("/metrics", "/health", "/hosts", "/stats"):
        found[f"router {page}"] = repr((await path.router.get(page, admin=True)).body)
    for page in ("/health", "/models"):
        found[f"router's public {page}"] = repr((await path.router.get(page)).body)
    found["registry"] = repr([record.to_item() for record in await path.router.registry.hosts("us-east-1")])
    found["worker's stats"] = repr(await path.worker.stats())
    found["enclave's health"] = repr((await path.enclave.call(op="health")).map())
    return found


def extras(record: logging.LogRecord) -> dict[str, Any]:
    """What a line was given besides its text; not its time or process id, which are any number."""
    return {name: value for name, value in record.__dict__.items() if name not in logging.makeLogRecord({}).__dict__}


def needles(body: bytes, *, streamed: bool) -> dict[str, re.Pattern[str]]:
    """What may be found nowhere, from what the tenant got."""
    if streamed:
        events = [json.loads(line[6:]) for line in body.decode().splitlines() if line.startswith("data: {")]
        text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])
        usage, identity = events[-1]["usage"], events[-1]["id"]
    else:
        whole = json.loads(body)
        text, usage, identity = whole["choices"][0]["message"]["content"], whole["usage"], whole["id"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (PROMPT_TOKENS, ANSWER_TOKENS), "control: the counts"
    assert len(text) > 500, "control: an answer to look for"
    counts = "|".join(str(count) for count in (PROMPT_TOKENS, ANSWER_TOKENS, PROMPT_TOKENS + ANSWER_TOKENS))
    return {
        "the prompt": re.compile(CANARY),
        "the answer": re.compile(f"{re.escape(text[:24])}|{re.escape(identity)}"),
        "an exact count": re.compile(rf"(?<![\w.-])(?:{counts})(?![\w-]|\.\d*[1-9])"),
    }


@pytest.mark.parametrize("streamed", [True, False])
async def test_no_page_log_or_span_holds_prompt_answer_or_an_exact_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, streamed: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    watched = Watched()
    async with whole_path(tmp_path, watched.options()) as path:
        sealed = path.seal(request(**(STREAMED if streamed else {})), pad=256)
        reply = await path.ask(sealed, traceparent=f"{TRACEPARENT}1")
        assert reply.clean, reply
        opener = sealed[1].response_opener()
        frames = opener.feed(reply.body)
        body = b"".join(frame.data for frame in frames[1:] if not frame.final)
        found = await crawl(path)
    found |= watched.spans()
    found["logs"] = "\n".join(f"{record.getMessage()} {extras(record)}" for record in caplog.records)
    relayed = {name for name in found if name.startswith("relayed")}
    assert relayed >= {f"relayed span of {name}" for name in (names.ENCLAVE_SEAL, names.WORKER_GENERATE)}, "control"
    assert "span of parent.inference" in found, "control: the parent's own span is searched too"
    for what, pattern in needles(body, streamed=streamed).items():
        assert pattern.search(f" {CANARY} {PROMPT_TOKENS}, {body!r}"), f"control: {what} would be found"
        held = {name: pattern.search(text) for name, text in found.items() if pattern.search(text)}
        assert not held, f"{what} stands where others than the tenant can read it"


async def test_an_unsampled_request_leaves_no_span_anywhere(tmp_path: Path) -> None:
    watched = Watched()
    async with whole_path(tmp_path, watched.options()) as path:
        reply = await path.ask(path.seal(request()), traceparent=f"{TRACEPARENT}0")
        assert reply.clean, reply
    trace_id = TRACEPARENT.split("-")[1]
    left = [name for name, text in watched.spans().items() if trace_id in text]
    assert not left, "the tenant said that it does not want to be traced"
    assert not watched.forwarder.batches, "enclave and worker relay nothing"
