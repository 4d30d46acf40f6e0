"""boto3 against the embedded AWS: KMS with and without attestation, instance metadata, moto behind it, traces."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import io
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import pytest
from aiohttp import web
from botocore.config import Config
from botocore.credentials import InstanceMetadataProvider
from botocore.exceptions import ClientError
from botocore.utils import InstanceMetadataFetcher
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from dataplane.protocol.attestation.key_policy import tenant_key_policy
from dataplane.protocol.recipient import open_enveloped_data
from stacks.local.aws.app import EmbeddedAws
from stacks.local.aws.principals import Directory, Principal, new_principal
from stacks.local.nsm import SoftwareNsm
from stacks.local.pki import Authority, create_nsm_root

ACCOUNT = "111122223333"
ADMIN = new_principal(f"arn:aws:iam::{ACCOUNT}:root")
USER = new_principal(f"arn:aws:iam::{ACCOUNT}:user/tenant-a")
STRANGER = new_principal("arn:aws:iam::444455556666:root")
ROLE = "arn:aws:iam::999900001111:role/mrgc-host"
ROLE_LIFETIME_S = 120
PCRS = {index: bytes([index + 1]) * 48 for index in range(3)}
CONTEXT = {"mrgc:tenant": "tenant-a", "mrgc:session": "0" * 32, "mrgc:expires": "1790000000"}
KEY = rsa.generate_private_key(65537, 2048)
PUBLIC = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class Clock:
    """The machine's clock, which the test may move ahead."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead_ms


class Stack:
    """A running embedded AWS and what its clients need."""

    def __init__(self, url: str, directory: Directory, root: Authority, clock: Clock) -> None:
        self.url = url
        self.directory = directory
        self.root = root
        self.clock = clock

    def client(self, service: str, who: Principal | None, region: str = "us-east-1") -> Any:
        """Return a boto3 client of a principal, or of the role as the directory has it now."""
        if who is None:
            key = self.directory.role_credentials()
            credentials = (key.access_key_id, key.secret_access_key, key.session_token)
        else:
            credentials = (who.access_key_id, who.secret_access_key, None)
        session: Any = boto3.session.Session()  # its overloads want literal names
        return session.client(
            service,
            region_name=region,
            endpoint_url=self.url,
            aws_access_key_id=credentials[0],
            aws_secret_access_key=credentials[1],
            aws_session_token=credentials[2],
            config=Config(retries={"total_max_attempts": 1}),
        )

    def policy(self, **more: Any) -> str:
        return json.dumps(tenant_key_policy(ADMIN.arn, USER.arn, ROLE, PCRS, tenant_id="tenant-a") | more)

    def document(
        self, pcrs: dict[int, bytes] | None = None, *, public_key: bytes | None = PUBLIC, ago_ms: int = 0
    ) -> bytes:
        nsm = SoftwareNsm(
            root=self.root,
            pcrs=PCRS if pcrs is None else pcrs,
            instance_id="i-0123456789abcdef0",
            clock_ms=lambda: self.clock.now_ms() - ago_ms,
        )
        return nsm.attest(nonce=None, user_data=None, public_key=public_key)


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(tmp_path / "spans.jsonl") as stack:
        yield stack


