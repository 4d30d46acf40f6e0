"""Real vLLM answers from the worker's own copy: weights that are exchanged in the store meanwhile reach no answer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from dataplane.worker.pool import model_digest
from stacks.local.engine.tiny_model import make_tiny_model
from tests.integration.test_worker_vllm import COMPLETIONS, READY_S, end, engine_python, ready, start

pytestmark = [pytest.mark.engine, pytest.mark.processes, pytest.mark.timeout(400)]

__all__ = ["engine_python"]  # the fixture, for the tests below

QUESTION = {"prompt": "What are you?", "max_tokens": 24, "temperature": 0, "ignore_eos": True}


async def copied(cache: Path, size: int) -> Path:
    """Wait until the worker has copied its default pool's weights."""
    async with asyncio.timeout(READY_S):
        while True:
            for file in cache.glob("tiny-*/model.safetensors"):
                if file.stat().st_size == size:
                    return file.parent
            await asyncio.sleep(0.01)


async def test_weights_exchanged_in_the_store_after_the_digest_are_not_what_answers(
    engine_python: Path, tmp_path: Path
) -> None:
    store, cache = tmp_path / "fsx", tmp_path / "copies"
    honest = make_tiny_model(store / "models" / "tiny", seed=1)
    digest, size = model_digest(honest), (honest / "model.safetensors").stat().st_size
    worker = start([str(engine_python)], store, tmp_path, MAX_LOADED_POOLS="1", MODEL_CACHE_DIR=str(cache))
    try:
        copy = await copied(cache, size)
        make_tiny_model(honest, seed=2)  # the engine takes seconds to import before it reads any weights
        assert model_digest(honest) != digest, "the store has other weights by now"
        await ready(worker)
        answered = await worker.client.ask(COMPLETIONS, QUESTION)
        assert answered.head is not None, answered.problem
        assert answered.head.model_digest == digest, "the digest is of what was copied"
        assert model_digest(copy) == digest, "which is what the engine was given"
        first = text(answered.json)
        # The other models, each loaded in its turn: what was copied first, and what lies in the store now.
        make_tiny_model(store / "models" / "same", seed=1)
        make_tiny_model(store / "models" / "exchanged", seed=2)
        assert await ask(worker.client, "same") == first, "the answer is the honest model's"
        assert await ask(worker.client, "exchanged") != first, "which another model would not have given"
        assert not copy.exists(), "the copy went with its engine"
        await code_stays_data(worker.client, store, tmp_path / "ran")
    finally:
        await asyncio.to_thread(end, worker)
    assert not list(cache.iterdir()), "a worker that ends leaves no copy"


async def code_stays_data(client: Any, store: Path, marker: Path) -> None:
    """A model whose folder brings Python files is served without them, or not at all."""
    folder = make_tiny_model(store / "models" / "coded", seed=3)
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').write('ran')\nclass Evil: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    (folder / "config.json").write_text(json.dumps(config))
    answered = await client.ask(COMPLETIONS, QUESTION, pool="coded")
    assert answered.head is not None or answered.problem["code"] == "host-failed", "served or refused"
    assert not marker.exists(), "no code of the model's folder has run"


async def ask(client: Any, pool: str) -> str:
    answered = await client.ask(COMPLETIONS, QUESTION, pool=pool)
    assert answered.head is not None, answered.problem
    return text(answered.json)


def text(answer: Any) -> str:
    return str(answer["choices"][0]["text"])
