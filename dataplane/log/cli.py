"""Keep and watch the public log of measurements: make it, append to it, check it whole, follow it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console

from dataplane.log.audit import Audit, audit
from dataplane.log.countersign import (
    MAX_BUNDLE_BYTES,
    artifact,
    bundle_path,
    countersign,
    sign_with_sigstore,
    verify_with_sigstore,
)
from dataplane.log.disk import Disk
from dataplane.log.headfile import HeadFile
from dataplane.log.inputs import digest_entry, read_entries
from dataplane.log.keyfile import make_key, read_key, write_key
from dataplane.log.monitor import Monitor, Seen
from dataplane.log.pin import KEY, URL, LogPin, read_pin
from dataplane.log.reader import LogReader
from dataplane.log.source import FolderSource, LogUnavailableError
from dataplane.log.store import LogStore, read_head
from dataplane.log.when import utc_text
from dataplane.mesh.settings import EX_USAGE
from dataplane.protocol.errors import MrgcError, SettingsError
from dataplane.protocol.transparency.checkpoint import SignedHead
from dataplane.protocol.transparency.entry import Entry
from dataplane.protocol.transparency.errors import TransparencyError
from dataplane.protocol.transparency.note import MAX_NOTE_BYTES, SignerKey
from dataplane.protocol.transparency.view import LogView

T = TypeVar("T")

EX_FAILED = 1
LEAST_INTERVAL_S = 1.0
DEFAULT_INTERVAL_S = 300.0
"""A log grows with releases, a few a day."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The public log of enclave, host and model measurements (docs/measurement-log.md).",
)
_err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
_out = Console(highlight=False, markup=False, soft_wrap=True)

