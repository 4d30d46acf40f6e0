"""One question through the stock `openai` client, streamed."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from openai import OpenAI

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back; times in seconds from sending. `finish` is OpenAI's finish reason."""

    text: str
    request_id: str
    trace_id: str
    region: str
    instance: str
    pieces: int
    first_s: float
    total_s: float
    finish: str | None


def ask(base_url: str, model: str, prompt: str, *, max_tokens: int, on_text: Callable[[str], None]) -> Answer:
    """Ask and give each piece of the answer to `on_text` as it comes; raises what the `openai` client raises."""
    request_id, trace_id = f"demo_{secrets.token_hex(8)}", secrets.token_hex(16)
    headers = {"X-Request-ID": request_id, "traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
    began = time.monotonic()
    first_s, pieces, finish = 0.0, [], None
    # The client's own retries are off: what is counted is what was sent.
    with OpenAI(base_url=base_url, api_key="local", max_retries=0, timeout=TIMEOUT_S) as client:
        raw = client.chat.completions.with_raw_response.create(
            model=model,
            messages=[{"role": "user", "content": prompt}],
            max_tokens=max_tokens,
            temperature=0,
            stream=True,
            extra_headers=headers,
        )
        for event in raw.parse():
            if not event.choices:
                continue
            choice = event.choices[0]
            finish = choice.finish_reason or finish
            if text := choice.delta.content:
                first_s = first_s or time.monotonic() - began
                pieces.append(text)
                on_text(text)
    return Answer(
        text="".join(pieces),
        request_id=request_id,
        trace_id=trace_id,
        region=raw.headers.get("X-MRGC-Region", ""),
        instance=raw.headers.get("X-MRGC-Instance", ""),
        pieces=len(pieces),
        first_s=first_s,
        total_s=time.monotonic() - began,
        finish=finish,
    )
