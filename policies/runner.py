"""Policy packs run alone: started as the Pulumi engine starts them, asked over gRPC as it asks, without an engine.

The engine hands a pack each resource's inputs before it creates it (`Analyze`), and all resources with their outputs
afterwards (`AnalyzeStack`). Here both come from an exported state, or from wherever a caller has resources.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import grpc
from google.protobuf import empty_pb2, struct_pb2
from pulumi.runtime.proto import analyzer_pb2, analyzer_pb2_grpc

START_TIMEOUT_S: Final = 60.0
CALL_TIMEOUT_S: Final = 120.0
"""For one question; the largest is a whole stack of about a thousand resources."""
STOP_TIMEOUT_S: Final = 10.0
MAX_MESSAGE: Final = 400 << 20
"""As large as the packs' own limit: a stack travels in one message."""

MANDATORY: Final = analyzer_pb2.MANDATORY


class PackError(Exception):
    """A pack that does not start or does not answer: one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One resource to be judged: `inputs` before it is created, `outputs` afterwards (None: as the inputs).

    `provider` are the inputs of its explicit provider. `depends` maps a property to the URNs it is made from.
    """

    urn: str
    type: str
    name: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any] | None = None
    provider: Mapping[str, Any] | None = None
    provider_urn: str = ""
    parent: str = ""
    protect: bool = False
    ignore_changes: Sequence[str] = ()
    dependencies: Sequence[str] = ()
    depends: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """What a pack said: `rule` and `message`; `urn` "" for the whole stack.

    `undecided` where the rule could not run for want of a value; `mandatory` where an engine would stop.
    """

    pack: str
    rule: str
    urn: str
    message: str
    mandatory: bool
    undecided: bool


def directory(pack: str) -> Path:
    """Where a pack of this project is installed."""
    return Path(__file__).parent / pack


class Pack:
    """A pack as a process of its own, for as long as the `with` block lasts. Raises PackError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name

    def __enter__(self) -> Self:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PULUMI_")}
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, with arguments of our own
            [sys.executable, "-u", "-m", "pulumi.policy", "127.0.0.1:0", str(self.folder)],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        try:
            port = self._port()
        except PackError:
            self._stop()
            raise
        options = [("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", MAX_MESSAGE)]
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=options)
        self._stub = analyzer_pb2_grpc.AnalyzerStub(self._channel)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()
        self._stop()

    def rules(self) -> list[str]:
        """The names of the pack's rules, in its order."""
        info = self._ask(self._stub.GetAnalyzerInfo, empty_pb2.Empty())
        return [policy.name for policy in info.policies]

    def configure(self, config: Mapping[str, Mapping[str, Any]]) -> None:
        """Give rules their configuration by name; an `enforcementLevel` among the properties changes the rule's."""
        found: dict[str, Any] = {}
        for rule, properties in config.items():
            level = str(properties.get("enforcementLevel", "mandatory")).upper()
            rest = {key: value for key, value in properties.items() if key != "enforcementLevel"}
            found[rule] = analyzer_pb2.PolicyConfig(
                enforcementLevel=analyzer_pb2.EnforcementLevel.Value(level), properties=_struct(rest)
            )
        self._ask(self._stub.Configure, analyzer_pb2.ConfigureAnalyzerRequest(policyConfig=found))

    def analyze(self, subject: Subject) -> list[Violation]:
        """What the pack says of one resource before it is created."""
        request = analyzer_pb2.AnalyzeRequest(
            type=subject.type,
            properties=_struct(subject.inputs),
            urn=subject.urn,
            name=subject.name,
            options=_options(subject),
            provider=_provider(subject),
        )
        return self._said(self._ask(self._stub.Analyze, request), subject.urn)

    def analyze_stack(self, subjects: Iterable[Subject]) -> list[Violation]:
        """What the pack says of all resources together, after they exist."""
        resources = [
            analyzer_pb2.AnalyzerResource(
                type=one.type,
                properties=_struct(one.inputs if one.outputs is None else one.outputs),
                urn=one.urn,
                name=one.name,
                options=_options(one),
                provider=_provider(one),
                parent=one.parent,
                dependencies=list(one.dependencies),
                propertyDependencies={
                    key: analyzer_pb2.AnalyzerPropertyDependencies(urns=list(urns)) for key, urns in one.depends.items()
                },
            )
            for one in subjects
        ]
        return self._said(self._ask(self._stub.AnalyzeStack, analyzer_pb2.AnalyzeStackRequest(resources=resources)), "")

    def _said(self, response: Any, urn: str) -> list[Violation]:
        return [
            Violation(
                pack=self.name,
                rule=one.policyName,
                urn=one.urn or urn,
                # A violation's message begins with the rule's description; what follows is about this resource.
                message=one.message.removeprefix(one.description).strip(),
                mandatory=one.enforcementLevel == MANDATORY,
                undecided=one.message.startswith("can't run policy"),
            )
            for one in response.diagnostics
        ]

    def _ask(self, call: Any, request: Any) -> Any:
        try:
            return call(request, timeout=CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            details = error.details() if isinstance(error, grpc.Call) else error
            raise PackError(f"The {self.name} pack failed to answer: {details}{self._last_words()}.") from None

    def _port(self) -> int:
        stdout = self._process.stdout
        if stdout is None or not select.select([stdout], [], [], START_TIMEOUT_S)[0]:
            raise PackError(f"The {self.name} pack did not start within {START_TIMEOUT_S:.0f} s.")
        line = stdout.readline().decode().strip()
        if not line.isdigit():
            self._process.wait(STOP_TIMEOUT_S)
            raise PackError(f"The {self.name} pack in {self.folder} did not start{self._last_words()}.")
        return int(line)

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1].strip()}" if lines else ""

    def _stop(self) -> None:
        self._process.kill()
        self._process.wait(STOP_TIMEOUT_S)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()


def judge(pack: Pack, subjects: Sequence[Subject]) -> list[Violation]:
    """Everything that a pack says: of each resource, then of all together."""
    found = [violation for subject in subjects for violation in pack.analyze(subject)]
    return found + pack.analyze_stack(subjects)


def _struct(values: Mapping[str, Any]) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(values)
    return struct


def _options(subject: Subject) -> Any:
    return analyzer_pb2.AnalyzerResourceOptions(
        protect=subject.protect, ignoreChanges=list(subject.ignore_changes), parent=subject.parent
    )


def _provider(subject: Subject) -> Any:
    if subject.provider is None:
        return None
    urn = subject.provider_urn
    return analyzer_pb2.AnalyzerProviderResource(
        type="pulumi:providers:" + subject.type.partition(":")[0],
        properties=_struct(subject.provider),
        urn=urn,
        name=urn.rpartition("::")[2],
    )