FolderOption = Annotated[Path, typer.Option("--dir", envvar="MRGC_LOG_DIR", help="The log's folder, as it is served.")]
KeyFileOption = Annotated[
    Path,
    typer.Option(envvar="MRGC_LOG_KEY_FILE", help="The log's private key, a file of mode 0600 outside of the log."),
]
WhereArgument = Annotated[str | None, typer.Argument(envvar=URL, help="https://… or a folder.")]
KeyOption = Annotated[str | None, typer.Option("--key", envvar=KEY, help="The log's public key, name+id+base64.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


@app.command()
def keygen(
    name: Annotated[str, typer.Argument(help="The log's name, such as its address without https://.")],
    key_file: KeyFileOption,
) -> None:
    """Make the log's key: the private half into a new file, the public half, which readers pin, on standard output."""

    def run() -> SignerKey:
        key = make_key(name)
        write_key(key_file, key)
        return key

    typer.echo(str(_run(run).verifier))


@app.command()
def init(directory: FolderOption, key_file: KeyFileOption, *, json_output: JsonOption = False) -> None:
    """Make a log without entries in a new folder."""
    head = _run(lambda: _store(directory, key_file).create(time_s=_now_s()), json_output=json_output)
    _tell_head(head, json_output=json_output)


@app.command()
def append(
    directory: FolderOption,
    key_file: KeyFileOption,
    name: Annotated[str, typer.Option(help="What is measured: an image's or a model's name.")],
    version: Annotated[str, typer.Option(help="Its version; one version has one measurement.")],
    file: Annotated[
        Path | None, typer.Argument(help="measurements.json, a file of host measurements, or a model's manifest.")
    ] = None,
    digest: Annotated[str | None, typer.Option(help="A model's digest, in place of a file.")] = None,
    source: Annotated[str | None, typer.Option(help="Where it can be built from, such as a commit's URL.")] = None,
    *,
    json_output: JsonOption = False,
) -> None:
    """Append measurements; what the log has already is not written again."""

    def run() -> tuple[SignedHead, list[int], list[Entry]]:
        if (file is None) == (digest is None):
            raise SettingsError("Give a file of measurements or --digest, and not both.")
        store = _store(directory, key_file)
        time_ms = time.time_ns() // 1_000_000
        if file is not None:
            entries = read_entries(file, name=name, version=version, time_ms=time_ms, source=source)
        else:
            entries = [digest_entry(str(digest), name=name, version=version, time_ms=time_ms, source=source)]
        return *store.append(entries, time_s=_now_s()), entries

    head, numbers, entries = _run(run, json_output=json_output)
    for number, entry in zip(numbers, entries, strict=True):
        _tell_entry(number, entry, json_output=json_output)
    _tell_head(head, json_output=json_output)


@app.command()
def refresh(directory: FolderOption, key_file: KeyFileOption, *, json_output: JsonOption = False) -> None:
    """Sign the head again with the present time, for readers who refuse an old one (MRGC_LOG_MAX_AGE_S)."""
    head = _run(lambda: _store(directory, key_file).refresh(time_s=_now_s()), json_output=json_output)
    _tell_head(head, json_output=json_output)


@app.command(name="countersign")
def countersign_command(directory: FolderOption, key_file: KeyFileOption) -> None:
    """Have Sigstore sign the head, with the identity of the CI job that this runs in (dependency group sigstore)."""

    def run() -> str:
        head = read_head(directory, read_key(key_file).verifier)
        return countersign(Disk(directory), head, sign_with_sigstore)

    typer.echo(_run(run))


@app.command()
def verify(
    where: WhereArgument = None,
    key: KeyOption = None,
    against: Annotated[
        list[Path] | None, typer.Option(help="A checkpoint that somebody else saw or remembers; may be repeated.")
    ] = None,
    sigstore_identity: Annotated[
        str | None, typer.Option(help="Who must have countersigned the head at Sigstore; needs --sigstore-issuer.")
    ] = None,
    sigstore_issuer: Annotated[str | None, typer.Option(help="Which OIDC issuer names that identity.")] = None,
    *,
    json_output: JsonOption = False,
) -> None:
    """Check the whole log: each entry hashed again, each tile compared, the head signed, others' heads contained."""

    async def run() -> Audit:
        pin = _pin(where, key)
        others = [_read_note(path) for path in against or []]
        if (sigstore_identity is None) != (sigstore_issuer is None):
            raise SettingsError(
                "Give --sigstore-identity and --sigstore-issuer together: a name counts by who gave it."
            )
        async with pin.source() as source:
            reader = LogReader(source, LogView(pin.key, max_age_s=pin.max_age_s))
            folder = Path(source.address) if isinstance(source, FolderSource) else None
            found = await audit(reader, others=others, folder=folder)
            if sigstore_identity is not None and sigstore_issuer is not None:
                bundle = await source.get(bundle_path(found.head), max_bytes=MAX_BUNDLE_BYTES)
                await asyncio.to_thread(
                    verify_with_sigstore,
                    artifact(found.head),
                    bundle,
                    identity=sigstore_identity,
                    issuer=sigstore_issuer,
                )
            return found

    found = _run_async(run(), json_output=json_output)
    if json_output:
        facts = {"verified": True, "compared": found.compared, "countersigned_by": sigstore_identity}
        _print_json(_head_json(found.head) | facts)
        return
    _out.print(f"Verified: {found.head.checkpoint.origin}, {found.head.size} entries", style="green")
    _tell_head(found.head, json_output=False)
    if sigstore_identity is not None:
        _out.print(f"  countersigned at Sigstore by {sigstore_identity}")
    if found.compared:
        _out.print(f"  contains the {found.compared} checkpoint(s) that others saw")


@app.command()
def monitor(
    where: WhereArgument = None,
    key: KeyOption = None,
    state: Annotated[
        Path | None, typer.Option(envvar="MRGC_LOG_STATE", help="File of the remembered head; kept between runs.")
    ] = None,
    every: Annotated[float, typer.Option(min=LEAST_INTERVAL_S, help="Seconds between looks.")] = DEFAULT_INTERVAL_S,
    *,
    once: Annotated[bool, typer.Option("--once", help="Look once; exit 0 where nothing is wrong.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Follow the log: print each new entry; exit 1 at a fork, a rewound tree, a hidden entry or a stale head."""

    def told(seen: Seen) -> None:
        for number, entry in seen.new:
            _tell_entry(number, entry, json_output=json_output)
        if seen.new or once:
            _tell_head(seen.head, json_output=json_output)

    async def run() -> None:
        pin = _pin(where, key, state)
        async with pin.source() as source:
            watcher = Monitor(pin.follower(source))
            while True:
                try:
                    await watcher.round(told)
                except LogUnavailableError as error:
                    if once:
                        raise
                    _err.print(str(error), style="yellow")
                if once:
                    return
                await asyncio.sleep(every)

    _run_async(run(), json_output=json_output)


def _store(directory: Path, key_file: Path) -> LogStore:
    key = read_key(key_file)
    # Beside the key and not in the log: a folder that was set back must not take its memory back with it.
    return LogStore(Disk(directory), key, signed=HeadFile(key_file.with_name(f"{key_file.name}.signed")))


def _pin(where: str | None, key: str | None, state: Path | None = None) -> LogPin:
    given = {URL: where or "", KEY: key or "", "MRGC_LOG_STATE": str(state) if state else ""}
    pin = read_pin(dict(os.environ) | given)
    if pin is None:
        raise SettingsError(f"No log was named: give its address or set {URL}, and its public key with --key or {KEY}.")
    return pin


def _read_note(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_NOTE_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{path} can't be read ({error.strerror}); name a file with a checkpoint.") from None


def _now_s() -> int:
    return int(time.time())


def _run(work: Callable[[], T], *, json_output: bool = False) -> T:
    """Do it, or exit with one sentence: 64 for what was configured wrongly, 1 for what was refused or failed."""
    try:
        return work()
    except SettingsError as error:
        _fail(str(error), EX_USAGE, "configuration", json_output=json_output)
    except TransparencyError as error:
        _fail(str(error), EX_FAILED, error.reason, json_output=json_output)
    except MrgcError as error:
        _fail(str(error), EX_FAILED, "failed", json_output=json_output)
    except KeyboardInterrupt:
        _fail("Interrupted.", EX_FAILED, "interrupted", json_output=json_output)


def _run_async(work: Coroutine[Any, Any, T], *, json_output: bool) -> T:
    return _run(lambda: asyncio.run(work), json_output=json_output)


def _fail(sentence: str, code: int, reason: str, *, json_output: bool) -> NoReturn:
    _err.print(sentence, style="red")
    if json_output:
        _print_json({"verified": False, "reason": reason, "error": sentence})
    raise typer.Exit(code)


def _head_json(head: SignedHead) -> dict[str, Any]:
    return {
        "log": head.checkpoint.origin,
        "size": head.size,
        "root": head.root.hex(),
        "time_s": head.time_s,
    }


def _tell_head(head: SignedHead, *, json_output: bool) -> None:
    if json_output:
        _print_json(_head_json(head))
        return
    _out.print(
        f"  {head.checkpoint.origin}: {head.size} entries, root {head.root.hex()}, signed {utc_text(head.time_s)}"
    )


def _tell_entry(number: int, entry: Entry, *, json_output: bool) -> None:
    if json_output:
        _print_json({"index": number, "entry": json.loads(entry.encode())})
        return
    measured = "" if entry.digest is None else f" sha256:{entry.digest.hex()}"
    _out.print(f"  {number}  {entry.kind} {entry.name} {entry.version}{measured}  {utc_text(entry.time_ms // 1000)}")
    for index, value in sorted((entry.registers or {}).items()):
        _out.print(f"       PCR{index:<4}{value.hex()}")


def _print_json(document: object) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()
