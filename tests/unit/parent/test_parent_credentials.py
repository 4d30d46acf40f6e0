"""The credential chain against an instance metadata service that speaks IMDSv2, through botocore itself."""

import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

import botocore.session
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from botocore.credentials import RefreshableCredentials

from dataplane.parent.credentials import UNLIMITED_S, ChainCredentials, CredentialsError

NOW_MS = 1_900_000_000_000
ROLE = "/latest/meta-data/iam/security-credentials/"


class Metadata:
    """One role whose credentials a test can renew."""

    def __init__(self) -> None:
        self.number = 1
        self.expires = dt.datetime.now(dt.UTC) + dt.timedelta(hours=6)

    async def answer(self, request: web.Request) -> web.Response:
        if request.path == "/latest/api/token":
            return web.Response(text="a-token")
        if request.headers.get("X-aws-ec2-metadata-token") != "a-token":
            return web.Response(status=401)
        if request.path == ROLE:
            return web.Response(text="host-role")
        return web.json_response(
            {
                "Code": "Success",
                "AccessKeyId": f"ASIA{self.number}",
                "SecretAccessKey": f"secret-{self.number}",
                "Token": f"token-{self.number}",
                "Expiration": self.expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        )


@pytest.fixture
async def metadata(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Metadata]:
    metadata = Metadata()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", metadata.answer)
    async with TestServer(app) as server:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", str(server.make_url("/")))
        yield metadata


async def test_the_instance_roles_credentials_come_with_their_end(metadata: Metadata) -> None:
    found = await ChainCredentials(clock_ms=lambda: NOW_MS, session=botocore.session.Session()).fetch()
    assert (found.access_key_id, found.secret_access_key, found.session_token) == ("ASIA1", "secret-1", "token-1"), (
        "as the metadata service gave them"
    )
    assert found.expires_ms == int(metadata.expires.timestamp()) * 1000, "and valid as long"


async def test_credentials_near_their_end_are_renewed_by_themselves(metadata: Metadata) -> None:
    session = botocore.session.Session()
    source = ChainCredentials(clock_ms=lambda: NOW_MS, session=session)
    await source.fetch()
    held = session.get_credentials()
    assert isinstance(held, RefreshableCredentials), "the session keeps what it fetched"
    held._expiry_time = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=5)  # type: ignore[attr-defined]
    metadata.number = 2
    metadata.expires += dt.timedelta(hours=6)
    renewed = await source.fetch()
    assert renewed.access_key_id == "ASIA2", "five minutes before the end the next ones are there"
    assert renewed.expires_ms == int(metadata.expires.timestamp()) * 1000, "with their own end"


async def test_keys_without_an_end_are_handed_over_for_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    found = await ChainCredentials(clock_ms=lambda: NOW_MS, session=botocore.session.Session()).fetch()
    assert (found.session_token, found.expires_ms) == ("", NOW_MS + UNLIMITED_S * 1000), "and then given again"


async def test_a_machine_without_a_role_is_one_sentence(metadata: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    del metadata
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(CredentialsError, match="give the instance a role"):
        await ChainCredentials(clock_ms=lambda: NOW_MS, session=botocore.session.Session()).fetch()
