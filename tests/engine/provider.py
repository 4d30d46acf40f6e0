"""A stand-in for the AWS provider plugin, speaking the engine's provider protocol over gRPC.

It keeps each resource's inputs as its state, adds what AWS would compute, diffs by inputs, and accepts everything:
whether AWS accepts a resource is judged elsewhere. Every call that changes something is a line of the file that
MRGC_STANDIN_LOG names; MRGC_STANDIN_FAIL names a part of a type token whose creation fails.
Source: pulumi/pulumi `proto/pulumi/provider.proto`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import empty_pb2, struct_pb2
from google.protobuf.json_format import MessageToDict
from pulumi.runtime.proto import plugin_pb2
from pulumi.runtime.proto import provider_pb2 as messages
from pulumi.runtime.proto import provider_pb2_grpc as service

from tests.support.aws_outputs import identity, outputs

VERSION = "7.51.1"
"""pulumi-aws as locked; a test holds that they agree."""
THREADS = 32
MAX_MESSAGE_BYTES = 400 << 20
"""What the engine itself allows."""


class Provider(service.ResourceProviderServicer):
    """One provider process; the engine starts one for each configured region."""

    def __init__(self) -> None:
        self.region = "us-east-1"

    def Handshake(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002 - the protocol's names
        return messages.ProviderHandshakeResponse()

    def GetPluginInfo(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002 - the protocol's names
        return plugin_pb2.PluginInfo(version=VERSION)

    def GetSchema(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002 - the protocol's names
        return messages.GetSchemaResponse(schema="{}")

    def Attach(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002 - the protocol's names
        return empty_pb2.Empty()

    def Cancel(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002 - the protocol's names
        return empty_pb2.Empty()

    def GetMapping(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002 - the protocol's names
        return messages.GetMappingResponse()

    def GetMappings(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002 - the protocol's names
        return messages.GetMappingsResponse()

    def CheckConfig(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002 - the protocol's names
        return messages.CheckResponse(inputs=request.news)

    def DiffConfig(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002 - the protocol's names
        return _difference(_plain(request.olds), _plain(request.news))

    def Configure(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002 - the protocol's names
        self.region = str(_plain(request.args).get("region", self.region))
        _log("Configure", region=self.region)
        return messages.ConfigureResponse(supportsPreview=True)

    def Check(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002 - the protocol's names
        return messages.CheckResponse(inputs=request.news)

    def Diff(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002 - the protocol's names
        olds = request.old_inputs if request.HasField("old_inputs") else request.olds
        return _difference(_plain(olds), _plain(request.news))

    def Create(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        type_, name = _type_and_name(request.urn)
        fail = os.environ.get("MRGC_STANDIN_FAIL")
        if fail and fail in type_ and not request.preview:
            context.abort(grpc.StatusCode.UNKNOWN, f"AccessDenied: the stand-in was told to refuse {type_}")
        if request.preview:
            return messages.CreateResponse(properties=request.properties)
        _log("Create", urn=request.urn)
        state = outputs(type_, name, _plain(request.properties), self.region)
        return messages.CreateResponse(id=identity(type_, name), properties=_struct(state))

    def Read(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002 - the protocol's names
        return messages.ReadResponse(id=request.id, properties=request.properties, inputs=request.inputs)

    def Update(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002 - the protocol's names
        type_, name = _type_and_name(request.urn)
        if request.preview:
            return messages.UpdateResponse(properties=request.news)
        _log("Update", urn=request.urn)
        return messages.UpdateResponse(properties=_struct(outputs(type_, name, _plain(request.news), self.region)))

    def Delete(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002 - the protocol's names
        _log("Delete", urn=request.urn)
        return empty_pb2.Empty()

    def Invoke(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{request.tok}: the program asks AWS nothing, so neither do I")


def _type_and_name(urn: str) -> tuple[str, str]:
    """`urn:pulumi:STACK::PROJECT::PARENT$TYPE::NAME`."""
    parts = urn.split("::")
    return parts[2].split("$")[-1], parts[-1]


def _plain(struct: Any) -> dict[str, Any]:
    values: dict[str, Any] = MessageToDict(struct)
    return values


def _struct(values: Mapping[str, Any]) -> Any:
    struct = struct_pb2.Struct()
    struct.update(dict(values))
    return struct


def _difference(olds: Mapping[str, Any], news: Mapping[str, Any]) -> Any:
    changed = sorted(key for key in {*olds, *news} if olds.get(key) != news.get(key))
    changes = messages.DiffResponse.DIFF_SOME if changed else messages.DiffResponse.DIFF_NONE
    return messages.DiffResponse(changes=changes, diffs=changed)


def _log(call: str, **about: str) -> None:
    path = os.environ.get("MRGC_STANDIN_LOG")
    if path:
        with Path(path).open("a") as file:
            file.write(json.dumps({"call": call, **about}) + "\n")


def main() -> None:
    """Serve on a free port of loopback, whose number the engine reads from the first line of output."""
    server = grpc.server(
        futures.ThreadPoolExecutor(THREADS), options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
    )
    service.add_ResourceProviderServicer_to_server(Provider(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)  # noqa: T201 - the plugin protocol
    server.wait_for_termination()


if __name__ == "__main__":
    main()
