"""`mrgc log` as an operator, a tenant and a watcher use it: output, exit codes, secrets."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dataplane.log.cli import app
from tests.support.measurement_log import SIGNER, forge, images, make_log

MRGC = [sys.executable, "-c", "from dataplane.cli import main; main()"]


@dataclass
class Done:
    code: int
    out: str
    err: str


@dataclass
class Shell:
    folder: Path

    def log(self, *arguments: str, **environ: str) -> Done:
        """Run `mrgc log …` in this process, in `folder`, with these variables and no others of ours."""
        ours = {name: None for name in os.environ if name.startswith(("MRGC_", "XDG_"))}
        with contextlib.chdir(self.folder):
            done = CliRunner().invoke(app, arguments, env=ours | {"HOME": str(self.folder)} | environ)
        assert done.exception is None or isinstance(done.exception, SystemExit), "an error is a sentence"
        return Done(done.exit_code, done.stdout, done.stderr)

    def program(self, *arguments: str) -> Done:
        """The same as a program of its own."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MRGC_", "XDG_"))}
        done = subprocess.run(
            [*MRGC, "log", *arguments],
            cwd=self.folder,
            env=clean,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def made(self) -> str:
        """A log with one entry, as an operator makes it; returns the public key."""
        key = self.log("keygen", "mrgc.example/log", "--key-file", "log.key").out.strip()
        assert self.log("init", "--dir", "log", "--key-file", "log.key").code == 0, "a new log"
        done = self.append("1")
        assert done.code == 0, done.err
        return key

    def append(self, version: str, *more: str) -> Done:
        path = self.folder / f"measurements-{version}.json"
        path.write_text(
            json.dumps({f"PCR{n}": f"{n + 1:02x}{int(version):02x}" * 24 for n in range(3)}), encoding="utf-8"
        )
        common = ["--dir", "log", "--key-file", "log.key", "--name", "mrgc-enclave", "--version", version]
        return self.log("append", path.name, *common, *more)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_a_log_is_made_appended_to_and_verified(shell: Shell) -> None:
    key = shell.made()
    done = shell.append("2", "--json", "--source", "https://mrgc.example/src@abc")
    entry, head = map(json.loads, done.out.splitlines())
    assert (entry["index"], entry["entry"]["source"]) == (1, "https://mrgc.example/src@abc"), "the second entry"
    assert (head["log"], head["size"]) == ("mrgc.example/log", 2), "and the head over both"
    done = shell.program("verify", "log", "--key", key)
    assert (done.code, done.err) == (0, ""), "it holds"
    assert "Verified: mrgc.example/log, 2 entries" in done.out, "and says so"
    assert json.loads(shell.log("verify", "--json", MRGC_LOG_URL="log", MRGC_LOG_KEY=key).out)["size"] == 2, (
        "by variables"
    )
    again = shell.append("2", "--json")
    assert json.loads(again.out.splitlines()[0])["index"] == 1, "the same measurement stays where it is"


def test_the_private_key_is_in_its_file_and_nowhere_else(shell: Shell) -> None:
    shell.made()
    secret = (shell.folder / "log.key").read_text(encoding="utf-8").strip()
    assert oct((shell.folder / "log.key").stat().st_mode & 0o777) == "0o600", "the owner's alone"
    for file in (shell.folder / "log").rglob("*"):
        assert file.is_dir() or secret[-20:].encode() not in file.read_bytes(), "nothing of it is published"
    done = shell.log("keygen", "mrgc.example/log", "--key-file", "log.key")
    assert (done.code, done.out) == (64, ""), "a key is never overwritten"
    (shell.folder / "log.key").chmod(0o644)
    done = shell.append("3")
    assert done.code == 64, "nor used where others may read it"
    assert secret[-20:] not in done.out + done.err, "nor shown"


def test_nonsense_is_refused_with_exit_1_and_misconfiguration_with_64(shell: Shell) -> None:
    key = shell.made()
    (shell.folder / "zero.json").write_text(json.dumps({f"PCR{n}": "00" * 48 for n in range(3)}), encoding="utf-8")
    common = ["--dir", "log", "--key-file", "log.key", "--name", "x", "--version", "9"]
    assert shell.log("append", "zero.json", *common).code == 1, "a debug image measures nothing"
    assert shell.log("append", *common, "--digest", "ab").code == 1, "half a digest is none"
    assert shell.log("append", *common).code == 64, "nothing was given to append"
    assert shell.log("append", "zero.json", "--dir", "log").code == 2, "the command was misused"
    done = shell.program("verify", "log", "--key", "garbage")
    assert (done.code, "Traceback" in done.err) == (64, False), "the program's own exit code"
    for arguments, environ, name in [
        (["verify", "log"], {}, "MRGC_LOG_KEY"),
        (["verify"], {}, "MRGC_LOG_URL"),
        (["verify", "log", "--key", "garbage"], {}, "'garbage'"),
        (["verify", "log", "--key", key], {"MRGC_LOG_MAX_AGE_S": "soon"}, "'soon'"),
    ]:
        done = shell.log(*arguments, **environ)
        assert (done.code, done.out) == (64, ""), f"{arguments} is misconfigured"
        assert name in done.err, "and the sentence names what"
        assert "Traceback" not in done.err, "in a sentence"


def test_a_monitor_prints_new_entries_and_stops_at_a_fork(shell: Shell) -> None:
    key = shell.made()
    watch = ["monitor", "log", "--key", key, "--state", "head", "--once", "--json"]
    first = shell.log(*watch)
    assert (first.code, len(first.out.splitlines())) == (0, 2), "one entry, one head"
    assert len(shell.log(*watch).out.splitlines()) == 1, "nothing new"
    shell.append("2")
    assert '"index": 1' in shell.log(*watch).out, "then the new one"
    # The same key signs another history: made from scratch, with the first entry's image exchanged.
    other = Shell(shell.folder / "other")
    other.folder.mkdir()
    (other.folder / "log.key").write_bytes((shell.folder / "log.key").read_bytes())
    (other.folder / "log.key").chmod(0o600)
    assert other.log("init", "--dir", "log", "--key-file", "log.key").code == 0, "a second log under one key"
    for version in ("7", "8", "9"):
        assert other.append(version).code == 0, "with a story of its own"
    forked = shell.log("monitor", "other/log", "--key", key, "--state", "head", "--once", "--json")
    assert forked.code == 1, "a fork is a failure"
    assert json.loads(forked.out)["reason"] == "fork", "named for a script"
    assert "was forked" in forked.err, "and told to a person"
    gossip = shell.log("verify", "log", "--key", key, "--against", "other/log/checkpoint")
    assert gossip.code == 1, "who compares heads sees it too"
    assert shell.log("verify", "log", "--key", key, "--against", "head").code == 0, "an honest memory is contained"


def test_a_hidden_entry_and_a_rewound_tree_are_exit_1(shell: Shell) -> None:
    key, entries = str(SIGNER.verifier), [entry.encode() for entry in images(6)]
    watch = ["monitor", "--key", key, "--state", "head", "--once", "--json"]
    forge(shell.folder / "hiding", [*entries[:2], entries[5]], signed=entries[:3])
    done = shell.log(*watch, "hiding")
    assert (done.code, json.loads(done.out)["reason"]) == (1, "hidden"), "shown is not what was signed"
    assert shell.log("verify", "hiding", "--key", key).code == 1, "an audit finds it too"
    make_log(shell.folder, images(4))
    assert shell.log(*watch, "log").code == 0, "the honest log"
    forge(shell.folder / "old", entries[:3])
    done = shell.log(*watch, "old")
    assert (done.code, json.loads(done.out)["reason"]) == (1, "rewound"), "one entry less than was seen"


def test_a_log_that_is_not_there_is_exit_1(shell: Shell) -> None:
    done = shell.log("verify", "nowhere", "--key", str(SIGNER.verifier))
    assert (done.code, done.out) == (1, ""), "it could not be verified"
    assert "has no checkpoint" in done.err, "and the sentence says why"


def test_an_age_is_asked_for_and_given(shell: Shell) -> None:
    forge(shell.folder / "log", [images(1)[0].encode()], time_s=1_700_000_000)
    arguments = ["verify", "log", "--key", str(SIGNER.verifier)]
    assert shell.log(*arguments).code == 0, "no age was asked for"
    done = shell.log(*arguments, "--json", MRGC_LOG_MAX_AGE_S="3600")
    assert (done.code, json.loads(done.out)["reason"]) == (1, "stale"), "an old head is refused"
    fresh = Shell(shell.folder / "fresh")
    fresh.folder.mkdir()
    key = fresh.made()
    assert fresh.log("refresh", "--dir", "log", "--key-file", "log.key").code == 0, "the head is signed again"
    assert fresh.log("verify", "log", "--key", key, MRGC_LOG_MAX_AGE_S="3600").code == 0, "and is young enough"
