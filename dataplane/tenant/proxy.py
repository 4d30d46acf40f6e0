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
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from aiohttp import HttpVersion11, web

from dataplane.mesh.address import is_loopback
from dataplane.mesh.deadline import CAP_S, Deadline
from dataplane.mesh.deadline import HEADER as DEADLINE_HEADER
from dataplane.mesh.httpserver import HEAD_S, GuardedServer
from dataplane.protocol.errors import MrgcError, SettingsError
from dataplane.protocol.suite import MAX_MESSAGE_BYTES
from dataplane.tenant.bundle import ReceiptBundle
from dataplane.tenant.client import TenantClient, new_request_id
from dataplane.tenant.decode import DecodeError, decode_body
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

METHOD_NOT_ALLOWED = 405

_ID = web.RequestKey("id", str)
_MODEL = "/v1/models/"
_PAGES = {
    "/v1/chat/completions": "POST",
    "/v1/completions": "POST",
    "/v1/embeddings": "POST",
    "/v1/models": "GET",
    "/health": "GET",
}
_MALFORMED_BODY = OpenAIError(
    status=400,
    code="malformed-request",
    message="The body's framing is broken; send as many bytes as Content-Length says, or well-formed chunks.",
)


class TenantProxy:
    """The server; `start` binds, `stop` ends it. `port` 0 takes any free port, and `url` says which.

    `keep` gets the receipt bundle of every response that was whole, before its end is given to the local client.
    """

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
        head_s: float = HEAD_S,
        keep: Callable[[ReceiptBundle], None] | None = None,
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
        self._head_s = head_s
        self._keep = keep
        self._runner: web.ServerRunner | None = None
        self.url = ""

    async def start(self) -> None:
        """Listen; SettingsError when the address is taken or cannot be bound."""
        # A client that goes away cancels its handler, and so the request at the host.
        server = GuardedServer(
            self._answer, malformed=_malformed, failed=_failed, head_s=self._head_s, max_body_bytes=MAX_MESSAGE_BYTES
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_S)
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

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; every refusal has OpenAI's shape."""
        request[_ID] = _request_id(request)
        broken = False
        try:
            self._admit(request)
            return await self._route(request)
        except (_Refusal, DecodeError) as refusal:
            error = refusal.error
        except web.HTTPRequestEntityTooLarge:
            error = OpenAIError(
                status=413, code="too-large", message=f"The request is over {MAX_MESSAGE_BYTES} bytes; send less."
            )
        except web.RequestPayloadError:
            # Its text quotes the body.
            logger.warning("request %s was refused: its body's framing is broken", request[_ID])
            error, broken = _MALFORMED_BODY, True
        except MrgcError as failure:
            error = openai_error(failure)
            logger.info("request %s failed: %s", request[_ID], error.code)
        response = web.Response(
            status=error.status, body=error.body(), headers=error.headers() | {"x-request-id": request[_ID]}
        )
        if error.status == METHOD_NOT_ALLOWED:
            response.headers["Allow"] = _PAGES.get(request.path, "GET")
        if broken or not request.content.is_eof():
            # Nothing that follows may be taken for a request, and the rest of a refused body is not worth reading.
            response.force_close()
        return response

    def _admit(self, request: web.BaseRequest) -> None:
        """Let in local programs, or whoever has the local API key; raises `_Refusal`."""
        if self._local_api_key is None:
            if not all(is_loopback(name) for name in _named_hosts(request)):
                raise _Refusal(403, "not-local", "Only pages and programs of this machine may use this endpoint.")
        else:
            given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(given, f"Bearer {self._local_api_key}".encode()):
                raise _Refusal(401, "invalid_api_key", "The local API key is missing or wrong; give the proxy's own.")

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        page = (request.method, request.path)
        if request.method == "POST" and _PAGES.get(request.path) == "POST":
            return await self._infer(request)
        if page == ("GET", "/v1/models"):
            return await self._models()
        if page == ("GET", "/health"):
            return web.json_response({"status": "ok"})
        wanted = request.path.removeprefix(_MODEL)
        one_model = wanted and request.path.startswith(_MODEL)
        if one_model and request.method == "GET":
            return await self._model(wanted)
        known = one_model or request.path in _PAGES
        # The path may be anything, so it is not repeated.
        raise _Refusal(
            METHOD_NOT_ALLOWED if known else 404,
            "not-found",
            "This is not served here; see docs/tenant.md for what is.",
        )

    async def _infer(self, request: web.BaseRequest) -> web.StreamResponse:
        if (request.content_length or 0) > MAX_MESSAGE_BYTES:
            raise web.HTTPRequestEntityTooLarge(max_size=MAX_MESSAGE_BYTES, actual_size=request.content_length or 0)
        try:
            async with asyncio.timeout(self._body_s):
                sent = await request.read()
        except TimeoutError:
            raise _Refusal(
                408, "body-timeout", f"The request's body was not whole within {self._body_s:g} s; send it faster."
            ) from None
        coding = ", ".join(request.headers.getall("Content-Encoding", []))
        body = decode_body(sent, coding, limit=MAX_MESSAGE_BYTES)
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
        if self._keep is not None:
            self._keep(done.bundle)
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
                "X-MRGC-Request-Hash": done.receipt.request.hex(),
            },
        )

    async def _stream(self, request: web.BaseRequest, body: bytes, arguments: dict[str, Any]) -> web.StreamResponse:
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
                    "X-MRGC-Request-Hash": upstream.request_hash.hex(),
                },
            )
            await response.prepare(request)
            gate = DoneGate()
            try:
                async for chunk in upstream.chunks():
                    if passed := gate.push(chunk):
                        async with asyncio.timeout(WRITE_S):
                            await response.write(passed)
                if self._keep is not None:
                    self._keep(upstream.bundle())
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

    async def _models(self) -> web.Response:
        models = await self._client.models()
        return web.json_response({"object": "list", "data": [_model_object(model) for model in models]})

    async def _model(self, wanted: str) -> web.Response:
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


