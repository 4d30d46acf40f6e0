"""The embedded AWS's HTTP side: which request goes where."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from aiohttp import web
from cryptography import x509

from stacks.local.aws.audit import Audit
from stacks.local.aws.collector import Collector
from stacks.local.aws.errors import JSON_TYPE, AwsError
from stacks.local.aws.forward import Moto
from stacks.local.aws.keys import KeyStore
from stacks.local.aws.kms import Kms
from stacks.local.aws.metadata import Metadata
from stacks.local.aws.principals import Directory
from stacks.local.aws.sigv4 import SignedRequest, verify

KMS_TARGET = "TrentService."
MAX_KMS_BYTES = 256 * 1024
"""One KMS request: the largest holds a policy (32 KiB) or a document (16 KiB) in base64 or JSON."""

AUDIT_PATH = "/_mrgc/kms-audit"
STATUS_PATH = "/_mrgc/status"

logger = logging.getLogger(__name__)


class EmbeddedAws:
    """All services behind one aiohttp application; enter it to start moto."""

    def __init__(
        self,
        *,
        directory: Directory,
        nsm_roots: Sequence[x509.Certificate],
        spans_file: Path | None,
        clock_ms: Callable[[], int],
    ) -> None:
        """Take the known access keys and the roots of attestation documents."""
        self._directory = directory
        self._clock_ms = clock_ms
        self._audit = Audit()
        self._kms = Kms(store=KeyStore(), roots=nsm_roots, clock_ms=clock_ms, audit=self._audit)
        self._collector = Collector(spans_file=spans_file)
        self._metadata = Metadata(directory=directory, clock_ms=clock_ms)
        self._moto = Moto()

    def application(self) -> web.Application:
        """Return the application; moto runs from its start-up to its clean-up."""
        app = web.Application()
        app.router.add_routes(
            [
                web.get(AUDIT_PATH, self._show_audit),
                web.get(STATUS_PATH, self._show_status),
                *self._metadata.routes(),
                *self._collector.routes(),
                web.route("*", "/{path:.*}", self._other),
            ]
        )
        app.cleanup_ctx.append(self._run_moto)
        return app

    async def _run_moto(self, _: web.Application) -> AsyncIterator[None]:
        async with self._moto:
            yield

    async def _show_audit(self, _: web.Request) -> web.Response:
        return web.json_response(self._audit.to_json())

    async def _show_status(self, _: web.Request) -> web.Response:
        return web.json_response({"spans": self._collector.to_json(), "kms": self._audit.to_json()["counts"]})

    async def _other(self, request: web.Request) -> web.StreamResponse:
        target = request.headers.get("X-Amz-Target", "")
        if target.startswith(KMS_TARGET):
            return await self._answer_kms(request, target.removeprefix(KMS_TARGET))
        return await self._moto.handle(request)

    async def _answer_kms(self, request: web.Request, operation: str) -> web.Response:
        try:
            body = await _read(request)
            caller = verify(
                SignedRequest(
                    method=request.method,
                    path=request.raw_path,
                    headers={name.lower(): value for name, value in request.headers.items()},
                    body=body,
                ),
                find=self._directory.find,
                now_ms=self._clock_ms(),
                service="kms",
            )
            answer = self._kms.handle(operation, body, caller)
        except AwsError as error:
            logger.info("KMS refused a request", extra={"operation": operation[:64], "code": error.code})
            return web.Response(status=error.status, body=error.body(), headers={"Content-Type": JSON_TYPE})
        return web.Response(body=json.dumps(answer).encode(), headers={"Content-Type": JSON_TYPE})


async def _read(request: web.Request) -> bytes:
    """Read a body of at most `MAX_KMS_BYTES`."""
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > MAX_KMS_BYTES:
            raise AwsError("RequestEntityTooLarge", f"A KMS request has at most {MAX_KMS_BYTES} bytes.", status=413)
    return bytes(body)
