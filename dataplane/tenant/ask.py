"""One question to a chat model, streamed, and who answered it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dataplane.protocol.errors import OpenError
from dataplane.protocol.receipt import Receipt
from dataplane.tenant.bundle import ReceiptBundle
from dataplane.tenant.client import TenantClient
from dataplane.tenant.errors import RequestError
from dataplane.tenant.response import TenantResponse
from dataplane.tenant.sse import EventReader

LEVELS = ("mock", "host-visible", "attested-host")
PATH = "/v1/chat/completions"
OK = 200
MAX_SHOWN_ERROR = 500
"""Characters of an engine's own error that are repeated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The whole answer, and the receipt that came with it."""

    text: str = field(repr=False)
    model: str
    attempts: int
    request_id: str
    fingerprint: str
    """The engine's `system_fingerprint`, from inside the envelope; "" where it gives none."""
    receipt: Receipt
    bundle: ReceiptBundle = field(repr=False)
    """The receipt as it is kept for others, still without the enclave's document."""

    def summary(self) -> str:
        """One line for a person."""
        receipt = self.receipt
        tries = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
        engine = f"{self.fingerprint} " if self.fingerprint else ""
        return (
            f"{receipt.region} · {receipt.instance} · assurance {receipt.assurance} ({LEVELS[receipt.assurance]}) · "
            f"{engine}{self.model} {receipt.model_digest} · {tries}"
        )

    def document(self) -> dict[str, Any]:
        """The same for a script."""
        receipt = self.receipt
        return {
            "answer": self.text,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "request_id": self.request_id,
            "attempts": self.attempts,
            "region": receipt.region,
            "instance": receipt.instance,
            "assurance": receipt.assurance,
            "assurance_name": LEVELS[receipt.assurance],
            "model_digest": receipt.model_digest,
            "pcr0": receipt.pcr0.hex(),
            "config_digest": None if receipt.config_digest is None else receipt.config_digest.hex(),
            "time_ms": receipt.time,
            "usage": None if receipt.usage is None else dict(receipt.usage),
            "wash": None if receipt.wash is None else dict(receipt.wash),
        }


async def ask_question(
    client: TenantClient,
    question: str,
    *,
    model: str,
    max_tokens: int | None = None,
    on_text: Callable[[str], None] | None = None,
) -> Answer:
    """Ask, hand every piece of the answer to `on_text` as it comes, and return the whole.

    Raises RequestError with the engine's own status when it refused, and what `TenantClient.infer` raises.
    """
    request: dict[str, Any] = {"model": model, "stream": True, "messages": [{"role": "user", "content": question}]}
    if max_tokens is not None:
        request["max_tokens"] = max_tokens
    pieces: list[str] = []
    fingerprint = ""
    async with client.infer(PATH, json.dumps(request).encode(), model=model) as response:
        if response.status != OK:
            raise await _refused(response)
        reader = EventReader()
        async for chunk in response.chunks():
            for event in reader.feed(chunk):
                text, mark = _read_chunk(event)
                fingerprint = fingerprint or mark
                if text:
                    pieces.append(text)
                    if on_text is not None:
                        on_text(text)
        if response.receipt is None:
            raise OpenError("The response ended without a receipt; ask again.")
        return Answer(
            text="".join(pieces),
            model=model,
            attempts=response.attempts,
            request_id=response.request_id,
            fingerprint=fingerprint,
            receipt=response.receipt,
            bundle=response.bundle(),
        )


def printable(text: str) -> str:
    """`text` without control characters: a model's words must not steer the terminal."""
    return "".join(letter for letter in text if letter in "\n\t" or letter.isprintable())


def _read_chunk(event: str) -> tuple[str, str]:
    """The text that one event of a chat stream adds, and the engine's fingerprint if it says one."""
    if event == "[DONE]":
        return "", ""
    try:
        document = json.loads(event)
        if error := document.get("error"):
            raise OpenError(f"The engine broke off: {printable(str(error.get('message', 'no reason')))}")
        text = "".join(choice.get("delta", {}).get("content") or "" for choice in document.get("choices", []))
        return printable(text), printable(str(document.get("system_fingerprint") or ""))
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise OpenError("The answer has an event that is no chat chunk; check the model pool.") from None


async def _refused(response: TenantResponse) -> RequestError:
    body = await response.read()
    try:
        message = str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        message = "it gave no reason"
    text = f"The engine refused with status {response.status}: {printable(message)[:MAX_SHOWN_ERROR]}"
    return RequestError(text, code="engine-refused", status=response.status, attempts=response.attempts)
