"""`make fuzz`: atheris (libFuzzer, guided by coverage of our code) on one target after the other.

    make fuzz [TARGET=cbor] [SECONDS=60]
    .venv/bin/python -m tests.fuzz.run --target cbor --seconds 60

What it learns is kept in .mrgc/fuzz/TARGET and read again by the next run; `--keep` copies the shortest of it
to tests/fuzz/corpus/TARGET. An input that is a bug is written to tests/fuzz/crashes/TARGET: from then on the
suite replays it, so commit it together with the mend.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path

from tests.fuzz.harness import CORPUS, CRASHES, FOLDER, SLOWER, load, names

ROOT = FOLDER.parents[1]
LEARNT = ROOT / ".mrgc" / "fuzz"
DEFAULT_SECONDS = 60
INPUT_TIMEOUT_S = 10
MEMORY_MIB = 2048
INSTRUMENTED = ["dataplane", "stacks.local.cms", "cbor2", "asn1crypto"]
INSTRUMENTED_IS_SLOWER = 20
"""Instrumented code runs 5 to 10 times slower; the suite measures what is not instrumented."""
KEPT_BYTES = 8192
"""Longest input that is kept in the repository."""
KEPT_FILES = 40
"""Most of one target, the shortest; the suite replays them all."""


def fuzz(name: str, arguments: list[str]) -> None:
    """Run libFuzzer on one target in this process; does not return."""
    import atheris  # noqa: PLC0415 - an optional group, and only here

    with atheris.instrument_imports(include=INSTRUMENTED):
        target = load(name)
    atheris.Setup([name, *arguments], target.check)
    atheris.Fuzz()


def one(name: str, *arguments: str) -> int:
    """Run this program on one target in a process of its own."""
    environ = os.environ | {SLOWER: str(INSTRUMENTED_IS_SLOWER)}
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", "--inside", name, "--", *arguments], cwd=ROOT, env=environ, check=False
    ).returncode


def search(name: str, seconds: int) -> int:
    """Fuzz one target for a while; returns its exit code, which is not 0 after a bug."""
    target = load(name)
    learnt, crashes = LEARNT / name, CRASHES / name
    for folder in (learnt, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    for seed in (*target.seeds, *target.corpus(), *target.crashes()):
        (learnt / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    code = one(
        name,
        f"-max_total_time={seconds}",
        f"-max_len={target.max_len}",
        f"-timeout={INPUT_TIMEOUT_S}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-artifact_prefix={crashes}/",
        "-print_final_stats=1",
        "-verbosity=1",
        "-reload=0",
        str(learnt),
    )
    if not any(crashes.iterdir()):
        crashes.rmdir()
    return code


def keep(name: str) -> None:
    """Copy the shortest of what was learnt into the repository; each reaches something that no other did when found."""
    corpus, seeds = CORPUS / name, set(load(name).seeds)
    corpus.mkdir(parents=True, exist_ok=True)
    found = [data for path in (LEARNT / name).iterdir() if len(data := path.read_bytes()) <= KEPT_BYTES]
    for data in sorted(set(found) - seeds, key=lambda each: (len(each), each))[:KEPT_FILES]:
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def main() -> int:
    """Fuzz what the command line names; 1 if a bug was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--target", choices=names(), action="append")
    parser.add_argument("--seconds", type=int, default=DEFAULT_SECONDS, help="for each target")
    parser.add_argument("--keep", action="store_true", help="put what was learnt into the repository's corpus")
    parser.add_argument("--inside", metavar="TARGET", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        fuzz(options.inside, options.arguments)
    broken = []
    for name in options.target or names():
        print(f"== {name}: {options.seconds} s", flush=True)  # noqa: T201 - a person watches
        if search(name, options.seconds):
            broken.append(name)
        if options.keep:
            keep(name)
    if broken:
        found = ", ".join(f"{Path('tests/fuzz/crashes') / name}" for name in broken)
        print(f"Bugs were found; the inputs are in {found}.", file=sys.stderr)  # noqa: T201 - a person watches
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
