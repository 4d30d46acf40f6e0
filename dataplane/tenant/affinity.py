"""What a prompt's affinity tags are made from: bytes whose beginnings agree where the engine's prefix cache does."""

from __future__ import annotations

import json
from typing import Any


def canonical_prompt(body: bytes) -> bytes:
    """The prompt of an OpenAI-compatible request, tools before messages as chat templates write them.

    Two requests whose conversations start alike have canonical prompts that start alike. Returns b"" for a body
    that has no prompt or is no JSON object: it then gets no tags, and the enclave says what is wrong with it.
    """
    try:
        request: Any = json.loads(body)
    except (ValueError, RecursionError):
        return b""
    if not isinstance(request, dict):
        return b""
    if "messages" in request:
        parts = [_compact(request.get("tools") or []), _compact(request["messages"])]
        return "\n".join(parts).encode("utf-8", "surrogatepass")
    prompt = request.get("prompt", request.get("input", ""))
    text = prompt if isinstance(prompt, str) else _compact(prompt)
    return text.encode("utf-8", "surrogatepass")


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