def _malformed(what: str) -> web.Response:
    error = OpenAIError(
        status=400,
        code="malformed-request",
        message=f"The bytes sent are no acceptable HTTP/1.1 request ({what}); check length and framing headers.",
    )
    return web.Response(status=error.status, body=error.body(), headers=error.headers())


def _failed() -> web.Response:
    error = OpenAIError(status=500, code="proxy-failed", message="The proxy failed; this is a bug in it.")
    return web.Response(status=error.status, body=error.body(), headers=error.headers())


def _named_hosts(request: web.BaseRequest) -> list[str]:
    """The hosts that Host and Origin name, "" for one that names none; `_Refusal` for what is neither."""
    names = []
    for header, value in (("Host", f"//{request.host}"), ("Origin", request.headers.get("Origin"))):
        if not value:
            continue
        try:
            names.append(urlsplit(value).hostname or "")
        except ValueError:
            raise _Refusal(
                400, "malformed-request", f"The header {header} is no host name; send a valid one."
            ) from None
    if len(request.headers.getall("Host", [])) > 1:
        raise _Refusal(400, "malformed-request", "The header Host was given twice; send it once.")
    return names


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


def _request_id(request: web.BaseRequest) -> str:
    given = request.headers.get("X-Request-ID", "")
    usable = 0 < len(given) <= MAX_REQUEST_ID and given.isascii() and given.isprintable()
    return given if usable else new_request_id()


def _cut(request: web.BaseRequest) -> None:
    """End the connection so that nobody takes the stream for whole.

    Over HTTP/1.1 the last chunk is missing. HTTP/1.0 has no chunks, and only a reset tells an end from a cut.
    """
    transport = request.transport
    if transport is None:
        return
    if request.version < HttpVersion11 and (sock := transport.get_extra_info("socket")) is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
