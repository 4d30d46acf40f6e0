"""A binding is renewed, keys and all, while requests run: none of them is lost, and no data key is asked for again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.whole_path import Options, whole_path
from tests.unit.router.harness import KMS_KEY

REQUESTS = 240
AT_ONCE = 12
RENEWALS = 5
"""At least so many have to fall into the run; at one every 0.1 s or so there are more."""


async def test_no_request_is_lost_while_bindings_are_renewed_under_load(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = Options(parent={"REBIND_S": "0.05"})
    async with whole_path(tmp_path, options) as path:
        context, _, _ = path.enclave.session()
        session = (context, *path.enclave.kms.wrap(context, KMS_KEY))
        first, epochs, left = path.worker.identity.epoch, set[bytes](), iter(range(REQUESTS))
        faults: list[str] = []

        async def client() -> None:
            for _ in left:
                sealed = path.enclave.seal(session=session, kms=KMS_KEY)
                outcome = await path.ask(sealed)
                epochs.add(path.worker.identity.epoch)
                if outcome.status != 200:
                    faults.append(f"{outcome.status}: {outcome.body[:200]!r}")
                    continue
                opener = sealed[1].response_opener()
                opened = opener.feed(outcome.body)
                if not opener.done or not opened[-1].final:
                    faults.append("the answer is not complete")

        caplog.clear()
        calls = path.enclave.kms.calls
        async with asyncio.timeout(60):
            await asyncio.gather(*(client() for _ in range(AT_ONCE)))
            while len(epochs) < RENEWALS:  # a fast machine may be through sooner
                await asyncio.sleep(0.02)
                epochs.add(path.worker.identity.epoch)
        assert not faults, f"{len(faults)} of {REQUESTS} requests were lost: {faults[:3]}"
        assert not caplog.records, f"the host was never taken for unwell: {caplog.messages[:3]}"
        assert first not in epochs or len(epochs) > 1, "the key did change meanwhile"
        assert path.enclave.kms.calls - calls <= 1, "the session's data key was kept over every renewal"
