"""What a tenant and a router read of a peer's refusal: problem document, Retry-After, and a list of models."""

from __future__ import annotations

import json

from dataplane.protocol.errors import MAX_RETRY_AFTER_S, ProblemError, parse_problem
from dataplane.tenant.affinity import canonical_prompt
from dataplane.tenant.errors import RequestError
from dataplane.tenant.http import from_problem
from dataplane.tenant.models import parse_models
from dataplane.tenant.openai_errors import openai_error
from dataplane.tenant.retry import RetryPolicy

STATUSES = (400, 401, 403, 404, 409, 413, 429, 502, 503, 504)
SEEDS = [
    b"3600\n" + ProblemError("overloaded", "Full.").to_json(),
    b"9" * 400 + b"\n" + ProblemError("no-capacity", "None.").to_json(),
    b"9" * 5000 + b"\n" + ProblemError("host-failed", "Failed.").to_json(),
    b'\n{"type": "urn:mrgc:error:expired", "detail": "\\ud800"}',
    b'0\n{"models": [{"id": "tiny", "engine": "vllm", "assurance": 1e999, "hosts": 2}]}',
    b'0\n{"models": [{"id": "tiny", "engine": "vllm", "assurance": 1, "hosts": 2}]}',
    b"0\n" + b"[" * 4000,
    b'0\n{"messages": [{"role": "user", "content": "\\udfff"}], "tools": [' + b"[" * 500 + b"]" * 500 + b"]}",
]


def target(data: bytes) -> None:
    """Read it as each; what is understood can be written again, with a bound on the wait."""
    retry_after, _, body = data.partition(b"\n")
    for status in STATUSES:
        problem = parse_problem(status, body, retry_after=retry_after.decode("latin-1"))
        if problem is None:
            continue
        assert problem.retry_after_s is None or 0 <= problem.retry_after_s <= MAX_RETRY_AFTER_S, "a bounded wait"
        json.loads(problem.to_json())
        problem.headers()
        request_error = from_problem(problem, 1)
        openai_error(request_error).body()
        RetryPolicy().delay_s(1, remaining_s=10, random=lambda: 0.5, retry_after_s=request_error.retry_after_s)
    try:
        for model in parse_models(body, 1):
            json.dumps([model.id, model.engine, model.assurance, model.hosts], ensure_ascii=False).encode()
    except RequestError:
        pass
    canonical_prompt(body)
