"""`mrgc tenant` as a person and as a script use it: output, errors, exit codes, secrets."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
from aiohttp import web

from dataplane.protocol.errors import ProblemError
from dataplane.protocol.transparency.entry import Entry
from dataplane.tenant.client import wall_clock_ms
from stacks.local.nsm import SoftwareNsm
from stacks.local.pki import create_nsm_root
from tests.support.measurement_log import SIGNER, images, make_log
from tests.unit.tenant.fake_cluster import API_KEY, KEY_ARN, TENANT, Answer, FakeCluster, Refuse, chat_events, running

EVENTS = "text/event-stream"
MRGC = [sys.executable, "-c", "from dataplane.cli import main; main()"]
PCRS = {index: bytes([index + 1]) * 48 for index in range(3)}


@asynccontextmanager
async def stack(folder: Path, cluster: FakeCluster) -> AsyncIterator[Path]:
    """A cluster with a KMS over HTTP, and its cluster.json."""
    root = create_nsm_root()
    nsm = SoftwareNsm(root=root, pcrs=PCRS, instance_id="i-0123456789abcdef0", clock_ms=wall_clock_ms)
    cluster.documents_of(nsm)
    cluster.pcr0 = PCRS[0]
    root_file, _ = root.save(folder, "root")

    async def kms(request: web.Request) -> web.Response:
        assert request.headers["X-Amz-Target"] == "TrentService.GenerateDataKey", "the one call that a tenant makes"
        assert "id-of-tenant" in request.headers["Authorization"], "signed with the tenant's credentials"
        key = cluster.kms.generate_data_key(**json.loads(await request.read()))
        return web.json_response({name: _base64(value) for name, value in key.items()} | {"KeyId": KEY_ARN})

    app = web.Application()
    app.add_routes([web.post("/", kms)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with running(cluster):
        tenant = {
            "id": TENANT,
            "api_key": API_KEY,
            "kms_key_arn": KEY_ARN,
            "region": "us-east-1",
            "aws_access_key_id": "id-of-tenant",
            "aws_secret_access_key": "secret-of-tenant",
        }
        document = {
            "endpoint": cluster.url,
            "ca_file": "ca.pem",
            "aws_endpoint_url": f"http://127.0.0.1:{runner.addresses[0][1]}",
            "model": "tiny",
            "tenants": [tenant],
            "attestation_root": str(root_file),
            "pcrs": {str(index): value.hex() for index, value in PCRS.items()},
        }
        path = folder / "cluster.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        try:
            yield path
        finally:
            await runner.cleanup()


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


async def start(*arguments: str, **environ: str) -> asyncio.subprocess.Process:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MRGC_", "AWS_", "OTEL_"))}
    return await asyncio.create_subprocess_exec(
        *MRGC,
        "tenant",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean | environ,
    )


async def mrgc(*arguments: str, **environ: str) -> tuple[int | None, str, str]:
    """Run `mrgc tenant …`; exit code, standard output, standard error."""
    process = await start(*arguments, **environ)
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def chatty(*words: str) -> FakeCluster:
    return FakeCluster(otherwise=lambda _: Answer(chat_events(*words), content_type=EVENTS))


async def test_ask_prints_the_answer_and_who_gave_it(tmp_path: Path) -> None:
    async with stack(tmp_path, chatty("open", " \x1b[2J", "sesame")) as path:
        code, out, err = await mrgc("ask", "the door?", "--cluster", str(path), "--tenant", TENANT)
    assert (code, out) == (0, "open [2Jsesame\n"), "the answer alone, and nothing that steers a terminal"
    for fact in ("us-east-1", "i-0123456789abcdef0", "assurance 0 (mock)", "synthetic-1 tiny sha256:abab", "1 attempt"):
        assert fact in err, f"{fact} is told beside it"


async def test_ask_json_is_one_object(tmp_path: Path) -> None:
    async with stack(tmp_path, chatty("open", "sesame")) as path:
        code, out, err = await mrgc("ask", "the door?", "--cluster", str(path), "--json")
    answer = json.loads(out)
    assert (code, err) == (0, ""), "nothing but the object"
    assert (answer["answer"], answer["assurance_name"], answer["attempts"]) == ("opensesame", "mock", 1), "for scripts"


async def test_a_refusal_is_one_sentence_and_exit_1(tmp_path: Path) -> None:
    cluster = FakeCluster(otherwise=lambda _: Refuse(ProblemError("kms-denied", "KMS refused the enclave's PCR0.")))
    async with stack(tmp_path, cluster) as path:
        code, out, err = await mrgc("ask", "the door?", "--cluster", str(path))
    assert (code, out, err) == (1, "", "KMS refused the enclave's PCR0.\n"), "plain, and no traceback"


async def test_the_engines_refusal_is_told(tmp_path: Path) -> None:
    body = json.dumps({"error": {"message": "too long"}}).encode()
    async with stack(tmp_path, FakeCluster(otherwise=lambda _: Answer((body,), status=400))) as path:
        code, _, err = await mrgc("ask", "the door?", "--cluster", str(path))
    assert (code, err) == (1, "The engine refused with status 400: too long\n"), "with the engine's own words"


async def test_a_cut_answer_is_exit_1(tmp_path: Path) -> None:
    cut = Answer(chat_events("open", "sesame"), content_type=EVENTS, cut_after=1)
    async with stack(tmp_path, FakeCluster(otherwise=lambda _: cut)) as path:
        code, out, err = await mrgc("ask", "the door?", "--cluster", str(path))
    assert code == 1, "an answer that is not whole is a failure"
    assert "incomplete" in err, "and is called so"
    assert out == "open\n", "what came was shown, and the reason stands on a line of its own"


async def test_misuse_is_exit_2_and_says_what_to_give(tmp_path: Path) -> None:
    cases: list[tuple[list[str], str]] = [
        (["ask", "x"], "Not given: --endpoint, --tenant, --kms-key-arn, MRGC_API_KEY"),
        (["ask", "x", "--cluster", str(tmp_path / "none.json")], "No such file"),
        (["attest"], "No cluster was named"),
        (["ask", "x", "--assurance", "total"], "Invalid value"),
        (["ask", "x", "--cluster", str(tmp_path / "any.json"), "--pad", "17"], "MRGC_PAD (--pad) is 17; expected 0"),
        (["proxy", "--cluster", str(tmp_path / "any.json"), "--pad", "8"], "MRGC_PAD (--pad) is 8; expected 0"),
    ]
    for arguments, sentence in cases:
        code, out, err = await mrgc(*arguments)
        assert (code, out) == (2, ""), f"{arguments} is misuse"
        assert sentence in err, f"{arguments} is told what to give"
        assert "Traceback" not in err, "in a sentence"


async def test_secrets_come_from_the_environment_or_a_file(tmp_path: Path) -> None:
    key_file = tmp_path / "api-key"
    key_file.write_text("from-a-file\n", encoding="utf-8")
    async with stack(tmp_path, chatty("open")) as path:
        cluster = json.loads(path.read_text(encoding="utf-8"))
        options = ["--endpoint", cluster["endpoint"], "--tenant", TENANT, "--kms-key-arn", KEY_ARN, "--model", "tiny"]
        aws = {
            "AWS_ENDPOINT_URL_KMS": cluster["aws_endpoint_url"],
            "AWS_ACCESS_KEY_ID": "id-of-tenant",
            "AWS_SECRET_ACCESS_KEY": "s",
        }
        mock = ["--assurance", "mock"]
        assert (await mrgc("ask", "x", *options, *mock, MRGC_API_KEY="from-env", **aws))[0] == 0, "by environment"
        assert (await mrgc("ask", "x", *options, *mock, "--api-key-file", str(key_file), **aws))[0] == 0, "by file"
        code, _, err = await mrgc("ask", "x", *options, MRGC_API_KEY="from-env", **aws)
    assert code == 1, "without --assurance mock, a mock answer is refused"
    assert "assurance level 0" in err, "and the sentence says why"


async def test_attest_verifies_and_says_under_which_root(tmp_path: Path) -> None:
    async with stack(tmp_path, FakeCluster()) as path:
        code, out, _ = await mrgc("attest", "--cluster", str(path))
        assert (code, "not AWS's" in out, PCRS[0].hex() in out) == (0, True, True), "a local root is called one"
        code, out, _ = await mrgc("attest", "--cluster", str(path), "--json")
        facts: dict[str, Any] = json.loads(out)
        assert (code, facts["verified"], facts["pcrs"]["2"]) == (0, True, PCRS[2].hex()), "the same for a script"
        wrong = tmp_path / "measurements.json"
        wrong.write_text(json.dumps({f"PCR{index}": "77" * 48 for index in range(3)}), encoding="utf-8")
        code, out, err = await mrgc("attest", "--cluster", str(path), "--measurements", str(wrong))
    assert (code, out) == (1, ""), "another image does not pass"
    assert "not among the 1 allowed" in err, "and the sentence says so"


async def test_attest_shows_the_registers_that_decided_and_what_it_does_not_show(tmp_path: Path) -> None:
    images = [
        {f"PCR{index}": value.hex() for index, value in PCRS.items()} | {"PCR0": "77" * 48, "PCR8": "88" * 48},
        {f"PCR{index}": value.hex() for index, value in PCRS.items()},
    ]
    allowed = tmp_path / "measurements.json"
    allowed.write_text(json.dumps(images), encoding="utf-8")
    async with stack(tmp_path, FakeCluster()) as path:
        code, out, err = await mrgc("attest", "--cluster", str(path), "--measurements", str(allowed))
        assert (code, err) == (0, ""), "the second image runs there"
        assert PCRS[0].hex() in out, "and its registers decided"
        assert "PCR8" not in out, "the first one's did not"
        assert "not shown: that this connection ends in that enclave" in out, "no more is claimed than was verified"
        code, out, _ = await mrgc("attest", "--cluster", str(path), "--measurements", str(allowed), "--json")
    assert sorted(json.loads(out)["pcrs"]) == ["0", "1", "2"], "the same for a script"


async def test_attest_shows_where_the_image_is_logged_and_refuses_one_that_is_not(tmp_path: Path) -> None:
    logged = Entry(kind="enclave", name="mrgc-enclave", version="1.4", time_ms=1_764_000_000_000, registers=PCRS)
    folder = make_log(tmp_path, [*images(4), logged])
    async with stack(tmp_path, chatty("open")) as path:
        code, out, _ = await mrgc("attest", "--cluster", str(path))
        assert (code, "none was asked" in out) == (0, True), "without a log, that is said"
        variables = {"MRGC_LOG_URL": str(folder), "MRGC_LOG_KEY": str(SIGNER.verifier), "HOME": str(tmp_path)}
        code, out, _ = await mrgc("attest", "--cluster", str(path), **variables)
        shown = "mrgc.example/log: entry 4 of 5, mrgc-enclave 1.4, 2025-11-24T16:00:00Z"
        assert (code, shown in out) == (0, True), "log, place, size and time"
        code, out, _ = await mrgc("attest", "--cluster", str(path), "--json", **variables)
        facts = json.loads(out)["log"]
        assert (code, facts["index"], facts["size"]) == (0, 4, 5), "the same for a script"
        code, out, _ = await mrgc("ask", "the door?", "--cluster", str(path), **variables)
        assert (code, out) == (0, "open\n"), "a logged image is asked"
        variables["MRGC_LOG_URL"] = str(make_log(tmp_path / "without", images(9)))
        variables["MRGC_LOG_STATE"] = str(tmp_path / "another-head")
        for command in (["attest"], ["ask", "the door?"]):
            code, out, err = await mrgc(*command, "--cluster", str(path), **variables)
            assert (code, out) == (1, ""), f"{command[0]}: an image that is not public is refused"
            assert "none of the 9 entries" in err, "and the sentence says so"
        code, out, err = await mrgc("attest", "--cluster", str(path), MRGC_LOG_URL=str(folder))
    assert (code, "MRGC_LOG_KEY" in err) == (2, True), "half a configuration is misuse"


async def test_the_proxy_serves_the_stock_client_until_it_is_asked_to_stop(tmp_path: Path) -> None:
    async with stack(tmp_path, chatty("open", "sesame")) as path:
        process = await start("proxy", "--cluster", str(path), "--port", "0", "--json")
        assert process.stdout is not None, "its output is read"
        async with asyncio.timeout(30):
            serving = json.loads(await process.stdout.readline())
        messages: list[Any] = [{"role": "user", "content": "the door?"}]
        async with openai.AsyncOpenAI(base_url=serving["url"], api_key="unused", max_retries=0) as client:
            stream = await client.chat.completions.create(model="tiny", messages=messages, stream=True)
            words = [chunk.choices[0].delta.content async for chunk in stream]
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            _, err = await process.communicate()
    assert words == ["open", "sesame"], "through the real program"
    assert (process.returncode, err) == (0, b""), "it ended as asked"


async def test_ask_keeps_a_receipt_that_others_can_verify_and_read(tmp_path: Path) -> None:
    file, question = str(tmp_path / "receipt.json"), "the door?"
    async with stack(tmp_path, chatty("open", "sesame")) as path:
        code, out, err = await mrgc("ask", question, "--cluster", str(path), "--receipt", file, "--disclose")
        assert (code, out) == (0, "opensesame\n"), err
        code, _, err = await mrgc("ask", question, "--cluster", str(path), "--receipt", file)
        assert (code, "exists already" in err) == (2, True), "evidence is not overwritten"
    code, out, err = await mrgc("receipt", "open", file, "--root", str(tmp_path / "root.pem"), "--json")
    assert code == 0, err
    assert question in json.loads(out)["request"], "the cluster is gone, and what was asked can be shown"


async def test_ask_keeps_a_receipt_without_its_document_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "receipt.json"
    cluster = chatty("open")
    async with stack(tmp_path, cluster) as path:
        cluster.attestation = lambda _nonce: b"garbage"
        code, out, err = await mrgc("ask", "the door?", "--cluster", str(path), "--receipt", str(file))
    assert (code, out) == (1, "open\n"), "the answer is not lost"
    assert "without a document" in err, "and what its receipt lacks is said"
    assert json.loads(file.read_text(encoding="utf-8"))["attestation"] is None, "the signature is kept"


async def test_ask_refuses_another_model_than_expected(tmp_path: Path) -> None:
    async with stack(tmp_path, chatty("open")) as path:
        code, _, err = await mrgc("ask", "x", "--cluster", str(path), MRGC_EXPECT_MODEL="cd" * 32)
    assert code == 1, "whatever of the text was shown before the receipt came"
    assert "Another model than expected answered" in err, "and the answer is refused"
