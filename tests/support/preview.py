"""A program as a first preview runs it: nothing exists yet, so nothing that AWS computes is known."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from google.protobuf.json_format import MessageToDict
from pulumi.runtime import mocks
from pulumi.runtime import test as drain
from pulumi.runtime.config import set_all_config
from pulumi.runtime.proto import resource_pb2

from tests.support.event_loop import own_event_loop
from tests.support.pulumi_program import PROJECT, Program, Recorded, whole

UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
"""What stands for an unknown text on the wire (pulumi `sdk/python/lib/pulumi/runtime/rpc.py`)."""


class _Nothing(mocks.Mocks):
    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        raise AssertionError(f"{args.name} was created in a preview")

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        raise AssertionError(f"the program asks AWS {args.token}, which needs credentials to preview")


class _Monitor(mocks.MockMonitor):
    def __init__(self) -> None:
        super().__init__(_Nothing())
        self.resources_seen: list[Recorded] = []
        self._lock = threading.Lock()

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 - the engine's name
        urn = self.make_urn(request.parent, request.type, request.name)
        if request.type != "pulumi:pulumi:Stack":
            with self._lock:
                self.resources_seen.append(_recorded(urn, request))
        # As the engine answers a preview: the inputs back, no id, and nothing that would be computed.
        return resource_pb2.RegisterResourceResponse(urn=urn, id="", object=request.object)


def preview(program: Callable[[], object], *, stack: str = "dev") -> Program:
    """Run `program` as a first preview. Unknown values are `UNKNOWN` in the resources' inputs."""
    monitor = _Monitor()
    with own_event_loop():
        mocks.set_mocks(monitor.mocks, project=PROJECT, stack=stack, preview=True, monitor=monitor)
        set_all_config({})
        drain(program)()  # type: ignore[no-untyped-call]  # the SDK's mocks are untyped
    return Program(monitor.resources_seen, {})


def _recorded(urn: str, request: Any) -> Recorded:
    return Recorded(
        urn=urn,
        type=request.type,
        name=request.name,
        parent=request.parent,
        inputs=whole(MessageToDict(request.object)),
        provider=request.provider.rsplit("::", 1)[0] if request.provider else "",
        custom=request.custom,
        protect=request.protect,
        retain_on_delete=request.retainOnDelete,
        dependencies=tuple(request.dependencies),
        ignore_changes=tuple(request.ignoreChanges),
        request=request,
    )
