"""Run what a tenant runs: an OpenAI-compatible proxy, one question, or an attestation check."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from dataplane.log.pin import read_pin
from dataplane.log.when import utc_text
from dataplane.mesh.logs import log_unhandled
from dataplane.protocol.errors import MrgcError, SettingsError
from dataplane.protocol.frames import check_pad
from dataplane.tenant import receipt_cli
from dataplane.tenant.ask import Answer, ask_question
from dataplane.tenant.attest import NOT_SHOWN, attest, load_root, shown_registers
from dataplane.tenant.bundle import check_new, write_bundle
from dataplane.tenant.config import TenantConfig, load_cluster, load_measurements, read_secret
from dataplane.tenant.console import EX_FAILED, EX_MISUSED, call, err, fail, out, print_json, run
from dataplane.tenant.documents import HeldDocuments
from dataplane.tenant.options import (
    ExpectConfigOption,
    ExpectModelOption,
    ExpectPcr0Option,
    JsonOption,
    MeasurementsOption,
)
from dataplane.tenant.pins import Pins, parse_pins
from dataplane.tenant.proxy import TenantProxy
from dataplane.tenant.receipt_folder import ReceiptFolder
from dataplane.tenant.transparency import check_logged

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="What a tenant runs. Secrets come from MRGC_API_KEY or a file, never from the command line.",
)
app.add_typer(receipt_cli.app, name="receipt")


class Assurance(StrEnum):
    """What an answer's host must at least prove."""

    mock = "mock"
    host_visible = "host-visible"
    attested_host = "attested-host"


_LEVELS = tuple(level.value for level in Assurance)

ClusterOption = Annotated[
    Path | None,
    typer.Option(envvar="MRGC_CLUSTER", help="A local stack's cluster.json; the options below are then not needed."),
]
TenantOption = Annotated[str | None, typer.Option(envvar="MRGC_TENANT", help="The tenant's id.")]
EndpointOption = Annotated[str | None, typer.Option(envvar="MRGC_ENDPOINT", help="https://host[:port] of the cluster.")]
CaFileOption = Annotated[
    Path | None, typer.Option(envvar="MRGC_CA_FILE", help="PEM authority of the endpoint; the system's when not given.")
]
KeyArnOption = Annotated[str | None, typer.Option(envvar="MRGC_KMS_KEY_ARN", help="The tenant's own KMS key.")]
KeyFileOption = Annotated[
    Path | None, typer.Option(envvar="MRGC_API_KEY_FILE", help="File that holds the API key (or set MRGC_API_KEY).")
]
AssuranceOption = Annotated[
    Assurance | None,
    typer.Option(envvar="MRGC_ASSURANCE", help="Least that is accepted; host-visible, or mock with --cluster."),
]
PadOption = Annotated[
    int, typer.Option(envvar="MRGC_PAD", help="Pad frames to a multiple of this: 0, or a power of two from 16 to 4096.")
]


