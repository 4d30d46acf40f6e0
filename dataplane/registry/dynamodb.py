"""The registry in DynamoDB: table `gpu_instances`, partition key `region`, sort key `instance_id`, TTL `expires`.

One region's hosts are one partition, read with one eventually consistent Query; every item has one writer, its host,
so a global table's last-writer-wins never has two writers to choose between.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from dataplane.registry.host import HostRecord, RegistryError
from dataplane.registry.registry import HOST_TTL_S

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

T = TypeVar("T")

TABLE = "gpu_instances"
CALL_TIMEOUT_S = 3.0
"""One call with botocore's retries; a heartbeat is due every 2 s and a reader keeps its last answer meanwhile."""
MAX_HOSTS = 2_000
"""Hosts read of one region: 2,000 records of about 1 KB are two pages of a Query."""


def dynamodb_client(region: str) -> DynamoDBClient:
    """A boto3 client with limits that fit `CALL_TIMEOUT_S`: 1 s to connect, 1 s to read, one retry."""
    return boto3.client(
        "dynamodb",
        region_name=region,
        config=Config(connect_timeout=1.0, read_timeout=1.0, retries={"total_max_attempts": 2, "mode": "standard"}),
    )


class DynamoRegistry:
    """A Registry over a DynamoDB table. `client` is boto3's, used from threads, one call in one thread each."""

    def __init__(
        self,
        client: DynamoDBClient,
        *,
        table: str = TABLE,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:
        self._client = client
        self._table = table
        self._clock_ms = clock_ms
        self._timeout_s = timeout_s
        self._serialize = TypeSerializer().serialize
        self._deserialize = TypeDeserializer().deserialize
        self.unreadable = 0
        """Items skipped so far because they were no host records."""

    async def put_host(self, record: HostRecord) -> None:
        """Write a record, unless a newer one of the same host is held."""
        item = {name: self._serialize(value) for name, value in record.to_item().items()}
        item["expires"] = {"N": str(record.reported_ms // 1000 + HOST_TTL_S)}

        def put() -> None:
            try:
                self._client.put_item(
                    TableName=self._table,
                    Item=item,
                    ConditionExpression="attribute_not_exists(reported_ms) OR reported_ms <= :mine",
                    ExpressionAttributeValues={":mine": {"N": str(record.reported_ms)}},
                )
            except self._client.exceptions.ConditionalCheckFailedException:
                return  # a newer report is held, so this one has nothing to say

        await self._call(put, f"write the record of {record.instance_id}")

    async def remove_host(self, region: str, instance_id: str) -> None:
        """Forget a host."""
        key = {"region": {"S": region}, "instance_id": {"S": instance_id}}
        await self._call(
            lambda: self._client.delete_item(TableName=self._table, Key=key), f"remove the record of {instance_id}"
        )

    async def hosts(self, region: str) -> tuple[HostRecord, ...]:
        """The hosts of a region by instance id, expired ones left out (DynamoDB deletes them hours later)."""
        items = await self._call(lambda: self._query(region), f"read the hosts of {region}")
        oldest = self._clock_ms() - HOST_TTL_S * 1000
        records = (self._record(item) for item in items)
        return tuple(record for record in records if record is not None and record.reported_ms > oldest)

    def _query(self, region: str) -> list[Mapping[str, Any]]:
        items: list[Mapping[str, Any]] = []
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="#region = :region",
            ExpressionAttributeNames={"#region": "region"},  # a reserved word
            ExpressionAttributeValues={":region": {"S": region}},
        )
        for page in pages:
            items.extend(page["Items"])
            if len(items) > MAX_HOSTS:
                raise RegistryError(
                    f"Table {self._table} holds over {MAX_HOSTS} hosts of {region}; remove what does not belong there."
                )
        return items

    def _record(self, item: Mapping[str, Any]) -> HostRecord | None:
        try:
            return HostRecord.from_item({name: self._plain(value) for name, value in item.items()})
        except (RegistryError, TypeError, ValueError):
            # One bad item must not hide the other hosts; it is counted, and expires.
            self.unreadable += 1
            return None

    def _plain(self, value: Any) -> Any:
        plain = self._deserialize(value)
        # DynamoDB's numbers come as Decimal; those of a record are whole.
        return int(plain) if "N" in value and plain == int(plain) else plain

    async def _call(self, function: Callable[[], T], doing: str) -> T:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.to_thread(function)
        except TimeoutError:
            why = f"no answer within {self._timeout_s:g} s"
        except ClientError as error:
            why = error.response.get("Error", {}).get("Code", "unknown error")
        except BotoCoreError as error:
            why = type(error).__name__
        raise RegistryError(f"Could not {doing} in DynamoDB table {self._table} ({why}); it is tried again.")
