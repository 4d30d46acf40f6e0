"""An OpenAI-compatible endpoint on loopback that seals what it is sent and opens what comes back.

Whoever can connect here speaks as the tenant, so it binds loopback unless told otherwise, refuses names that a
browser could be tricked into resolving to loopback (DNS rebinding), and can ask for a local API key.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import socket
import struct
from typing import Any
from urllib.parse import urlsplit

from aiohttp import HttpVersion11, web
from aiohttp.typedefs import Handler

from dataplane.mesh.address import is_loopback
from dataplane.mesh.deadline import CAP_S, Deadline
from dataplane.mesh.deadline import HEADER as DEADLINE_HEADER
from dataplane.protocol.errors import MrgcError, SettingsError
from dataplane.protocol.suite import MAX_MESSAGE_BYTES
from dataplane.tenant.client import TenantClient, new_request_id
from dataplane.tenant.models import Model
from dataplane.tenant.openai_errors import OpenAIError, openai_error
from dataplane.tenant.sse import DoneGate

logger = logging.getLogger(__name__)

WRITE_S = 60.0
"""Longest wait for a local client that does not read; past it the stream is cut and the host freed."""
MAX_REQUEST_ID = 128
BODY_S = 60.0
"""Longest time for a whole body: it is at most 1 MiB and comes from this machine."""

SHUTDOWN_S = 5.0
"""How long requests may finish when the proxy stops."""
MODEL_OWNER = "mrgc"

_ID = web.RequestKey("id", str)


class TenantProxy:
    """The server; `start` binds, `stop` ends it. `port` 0 takes any free port, and `url` says which."""

    def __init__(
        self,
        client: TenantClient,
        *,
        host: str = "127.0.0.1",
        port: int = 8090,
        local_api_key: str | None = None,
        allow_remote: bool = False,
        deadline_s: float = CAP_S,
        body_s: float = BODY_S,
    ) -> None:
        if not is_loopback(host) and not allow_remote:
            raise SettingsError(
                f"The proxy would listen on {host}, where others could use this tenant's key; "
                "bind 127.0.0.1, or allow it with --allow-remote and a local API key."
            )
        if not is_loopback(host) and local_api_key is None:
            raise SettingsError(f"The proxy on {host} needs a local API key; set MRGC_LOCAL_API_KEY.")
        self._client = client
        self._host = host
        self._port = port
        self._local_api_key = local_api_key
        self._deadline_s = deadline_s
        self._body_s = body_s
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        """Listen; SettingsError when the address is taken or cannot be bound."""
        app = web.Application(client_max_size=MAX_MESSAGE_BYTES, middlewares=[self._shape_errors, self._admit])
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._infer),
                web.post("/v1/completions", self._infer),
                web.post("/v1/embeddings", self._infer),
                web.get("/v1/models", self._models),
                web.get("/v1/models/{id:.+}", self._model),
                web.get("/health", _health),
            ]
        )
        # A client that goes away cancels its handler, and so the request at the host.
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_S, handle_signals=False
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        try:
            await site.start()
        except OSError as error:
            await self.stop()
            raise SettingsError(
                f"The proxy cannot listen on {self._host}:{self._port} ({error.strerror}); choose another with --port."
            ) from None
        port = self._runner.addresses[0][1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.url = f"http://{host}:{port}"

    async def stop(self) -> None:
        """Stop listening, let requests finish for `SHUTDOWN_S`, cut what is left."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @web.middleware
    async def _admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._local_api_key is None:
            names = [urlsplit(f"//{request.host}").hostname or ""]
            if origin := request.headers.get("Origin"):
                names.append(urlsplit(origin).hostname or "")
            if not all(is_loopback(name) for name in names):
                raise _Refusal(403, "not-local", "Only pages and programs of this machine may use this endpoint.")
        else:
            given = request.headers.get("Authorization", "").encode()
            if not hmac.compare_digest(given, f"Bearer {self._local_api_key}".encode()):
                raise _Refusal(401, "invalid_api_key", "The local API key is missing or wrong; give the proxy's own.")
        return await handler(request)

    @web.middleware
    async def _shape_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        request[_ID] = _request_id(request)
        try:
            return await handler(request)
        except _Refusal as refusal:
            error = refusal.error
        except web.HTTPRequestEntityTooLarge:
            error = OpenAIError(
                status=413, code="too-large", message=f"The request is over {MAX_MESSAGE_BYTES} bytes; send less."
            )
        except web.HTTPException as http:
            text = f"{request.method} {request.path} is not served here; see docs/tenant.md for what is."
            error = OpenAIError(status=http.status, code="not-found", message=text)
        except MrgcError as failure:
            error = openai_error(failure)
            logger.info("request %s failed: %s", request[_ID], error.code)
        return web.Response(
            status=error.status, body=error.body(), headers=error.headers() | {"x-request-id": request[_ID]}
        )

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        try:
            async with asyncio.timeout(self._body_s):
                body = await request.read()
        except TimeoutError:
            raise _Refusal(
                408, "body-timeout", f"The request's body was not whole within {self._body_s:g} s; send it faster."
            ) from None
        model, stream = _model_and_stream(body)
        deadline = Deadline.from_header(
            request.headers.get(DEADLINE_HEADER),
            monotonic=asyncio.get_running_loop().time,
            default_s=self._deadline_s,
        )
        arguments: dict[str, Any] = {
            "model": model,
            "content_type": request.headers.get("Content-Type", "application/json"),
            "request_id": request[_ID],
            "deadline_s": deadline.remaining_s,
            "traceparent": request.headers.get("traceparent"),
        }
        if stream:
            return await self._stream(request, body, arguments)
        done = await self._client.complete(request.path, body, **arguments)
        return web.Response(
            status=done.status,
            body=done.body,
            headers={
                "Content-Type": done.content_type,
                "x-request-id": done.request_id,
                "X-MRGC-Attempts": str(done.attempts),
                "X-MRGC-Region": done.receipt.region,
                "X-MRGC-Instance": done.receipt.instance,
                "X-MRGC-Assurance": str(done.receipt.assurance),
                "X-MRGC-Model-Digest": done.receipt.model_digest,
            },
        )

    async def _stream(self, request: web.Request, body: bytes, arguments: dict[str, Any]) -> web.StreamResponse:
        async with self._client.infer(request.path, body, **arguments) as upstream:
            response = web.StreamResponse(
                status=upstream.status,
                headers={
                    "Content-Type": upstream.content_type,
                    "Cache-Control": "no-cache",
                    "x-request-id": upstream.request_id,
                    "X-MRGC-Attempts": str(upstream.attempts),
                    "X-MRGC-Region": upstream.region,
                    "X-MRGC-Instance": upstream.instance,
                },
            )
            await response.prepare(request)
            gate = DoneGate()
            try:
                async for chunk in upstream.chunks():
                    if passed := gate.push(chunk):
                        async with asyncio.timeout(WRITE_S):
                            await response.write(passed)
                async with asyncio.timeout(WRITE_S):
                    await response.write(gate.release())
                    await response.write_eof()
            except (MrgcError, TimeoutError) as error:
                logger.warning("request %s was cut: %s", request[_ID], type(error).__name__)
                _cut(request)
            except BaseException:
                # Cancelled at shutdown, or a fault of ours: in no case may the stream end as if it were whole.
                _cut(request)
                raise
            return response

    async def _models(self, _request: web.Request) -> web.Response:
        models = await self._client.models()
        return web.json_response({"object": "list", "data": [_model_object(model) for model in models]})

    async def _model(self, request: web.Request) -> web.Response:
        wanted = request.match_info["id"]
        for model in await self._client.models():
            if model.id == wanted:
                return web.json_response(_model_object(model))
        raise _Refusal(
            404, "model_not_found", f"The model {wanted!r} is not served; GET /v1/models lists those that are.", "model"
        )