@app.command()
def proxy(
    cluster: ClusterOption = None,
    tenant: TenantOption = None,
    endpoint: EndpointOption = None,
    ca_file: CaFileOption = None,
    kms_key_arn: KeyArnOption = None,
    api_key_file: KeyFileOption = None,
    assurance: AssuranceOption = None,
    pad: PadOption = 0,
    *,
    measurements: MeasurementsOption = None,
    expect_model: ExpectModelOption = None,
    expect_pcr0: ExpectPcr0Option = None,
    expect_config: ExpectConfigOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free one.")] = 8090,
    receipts: Annotated[
        Path | None,
        typer.Option(
            envvar="MRGC_RECEIPTS", help="Folder to keep a receipt bundle of every response in; none if not given."
        ),
    ] = None,
    allow_remote: Annotated[bool, typer.Option(help="Allow an address that is not loopback.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Serve the OpenAI API on loopback, sealing and opening, until interrupted.

    MRGC_LOCAL_API_KEY, when set, is what local clients must send as their API key.
    """
    config = _config(cluster, tenant, endpoint, ca_file, kms_key_arn, api_key_file, assurance, pad)
    config = _expecting(config, measurements, expect_model, expect_pcr0, expect_config)

    async def serve() -> None:
        telemetry = config.telemetry()
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(log_unhandled)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        try:
            async with AsyncExitStack() as stack:
                folder = None
                if receipts is not None:
                    folder = await stack.enter_async_context(ReceiptFolder(receipts, HeldDocuments(config.documents())))
                server = TenantProxy(
                    await stack.enter_async_context(config.client(telemetry)),
                    host=host,
                    port=port,
                    local_api_key=os.environ.get("MRGC_LOCAL_API_KEY") or None,
                    allow_remote=allow_remote,
                    keep=None if folder is None else folder.keep,
                )
                await server.start()
                stack.push_async_callback(server.stop)
                _say_serving(server.url, config, json_output=json_output)
                await stop.wait()
        finally:
            await asyncio.to_thread(telemetry.shutdown)

    run(serve())


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What to ask; `-` reads it from standard input.")],
    cluster: ClusterOption = None,
    tenant: TenantOption = None,
    endpoint: EndpointOption = None,
    ca_file: CaFileOption = None,
    kms_key_arn: KeyArnOption = None,
    api_key_file: KeyFileOption = None,
    assurance: AssuranceOption = None,
    pad: PadOption = 0,
    *,
    model: Annotated[str | None, typer.Option(envvar="MRGC_MODEL", help="Model pool to ask.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of the answer.")] = None,
    measurements: MeasurementsOption = None,
    expect_model: ExpectModelOption = None,
    expect_pcr0: ExpectPcr0Option = None,
    expect_config: ExpectConfigOption = None,
    receipt: Annotated[Path | None, typer.Option(help="New file for the receipt and the enclave's document.")] = None,
    disclose: Annotated[
        bool, typer.Option(help="Let whoever has the receipt's file read this question and its answer.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Ask one question and print the answer as it comes, then (on standard error) who answered."""
    config = _config(cluster, tenant, endpoint, ca_file, kms_key_arn, api_key_file, assurance, pad)
    config = _expecting(config, measurements, expect_model, expect_pcr0, expect_config)
    if receipt is not None:
        call(lambda: check_new(receipt))
    elif disclose:
        fail("Nothing would be disclosed: --disclose goes with --receipt FILE.", EX_MISUSED)
    pool = model or config.model
    if pool is None:
        fail("No model pool was named; give --model or set MRGC_MODEL.", EX_MISUSED)
    text = sys.stdin.read() if question == "-" else question

    async def asked() -> tuple[Answer, str | None]:
        telemetry = config.telemetry()
        begun = False

        def show(piece: str) -> None:
            nonlocal begun
            begun = True
            _print_token(piece)

        try:
            async with config.client(telemetry, disclose=disclose) as client:
                answer = await ask_question(
                    client, text, model=pool, max_tokens=max_tokens, on_text=None if json_output else show
                )
            return answer, None if receipt is None else await _keep(answer, config, receipt)
        except MrgcError:
            if begun:
                _print_token("\n")  # why the answer does not count stands on a line of its own
            raise
        finally:
            await asyncio.to_thread(telemetry.shutdown)

    answer, unproved = run(asked())
    if json_output:
        print_json(answer.document())
    else:
        sys.stdout.write("\n")
        sys.stdout.flush()
        err.print(answer.summary(), style="dim")
    if unproved is not None:
        fail(unproved, EX_FAILED)


async def _keep(answer: Answer, config: TenantConfig, path: Path) -> str | None:
    """Write the receipt's file; say what is wrong with it, if anything: an answer is not lost over its receipt."""
    bundle, wrong = answer.bundle, None
    try:
        bundle = bundle.attested(await config.documents().fetch(answer.receipt))
    except MrgcError as error:
        wrong = f"The receipt was kept without a document, so it proves nothing to others: {error}"
    try:
        await asyncio.to_thread(write_bundle, path, bundle)
    except SettingsError as error:
        wrong = str(error)
    return wrong


@app.command(name="attest")
def attest_command(
    cluster: ClusterOption = None,
    tenant: TenantOption = None,
    endpoint: EndpointOption = None,
    ca_file: CaFileOption = None,
    measurements: MeasurementsOption = None,
    root: Annotated[Path | None, typer.Option(help="PEM root instead of AWS Nitro's, for a local stack.")] = None,
    *,
    json_output: JsonOption = False,
) -> None:
    """Fetch a fresh attestation document and verify it: root, signature, age, nonce and measurements."""

    async def attested() -> tuple[dict[str, Any], str]:
        local = load_cluster(cluster, tenant) if cluster is not None else None
        where = endpoint or (local.endpoint if local else None)
        allowed = load_measurements(measurements) if measurements else (local.measurements if local else ())
        root_file = root or (local.attestation_root if local else None)
        if where is None:
            raise SettingsError("No cluster was named; give --cluster FILE or --endpoint URL.")
        if not allowed:
            raise SettingsError("No measurements were given to compare with; name the file with --measurements.")
        given = TenantConfig(
            endpoint=where,
            tenant=tenant or (local.tenant if local else ""),
            key_arn="",
            api_key=os.environ.get("MRGC_API_KEY") or (local.api_key if local else ""),
            ca_file=ca_file or (local.ca_file if local else None),
        )
        document = await attest(
            endpoint=given.endpoint,
            tls=given.tls(),
            api_key=given.api_key or None,
            tenant=given.tenant or None,
            measurements=allowed,
            roots=None if root_file is None else [load_root(root_file)],
        )
        pin = read_pin(os.environ) or (local.log if local else None)
        logged = None if pin is None else (await check_logged(pin, [document.pcrs]))[0]
        trusted = "AWS Nitro Enclaves Root-G1" if root_file is None else f"{root_file} (not AWS's)"
        pcrs = shown_registers(document, allowed)
        facts = {
            "verified": True,
            "module_id": document.module_id,
            "timestamp_ms": document.timestamp_ms,
            "root": trusted,
            "pcrs": pcrs,
            "log": None if logged is None else logged.document(),
            "not_shown": NOT_SHOWN,
        }
        return facts, trusted

    facts, trusted = run(attested())
    if json_output:
        print_json(facts)
        return
    out.print(f"Verified: {facts['module_id']}", style="green")
    out.print(f"  root   {trusted}")
    for index, value in facts["pcrs"].items():
        out.print(f"  PCR{index:<4}{value}")
    out.print(f"  log    {_log_text(facts['log'])}")
    out.print(f"  not shown: {NOT_SHOWN}.")


def _config(
    cluster: Path | None,
    tenant: str | None,
    endpoint: str | None,
    ca_file: Path | None,
    key_arn: str | None,
    api_key_file: Path | None,
    assurance: Assurance | None,
    pad: int,
) -> TenantConfig:
    """What the options, the environment and the cluster's file say together; exits 2 when something is missing."""
    try:
        return _merged(cluster, tenant, endpoint, ca_file, key_arn, api_key_file, assurance, pad)
    except SettingsError as error:
        fail(str(error), EX_MISUSED)


def _expecting(
    config: TenantConfig,
    measurements: Path | None,
    models: list[str] | None,
    pcr0s: list[str] | None,
    configs: list[str] | None,
) -> TenantConfig:
    """The configuration with what answers must be; exits 2 for what is no digest."""

    def expecting() -> TenantConfig:
        pins: Pins = parse_pins(models=models or (), pcr0s=pcr0s or (), configs=configs or ())
        allowed = config.measurements if measurements is None else load_measurements(measurements)
        return config.changed(pins=pins, measurements=allowed)

    return call(expecting)


def _merged(
    cluster: Path | None,
    tenant: str | None,
    endpoint: str | None,
    ca_file: Path | None,
    key_arn: str | None,
    api_key_file: Path | None,
    assurance: Assurance | None,
    pad: int,
) -> TenantConfig:
    if not check_pad(pad):
        raise SettingsError(f"MRGC_PAD (--pad) is {pad}; expected 0 or a power of two from 16 to 4096.")
    api_key = os.environ.get("MRGC_API_KEY", "")
    if api_key_file is not None:
        api_key = read_secret(api_key_file, "the API key")
    secret_file = os.environ.get("MRGC_AFFINITY_SECRET_FILE")
    more: dict[str, Any] = {"pad": pad}
    if (pin := read_pin(os.environ)) is not None:
        more["log"] = pin
        if allowed := os.environ.get("MRGC_MEASUREMENTS"):
            more["measurements"] = load_measurements(Path(allowed))
    if secret_file:
        more["affinity_secret"] = read_secret(Path(secret_file), "the affinity secret").encode()
    if assurance is not None:
        more["assurance"] = _LEVELS.index(assurance.value)
    given = {"endpoint": endpoint, "ca_file": ca_file, "key_arn": key_arn, "api_key": api_key}
    more |= {name: value for name, value in given.items() if value}
    if cluster is not None:
        return load_cluster(cluster, tenant).changed(**more)
    missing = [
        text
        for text, value in (
            ("--endpoint", endpoint),
            ("--tenant", tenant),
            ("--kms-key-arn", key_arn),
            ("MRGC_API_KEY", api_key),
        )
        if not value
    ]
    if missing:
        raise SettingsError(f"Not given: {', '.join(missing)}; give them, or --cluster FILE for a local stack.")
    return TenantConfig(tenant=str(tenant), **more)


def _log_text(log: dict[str, Any] | None) -> str:
    if log is None:
        return "none was asked (set MRGC_LOG_URL and MRGC_LOG_KEY)"
    mock = " (mock: a local stack's own log)" if log["assurance"] == "mock" else ""
    when = utc_text(log["time_ms"] // 1000)
    return f"{log['name']}: entry {log['index']} of {log['size']}, {log['entry']}, {when}{mock}"


def _say_serving(url: str, config: TenantConfig, *, json_output: bool) -> None:
    if json_output:
        print_json({"url": f"{url}/v1", "tenant": config.tenant, "endpoint": config.endpoint, "pid": os.getpid()})
        return
    out.print(f"OpenAI-compatible endpoint for {config.tenant}: {url}/v1", style="green")
    out.print(f"  cluster {config.endpoint}, least assurance {_LEVELS[config.assurance]}; Ctrl-C ends it")


def _print_token(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
