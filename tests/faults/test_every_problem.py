"""Every row of the protocol's error table, provoked over the wire: status, code, title, sentence and Retry-After.

Router, parent, enclave and worker are the real ones, each listening. Beside the table's rows stand the processes that
can say them; a row that nobody provokes fails the last test here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dataplane.enclave.replay import ReplayWindow
from dataplane.protocol.envelope import RequestSealer
from dataplane.protocol.errors import PROBLEMS
from dataplane.protocol.suite import MAX_BODY_BYTES
from tests.support.whole_path import ABSENT_POOL, INSTANCE, OTHER_KEY, PROMPT, Options, WholePath, whole_path
from tests.unit.router.harness import API_KEY, ENVELOPE, KMS_KEY, Reply, head, record

ROOT = Path(__file__).parents[2]
TABLE_ROW = re.compile(r"^\| ([0-9, ]+) \| (`[^|]+`) \| ", re.MULTILINE)

Provoke = Callable[[WholePath], Awaitable[Reply]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to provoke one row; `said_by` is the process that refuses."""

    code: str
    said_by: str
    words: str
    retry_after: bool
    options: Options
    provoke: Provoke


ROWS: list[Row] = []


def row(
    code: str, said_by: str, words: str, *, retry_after: bool = False, options: Options | None = None
) -> Callable[[Provoke], Provoke]:
    """Enter a function into the table as what provokes `code` from `said_by`."""

    def enter(provoke: Provoke) -> Provoke:
        ROWS.append(
            Row(
                code=code,
                said_by=said_by,
                words=words,
                retry_after=retry_after,
                options=options or Options(),
                provoke=provoke,
            )
        )
        return provoke

    return enter


# 400.


@row("malformed-envelope", "router", "Content-Type is 'text/plain'")
async def another_content_type(path: WholePath) -> Reply:
    return await path.ask(content_type="text/plain")


@row("malformed-envelope", "parent", "The Content-Type is 'text/plain'")
async def another_content_type_past_the_router(path: WholePath) -> Reply:
    return await path.ask_parent(head(content_type="text/plain", content_length="4") + b"MRGC")


@row("malformed-envelope", "enclave", "does not start with MRGC")
async def no_envelope(path: WholePath) -> Reply:
    return await path.ask(body=b"XXXX" + bytes(100))


@row("malformed-envelope", "enclave", "does not authenticate")
async def one_bit_of_a_frame_flipped(path: WholePath) -> Reply:
    data, _, _ = path.seal()
    return await path.ask(body=data[:-1] + bytes([data[-1] ^ 1]))


@row("malformed-envelope", "enclave", "before the final frame")
async def a_body_without_its_final_frame(path: WholePath) -> Reply:
    _, _, header = path.seal()
    unfinished = RequestSealer(header, path.enclave.kms.keys[header.wrapped][0])
    return await path.ask(body=unfinished.prefix() + unfinished.seal(b"half", final=False))


@row("header-mismatch", "router", "X-Tenant-ID is missing")
async def no_tenant(path: WholePath) -> Reply:
    return await path.ask(x_tenant_id=None)


@row("header-mismatch", "parent", "X-KMS-Key-ARN is missing")
async def no_key_past_the_router(path: WholePath) -> Reply:
    return await path.ask_parent(head(x_kms_key_arn=None, content_length="4") + b"MRGC")


@row("header-mismatch", "enclave", "X-KMS-Key-ARN differs from the envelope's header")
async def another_registered_key_than_the_envelopes(path: WholePath) -> Reply:
    return await path.ask(x_kms_key_arn=OTHER_KEY)


@row("unsupported-version", "enclave", "only 1 is spoken here")
async def version_2(path: WholePath) -> Reply:
    data, _, _ = path.seal()
    return await path.ask(body=data[:4] + b"\x02" + data[5:])


@row("expired", "enclave", "at most 300 s are allowed; seal it again")
async def an_old_request(path: WholePath) -> Reply:
    return await path.ask(path.seal(iat=path.enclave.now_ms() - 301_000))


@row("expired", "enclave", "in the future; set the tenant's clock")
async def a_request_from_the_future(path: WholePath) -> Reply:
    return await path.ask(path.seal(iat=path.enclave.now_ms() + 70_000))


@row("expired", "enclave", "start a new one")
async def a_session_that_has_ended(path: WholePath) -> Reply:
    return await path.ask(path.seal(expires_in_s=-1))


# 401 and 403.


@row("unauthenticated", "router", "No API key")
async def no_api_key(path: WholePath) -> Reply:
    return await path.ask(authorization=None)


