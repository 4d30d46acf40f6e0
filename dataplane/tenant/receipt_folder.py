"""The folder in which a proxy keeps receipts: one new file a response, written behind the answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Self

from dataplane.protocol.errors import MrgcError, SettingsError
from dataplane.protocol.receipt import Receipt
from dataplane.tenant.bundle import ReceiptBundle, write_bundle
from dataplane.tenant.documents import HeldDocuments

MAX_WAITING = 1_024
"""Receipts that wait to be written, about 1 KiB each; more are not kept, and that is logged."""

STOP_S = 25.0
"""How long the last receipts may take when the proxy stops: one document's deadline of 20 s, and their files."""

logger = logging.getLogger(__name__)


class ReceiptFolder:
    """Keeps bundles as `<hash of the request>.json`; use it as `async with`."""

    def __init__(self, folder: Path, documents: HeldDocuments) -> None:
        """Keep in `folder`, which is made (mode 0700) where it is missing; `SettingsError` when it can't be."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"The folder {folder} cannot be made ({error.strerror}); name another.") from None
        self._folder = folder
        self._documents = documents
        self._waiting: asyncio.Queue[ReceiptBundle] = asyncio.Queue(MAX_WAITING)
        self._writer: asyncio.Task[None] | None = None
        self.kept = 0
        self.lost = 0
        """Receipts that are in no file, because too many waited or the file could not be written."""
        self.bare = 0
        """Receipts that were kept without a document."""

    async def __aenter__(self) -> Self:
        self._writer = asyncio.create_task(self._write(), name="tenant.receipts")
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await self._waiting.join()
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        if not self._waiting.empty():
            self.lost += self._waiting.qsize()
            logger.warning("%d receipts were not kept: the proxy had to stop", self._waiting.qsize())

    def keep(self, bundle: ReceiptBundle) -> None:
        """Take a bundle; it is written behind the answer, with the document of its enclave."""
        try:
            self._waiting.put_nowait(bundle)
        except asyncio.QueueFull:
            self.lost += 1
            logger.warning("the receipt of request %s was not kept: %d wait", bundle.request_id, MAX_WAITING)

    async def _write(self) -> None:
        while True:
            bundle = await self._waiting.get()
            try:
                await self._write_one(bundle)
            except MrgcError as error:
                self.lost += 1
                logger.warning("the receipt of request %s was not kept: %s", bundle.request_id, error)
            finally:
                self._waiting.task_done()

    async def _write_one(self, bundle: ReceiptBundle) -> None:
        receipt = Receipt.decode(bundle.receipt)
        document = await self._documents.of(receipt)
        if document is None:
            self.bare += 1
            logger.warning("no document of %s could be had for the receipt of a request", receipt.instance)
        else:
            bundle = bundle.attested(document)
        await asyncio.to_thread(write_bundle, self._folder / f"{receipt.request.hex()}.json", bundle)
        self.kept += 1
