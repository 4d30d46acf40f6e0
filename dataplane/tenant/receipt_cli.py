"""Show what a kept receipt proves, without any network: `mrgc tenant receipt verify|open FILE`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from dataplane.protocol.errors import MrgcError, SettingsError
from dataplane.protocol.message import ResponseHead
from dataplane.tenant.ask import printable
from dataplane.tenant.attest import load_root
from dataplane.tenant.bundle import read_bundle, read_file
from dataplane.tenant.config import load_measurements
from dataplane.tenant.console import EX_FAILED, call, out, print_json
from dataplane.tenant.disclosure import OpenedExchange
from dataplane.tenant.errors import ReceiptError
from dataplane.tenant.judge import Verdict, Wanted, judge
from dataplane.tenant.options import (
    ExpectConfigOption,
    ExpectModelOption,
    ExpectPcr0Option,
    JsonOption,
    MeasurementsOption,
)
from dataplane.tenant.pins import parse_pins

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Verify a kept receipt offline, however long ago it was made. Exit codes: 0 holds, 1 does not, 2 misused.",
)

FileArgument = Annotated[Path, typer.Argument(help="The bundle that `ask --receipt` or `proxy --receipts` wrote.")]
RootOption = Annotated[Path | None, typer.Option(help="PEM root instead of AWS Nitro's, for a local stack.")]


@app.command()
def verify(
    file: FileArgument,
    request: Annotated[Path | None, typer.Option(help="What was asked: its JSON, or the sealed body as sent.")] = None,
    response: Annotated[Path | None, typer.Option(help="What was answered: the body's exact bytes.")] = None,
    measurements: MeasurementsOption = None,
    expect_pcr0: ExpectPcr0Option = None,
    expect_model: ExpectModelOption = None,
    expect_config: ExpectConfigOption = None,
    root: RootOption = None,
    *,
    json_output: JsonOption = False,
) -> None:
    """Verify a receipt with its document and say, in sentences, what it proves and what it does not."""

    def judged() -> Verdict:
        wanted = Wanted(
            roots=None if root is None else [load_root(root)],
            measurements=() if measurements is None else load_measurements(measurements),
            pins=parse_pins(models=expect_model or (), pcr0s=expect_pcr0 or (), configs=expect_config or ()),
            request=None if request is None else read_file(request),
            response=None if response is None else read_file(response),
        )
        return judge(read_bundle(file), wanted)

    verdict = call(lambda: _held(judged, json_output=json_output))
    if json_output:
        print_json(
            {
                "holds": True,
                "request": verdict.receipt.request.hex(),
                **facts(verdict),
                "proved": verdict.proved,
                "not_proved": verdict.not_proved,
            }
        )
        return
    _print_verdict(verdict)


@app.command(name="open")
def open_command(file: FileArgument, root: RootOption = None, *, json_output: JsonOption = False) -> None:
    """Print what was asked and answered, from a bundle that discloses it; the receipt is verified first."""

    def opened() -> tuple[OpenedExchange, ResponseHead]:
        verdict = judge(read_bundle(file), Wanted(roots=None if root is None else [load_root(root)]))
        if verdict.exchange is None:
            raise ReceiptError("The bundle discloses no exchange; `ask --receipt FILE --disclose` writes one.")
        return verdict.exchange, ResponseHead.decode(verdict.exchange.head)

    exchange, head = call(opened)
    request, response = (data.decode("utf-8", "replace") for data in (exchange.message.body, exchange.body))
    if json_output:
        print_json(
            {
                "tenant": exchange.header.tenant,
                "model": exchange.header.model,
                "kms": exchange.header.kms,
                "path": exchange.message.path,
                "request": request,
                "status": head.status,
                "content_type": head.content_type,
                "response": response,
            }
        )
        return
    out.print(f"{exchange.message.path} as {exchange.header.tenant}, model pool {exchange.header.model}", style="green")
    for text in (request, f"\n{head.status} {head.content_type}", response):
        out.print(printable(text))


def _held(judged: Callable[[], Verdict], *, json_output: bool) -> Verdict:
    """Judge; for a script a bundle that does not hold is an object too, and exit code 1."""
    try:
        return judged()
    except SettingsError:
        raise
    except MrgcError as error:
        if not json_output:
            raise
        print_json({"holds": False, "why": str(error)})
        raise typer.Exit(EX_FAILED) from None


def _print_verdict(verdict: Verdict) -> None:
    receipt = verdict.receipt
    out.print(f"The receipt holds: request {receipt.request.hex()}", style="green")
    for name, value in facts(verdict).items():
        out.print(f"  {name:<17}{printable(value if isinstance(value, str) else json.dumps(value))}")
    out.print("Proved:")
    for sentence in verdict.proved:
        out.print(f"  - {printable(sentence)}")
    out.print("Not proved:")
    for sentence in verdict.not_proved:
        out.print(f"  - {printable(sentence)}")


def facts(verdict: Verdict) -> dict[str, Any]:
    """What the receipt says, for a script; what it does not say is None."""
    receipt = verdict.receipt
    return {
        "time_ms": receipt.time,
        "assurance": receipt.assurance,
        "pcr0": receipt.pcr0.hex(),
        "region": receipt.region,
        "instance": receipt.instance,
        "model_digest": receipt.model_digest,
        "config_digest": None if receipt.config_digest is None else receipt.config_digest.hex(),
        "response": None if receipt.response is None else receipt.response.hex(),
        "wash": None if receipt.wash is None else dict(receipt.wash),
        "proof": None if receipt.proof is None else dict(receipt.proof),
        "key": None if receipt.key is None else receipt.key.hex(),
        "module_id": verdict.document.module_id,
        "document_time_ms": verdict.document.timestamp_ms,
    }
