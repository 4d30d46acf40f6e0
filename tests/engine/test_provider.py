"""The provider stand-in, spoken to over gRPC as the engine speaks to it; no engine is needed."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import struct_pb2
from google.protobuf.json_format import MessageToDict
from pulumi.runtime.proto import provider_pb2 as messages
from pulumi.runtime.proto import provider_pb2_grpc as service

from tests.engine.engine import PLUGIN
from tests.engine.provider import VERSION

URN = "urn:pulumi:dev::mrgc::mrgc:network:RegionNetwork$aws:ec2/vpc:Vpc::network-vpc"
CALL_TIMEOUT_S = 10

Start = Callable[..., Any]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the plugin as the engine does: run it, read its port from the first line, connect."""
    with ExitStack() as stack:

        def started(**environment: str) -> Any:
            process = subprocess.Popen(
                [str(PLUGIN / "pulumi-resource-aws")],
                stdout=subprocess.PIPE,
                text=True,
                env={
                    **os.environ,
                    "MRGC_STANDIN_PYTHON": sys.executable,
                    "MRGC_STANDIN_LOG": str(tmp_path / "calls.jsonl"),
                    **environment,
                },
            )
            stack.callback(process.wait, 10)
            stack.callback(process.kill)
            assert process.stdout is not None
            stack.callback(process.stdout.close)
            channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{int(process.stdout.readline())}"))
            stub = service.ResourceProviderStub(channel)
            stub.Configure(messages.ConfigureRequest(args=struct(region="us-west-2")), timeout=CALL_TIMEOUT_S)
            return stub

        yield started


def struct(**values: Any) -> Any:
    made = struct_pb2.Struct()
    made.update(values)
    return made


def test_it_calls_itself_the_version_that_is_locked() -> None:
    assert importlib.metadata.version("pulumi-aws") == VERSION, "the engine would look for another plugin"


def test_a_created_resource_has_what_aws_computes_in_its_providers_region(start: Start, tmp_path: Path) -> None:
    request = messages.CreateRequest(urn=URN, properties=struct(cidrBlock="10.66.0.0/18"))
    made = start().Create(request, timeout=CALL_TIMEOUT_S)
    state = MessageToDict(made.properties)
    assert made.id
    assert state["cidrBlock"] == "10.66.0.0/18"
    assert state["arn"].startswith("arn:aws:ec2:us-west-2:")
    logged = [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
    assert {"call": "Create", "urn": URN} in logged


def test_a_preview_creates_nothing(start: Start, tmp_path: Path) -> None:
    request = messages.CreateRequest(urn=URN, properties=struct(cidrBlock="10.66.0.0/18"), preview=True)
    made = start().Create(request, timeout=CALL_TIMEOUT_S)
    assert not made.id
    assert "Create" not in (tmp_path / "calls.jsonl").read_text()


def test_the_same_inputs_are_no_difference_and_others_are_named(start: Start) -> None:
    stub = start()

    def diff(new: str) -> Any:
        request = messages.DiffRequest(urn=URN, old_inputs=struct(cidrBlock="10.66.0.0/18"), news=struct(cidrBlock=new))
        return stub.Diff(request, timeout=CALL_TIMEOUT_S)

    assert diff("10.66.0.0/18").changes == messages.DiffResponse.DIFF_NONE
    changed = diff("10.66.64.0/18")
    assert (changed.changes, list(changed.diffs)) == (messages.DiffResponse.DIFF_SOME, ["cidrBlock"])


def test_it_refuses_what_it_was_told_to_refuse(start: Start) -> None:
    stub = start(MRGC_STANDIN_FAIL="ec2/vpc:Vpc")
    with pytest.raises(grpc.RpcError, match="was told to refuse"):
        stub.Create(messages.CreateRequest(urn=URN, properties=struct()), timeout=CALL_TIMEOUT_S)


def test_it_answers_no_question_that_would_need_an_account(start: Start) -> None:
    with pytest.raises(grpc.RpcError, match="asks AWS nothing"):
        start().Invoke(
            messages.InvokeRequest(tok="aws:index/getCallerIdentity:getCallerIdentity"), timeout=CALL_TIMEOUT_S
        )
