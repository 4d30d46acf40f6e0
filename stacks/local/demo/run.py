"""The demo from its first process to its last: each step shows something and checks it."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
from rich.console import Console
from rich.table import Table

from dataplane.protocol.errors import MrgcError
from observability.names import ALLOWED_ATTRIBUTES
from stacks.local.demo import trace as tracing
from stacks.local.demo.audit import decrypts_of, differing, read_audit
from stacks.local.demo.narrator import Narrator
from stacks.local.demo.outage import RECOVERY_LIMIT_S, Outage, kill_under_load, pids_of
from stacks.local.demo.question import Answer, ask
from stacks.local.demo.sidecar import TenantSidecar
from stacks.local.demo.wire import find_capture, hexdump, leaks, words
from stacks.local.files import read_json
from stacks.local.hints import after_demo, after_up
from stacks.local.launch import Launch
from stacks.local.layout import Layout
from stacks.local.options import TAMPERED_POOL, ClusterOptions
from stacks.local.ports import is_free
from stacks.local.procfs import marked
from stacks.local.report import Reporter
from stacks.local.status import read_status

TENANT = "tenant-a"
PROMPT = "Our merger with Umbrella Corporation closes on Thursday: what should the announcement say?"
MAX_TOKENS = 48
HEX_ROWS = 2
SHOWN_HEX = 24
SPANS_TIMEOUT_S = 5.0
CRASH_TIMEOUT_S = 5.0
POLL_S = 0.1
FORBIDDEN = 403

ENGINES = {
    "vllm": "real vLLM on this CPU with a 115,008-parameter model made here",
    "synthetic": "a synthetic engine in the GPU's place",
}
"""What a claim rests on where an engine answers."""

KMS = "the emulated KMS's own record, and documents of a software NSM: AWS's format, no hardware behind it"
SPANS = "the spans that the processes exported themselves"
KILLS = "SIGKILL of real processes; the load balancer is an emulator of AWS's documented rules"


class DemoError(MrgcError):
    """A step that could not even be shown."""


@dataclass(slots=True)
class _Demo:
    options: ClusterOptions
    narrator: Narrator
    launch: Launch
    reporter: Reporter
    cluster: dict[str, Any] = field(default_factory=dict)
    outage: Outage | None = None
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        return Layout(self.options.directory, self.options.directory)

    def run(self) -> None:
        """Every step up to the last; taking down is the caller's."""
        options, narrator = self.options, self.narrator
        hosts = options.regions * options.hosts
        each = "one host" if options.hosts == 1 else f"{options.hosts} hosts"
        narrator.step(f"{options.regions} regions of {each} come up on this machine")
        if not self.launch.follow(self.reporter.show, until_ready=True):
            raise DemoError("The cluster was stopped from outside while it came up.")
        self.reporter.close()
        self.cluster = read_json(self.launch.cluster_file) or {}
        self.timings["up"] = round(narrator.seconds, 1)
        narrator.claim(
            "every region answered a sealed request",
            held=len(self.cluster["regions"]) == options.regions,
            evidence=f"{hosts} hosts with {options.engine}, and one whose enclave is tampered with",
            rests_on=f"the real programs as processes of their own, with {ENGINES[options.engine]}",
        )
        with TenantSidecar(self.launch.cluster_file, TENANT, options.directory / "tenant-proxy.log") as sidecar:
            answer = self._question(sidecar)
            self._wire(answer)
            self._attestation(answer)
            self._trace(answer)
            self._refusal(sidecar)
            self._outage(answer.region)
            self._recovery(sidecar, answer.region)

    def _question(self, sidecar: TenantSidecar) -> Answer:
        narrator = self.narrator
        narrator.step("A tenant asks, through the stock openai client and `mrgc tenant proxy`")
        narrator.say(f"  OpenAI(base_url={sidecar.url!r})", "dim")
        narrator.say(f"  {TENANT}: {PROMPT}")
        console = narrator.console
        console.print(f"  {self.cluster['model']}: ", end="", markup=False)

        def show(text: str) -> None:
            console.print(text, end="", style="cyan", markup=False, highlight=False, soft_wrap=True)

        answer = ask(sidecar.url, self.cluster["model"], PROMPT, max_tokens=MAX_TOKENS, on_text=show)
        console.print()
        if self.options.engine == "vllm":
            narrator.say(
                "  (Real vLLM with a 115,008-parameter model made here: its text is gibberish by design.)", "dim"
            )
        else:
            narrator.say("  (The synthetic engine: made-up words, and every response says so.)", "dim")
        narrator.claim(
            "tokens streamed, and the stream ended properly",
            held=answer.pieces > 1 and answer.finish is not None and answer.first_s < answer.total_s,
            evidence=f"{answer.pieces} pieces, first after {answer.first_s * 1000:.0f} ms, all after "
            f"{answer.total_s * 1000:.0f} ms, from {answer.instance} in {answer.region}",
            rests_on=f"what the stock client counted; {ENGINES[self.options.engine]}",
        )
        return answer

    def _wire(self, answer: Answer) -> None:
        narrator = self.narrator
        narrator.step("What the router and the parent saw of it")
        capture = find_capture(self.layout.captures, answer.request_id)
        if capture is None:
            evidence = f"no capture of {answer.request_id}"
            narrator.claim("the tap recorded the request", held=False, evidence=evidence, rests_on="the tap's files")
            return
        narrator.say(
            "  Recorded between router and parent. TLS ends at the router, so both see this; the router", "dim"
        )
        narrator.say("  was also shown the tenant's API key, and keeps it to itself:", "dim")
        for line in capture.head.splitlines():
            narrator.say(f"    {line}")
        narrator.say(f"  then {len(capture.sealed_request)} bytes of request body:")
        for line in hexdump(capture.sealed_request, HEX_ROWS):
            narrator.say(f"    {line}", "yellow")
        narrator.say(f"  and {len(capture.sealed_response)} bytes of response body:")
        for line in hexdump(capture.sealed_response, HEX_ROWS):
            narrator.say(f"    {line}", "yellow")
        everything = b"".join(path.read_bytes() for path in sorted(self.layout.captures.glob("*.re*")))
        api_key = next(tenant["api_key"] for tenant in self.cluster["tenants"] if tenant["id"] == TENANT)
        found = leaks(everything, [*words(PROMPT), answer.text.encode(), api_key.encode()])
        narrator.claim(
            "what passes router and parent holds no prompt, none of its longer words, no answer, no API key",
            held=not found and len(capture.sealed_request) > len(PROMPT),
            evidence=f"{len(everything):,} recorded bytes searched" if not found else f"found {found[0]!r}",
            rests_on="every byte that a relay between this region's router and hosts recorded; their memory is a test",
        )

    def _attestation(self, answer: Answer) -> None:
        narrator = self.narrator
        narrator.step("What KMS checked before it gave that enclave the data key")
        records = decrypts_of(read_audit(self.cluster["aws_endpoint_url"]), answer.instance)
        record = records[-1] if records else None
        if record is None:
            evidence = "no Decrypt of that instance"
            narrator.claim("KMS saw the enclave's document", held=False, evidence=evidence, rests_on=KMS)
            return
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("", "attested by the enclave", "required by the tenant's key policy", ""):
            table.add_column(column, no_wrap=True)
        published = self.cluster["pcrs"]
        different = differing(record["attested"], published)
        for number in ("0", "1", "2"):
            attested = record["attested"].get(number, "(none)")
            mark = "differs" if number in different else "equal"
            table.add_row(f"  PCR{number}", f"{attested[:SHOWN_HEX]}…", f"{published[number][:SHOWN_HEX]}…", mark)
        narrator.show(table)
        narrator.say(f"  document of   {record['module_id']}")
        narrator.say(
            "                assurance 0, mock: a software NSM with a root of its own signed it, so the check is real "
            "and the hardware is not",
            "dim",
        )
        narrator.say(f"  called by     {record['principal']}")
        narrator.say(f"  decision      {record['outcome']}: {record['reason']}")
        narrator.claim(
            "KMS released the key to the measured enclave only",
            held=record["outcome"] == "allowed" and not different,
            evidence=f"Decrypt in {record['region']} with Recipient, PCR0 to PCR2 equal",
            rests_on=KMS,
        )

    def _trace(self, answer: Answer) -> None:
        narrator = self.narrator
        narrator.step("The trace of that request, across every process")
        path = Path(self.cluster["spans_file"])
        until = time.monotonic() + SPANS_TIMEOUT_S
        while True:
            spans = tracing.read_trace(path, answer.trace_id)
            missing = tracing.EXPECTED - {span.name for span in spans}
            if not missing or time.monotonic() > until:
                break
            time.sleep(POLL_S)
        for line in tracing.render(spans):
            narrator.say(f"  {line}")
        services = {span.service for span in spans}
        narrator.claim(
            "one trace holds every step from the tenant to the engine and back",
            held=not missing,
            evidence=f"{len(spans)} spans of {len(services)} processes"
            + (f", without {', '.join(sorted(missing))}" if missing else ""),
            rests_on=SPANS,
        )
        found = leaks(path.read_bytes(), [*words(PROMPT), answer.text.encode()])
        unlisted = sorted({name for span in spans for name in span.attributes} - ALLOWED_ATTRIBUTES)
        narrator.claim(
            "no span holds prompt, answer or a count of tokens",
            held=not found and not unlisted,
            evidence="the whole spans file searched, every attribute listed"
            if not found and not unlisted
            else f"found {(*found, *unlisted)[0]!r}",
            rests_on=SPANS,
        )

    def _refusal(self, sidecar: TenantSidecar) -> None:
        narrator = self.narrator
        narrator.step("An enclave with another PCR0 asks for the same tenant's key")
        host = next(h for region in self.cluster["regions"].values() for h in region["hosts"] if h["tampered"])
        narrator.say(f"  {host['id']} serves the pool {TAMPERED_POOL!r}; the tenant asks it.", "dim")
        status, code, message = 200, "", "it answered"
        try:
            ask(sidecar.url, TAMPERED_POOL, PROMPT, max_tokens=MAX_TOKENS, on_text=lambda _: None)
        except openai.APIStatusError as error:
            status, code, message = error.status_code, error.code or "", error.message
        except openai.OpenAIError as error:
            status, code, message = 0, type(error).__name__, str(error)
        narrator.say(f"  the openai client raised: {status} {code}: {message}")
        narrator.claim(
            "the tenant gets a clear error",
            held=status == FORBIDDEN and "kms-denied" in f"{code} {message}".replace("_", "-"),
            evidence=f"{status} {code}",
            rests_on="what the stock client raised",
        )
        records = decrypts_of(read_audit(self.cluster["aws_endpoint_url"]), host["id"])
        different = differing(records[-1]["attested"], self.cluster["pcrs"]) if records else []
        if records:
            attested = records[-1]["attested"].get("0", "")
            narrator.say(f"  attested PCR0 {attested[:SHOWN_HEX]}… instead of {self.cluster['pcrs']['0'][:SHOWN_HEX]}…")
            narrator.say(f"  decision      {records[-1]['outcome']}: {records[-1]['reason']}")
        narrator.claim(
            "it was KMS that refused, for PCR0",
            held=bool(records) and all(r["outcome"] != "allowed" for r in records) and different == ["0"],
            evidence=f"{len(records)} Decrypt calls, none allowed" if records else "no Decrypt was tried",
            rests_on=KMS,
        )

    def _outage(self, region: str) -> None:
        narrator = self.narrator
        narrator.step(f"{region} dies under load: router and hosts, SIGKILL, all at once")
        outage = self.outage = asyncio.run(
            kill_under_load(self.launch.cluster_file, region, pids_of(self.cluster, region))
        )
        counts = outage.as_json()
        table = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
        table.add_row("processes killed", str(counts["killed_processes"]))
        table.add_row("load", f"{counts['streams']} streams for {counts['seconds']:.0f} s")
        table.add_row("succeeded", f"{counts['succeeded']}  {counts['by_region']}")
        table.add_row("  of these retried", str(counts["retried"]))
        table.add_row("failed", f"{counts['failed']}  {counts['failures'] or ''}")
        table.add_row("longest gap between successes", f"{counts['longest_gap_s']:.1f} s")
        narrator.show(table)
        narrator.say(
            "  (The load balancer notices after two failed health checks, 5 s apart, as AWS's fastest does.)", "dim"
        )
        narrator.claim(
            "another region took over, and no request was lost",
            held=bool(outage.elsewhere) and outage.failed == 0 and outage.longest_gap_s < RECOVERY_LIMIT_S,
            evidence=f"{len(outage.elsewhere)} answers from elsewhere after the kill, {outage.failed} failed",
            rests_on=KILLS,
        )

    def _recovery(self, sidecar: TenantSidecar, dead: str) -> None:
        narrator = self.narrator
        narrator.step("The same client asks again")
        answer = ask(sidecar.url, self.cluster["model"], PROMPT, max_tokens=MAX_TOKENS, on_text=lambda _: None)
        narrator.claim(
            "the next region answers as if nothing had been",
            held=answer.region not in {"", dead} and answer.finish is not None,
            evidence=f"{answer.instance} in {answer.region}, {answer.total_s * 1000:.0f} ms",
            rests_on=KILLS,
        )
        expected = set(pids_of(self.cluster, dead))
        until = time.monotonic() + CRASH_TIMEOUT_S
        reported: set[int] = set()
        while reported != expected and time.monotonic() < until:
            status = read_status(self.options.directory)
            reported = {process.pid for process in status.faults} if status else set()
            time.sleep(POLL_S)
        narrator.claim(
            "`mrgc local status` names every process that died, and no other",
            held=reported == expected,
            evidence=f"{len(reported)} of {len(expected)} reported",
            rests_on="the supervisor's own table, compared with what was killed",
        )

    def down(self) -> None:
        """Take everything down and look for what is left."""
        narrator = self.narrator
        narrator.step("Everything is taken down")
        status = read_status(self.options.directory)
        # The dead region's crashes were shown as counts; here they would only repeat.
        self.launch.stop(lambda event: None if event["kind"] == "crash" else self.reporter.show(event))
        self.reporter.close()
        left = marked(status.cluster) if status else []
        free = is_free(self.options.port)
        running = f"{len(left)} of {len(status.processes) if status else 0} processes run"
        narrator.claim(
            "nothing is left running",
            held=not left and free,
            evidence=f"{running}, port {self.options.port} is {'free' if free else 'taken'}",
            rests_on="/proc, searched for the cluster's marker",
        )

    def leave(self, dead: str) -> None:
        """Leave what survives running, and say how to use and to stop it."""
        narrator = self.narrator
        narrator.step(f"What survives is left running (--keep); {dead} stays dead, as it was killed above")
        for line in after_up(self.cluster, self.launch.cluster_file):
            narrator.say(f"  {line}")

    def summarize(self) -> None:
        """Print the claims again, together."""
        narrator = self.narrator
        narrator.step("Summary")
        for number, claim in enumerate(narrator.claims, start=1):
            narrator.say(
                f"  {'held' if claim.held else 'BROKEN':<8}{number:>2}. {claim.name}", "" if claim.held else "bold red"
            )
        held = sum(claim.held for claim in narrator.claims)
        narrator.say(
            f"  {held} of {len(narrator.claims)} claims held, in {narrator.seconds:.0f} s "
            f"(of these {self.timings.get('up', 0):.0f} s to come up).",
            "bold green" if narrator.held else "bold red",
        )
        narrator.say("\nNext:")
        for line in after_demo(self.options.engine):
            narrator.say(f"  {line}")


