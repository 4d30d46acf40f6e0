"""What is inside an envelope and a hop, each kind read from the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dataplane.enclave.checks import read_message
from dataplane.protocol.errors import OpenError, ProblemError
from dataplane.protocol.hop import HopHeader
from dataplane.protocol.hopmessage import HopHead, HopMessage, HopTail
from dataplane.protocol.message import MessageError, RequestMessage, ResponseHead
from tests.fuzz.targets.hop_envelope import HONEST

WASH: dict[str, str | int] = {"id": "epoch", "time": 1_700_000_000_000}
SEEDS = [
    RequestMessage(path="/v1/completions", content_type="application/json; charset=utf-8", body=b"{}").encode(),
    ResponseHead(status=200, content_type="text/event-stream").encode(),
    HONEST,
    HopHeader(rid=bytes(16), epoch=bytes(16), enc=bytes(32), wrapped=bytes(48), pad=16).encode(),
    HopHead(status=200, content_type="a", engine="vllm", model_digest="sha256:ab").encode(),
    HopTail(usage={"prompt_tokens": 3, "completion_tokens": 2}, wash=WASH).encode(),
]
KINDS: tuple[Callable[[bytes], Any], ...] = (
    RequestMessage.decode,
    read_message,
    ResponseHead.decode,
    HopMessage.decode,
    HopHeader.decode,
    HopHead.decode,
    HopTail.decode,
)


def target(data: bytes) -> None:
    """Read as every kind; what is accepted has one form."""
    for read in KINDS:
        try:
            message = read(data)
        except MessageError as error:
            assert error.status in {400, 404, 415}, "an inner refusal is the tenant's fault"
        except (ProblemError, OpenError):
            continue
        else:
            assert message.encode() == data, "one form"