@row("unauthenticated", "router", "not valid for this tenant")
async def a_wrong_api_key(path: WholePath) -> Reply:
    return await path.ask(authorization="Bearer wrong")


@row("key-not-registered", "router", "is not registered for this tenant")
async def a_key_of_somebody_else(path: WholePath) -> Reply:
    return await path.ask(x_kms_key_arn=KMS_KEY + "9")


@row("kms-denied", "enclave", "KMS refused this enclave the data key")
async def a_wrapped_key_under_another_context(path: WholePath) -> Reply:
    context, cek, wrapped = path.enclave.session()
    moved = (context | {"mrgc:session": "00" * 16}, cek, wrapped)
    return await path.ask(path.enclave.seal(session=moved, kms=KMS_KEY))


@row("assurance-too-low", "enclave", "asks for assurance level 2 and this host proves level 0")
async def more_assurance_than_software_gives(path: WholePath) -> Reply:
    return await path.ask(path.seal(assurance=2))


# 404, 409 and 413.


@row("unknown-model-pool", "router", "No host here serves a model pool named 'nowhere'")
async def a_pool_that_no_host_names(path: WholePath) -> Reply:
    return await path.ask(x_model_pool="nowhere")


@row("unknown-model-pool", "worker", "This host has no such model pool")
async def a_pool_that_is_not_in_the_store(path: WholePath) -> Reply:
    return await path.ask(path.seal(model=ABSENT_POOL), x_model_pool=ABSENT_POOL)


@row("not-found", "router", "POST /inference")
async def no_page(path: WholePath) -> Reply:
    return await path.router.get("/nothing")


@row("not-found", "parent", "no such page")
async def no_page_past_the_router(path: WholePath) -> Reply:
    return await path.ask_parent(head("GET", "/nothing"))


@row("replayed", "enclave", "was already served by this enclave")
async def a_request_sent_twice(path: WholePath) -> Reply:
    sealed = path.seal()
    assert (await path.ask(sealed)).clean, "the first is served"
    return await path.ask(sealed)


@row("too-large", "router", str(MAX_BODY_BYTES))
async def a_length_over_the_limit(path: WholePath) -> Reply:
    return await path.router.ask(head(content_length=str(MAX_BODY_BYTES + 1)))


@row("too-large", "parent", str(MAX_BODY_BYTES))
async def a_length_over_the_limit_past_the_router(path: WholePath) -> Reply:
    return await path.ask_parent(head(content_length=str(MAX_BODY_BYTES + 1)))


@row("too-large", "enclave", "more than 1048576 bytes")
async def a_message_over_1_mib(path: WholePath) -> Reply:
    _, _, header = path.seal()
    sealer = RequestSealer(header, path.enclave.kms.keys[header.wrapped][0])
    suite = sealer._suite
    fields: dict[str, Any] = {name: getattr(suite, name) for name in suite.__slots__}
    sealer._suite = type(suite)(**(fields | {"max_message_bytes": 2**24}))
    return await path.ask(body=sealer.prefix() + b"".join(sealer.seal_message(bytes(2**20 + 1))))


# 429.


@row(
    "tenant-over-limit",
    "router",
    "6 requests per minute",
    retry_after=True,
    options=Options(tenant={"requests_per_minute": 6}),
)
async def a_second_request_within_ten_seconds(path: WholePath) -> Reply:
    assert (await path.ask()).clean, "the first is served"
    return await path.ask()


@row(
    "tenant-over-limit",
    "enclave",
    "its whole share",
    retry_after=True,
    options=Options(enclave={"replay": ReplayWindow(max_entries=4, max_share=0.25)}),
)
async def more_than_a_tenants_share_of_the_replay_window(path: WholePath) -> Reply:
    assert (await path.ask()).clean, "the first is served"
    return await path.ask()


@row("overloaded", "router", "1 requests are in flight", retry_after=True, options=Options(router={"max_in_flight": 1}))
async def a_full_router(path: WholePath) -> Reply:
    async with path.busy():
        return await path.ask()


@row(
    "overloaded",
    "parent",
    "1 requests are in flight and 0 wait",
    retry_after=True,
    options=Options(parent={"MAX_IN_FLIGHT": "1", "MAX_QUEUE": "0"}),
)
async def a_full_host(path: WholePath) -> Reply:
    async with path.busy():
        return await path.ask()


@row(
    "overloaded",
    "enclave",
    "without risking a replay",
    retry_after=True,
    options=Options(enclave={"replay": ReplayWindow(max_entries=1, max_share=1)}),
)
async def a_full_replay_window(path: WholePath) -> Reply:
    assert (await path.ask()).clean, "the first is served"
    return await path.ask()