def run_demo(options: ClusterOptions, *, engine_said: str, keep: bool, as_json: bool) -> bool:
    """Run it; say whether every claim held. Raises `MrgcError` when it could not be run at all.

    `engine_said` says which engine and why; with `keep` what survives is left running, if every step could be shown.
    With `as_json` the summary goes to standard output as JSON and everything else to standard error.
    """
    narrator = Narrator(Console(stderr=as_json, highlight=False))
    narrator.say(engine_said)
    demo = _Demo(options, narrator, Launch(options, detach=keep), Reporter(narrator.console))
    leave = False
    try:
        try:
            demo.run()
            leave = keep
        except openai.OpenAIError as error:
            evidence = f"{type(error).__name__}: {error}"
            narrator.claim(
                "the openai client was answered", held=False, evidence=evidence, rests_on="what the stock client raised"
            )
    finally:
        # Also after Ctrl-C: nothing may be left running.
        demo.reporter.close()
        if leave and demo.outage is not None:
            demo.leave(demo.outage.region)
        else:
            demo.down()
    demo.summarize()
    if as_json:
        summary = {
            "held": narrator.held,
            "seconds": round(narrator.seconds, 1),
            "up_seconds": demo.timings.get("up"),
            "engine": options.engine,
            "regions": options.regions,
            "hosts": options.hosts,
            "claims": narrator.as_json(),
            "outage": demo.outage.as_json() if demo.outage else None,
        }
        sys.stdout.write(json.dumps(summary, indent=2) + "\n")
    return narrator.held
