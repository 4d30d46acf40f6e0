"""Questions to a starting cluster, each answered by asking the process itself, and by a real request at the end."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp

from dataplane.protocol.errors import MrgcError
from dataplane.tenant.config import load_cluster

POLL_S = 0.1
ASK_TIMEOUT_S = 2.0
PROBE_TOKENS = 4


class ReadinessError(MrgcError):
    """Something that did not become ready in time."""


Check = Callable[[], Awaitable[bool]]


async def wait_for(check: Check, timeout_s: float, what: str) -> None:
    """Ask until the answer is yes; raises `ReadinessError` after `timeout_s` seconds."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await check():  # noqa: ASYNC110 - another process has no event
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise ReadinessError(f"Waited {timeout_s:g} s until {what}, in vain; its log may say why.") from None


async def ask(url: str) -> tuple[int, Any] | None:
    """GET a URL: its status and JSON (None where it is none), or None where nobody answers.

    Certificates are not verified here: the question is whether something answers, and nothing secret is sent.
    """
    timeout = aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, ssl=False) as response:
            body = await response.read()
            try:
                return response.status, json.loads(body)
            except ValueError:
                return response.status, None
    except (aiohttp.ClientError, OSError, TimeoutError, ssl.SSLError):
        return None


async def http_answers(url: str) -> bool:
    """Say whether anything answers HTTP there."""
    return await ask(url) is not None


async def parent_ready(url: str) -> bool:
    """Say whether a parent, its enclave and its worker are ready."""
    answer = await ask(f"{url}/health")
    return answer is not None and isinstance(answer[1], dict) and answer[1].get("ready") is True


async def router_ready(url: str) -> bool:
    """Say whether a router would pass the load balancer's health check."""
    answer = await ask(f"{url}/health")
    return answer is not None and answer[0] == HTTPStatus.OK


async def accelerator_healthy(admin: str) -> bool:
    """Say whether the accelerator sees every endpoint healthy."""
    answer = await ask(f"{admin}/status")
    if answer is None or not isinstance(answer[1], dict):
        return False
    return all(endpoint["health"] == "healthy" for group in answer[1]["groups"] for endpoint in group["endpoints"])


async def complete_once(cluster_file: Path, router: str, region: str, timeout_s: float) -> None:
    """Have one sealed request answered by a region's router; raises `MrgcError` when it is not answered there."""
    config = replace(load_cluster(cluster_file), endpoint=router)
    body = json.dumps(
        {
            "model": config.model,
            "messages": [{"role": "user", "content": f"Are you there, {region}?"}],
            "max_tokens": PROBE_TOKENS,
        }
    ).encode()
    telemetry = config.telemetry()
    try:
        async with config.client(telemetry) as client:
            completed = await client.complete(
                "/v1/chat/completions", body, model=config.model or "", deadline_s=timeout_s
            )
    finally:
        await asyncio.to_thread(telemetry.shutdown, 1.0)
    if completed.status != HTTPStatus.OK:
        raise ReadinessError(f"{region} answered the probe with inner status {completed.status}, not 200.")
    if completed.receipt.region != region:
        raise ReadinessError(f"The router of {region} had the probe answered in {completed.receipt.region}.")
