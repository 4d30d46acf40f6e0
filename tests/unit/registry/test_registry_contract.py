"""One suite over every registry: what holds for the one in memory holds for DynamoDB, through real boto3.

DynamoDB is moto's, and, where there is a Docker engine, also AWS's own DynamoDB local.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator

import boto3
import pytest
from botocore.exceptions import BotoCoreError
from docker.errors import DockerException  # type: ignore[import-untyped]  # docker publishes no types
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws
from mypy_boto3_dynamodb import DynamoDBClient
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient

from dataplane.registry.dynamodb import DynamoRegistry
from dataplane.registry.host import HostRecord, HostState, RegistryError
from dataplane.registry.memory import MemoryRegistry
from dataplane.registry.registry import HOST_TTL_S, Registry

NOW_MS = 1_900_000_000_000
IMAGE = "amazon/dynamodb-local:2.5.2"
IMAGE_PORT = 8000
START_S = 60
LOCAL = pytest.param("dynamodb-local", marks=[pytest.mark.docker, pytest.mark.timeout(300)])


class Clock:
    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


def host(instance_id: str = "i-1", region: str = "us-east-1", reported_ms: int = NOW_MS, **other: object) -> HostRecord:
    record = HostRecord(
        instance_id=instance_id,
        region=region,
        address="http://10.0.0.7:8080",
        pools=("tiny", "large"),
        state=HostState.READY,
        queue_depth=3,
        running=7,
        capacity=256,
        latency_ms=41.0,
        health=98,
        assurance=1,
        engine="vllm",
        reported_ms=reported_ms,
    )
    return dataclasses.replace(record, **other)  # type: ignore[arg-type]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def dynamodb_local() -> Iterator[str]:
    """The endpoint of DynamoDB local in a container of this test run."""
    try:
        DockerClient().client.ping()
    except DockerException:
        pytest.skip(f"There is no Docker engine here to run {IMAGE} in; with one, this test runs too.")
    with DockerContainer(IMAGE).with_exposed_ports(IMAGE_PORT) as container:
        endpoint = f"http://{container.get_container_host_ip()}:{container.get_exposed_port(IMAGE_PORT)}"
        deadline = time.monotonic() + START_S
        while True:
            try:
                connect(endpoint).list_tables()
                break
            except BotoCoreError:
                assert time.monotonic() < deadline, f"{IMAGE} does not answer: {container.get_logs()}"
                time.sleep(0.2)
        yield endpoint


def connect(endpoint: str | None = None) -> DynamoDBClient:
    return boto3.client(
        "dynamodb",
        region_name="us-east-1",
        endpoint_url=endpoint,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )


@contextlib.contextmanager
def account(kind: str, request: pytest.FixtureRequest) -> Iterator[DynamoDBClient]:
    """A client of an account that has the empty table, and nothing else."""
    if kind == "moto":
        with mock_aws():
            client = connect()
            make_table(client)
            yield client
        return
    client = connect(request.getfixturevalue("dynamodb_local"))
    make_table(client)
    try:
        yield client
    finally:
        client.delete_table(TableName="gpu_instances")


def make_table(client: DynamoDBClient) -> None:
    client.create_table(
        TableName="gpu_instances",
        KeySchema=[
            {"AttributeName": "region", "KeyType": "HASH"},
            {"AttributeName": "instance_id", "KeyType": "RANGE"},
        ],
        AttributeDefinitions=[
            {"AttributeName": "region", "AttributeType": "S"},
            {"AttributeName": "instance_id", "AttributeType": "S"},
        ],
        BillingMode="PAY_PER_REQUEST",
    )


@pytest.fixture(params=["moto", LOCAL])
def client(request: pytest.FixtureRequest) -> Iterator[DynamoDBClient]:
    with account(request.param, request) as client:
        yield client


@pytest.fixture(params=["memory", "moto", LOCAL])
def registry(request: pytest.FixtureRequest, clock: Clock) -> Iterator[Registry]:
    if request.param == "memory":
        yield MemoryRegistry(clock_ms=clock)
        return
    with account(request.param, request) as client:
        yield DynamoRegistry(client, clock_ms=clock)


async def test_what_was_written_is_read_back_whole(registry: Registry) -> None:
    await registry.put_host(host())
    assert await registry.hosts("us-east-1") == (host(),), "every field comes back as it was"


async def test_hosts_come_by_region_and_in_order(registry: Registry) -> None:
    for instance_id, region in (("i-2", "us-east-1"), ("i-3", "us-west-2"), ("i-1", "us-east-1")):
        await registry.put_host(host(instance_id, region))
    found = await registry.hosts("us-east-1")
    assert [record.instance_id for record in found] == ["i-1", "i-2"], "one region's hosts, sorted"
    assert await registry.hosts("us-east-2") == (), "a region without hosts is empty, not an error"


async def test_a_newer_report_replaces_and_an_older_one_is_dropped(registry: Registry) -> None:
    await registry.put_host(host(queue_depth=1))
    await registry.put_host(host(queue_depth=2, reported_ms=NOW_MS + 2000))
    await registry.put_host(host(queue_depth=1, reported_ms=NOW_MS + 1000))
    (held,) = await registry.hosts("us-east-1")
    assert held.queue_depth == 2, "reports that overtake each other must not turn time back"


async def test_a_removed_host_is_gone_and_removing_it_again_is_no_error(registry: Registry) -> None:
    await registry.put_host(host())
    await registry.remove_host("us-east-1", "i-1")
    await registry.remove_host("us-east-1", "i-1")
    assert await registry.hosts("us-east-1") == (), "nothing is left of it"


async def test_a_host_that_stopped_reporting_is_no_longer_named(registry: Registry, clock: Clock) -> None:
    await registry.put_host(host())
    clock.now_ms += HOST_TTL_S * 1000 - 1
    assert len(await registry.hosts("us-east-1")) == 1, "within its time it is"
    clock.now_ms += 1
    assert await registry.hosts("us-east-1") == (), "after it, it is not, whenever the table deletes the item"


async def test_a_host_without_pools_yet_can_report(registry: Registry) -> None:
    starting = host(pools=(), state=HostState.UNHEALTHY, engine="unknown")
    await registry.put_host(starting)
    assert await registry.hosts("us-east-1") == (starting,), "an empty list is a list"


async def test_many_hosts_are_read_over_several_pages(client: DynamoDBClient, clock: Clock) -> None:
    registry = DynamoRegistry(client, clock_ms=clock)
    pools = tuple(f"pool-{number:03}-{'x' * 110}" for number in range(250))  # about 30 KB: 40 hosts pass 1 MB a page
    for number in range(40):
        await registry.put_host(host(f"i-{number:02}", pools=pools))
    assert len(await registry.hosts("us-east-1")) == 40, "a Query answers 1 MB at a time, and all pages are read"


async def test_an_item_that_is_no_host_hides_no_other(client: DynamoDBClient, clock: Clock) -> None:
    registry = DynamoRegistry(client, clock_ms=clock)
    await registry.put_host(host("i-good"))
    client.put_item(
        TableName="gpu_instances",
        Item={"region": {"S": "us-east-1"}, "instance_id": {"S": "i-bad"}, "health": {"N": "1.5"}},
    )
    found = await registry.hosts("us-east-1")
    assert [record.instance_id for record in found] == ["i-good"], "the good one is still found"
    assert registry.unreadable == 1, "and the bad one counted"


async def test_the_item_expires_by_itself(client: DynamoDBClient, clock: Clock) -> None:
    await DynamoRegistry(client, clock_ms=clock).put_host(host())
    item = client.get_item(TableName="gpu_instances", Key={"region": {"S": "us-east-1"}, "instance_id": {"S": "i-1"}})[
        "Item"
    ]
    assert item["expires"] == {"N": str(NOW_MS // 1000 + HOST_TTL_S)}, "TTL is in seconds since 1970"


async def test_a_missing_table_is_one_sentence_that_names_it(client: DynamoDBClient, clock: Clock) -> None:
    registry = DynamoRegistry(client, table="no_such_table", clock_ms=clock)
    with pytest.raises(RegistryError, match=r"no_such_table \(ResourceNotFoundException\)"):
        await registry.put_host(host())
    with pytest.raises(RegistryError, match="no_such_table"):
        await registry.hosts("us-east-1")


async def test_a_silent_database_costs_its_time_limit_and_no_more(client: DynamoDBClient, clock: Clock) -> None:
    registry = DynamoRegistry(client, clock_ms=clock, timeout_s=0.0)
    with pytest.raises(RegistryError, match="no answer within"):
        await registry.hosts("us-east-1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pools", "tiny"),
        ("pools", [1]),
        ("pools", [""]),
        ("state", "sleeping"),
        ("address", ""),
        ("address", "x" * 513),
        ("health", 101),
        ("health", True),
        ("queue_depth", -1),
        ("assurance", 3),
        ("reported_ms", None),
    ],
)
def test_a_field_that_is_no_such_value_is_named(name: str, value: object) -> None:
    with pytest.raises(RegistryError, match=f"has {name}="):
        HostRecord.from_item(host().to_item() | {name: value})


@given(
    st.builds(
        host,
        instance_id=st.text(min_size=1, max_size=64),
        pools=st.lists(st.text(min_size=1, max_size=128), max_size=5).map(tuple),
        state=st.sampled_from(HostState),
        queue_depth=st.integers(0, 10**6),
        latency_ms=st.integers(0, 10**6).map(float),
        health=st.integers(0, 100),
        reported_ms=st.integers(0, 2**52),
    )
)
def test_a_record_survives_being_an_item(record: HostRecord) -> None:
    assert HostRecord.from_item(record.to_item() | {"expires": 7}) == record, "extra attributes are skipped"
