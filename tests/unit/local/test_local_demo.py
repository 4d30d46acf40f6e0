"""The demo's own parts: what it finds in bytes, spans and records, and how it counts."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

from dataplane.mesh.address import TcpAddress, connect
from stacks.local.demo.audit import decrypts_of, differing
from stacks.local.demo.outage import Outage, Success, pids_of
from stacks.local.demo.tap import Tap
from stacks.local.demo.trace import as_forest, read_trace, render
from stacks.local.demo.wire import find_capture, hexdump, leaks, words


def span(name: str, own: str, parent: str | None, start: int, end: int) -> dict[str, object]:
    return {
        "trace_id": "t1",
        "span_id": own,
        "parent_id": parent,
        "name": name,
        "service": "mrgc-tenant",
        "start_ns": start * 1_000_000,
        "end_ns": end * 1_000_000,
        "attributes": {"mrgc.attempts": 2} if parent is None else {},
    }


def test_a_trace_is_a_tree_in_order_of_time(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    spans = [
        span("late", "c", "a", 50, 90),
        span("early", "b", "a", 10, 20),
        span("root", "a", None, 0, 100),
        span("orphan", "d", "x", 95, 96),
    ]
    other = {**span("other", "z", None, 0, 1), "trace_id": "t2"}
    path.write_text("".join(json.dumps(each) + "\n" for each in (*spans, other)) + '{"trace_id": "t1", "na')
    found = read_trace(path, "t1")
    assert {each.name for each in found} == {"root", "early", "late", "orphan"}, (
        "other traces and half lines are left out"
    )
    assert [each.name for each in as_forest(found)] == ["root", "orphan"], "a span without its parent is a root"
    lines = render(read_trace(path, "t1"))
    assert [line.split()[0] for line in lines] == ["root", "├", "└", "orphan"]
    assert "100.0 ms" in lines[0], "durations are in ms"
    assert "attempts=2" in lines[0], "what was noted is shown"
    assert lines[0].count("=") == 31, "the whole takes the whole bar (and one = stands in the note)"
    assert render([]) == [], "no spans, no lines"


def test_a_capture_is_found_by_its_request_id(tmp_path: Path) -> None:
    first = b"POST /inference HTTP/1.1\r\nX-Request-ID: other\r\n\r\nMRGC\x01AAAA"
    second = b"POST /inference HTTP/1.1\r\nX-Request-ID: demo_1\r\n\r\nMRGC\x01BBBB"
    (tmp_path / "0000-1.request").write_bytes(first + second)
    (tmp_path / "0000-1.response").write_bytes(
        b"HTTP/1.1 200 OK\r\n\r\nMRGC\x01CCCCHTTP/1.1 200 OK\r\n\r\nMRGC\x01DDDD"
    )
    capture = find_capture(tmp_path, "demo_1")
    assert capture is not None, "it is the connection's second request"
    assert capture.head.endswith("X-Request-ID: demo_1")
    assert capture.sealed_request == b"MRGC\x01BBBB", "from its own envelope on"
    assert capture.sealed_response == b"MRGC\x01DDDD", "and the last response"
    assert find_capture(tmp_path, "demo_2") is None, "what was not seen is not made up"


def test_a_leak_is_found_whole_or_by_a_word() -> None:
    secrets = words("The launch code is swordfish")
    assert leaks(b"..swordfish..", secrets) == [b"swordfish"], "one word is enough"
    assert leaks(b"the code is 1", secrets) == [], "short words are in everything"
    assert leaks(b"anything", [b""]) == [], "an empty secret is in nothing"


def test_a_hex_dump_shows_bytes_and_characters() -> None:
    lines = hexdump(b"MRGC\x01" + bytes(range(200, 220)), 2)
    assert lines[0].startswith("0000  4d 52 47 43 01 c8")
    assert lines[0].endswith("MRGC............"), "what is not printable is a dot"
    assert lines[1].startswith("0010  ")
    assert len(hexdump(bytes(1000), 3)) == 3, "no more rows than asked for"


def test_only_an_enclaves_own_decrypts_are_its() -> None:
    records: list[dict[str, Any]] = [
        {"operation": "Decrypt", "module_id": "i-1-enc5", "n": 1},
        {"operation": "Decrypt", "module_id": "i-12-enc5", "n": 2},
        {"operation": "Decrypt", "module_id": None, "n": 3},
        {"operation": "GenerateDataKey", "module_id": "i-1-enc5", "n": 4},
    ]
    assert [record["n"] for record in decrypts_of(records, "i-1")] == [1]


def test_registers_are_compared_without_case_and_a_missing_one_differs() -> None:
    published = {"0": "AA", "1": "bb", "2": "cc"}
    assert differing({"0": "aa", "1": "bb", "2": "cc"}, published) == []
    assert differing({"0": "ab", "1": "bb"}, published) == ["0", "2"]


def test_an_outage_counts_what_happened() -> None:
    outage = Outage(
        region="us-east-1", began_at=100.0, killed_at=104.0, ended_at=120.0, failures=Counter(unreachable=2)
    )
    outage.successes = [
        Success(at=101.0, region="us-east-1", attempts=1),
        Success(at=104.5, region="us-east-1", attempts=1),
        Success(at=114.0, region="us-east-2", attempts=5),
        Success(at=115.0, region="us-east-2", attempts=1),
    ]
    counts = outage.as_json()
    assert (counts["succeeded"], counts["retried"], counts["failed"]) == (4, 1, 2)
    assert counts["longest_gap_s"] == 9.5, "from 104.5 to 114"
    assert counts["elsewhere_after_kill"] == 2, "an answer still under way at the kill is not one from elsewhere"
    outage.successes = []
    assert outage.longest_gap_s == 20.0, "without any success the whole time is the gap"


def test_a_regions_pids_are_its_router_and_all_its_hosts() -> None:
    host = {"pids": {"parent": 2, "proxy": 3, "enclave": 4, "worker": 5}}
    cluster = {"regions": {"a": {"pids": {"router": 1}, "hosts": [host]}, "b": {"pids": {"router": 9}, "hosts": []}}}
    assert sorted(pids_of(cluster, "a")) == [1, 2, 3, 4, 5]


async def test_the_tap_passes_bytes_on_and_keeps_a_copy(tmp_path: Path) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"<" + await reader.readline() + b">")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    target = server.sockets[0].getsockname()[1]
    tap = Tap(tmp_path)
    listener = await tap.listen(0, target)
    reader, writer = await connect(TcpAddress("127.0.0.1", listener.sockets[0].getsockname()[1]), timeout_s=2)
    writer.write(b"sealed\n")
    async with asyncio.timeout(5):
        received = b""
        while b">" not in received:
            received += await reader.read(100)
    assert received == b"<sealed\n>", "unchanged"
    assert (tmp_path / f"0000-{target}.request").read_bytes() == b"sealed\n"
    assert (tmp_path / f"0000-{target}.response").read_bytes() == b"<sealed\n>"
    writer.close()
    listener.close()
    await tap.close()
    server.close()
    await server.wait_closed()
