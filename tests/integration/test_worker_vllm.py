"""The worker with real vLLM on this machine's CPU: what an enclave gets from it, and how it dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from dataplane.enclave.salt import cache_salt
from dataplane.enclave.tenant_key import TenantKey
from dataplane.mesh.address import AddressError, UnixAddress
from dataplane.worker.pool import model_digest
from stacks.local.engine.install import EngineEnvironment
from stacks.local.engine.tiny_model import make_tiny_model
from stacks.local.worker_client import WorkerClient, hop_message

pytestmark = [pytest.mark.engine, pytest.mark.processes, pytest.mark.timeout(240)]

ROOT = Path(__file__).resolve().parents[2]
ENGINE = EngineEnvironment(ROOT / ".venv-engine")
READY_S = 120.0
SECRET = "zebra-omelette-4711"
CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"


@dataclass(frozen=True, slots=True)
class RunningWorker:
    process: subprocess.Popen[bytes]
    client: WorkerClient
    mount: Path
    log: Path

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def engines(self) -> list[psutil.Process]:
        return [child for child in self.children() if "EngineCore" in child.name()]


@pytest.fixture(scope="session")
def engine_python() -> Path:
    if not ENGINE.installed():
        reason = "the engine is not installed in .venv-engine: run `make engine`"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return ENGINE.python


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fsx")
    make_tiny_model(root / "models" / "tiny")
    make_tiny_model(root / "models" / "vectors", embeds=True)
    make_tiny_model(root / "models" / "telling")
    (root / "models" / "telling" / "mrgc.json").write_text('{"report_cached_tokens": true}')
    return root


LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))
os.execv(sys.argv[1], sys.argv[1:])
"""
"""SIOCSIFFLAGS with IFF_UP and IFF_RUNNING (netdevice(7)): systemd's PrivateNetwork has the loopback up as well."""


def unnetworked(python: str) -> list[str]:
    """A command that runs `python` with nothing but a loopback, as mrgc-worker.service does, where we may."""
    alone = ["unshare", "--user", "--map-root-user", "--net", "--"]
    up = [*alone, python, "-c", LOOPBACK_UP]
    try:
        possible = subprocess.run([*up, "/bin/true"], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        possible = False
    return [*up, python] if possible else [python]


def start(command: list[str], mount: Path, folder: Path, **more: str) -> RunningWorker:
    address = UnixAddress(str(folder / "worker.sock"))
    log = folder / "worker.log"
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "ENGINE": "vllm",
        "WORKER_LISTEN_ADDRESS": str(address),
        "FSX_MOUNT_POINT": str(mount),
        "DEFAULT_MODEL_POOL": "tiny",
        "MAX_LOADED_POOLS": "2",
        "MAX_QUEUE": "4",
        "MAX_NUM_SEQS": "4",
        "HOME": str(folder),
        # Whoever runs the host writes this environment; none of it may make vLLM tell of requests.
        "VLLM_CONFIGURE_LOGGING": "1",
        "VLLM_LOGGING_LEVEL": "DEBUG",
        "VLLM_DEBUG_LOG_API_SERVER_RESPONSE": "true",
        "VLLM_TRACE_FUNCTION": "1",
    } | more
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "-m", "stacks.local.worker"], cwd=ROOT, env=environ, stdout=output, stderr=output
        )
    return RunningWorker(process, WorkerClient(address), mount, log)


def end(worker: RunningWorker) -> None:
    children = worker.children() if worker.process.poll() is None else []
    worker.process.terminate()
    try:
        worker.process.wait(60)
    finally:
        worker.process.kill()
        for child in children:
            if child.is_running():
                child.kill()