class _Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """An error answer found by the proxy itself."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.error = OpenAIError(status=status, code=code, message=message, param=param)


async def _health(_request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


def _model_object(model: Model) -> dict[str, Any]:
    """OpenAI's model object, and what the router says beside it. `created` is 0: nobody recorded it."""
    return {
        "id": model.id,
        "object": "model",
        "created": 0,
        "owned_by": MODEL_OWNER,
        "engine": model.engine,
        "assurance": model.assurance,
        "hosts": model.hosts,
    }


def _model_and_stream(body: bytes) -> tuple[str, bool]:
    """The two fields that the proxy must know; everything else goes through as it is."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise _Refusal(400, "invalid_json", "The body is not JSON; send an OpenAI request.") from None
    model = document.get("model") if isinstance(document, dict) else None
    if not isinstance(model, str) or not model:
        raise _Refusal(400, "missing_model", 'The body names no model; set "model" to a model pool.', "model")
    return model, document.get("stream") is True


def _request_id(request: web.Request) -> str:
    given = request.headers.get("X-Request-ID", "")
    usable = 0 < len(given) <= MAX_REQUEST_ID and given.isascii() and given.isprintable()
    return given if usable else new_request_id()


def _cut(request: web.Request) -> None:
    """End the connection so that nobody takes the stream for whole.

    Over HTTP/1.1 the last chunk is missing. HTTP/1.0 has no chunks, and only a reset tells an end from a cut.
    """
    transport = request.transport
    if transport is None:
        return
    if request.version < HttpVersion11 and (sock := transport.get_extra_info("socket")) is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
