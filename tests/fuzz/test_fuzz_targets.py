"""Every fuzz target with a fixed budget: its seeds, its corpus, every crash of before, and mutations of them all."""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.protocol import cbor
from dataplane.protocol.errors import AttestationError
from tests.fuzz import harness
from tests.fuzz.harness import STEP_S, TRIES, Target, TooSlowError, load, names, step
from tests.fuzz.targets import binding

PAGE = Path(__file__).parents[2] / "docs" / "fuzzing.md"

EXAMPLES = 600
"""Mutated inputs of each target in one run of the suite."""

INTERESTING = [
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff",
    b"\0\0\0\0",
    b"\xff" * 4,
    b"\x7f" + b"\xff" * 7,
    b"\xff" * 8,
]


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A seed with a few changes: what a fuzzer without coverage does."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 16)))
        match draw(st.integers(0, 5)):
            case 0:
                data = data[:start] + draw(st.binary(max_size=8)) + data[end:]
            case 1:
                data = data[:start] + draw(st.sampled_from(INTERESTING)) + data[start:]
            case 2:
                data = data[:start] + data[end:]
            case 3:
                data = data[:end] + data[start:]
            case 4:
                data = data[:start]
            case _:
                data = data[:start] + draw(st.sampled_from(seeds))[start:]
    return data


def test_every_module_in_the_folder_is_a_target_and_every_part_that_reads_bytes_has_one() -> None:
    modules = {path.stem for path in Path(harness.TARGETS).glob("*.py")} - {"__init__"}
    assert set(names()) == modules, "the discovery leaves none out"
    assert modules >= {
        *(
            "attestation",
            "binding",
            "cbor",
            "header",
            "hop_envelope",
            "key_policy",
            "link",
            "messages",
            "problem",
            "receipt",
        ),
        *("recipient", "request_envelope", "response_envelope", "router_head", "sse"),
    }, "what reads a peer's bytes is fuzzed"
    for name in modules:
        tree = ast.parse((harness.TARGETS / f"{name}.py").read_text())
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert "target" in defined, f"{name} has no target"


def test_the_page_names_every_target() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == set(names()), "docs/fuzzing.md has a row for each target and no other"


def test_the_bindings_seeds_come_as_far_as_their_documents() -> None:
    assert binding.judge(cbor.encode(binding.FIELDS), attested=True).wash is None, "an answer of a host without a TPM"
    assert binding.judge(cbor.encode(binding.WASHED), attested=False).wash is not None, "and of one that was washed"
    with pytest.raises(AttestationError) as caught:
        binding.judge(cbor.encode(binding.WASHED | {"document": binding.DOCUMENT}), attested=True)
    assert caught.value.reason == "age", "a genuine document is refused for its age, after chain and signature"


@pytest.mark.parametrize("name", names())
def test_seeds_corpus_and_every_crash_of_before_pass(name: str) -> None:
    target = load(name)
    assert target.seeds, "a target starts from something"
    for data in (*target.seeds, *target.corpus(), *target.crashes()):
        target.check(data)


@pytest.mark.parametrize("name", names())
def test_mutations_of_what_is_known_find_no_bug(name: str) -> None:
    target = load(name)
    known = [*target.seeds, *target.corpus(), *target.crashes()]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    @given(st.one_of(mutated(known), mutated(known), st.binary(max_size=64)))
    def run(data: bytes) -> None:
        target.check(data)

    run()


# The harness itself has to be able to fail.


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_a_step_that_is_always_too_slow_is_a_bug() -> None:
    with pytest.raises(TooSlowError, match="one step took"):
        step(lambda: burn(2 * STEP_S))


def test_a_step_that_is_slow_once_is_not() -> None:
    calls = 0

    def first_is_slow() -> int:
        nonlocal calls
        calls += 1
        burn(2 * STEP_S if calls == 1 else 0)
        return calls

    assert step(first_is_slow) == 1, "the first call's answer counts"
    assert calls == TRIES, "and the least of all its times"


def test_a_slow_refusal_is_as_much_a_bug_as_a_slow_answer() -> None:
    def refuse() -> None:
        burn(2 * STEP_S)
        raise ValueError

    with pytest.raises(TooSlowError):
        step(refuse)


@pytest.mark.parametrize("wrong", [lambda _: 1 / 0, lambda _: burn(2 * STEP_S)])
def test_a_target_that_raises_or_takes_too_long_fails_the_check(wrong: Callable[[bytes], None]) -> None:
    target = Target(name="made", run=wrong, seeds=[b""], max_len=1, measures_itself=False)
    with pytest.raises((ZeroDivisionError, TooSlowError)):
        target.check(b"")


def test_a_file_among_the_crashes_is_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "crash-1").write_bytes(b"once a bug")
    monkeypatch.setattr(harness, "CRASHES", tmp_path)
    target = Target(name="made", run=lambda _: None, seeds=[b""], max_len=1, measures_itself=True)
    assert target.crashes() == [b"once a bug"], "it is a vector from now on"
