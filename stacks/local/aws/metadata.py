"""Instance metadata, version 2: the role's name and its temporary credentials, for who shows a token.

Source: EC2 user guide, "Use the Instance Metadata Service" and "Retrieve security credentials from instance metadata".
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from datetime import UTC, datetime

from aiohttp import web

from stacks.local.aws.principals import Directory

TOKEN_PATH = "/latest/api/token"  # noqa: S105 - a path
CREDENTIALS_PATH = "/latest/meta-data/iam/security-credentials/"
TOKEN_HEADER = "X-aws-ec2-metadata-token"  # noqa: S105 - a header's name
TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
MAX_TTL_S = 21_600
MAX_TOKENS = 4_096
"""Tokens remembered, oldest forgotten first: a client whose token is gone asks for another."""


class Metadata:
    """The metadata service's pages."""

    def __init__(self, *, directory: Directory, clock_ms: Callable[[], int]) -> None:
        """Serve the directory's role credentials."""
        self._directory = directory
        self._clock_ms = clock_ms
        self._tokens: dict[str, int] = {}

    def routes(self) -> list[web.RouteDef]:
        """Return the service's routes."""
        return [
            web.put(TOKEN_PATH, self._token),
            web.get("/latest/meta-data/{path:.*}", self._page),
        ]

    async def _token(self, request: web.Request) -> web.Response:
        if "X-Forwarded-For" in request.headers:
            return web.Response(status=403)
        text = request.headers.get(TTL_HEADER, "")
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_TTL_S):
            return web.Response(status=400, text=f"{TTL_HEADER} is not 1 to {MAX_TTL_S}.")
        token = secrets.token_urlsafe(32)
        self._tokens[token] = self._clock_ms() + int(text) * 1000
        while len(self._tokens) > MAX_TOKENS:
            del self._tokens[next(iter(self._tokens))]
        return web.Response(text=token, headers={TTL_HEADER: text})

    async def _page(self, request: web.Request) -> web.Response:
        expires = self._tokens.get(request.headers.get(TOKEN_HEADER, ""))
        if expires is None or expires <= self._clock_ms():
            return web.Response(status=401)
        if request.path.rstrip("/") == CREDENTIALS_PATH.rstrip("/"):
            return web.Response(text=self._directory.role_name)
        if request.path == CREDENTIALS_PATH + self._directory.role_name:
            return web.Response(text=self._credentials(), content_type="text/plain")
        return web.Response(status=404)

    def _credentials(self) -> str:
        key = self._directory.role_credentials()
        return json.dumps(
            {
                "Code": "Success",
                "LastUpdated": _iso(self._clock_ms()),
                "Type": "AWS-HMAC",
                "AccessKeyId": key.access_key_id,
                "SecretAccessKey": key.secret_access_key,
                "Token": key.session_token,
                "Expiration": _iso(key.expires_ms or 0),
            }
        )


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
