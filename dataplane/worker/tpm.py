"""NitroTPM: the document with which the worker's host proves what it booted.

The real one asks `nitro-tpm-attest`, the program of Amazon Linux's `aws-nitro-tpm-tools`, which talks to /dev/tpm0
and writes the signed document to standard output
(https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/attestation-get-doc.html). Not proven here: it has never run
on an EC2 instance by this project's tests, which start a program of the same arguments instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path
from typing import Final, Protocol

from dataplane.protocol.errors import MrgcError

ATTEST_PROGRAM: Final = Path("/usr/bin/nitro-tpm-attest")
ATTEST_TIMEOUT_S: Final = 10.0
"""A TPM takes tens of milliseconds for a quote; a program that takes longer than this hangs."""

MAX_DOCUMENT_BYTES: Final = 16 * 1024
"""Largest document that a verifier reads (docs/protocol.md)."""


class TpmError(MrgcError):
    """No document could be had; the text says why and names no bytes of it."""


class Tpm(Protocol):
    """Makes NitroTPM attestation documents."""

    async def attest(self, *, nonce: bytes, user_data: bytes) -> bytes:
        """Return a fresh signed document with this nonce and user data; raises `TpmError`."""
        ...


class NitroTpm:
    """The EC2 instance's NitroTPM, through `nitro-tpm-attest`."""

    def __init__(self, *, program: Path = ATTEST_PROGRAM, timeout_s: float = ATTEST_TIMEOUT_S) -> None:
        """One call at a time: a TPM serves one caller, and the second would only wait inside it."""
        self._program = program
        self._timeout_s = timeout_s
        self._lock = asyncio.Lock()

    async def attest(self, *, nonce: bytes, user_data: bytes) -> bytes:
        """Return a fresh document; raises `TpmError`."""
        async with self._lock:
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await self._call(nonce, user_data)
            except TimeoutError:
                raise TpmError(f"{self._program} did not answer within {self._timeout_s:g} s.") from None
            except OSError as error:
                raise TpmError(
                    f"{self._program} could not be run ({error.strerror}); install aws-nitro-tpm-tools, or start the "
                    f"worker with TPM=none and accept assurance level 1."
                ) from error

    async def _call(self, nonce: bytes, user_data: bytes) -> bytes:
        with tempfile.TemporaryDirectory(prefix="mrgc-tpm-") as folder:
            files = {"--nonce": Path(folder, "nonce"), "--user-data": Path(folder, "user-data")}
            files["--nonce"].write_bytes(nonce)
            files["--user-data"].write_bytes(user_data)
            arguments = [str(part) for pair in files.items() for part in pair]
            process = await asyncio.create_subprocess_exec(
                str(self._program),
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:
                document, _ = await process.communicate()
            finally:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
        if process.returncode != 0:
            raise TpmError(f"{self._program} failed with exit status {process.returncode}.")
        if not 0 < len(document) <= MAX_DOCUMENT_BYTES:
            raise TpmError(
                f"{self._program} wrote {len(document)} bytes, and a document has 1 to {MAX_DOCUMENT_BYTES}."
            )
        return document
