"""`mrgc` itself: finding commands, loading only the one called, saying what is wrong."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, version
from pathlib import Path

import pytest

from dataplane.cli import GROUP, commands, main, summary


def run(capsys: pytest.CaptureFixture[str], *words: str, **found: str) -> tuple[object, str, str]:
    """Exit code, standard output and standard error of `mrgc` with only the commands in `found`."""
    available = {name: EntryPoint(name=name, value=value, group=GROUP) for name, value in found.items()}
    with pytest.raises(SystemExit) as end:
        main(words, available=available)
    out, err = capsys.readouterr()
    return end.value.code, out, err


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with a sidecar, a Typer application and a trace of having been imported."""
    name = "mrgc_command_for_a_test"
    text = '''"""Serve a test."""

import typer

print("imported")
app = typer.Typer()


@app.command()
def only(word: str) -> None:
    print("typed", word)


def command() -> None:
    """Run a sidecar for a test.

    More about it.
    """
    print("ran")


def fails() -> None:
    raise SystemExit(1)
'''
    (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def test_help_lists_every_command_without_importing_any(capsys: pytest.CaptureFixture[str], module: str) -> None:
    code, out, _ = run(capsys, "--help", side=f"{module}:command", typed=f"{module}:app", gone="no_such_module:x")
    assert code == 0, "help is no error"
    assert "Run a sidecar for a test." in out, "a function's own first line"
    assert "Serve a test." in out, "an application's module's first line"
    assert "(not installed)" in out, "what is missing is said"
    assert "imported" not in out, "no command was loaded"


def test_no_command_is_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys)
    assert (code, "Usage" in out) == (2, True), "help, and exit 2 for a script"


def test_an_unknown_command_is_misuse_and_near_ones_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "routr", router="a:b")
    assert (code, "did you mean `mrgc router`" in err) == (2, True), "a slip is recognised"
    code, _, err = run(capsys, "xyzzy", router="a:b")
    assert (code, "--help" in err) == (2, True), "else the list is named"


def test_a_sidecar_is_run(capsys: pytest.CaptureFixture[str], module: str) -> None:
    code, out, _ = run(capsys, "side", side=f"{module}:command")
    assert (code, out.split()) == (0, ["imported", "ran"]), "loaded and run"
    code, out, _ = run(capsys, "side", "--help", side=f"{module}:command")
    assert (code, "More about it." in out, "ran" in out) == (0, True, False), "its help does not run it"
    code, _, err = run(capsys, "side", "now", side=f"{module}:command")
    assert (code, "takes no arguments" in err) == (2, True), "sidecars read their environment"
    assert run(capsys, "side", side=f"{module}:fails")[0] == 1, "its exit code is ours"


def test_an_application_is_given_its_words(capsys: pytest.CaptureFixture[str], module: str) -> None:
    code, out, _ = run(capsys, "typed", "hello", typed=f"{module}:app")
    assert (code, "typed hello" in out) == (0, True), "arguments go through"
    assert run(capsys, "typed", "--wrong", typed=f"{module}:app")[0] == 2, "its misuse is exit 2"


def test_a_missing_dependency_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "local", local="mrgc_no_such_stack.cli:app")
    assert (code, "mrgc_no_such_stack is not installed" in err) == (1, True), "no traceback"


def test_the_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--version")
    assert (code, out) == (0, f"mrgc {version('mrgc')}\n"), "one line"


def test_every_installed_command_has_a_line() -> None:
    found = commands()
    assert {"router", "parent", "proxy", "enclave", "worker", "tenant", "local"} <= found.keys(), "all are installed"
    for name, point in found.items():
        line = summary(point)
        assert line, f"{name} says what it does"
        assert not line.startswith("("), f"{name} is readable: {line}"


def test_help_loads_neither_boto3_nor_aiohttp() -> None:
    script = (
        "import sys\nfrom dataplane.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n"
        "    print([name for name in ('boto3', 'aiohttp', 'opentelemetry') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.rstrip().endswith("[]"), "help is quick because nothing heavy is imported"