async def ready(worker: RunningWorker) -> None:
    async with asyncio.timeout(READY_S):
        while True:
            assert worker.process.poll() is None, f"the worker ended early:\n{worker.log.read_text()[-2000:]}"
            try:
                if (await worker.client.stats())["ready"]:
                    return
            except AddressError:
                pass
            await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def shared(engine_python: Path, mount: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    """A worker that serves most tests; its network is taken away, so that everything below holds without one."""
    worker = start(unnetworked(str(engine_python)), mount, tmp_path_factory.mktemp("w"))
    try:
        asyncio.run(ready(worker))
        yield worker
    finally:
        end(worker)


@pytest.fixture
async def telling(shared: RunningWorker) -> RunningWorker:
    """The shared worker with a pool loaded that reports cached tokens."""
    answered = await shared.client.ask(COMPLETIONS, {"prompt": "x", "max_tokens": 1}, pool="telling")
    assert answered.head is not None, answered.problem
    return shared


@pytest.fixture
async def doomed(engine_python: Path, mount: Path, tmp_path: Path) -> AsyncIterator[RunningWorker]:
    """A worker for a test that kills something."""
    worker = start([str(engine_python)], mount, tmp_path)
    try:
        await ready(worker)
        yield worker
    finally:
        await asyncio.to_thread(end, worker)


def chat(text: str = SECRET, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "temperature": 0} | more


async def until(worker: RunningWorker, true: Callable[[dict[str, Any]], bool]) -> None:
    """Wait until the worker's figures say so, for at most ten seconds."""
    async with asyncio.timeout(10):
        while True:
            if true(await worker.client.stats()):
                return
            await asyncio.sleep(0.005)


async def idle(worker: RunningWorker) -> None:
    """Wait until the engine has nothing to do."""
    await until(worker, lambda stats: bool(stats["in_flight"] == stats["running"] == stats["waiting"] == 0))


async def test_a_chat_streams_in_openais_shape_and_says_vllm(shared: RunningWorker) -> None:
    answered = await shared.client.ask(CHAT, chat(stream=True, max_tokens=12, ignore_eos=True))
    assert answered.head is not None, answered.problem
    assert answered.head.engine == "vllm", "what generated must be named"
    assert answered.head.status == 200
    assert answered.head.content_type.startswith("text/event-stream")
    assert answered.head.model_digest == model_digest(shared.mount / "models" / "tiny"), "the digest names the files"
    events = [line[6:] for line in answered.body.decode().splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]", "a whole stream ends with its mark"
    chunks = [json.loads(event) for event in events[:-1]]
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert len(text) == 12, "one byte-level token is one character"
    assert not any(chunk.get("usage") for chunk in chunks), "usage that was not asked for must not be added"
    assert answered.tail is not None
    assert answered.tail.usage["completion_tokens"] == 12, "tokens are counted at the engine all the same"
    assert answered.spans is not None, "the worker's span comes with the answer"
    assert SECRET.encode() not in answered.spans, "no prompt in a span"


async def test_usage_is_what_the_engine_itself_tells_the_tenant(shared: RunningWorker) -> None:
    for path, body in (
        (CHAT, chat("count me", max_tokens=7)),
        (COMPLETIONS, {"prompt": ["one", "and two"], "n": 2, "max_tokens": 3, "temperature": 1, "seed": 1}),
    ):
        answered = await shared.client.ask(path, body)
        told = answered.json["usage"]
        assert answered.tail is not None
        counted = answered.tail.usage
        assert counted["prompt_tokens"] == told["prompt_tokens"], path
        assert counted["completion_tokens"] == told["completion_tokens"], path


async def test_greedy_answers_are_the_same_twice(shared: RunningWorker) -> None:
    first, second = [await shared.client.ask(CHAT, chat("twice", max_tokens=16)) for _ in range(2)]
    texts = [answered.json["choices"][0]["message"]["content"] for answered in (first, second)]
    assert texts[0] == texts[1], "temperature 0 on one model is deterministic"


async def test_salts_part_tenants_in_the_prefix_cache_and_the_tenants_own_salt_is_dropped(
    telling: RunningWorker,
) -> None:
    cached = []
    for salt in ("tenant-a", "tenant-a", "tenant-b", "tenant-b"):
        body = {"prompt": "shared prefix " * 40, "max_tokens": 1, "cache_salt": "chosen-by-the-tenant"}
        answered = await telling.client.ask(COMPLETIONS, body, pool="telling", cache_salt=salt)
        assert answered.tail is not None, answered.problem
        cached.append(answered.tail.usage["cached_tokens"])
    assert cached[0] == 0, "the first asks a cold cache"
    assert cached[1] > 0, "the same tenant finds its own prefix"
    assert cached[2] == 0, "another tenant finds nothing of it"
    assert cached[3] > 0, "and then its own"


def guesses(prompt: str) -> list[tuple[str, dict[str, Any]]]:
    """Every shape in which vLLM could tell how much of a prompt its cache held."""
    streamed = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    completion = {"prompt": prompt, "max_tokens": 1}
    asked = chat(prompt, max_tokens=1)
    return [(COMPLETIONS, completion), (COMPLETIONS, completion | streamed), (CHAT, asked), (CHAT, asked | streamed)]


async def test_who_names_the_victim_under_a_key_of_his_own_gets_no_answer_to_a_guess(telling: RunningWorker) -> None:
    secret, guess = bytes(range(32)), "the victim's own words, which somebody tries to guess. " * 8
    victims = TenantKey.parse("arn:aws:kms:us-east-1:111122223333:key/mrk-victim")
    attackers = TenantKey.parse("arn:aws:kms:us-east-1:444455556666:key/mrk-attacker")
    told = {}
    for who, key in (("victim", victims), ("victim again", victims), ("attacker", attackers)):
        for path, body in guesses(guess)[::2]:
            salt = cache_salt(secret, key, "victim")
            answered = await telling.client.ask(path, body, pool="telling", cache_salt=salt)
            assert answered.tail is not None, answered.problem
            told[who, path] = answered.tail.usage["cached_tokens"]
            assert answered.json["usage"]["prompt_tokens_details"]["cached_tokens"] == told[who, path], "as vLLM says"
    for path in (COMPLETIONS, CHAT):
        assert told["victim again", path] > 0, "control: the victim's prompt is in the cache, and this pool tells it"
        assert told["attacker", path] == 0, "the same name under another key finds nothing of it"


async def test_a_pool_that_does_not_report_them_tells_no_cached_tokens_in_any_shape(shared: RunningWorker) -> None:
    for path, body in guesses("a prompt of the same tenant, asked twice, so that the cache holds it. " * 8):
        for salt in ("salt-a", "salt-a"):
            answered = await shared.client.ask(path, body, cache_salt=salt)
            assert answered.tail is not None, answered.problem
            assert "cached_tokens" not in answered.tail.usage, "not in what the receipt gets"
            assert b"cached_tokens" not in answered.body, f"not in the body of {path}"


async def test_logprobs_and_an_unfit_request_have_openais_shape(shared: RunningWorker) -> None:
    answered = await shared.client.ask(CHAT, chat(max_tokens=2, logprobs=True, top_logprobs=3))
    assert len(answered.json["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 3
    answered = await shared.client.ask(CHAT, chat("x" * 10_000))
    assert answered.head is not None
    assert answered.head.status == 400, "a prompt beyond the context is the tenant's fault"
    assert "context length" in answered.json["error"]["message"]
    answered = await shared.client.ask(CHAT, chat(model="another"))
    assert answered.head is not None
    assert answered.head.status == 404
    assert answered.json["error"]["code"] == "model_not_found"
    answered = await shared.client.ask(EMBEDDINGS, {"input": "no"})
    assert answered.head is not None
    assert answered.head.status == 400
    assert answered.json["error"]["code"] == "not_served", "a generating pool embeds nothing"


async def test_a_second_pool_is_loaded_on_demand_and_embeds(shared: RunningWorker) -> None:
    answered = await shared.client.ask(EMBEDDINGS, {"input": ["a", "bc"]}, pool="vectors")
    assert answered.head is not None, answered.problem
    assert answered.head.status == 200
    vectors = [entry["embedding"] for entry in answered.json["data"]]
    assert len(vectors) == 2
    assert vectors[0] != vectors[1], "different texts have different vectors"
    assert answered.tail is not None
    assert answered.tail.usage["prompt_tokens"] == answered.json["usage"]["prompt_tokens"]
    stats = await shared.client.stats()
    assert stats["models"]["loaded"] == ["tiny", "vectors"]
    answered = await shared.client.ask(CHAT, chat(max_tokens=1))
    assert answered.head is not None
    assert answered.head.status == 200, "the first pool still serves"


async def test_a_pool_that_is_not_there_is_a_problem(shared: RunningWorker) -> None:
    answered = await shared.client.ask(CHAT, chat(), pool="../tiny")
    assert answered.problem is not None
    assert answered.problem["code"] == "unknown-model-pool"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_the_engine_at_once(shared: RunningWorker, *, stream: bool) -> None:
    exchange = await shared.client.begin(hop_message(CHAT, chat(stream=stream, max_tokens=3900, ignore_eos=True)))
    await until(shared, lambda stats: stats["running"] == 1)
    exchange.link.abort()
    began = asyncio.get_running_loop().time()
    await idle(shared)
    took = asyncio.get_running_loop().time() - began
    assert took < 1.0, f"{took:.1f} s: running on to 3,900 tokens would take several"


async def test_more_than_runs_and_waits_is_refused_before_anything_is_sent(shared: RunningWorker) -> None:
    body = chat(stream=True, max_tokens=600, ignore_eos=True)
    answers = await asyncio.gather(*(shared.client.ask(CHAT, body) for _ in range(14)))
    served = [answered for answered in answers if answered.head is not None]
    refused = [answered.problem for answered in answers if answered.problem is not None]
    assert len(served) == 8, "four run and four wait"
    assert all(answered.tail is not None for answered in served), "those that were let in are whole"
    assert {problem["code"] for problem in refused} == {"overloaded"}
    assert len(refused) == 6
    await idle(shared)


async def test_a_deadline_ends_the_request_in_the_engine_too(shared: RunningWorker) -> None:
    message = hop_message(CHAT, chat(max_tokens=3900, ignore_eos=True), deadline_ms=100)
    answered = await shared.client.infer(message)
    assert answered.problem is not None, "nothing was sent before the deadline"
    assert answered.problem["code"] == "deadline-exceeded"
    await idle(shared)


async def test_what_was_asked_is_in_no_log(shared: RunningWorker) -> None:
    bad = {"messages": [{"role": SECRET, "content": [{"type": SECRET}]}], "response_format": {"type": SECRET}}
    await shared.client.ask(CHAT, bad)
    await shared.client.ask(CHAT, json.dumps(chat())[:-1].encode())
    answered = await shared.client.ask(CHAT, chat(max_tokens=24))
    text = shared.log.read_text()
    assert SECRET not in text, "prompts stay out of logs, those of errors too"
    assert answered.json["id"] not in text, "and answers do, whatever the environment asks vLLM to log"
    assert "response_body" not in text, "of which vLLM writes this"
    assert "pool tiny ready" in text, "and the worker's own lines go on after vLLM was imported"


async def test_an_engine_that_is_killed_ends_the_worker_and_its_streams(doomed: RunningWorker) -> None:
    endless = hop_message(CHAT, chat(stream=True, max_tokens=3900, ignore_eos=True))
    exchange = await doomed.client.begin(endless)
    stream = exchange.chunks()
    await anext(stream)
    (engine,) = doomed.engines()
    engine.kill()
    async for _ in stream:
        pass
    assert exchange.answered.tail is None, "a broken answer has no tail"
    assert exchange.answered.aborted == {"reason": "host-failed"}, "it is aborted, and never ended cleanly"
    await exchange.link.close()
    status = await asyncio.to_thread(doomed.process.wait, 30)
    assert status == 1, "the worker must not stay behind and look alive"
    assert "died" in doomed.log.read_text()


async def test_an_engine_that_hangs_ends_the_worker_and_its_streams(
    engine_python: Path, mount: Path, tmp_path: Path
) -> None:
    worker = start([str(engine_python)], mount, tmp_path, ENGINE_STALL_S="2")
    try:
        await ready(worker)
        exchange = await worker.client.begin(hop_message(CHAT, chat(stream=True, max_tokens=3900, ignore_eos=True)))
        stream = exchange.chunks()
        await anext(stream)
        (engine,) = worker.engines()
        engine.suspend()  # it lives, and does nothing
        async with asyncio.timeout(15):
            async for _ in stream:
                pass
        assert exchange.answered.aborted == {"reason": "host-failed"}, "broken off, long before the deadline"
        await exchange.link.close()
        assert await asyncio.to_thread(worker.process.wait, 60) == 1, "the worker ends, to be started afresh"
        assert "hangs: it has made nothing for 2 s, and 1 requests wait for it" in worker.log.read_text()
        assert not engine.is_running(), "and takes the hanging engine with it"
    finally:
        await asyncio.to_thread(end, worker)


async def test_no_engine_outlives_a_worker_that_is_killed(doomed: RunningWorker) -> None:
    # One engine is forked and the second spawned: both ways must hold.
    answered = await doomed.client.ask(EMBEDDINGS, {"input": "a"}, pool="vectors")
    assert answered.head is not None
    engines = doomed.engines()
    assert len(engines) == 2
    doomed.process.send_signal(signal.SIGKILL)
    _, alive = await asyncio.to_thread(psutil.wait_procs, engines, 5)
    assert not alive, "an orphaned engine would hold the GPU"