@contextlib.asynccontextmanager
async def running(spans_file: Path | None) -> AsyncIterator[Stack]:
    root = create_nsm_root()
    clock = Clock()
    directory = Directory([ADMIN, USER, STRANGER], role_arn=ROLE, clock_ms=clock.now_ms, lifetime_s=ROLE_LIFETIME_S)
    aws = EmbeddedAws(
        directory=directory,
        nsm_roots=[root.certificate],
        spans_file=spans_file,
        clock_ms=clock.now_ms,
    )
    runner = web.AppRunner(aws.application(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield Stack(f"http://{host}:{port}", directory, root, clock)
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def refused(code: str, match: str | None = None) -> Iterator[None]:
    with pytest.raises(ClientError, match=match) as caught:
        yield
    assert caught.value.response["Error"]["Code"] == code


def recipient(document: bytes) -> dict[str, Any]:
    return {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": document}


async def test_an_attested_enclave_opens_a_tenants_data_key_in_a_replicas_region(stack: Stack) -> None:
    def scenario() -> None:
        admin = stack.client("kms", ADMIN)
        primary = admin.create_key(MultiRegion=True, Policy=stack.policy(), Description="tenant-a")["KeyMetadata"]
        assert primary["KeyId"].startswith("mrk-")
        replica = admin.replicate_key(KeyId=primary["Arn"], ReplicaRegion="us-west-2", Policy=stack.policy())
        arn = replica["ReplicaKeyMetadata"]["Arn"]
        assert arn == primary["Arn"].replace("us-east-1", "us-west-2")
        made = stack.client("kms", USER).generate_data_key(
            KeyId=primary["Arn"], EncryptionContext=CONTEXT, KeySpec="AES_256"
        )
        assert len(made["Plaintext"]) == 32
        for region, key in (("us-west-2", arn), ("us-east-1", primary["Arn"])):
            opened = stack.client("kms", None, region).decrypt(
                KeyId=key,
                CiphertextBlob=made["CiphertextBlob"],
                EncryptionContext=CONTEXT,
                Recipient=recipient(stack.document()),
            )
            assert "Plaintext" not in opened, "with Recipient the plaintext must not travel"
            assert open_enveloped_data(opened["CiphertextForRecipient"], KEY) == made["Plaintext"]
            assert opened["KeyId"] == key
        with refused("NotFoundException"):
            stack.client("kms", None, "us-east-2").decrypt(
                KeyId=primary["Arn"], CiphertextBlob=made["CiphertextBlob"], EncryptionContext=CONTEXT
            )
        with refused("AccessDeniedException", "does not exist in this region"):
            stack.client("kms", None, "us-east-2").decrypt(
                CiphertextBlob=made["CiphertextBlob"], EncryptionContext=CONTEXT
            )

    await asyncio.to_thread(scenario)


async def test_every_way_to_be_refused_has_its_code(stack: Stack) -> None:
    def scenario() -> None:
        admin = stack.client("kms", ADMIN)
        arn = admin.create_key(Policy=stack.policy())["KeyMetadata"]["Arn"]
        other = admin.create_key(Policy=stack.policy())["KeyMetadata"]["Arn"]
        blob = stack.client("kms", USER).generate_data_key(KeyId=arn, EncryptionContext=CONTEXT, KeySpec="AES_256")[
            "CiphertextBlob"
        ]
        host = stack.client("kms", None)

        def decrypt(client: Any = host, document: bytes | None = None, **more: Any) -> Any:
            call: dict[str, Any] = {"KeyId": arn, "CiphertextBlob": blob, "EncryptionContext": CONTEXT}
            if document is None:
                document = stack.document()
            return client.decrypt(**(call | {"Recipient": recipient(document)} | more))

        decrypt()
        with refused("AccessDeniedException", "no statement of the key policy allows it"):
            host.decrypt(KeyId=arn, CiphertextBlob=blob, EncryptionContext=CONTEXT)
        for index in PCRS:
            with refused("AccessDeniedException"):
                decrypt(document=stack.document(PCRS | {index: bytes([77]) * 48}))
        with refused("AccessDeniedException", "debug"):
            decrypt(document=stack.document({}))
        with refused("ValidationException", "chain"):
            decrypt(
                document=SoftwareNsm(
                    root=create_nsm_root(), pcrs=PCRS, instance_id="i-0123456789abcdef0", clock_ms=stack.clock.now_ms
                ).attest(nonce=None, user_data=None, public_key=PUBLIC)
            )
        with refused("ValidationException", "age"):
            decrypt(document=stack.document(ago_ms=301_000))
        with refused("ValidationException", "cose"):
            decrypt(document=b"not a document")
        with refused("ValidationException", "public key"):
            decrypt(document=stack.document(public_key=None))
        with refused("InvalidCiphertextException"):
            decrypt(EncryptionContext=CONTEXT | {"mrgc:session": "1" * 32})
        with refused("AccessDeniedException"):
            decrypt(EncryptionContext=CONTEXT | {"mrgc:tenant": "tenant-b"})
        with refused("InvalidCiphertextException"):
            decrypt(CiphertextBlob=blob[:-1] + bytes([blob[-1] ^ 1]))
        with refused("InvalidCiphertextException"):
            decrypt(CiphertextBlob=b"x")
        with refused("IncorrectKeyException"):
            decrypt(KeyId=other)
        for who in (USER, STRANGER, ADMIN):
            with refused("AccessDeniedException"):
                decrypt(stack.client("kms", who))
        with refused("AccessDeniedException"):
            host.generate_data_key(KeyId=arn, EncryptionContext=CONTEXT, KeySpec="AES_256")
        with refused("AccessDeniedException"):
            stack.client("kms", USER).put_key_policy(KeyId=arn, PolicyName="default", Policy=stack.policy())
        with refused("AccessDeniedException"):
            stack.client("kms", USER).create_key()
        with refused("UnknownOperationException"):
            admin.create_grant(KeyId=arn, GranteePrincipal=ROLE, Operations=["Decrypt"])
        with refused("ValidationException", "GrantTokens"):
            decrypt(GrantTokens=["x"])

    await asyncio.to_thread(scenario)


async def test_a_changed_policy_decides_from_the_next_call_on(stack: Stack) -> None:
    def scenario() -> None:
        admin = stack.client("kms", ADMIN)
        arn = admin.create_key(Policy=stack.policy())["KeyMetadata"]["Arn"]
        blob = stack.client("kms", USER).generate_data_key(KeyId=arn, EncryptionContext=CONTEXT, NumberOfBytes=32)[
            "CiphertextBlob"
        ]
        call = {"KeyId": arn, "CiphertextBlob": blob, "EncryptionContext": CONTEXT}
        stack.client("kms", None).decrypt(**call, Recipient=recipient(stack.document()))
        changed = tenant_key_policy(ADMIN.arn, USER.arn, ROLE, PCRS | {0: bytes([9]) * 48}, tenant_id="tenant-a")
        admin.put_key_policy(KeyId=arn, PolicyName="default", Policy=json.dumps(changed))
        assert json.loads(admin.get_key_policy(KeyId=arn, PolicyName="default")["Policy"]) == changed
        with refused("AccessDeniedException"):
            stack.client("kms", None).decrypt(**call, Recipient=recipient(stack.document()))
        locked = {"Version": "2012-10-17", "Statement": changed["Statement"][1:]}
        with refused("MalformedPolicyDocumentException", "in the future"):
            admin.put_key_policy(KeyId=arn, PolicyName="default", Policy=json.dumps(locked))
        assert admin.describe_key(KeyId=arn)["KeyMetadata"]["MultiRegion"] is False
        with refused("UnsupportedOperationException"):
            admin.replicate_key(KeyId=arn, ReplicaRegion="us-west-2", Policy=stack.policy())

    await asyncio.to_thread(scenario)


async def test_requests_that_are_not_signed_as_they_should_be_are_refused(stack: Stack) -> None:
    def scenario() -> None:
        with refused("UnrecognizedClientException"):
            stack.client("kms", new_principal(USER.arn)).describe_key(KeyId="x")
        forged = USER.model_copy(update={"secret_access_key": "x" * 40})
        with refused("InvalidSignatureException"):
            stack.client("kms", forged).describe_key(KeyId="x")
        host = stack.client("kms", None)
        with refused("NotFoundException"):
            host.describe_key(KeyId="x")

    await asyncio.to_thread(scenario)
    async with aiohttp.ClientSession() as session:
        headers = {"X-Amz-Target": "TrentService.DescribeKey"}
        async with session.post(stack.url, headers=headers, data=b"{}") as answer:
            assert answer.status == 400
            assert (await answer.json(content_type=None))["__type"] == "MissingAuthenticationTokenException"
        async with session.post(stack.url, headers=headers, data=bytes(300_000)) as answer:
            assert answer.status == 413


async def test_expired_role_credentials_are_named_and_new_ones_work(stack: Stack) -> None:
    def call(client: Any) -> None:
        client.describe_key(KeyId="x")

    old = stack.client("kms", None)
    with refused("NotFoundException"):
        await asyncio.to_thread(call, old)
    # Longer than the role's session, shorter than the five minutes of a signature: only the key's state differs.
    stack.clock.ahead_ms = ROLE_LIFETIME_S * 1000 + 1_000
    with refused("ExpiredTokenException"):
        await asyncio.to_thread(call, old)
    with refused("NotFoundException"):
        await asyncio.to_thread(call, stack.client("kms", None))


async def test_botocore_finds_the_roles_credentials_in_the_metadata(stack: Stack) -> None:
    def scenario() -> tuple[str | None, str | None]:
        fetcher = InstanceMetadataFetcher(timeout=5, num_attempts=1, base_url=stack.url + "/")
        loaded = InstanceMetadataProvider(iam_role_fetcher=fetcher).load()
        assert loaded is not None, "botocore's own client must be able to read it"
        frozen = loaded.get_frozen_credentials()
        return frozen.access_key, frozen.token

    access_key, token = await asyncio.to_thread(scenario)
    key = stack.directory.find(str(access_key))
    assert key is not None
    assert key.session_token == token


async def test_metadata_is_for_those_with_a_token(stack: Stack) -> None:
    path = f"{stack.url}/latest/meta-data/iam/security-credentials/"
    ttl = "X-aws-ec2-metadata-token-ttl-seconds"
    async with aiohttp.ClientSession() as session:
        assert (await session.get(path)).status == 401
        assert (await session.get(path, headers={"X-aws-ec2-metadata-token": "guess"})).status == 401
        for bad in ({}, {ttl: "0"}, {ttl: "21601"}, {ttl: "x"}):
            assert (await session.put(f"{stack.url}/latest/api/token", headers=bad)).status == 400
        forwarded = {ttl: "60", "X-Forwarded-For": "10.0.0.1"}
        assert (await session.put(f"{stack.url}/latest/api/token", headers=forwarded)).status == 403
        token = await (await session.put(f"{stack.url}/latest/api/token", headers={ttl: "60"})).text()
        shown = {"X-aws-ec2-metadata-token": token}
        assert await (await session.get(path, headers=shown)).text() == "mrgc-host"
        credentials = json.loads(await (await session.get(path + "mrgc-host", headers=shown)).text())
        assert credentials["Code"] == "Success"
        assert (await session.get(path + "other", headers=shown)).status == 404
        stack.clock.ahead_ms = 61_000
        assert (await session.get(path, headers=shown)).status == 401


async def test_other_services_are_motos(stack: Stack) -> None:
    def scenario() -> None:
        dynamodb = stack.client("dynamodb", None, "us-east-2")
        dynamodb.create_table(
            TableName="t",
            KeySchema=[{"AttributeName": "k", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "k", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        dynamodb.put_item(TableName="t", Item={"k": {"S": "a"}})
        with refused("ConditionalCheckFailedException"):
            dynamodb.put_item(TableName="t", Item={"k": {"S": "a"}}, ConditionExpression="attribute_not_exists(k)")
        assert stack.client("dynamodb", None, "us-west-2").list_tables()["TableNames"] == [], "regions are apart"
        s3 = stack.client("s3", ADMIN)
        s3.create_bucket(Bucket="models")
        body = bytes(range(256)) * 2_000
        s3.put_object(Bucket="models", Key="a folder/ü+%", Body=body)
        assert s3.get_object(Bucket="models", Key="a folder/ü+%")["Body"].read() == body

    await asyncio.to_thread(scenario)


async def test_the_audit_says_what_was_checked_and_holds_no_secret(stack: Stack) -> None:
    def scenario() -> tuple[bytes, bytes]:
        arn = stack.client("kms", ADMIN).create_key(Policy=stack.policy())["KeyMetadata"]["Arn"]
        made = stack.client("kms", USER).generate_data_key(KeyId=arn, EncryptionContext=CONTEXT, KeySpec="AES_256")
        call = {"KeyId": arn, "CiphertextBlob": made["CiphertextBlob"], "EncryptionContext": CONTEXT}
        stack.client("kms", None).decrypt(**call, Recipient=recipient(stack.document()))
        with refused("AccessDeniedException"):
            stack.client("kms", None).decrypt(**call, Recipient=recipient(stack.document(PCRS | {0: b"x" * 48})))
        return made["Plaintext"], made["CiphertextBlob"]

    plaintext, blob = await asyncio.to_thread(scenario)
    async with aiohttp.ClientSession() as session, session.get(f"{stack.url}/_mrgc/kms-audit") as answer:
        text = await answer.text()
    audit = json.loads(text)
    allowed, denied = audit["records"][-2:]
    assert allowed["outcome"] == "allowed"
    assert allowed["attested"]["0"] == PCRS[0].hex()
    assert allowed["reason"] == "AttestedEnclaveDecrypts0 allows it"
    assert allowed["context"] == CONTEXT
    assert denied["outcome"] == "denied"
    assert denied["attested"]["0"] == (b"x" * 48).hex()
    assert audit["counts"]["Decrypt denied"] == 1
    for secret in (plaintext, blob):
        assert secret.hex() not in text
        assert base64.b64encode(secret).decode() not in text
    assert USER.secret_access_key not in text
    assert stack.directory.role_credentials().secret_access_key not in text


def export(name: str = "enclave.request") -> bytes:
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    service = group.resource.attributes.add(key="service.name")
    service.value.string_value = "enclave"
    span = group.scope_spans.add().spans.add()
    span.trace_id, span.span_id, span.parent_span_id = bytes(range(16)), b"\1" * 8, b"\2" * 8
    span.name, span.start_time_unix_nano, span.end_time_unix_nano = name, 10, 20
    span.status.code = span.status.STATUS_CODE_ERROR
    span.attributes.add(key="mrgc.region").value.string_value = "us-east-1"
    span.attributes.add(key="count").value.int_value = 3
    span.attributes.add(key="list").value.array_value.values.add().double_value = 0.5
    return bytes(request.SerializeToString())


OTLP = {"Content-Type": "application/x-protobuf"}


async def test_spans_become_lines(stack: Stack, tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session:
        for body, headers in (
            (export("first"), OTLP),
            (gzip.compress(export("second")), OTLP | {"Content-Encoding": "gzip"}),
        ):
            async with session.post(f"{stack.url}/v1/traces", data=body, headers=headers) as answer:
                assert answer.status == 200
                assert not ExportTraceServiceResponse.FromString(await answer.read()).HasField("partial_success")
        assert (await session.post(f"{stack.url}/v1/traces", data=b"\xff", headers=OTLP)).status == 400
        assert (await session.post(f"{stack.url}/v1/traces", data=b"{}")).status == 415
        large = io.BytesIO(bytes(4 * 1024 * 1024 + 1))
        assert (await session.post(f"{stack.url}/v1/traces", data=large, headers=OTLP)).status == 413
    first, second = (json.loads(line) for line in (tmp_path / "spans.jsonl").read_text().splitlines())
    assert (first["name"], second["name"]) == ("first", "second")
    assert first == {
        "trace_id": bytes(range(16)).hex(),
        "span_id": "01" * 8,
        "parent_id": "02" * 8,
        "name": "first",
        "service": "enclave",
        "start_ns": 10,
        "end_ns": 20,
        "status": "error",
        "status_message": "",
        "attributes": {"mrgc.region": "us-east-1", "count": 3, "list": [0.5]},
        "resource": {"service.name": "enclave"},
    }


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
async def test_a_full_disk_drops_spans_counts_them_and_fails_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with running(Path("/dev/full")) as stack, aiohttp.ClientSession() as session:
        for _ in range(3):
            async with session.post(f"{stack.url}/v1/traces", data=export(), headers=OTLP) as answer:
                assert answer.status == 200, "a sender must not retry for ever"
                said = ExportTraceServiceResponse.FromString(await answer.read())
            assert said.partial_success.rejected_spans == 1
        async with session.get(f"{stack.url}/_mrgc/status") as answer:
            assert (await answer.json())["spans"] == {"written": 0, "dropped": 3}
    told = [record for record in caplog.records if "No space left" in record.getMessage()]
    assert len(told) == 1, "said once, not for each export"