@row(
    "overloaded",
    "worker",
    "has a full queue",
    retry_after=True,
    options=Options(worker={"max_num_seqs": 1, "max_queue": 0}),
)
async def a_full_queue_at_the_worker(path: WholePath) -> Reply:
    async with path.busy():
        return await path.ask()


# 502, 503 and 504.


@row("host-failed", "router", "can't be connected to", retry_after=True)
async def nobody_at_the_hosts_address(path: WholePath) -> Reply:
    await path.router.put(record(INSTANCE, "http://127.0.0.1:9"))
    return await path.ask()


@row("host-failed", "parent", "enclave cannot be reached", retry_after=True)
async def an_enclave_that_is_gone(path: WholePath) -> Reply:
    await path.enclave.server.close(drain_s=0)
    return await path.ask()


@row("host-failed", "enclave", "No GPU worker is bound", retry_after=True)
async def an_enclave_without_a_worker(path: WholePath) -> Reply:
    path.enclave.server.state.worker = None
    return await path.ask()


@row("host-failed", "worker", "failed before it answered", retry_after=True)
async def a_pool_that_can_not_be_loaded(path: WholePath) -> Reply:
    return await path.ask(path.seal(model="broken"), x_model_pool="broken")


@row("no-capacity", "router", "can take a request now", retry_after=True)
async def a_region_without_hosts(path: WholePath) -> Reply:
    await path.router.registry.remove_host("us-east-1", INSTANCE)
    await path.router.refresh()
    return await path.ask()


@row("no-capacity", "parent", "being drained", retry_after=True, options=Options(parent={"DRAIN_TIMEOUT_S": "5"}))
async def a_host_that_is_leaving(path: WholePath) -> Reply:
    async with path.busy():
        path.parent_stop.request()
        await asyncio.sleep(0.05)
        return await path.ask()


@row("deadline-exceeded", "router", "no time was left")
async def no_time_at_all(path: WholePath) -> Reply:
    return await path.ask(x_deadline_ms="0")


@row("deadline-exceeded", "host", "The deadline passed")
async def a_kms_that_takes_longer_than_the_tenant_waits(path: WholePath) -> Reply:
    path.enclave.kms.gate = asyncio.Event()
    return await path.ask(x_deadline_ms="200")


# The tests.


def name_of(case: Row) -> str:
    return f"{case.code}-{case.said_by}-{case.provoke.__name__}"


@pytest.mark.parametrize("case", ROWS, ids=name_of)
async def test_a_row_of_the_error_table_is_answered_as_it_says(tmp_path: Path, case: Row) -> None:
    async with whole_path(tmp_path, case.options) as path:
        reply = await case.provoke(path)
    problem = PROBLEMS[case.code]
    document = reply.problem
    assert (reply.status, document["type"]) == (problem.status, f"urn:mrgc:error:{case.code}"), reply.body
    assert document["title"] == problem.title, "the row's title"
    assert set(document) == {"type", "title", "status", "detail"}, "RFC 9457's members, and no other"
    sentence = document["detail"]
    assert case.words in sentence, "the sentence says what is wrong"
    assert sentence[0].isupper(), "it is a sentence"
    assert sentence.endswith("."), "a whole one"
    assert len(sentence) < 400, "and one that is read"
    assert ("retry-after" in reply.headers) is case.retry_after, "Retry-After where trying again makes sense"
    for secret in (API_KEY.encode(), PROMPT.encode(), ENVELOPE):
        assert secret not in reply.body, "and nothing secret is in it"


async def test_what_is_not_provoked_is_served(tmp_path: Path) -> None:
    async with whole_path(tmp_path) as path:
        sealed = path.seal()
        reply = await path.ask(sealed)
        assert (reply.status, reply.clean) == (200, True), "control: nothing in this arrangement refuses by itself"
        opener = sealed[1].response_opener()
        opened = opener.feed(reply.body)
        opener.finish()
        assert b"[DONE]" in b"".join(each.data for each in opened), "the engine's whole answer, for the tenant alone"


def test_every_row_of_the_table_is_provoked_and_documented() -> None:
    assert {case.code for case in ROWS} == set(PROBLEMS), "each code has a way to be provoked over the wire"
    page = (ROOT / "docs/protocol.md").read_text().split("## Errors", 1)[1].split("\n## ", 1)[0]
    documented: dict[str, int] = {}
    for statuses, codes in TABLE_ROW.findall(page):
        names = re.findall(r"`([a-z-]+)`", codes)
        numbers = [int(number) for number in statuses.split(",")]
        documented |= dict(zip(names, numbers * len(names) if len(numbers) == 1 else numbers, strict=False))
    assert documented == {code: problem.status for code, problem in PROBLEMS.items()}, "the page has the same table"
