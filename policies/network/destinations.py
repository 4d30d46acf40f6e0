"""Rules over where data goes: into buckets of this stack, and by no stream, export or copy out of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from policies.network.encryption import BUCKETS
from policies.network.links import Links
from policies.rule import UNKNOWN, Config, Resource, ResourceRule, Rule, StackRule, known, walk

HANDED_ON: Final = {
    "aws:cloudwatch/logSubscriptionFilter:": "it sends logs on as they come",
    "aws:cloudwatch/logAccountPolicy:": "it may send every log group's entries on",
    "aws:cloudwatch/logDestination": "it takes logs to another account or region",
    "aws:cloudwatch/logDelivery": "it takes logs elsewhere",
    "aws:cloudwatch/logS3TableIntegrationSource:": "it takes logs elsewhere",
    "aws:cloudwatch/metricStream:": "it sends metrics on as they come",
    "aws:cloudwatch/eventApiDestination:": "it sends events to an address on the internet",
    "aws:cloudwatch/eventPermission:": "other accounts could send events",
    "aws:dynamodb/kinesisStreamingDestination:": "it sends a table's changes on as they come",
    "aws:dynamodb/tableExport:": "it copies a table",
    "aws:ebs/snapshotCopy:": "it copies a disk",
    "aws:ebs/volumeCopy:": "it copies a disk",
    "aws:ec2/amiFromInstance:": "it copies a host's disks",
    "aws:ec2/spotDatafeedSubscription:": "it writes who ran when to a bucket",
    "aws:ecr/replicationConfiguration:": "it copies images to other registries",
    "aws:ecr/pullThroughCacheRule:": "it takes images from other registries",
    "aws:fsx/s3AccessPointAttachment:": "it opens a file system as a bucket",
    "aws:lambda/layerVersionPermission:": "other accounts could take the layer",
    "aws:s3/accessPoint:": "it is another way into a bucket, with a policy of its own",
    "aws:s3/files": "it opens a bucket as a file system",
    "aws:s3/inventory:": "it writes lists of a bucket's objects elsewhere",
    "aws:s3/objectCopy:": "it copies an object",
    "aws:ssm/resourceDataSync:": "it writes what is known of hosts elsewhere",
}
"""Ways for what the platform stores to leave it, by the beginning of the type."""
BLOCKS: Final = (
    "aws:ebs/snapshotBlockPublicAccess:SnapshotBlockPublicAccess",
    "aws:ec2/imageBlockPublicAccess:ImageBlockPublicAccess",
)
UNBLOCKED: Final = "unblocked"

INTO: Final = {
    "aws:cloudtrail/trail:Trail": ("s3BucketName",),
    "aws:fsx/dataRepositoryAssociation:DataRepositoryAssociation": ("dataRepositoryPath",),
    "aws:fsx/lustreFileSystem:LustreFileSystem": ("importPath", "exportPath"),
    "aws:globalaccelerator/accelerator:Accelerator": ("flowLogsS3Bucket",),
    "aws:lb/loadBalancer:LoadBalancer": ("bucket",),
    "aws:s3/bucket:Bucket": ("targetBucket", "bucket"),
    "aws:s3/bucketLogging:BucketLogging": ("targetBucket",),
    "aws:s3/bucketReplicationConfig:BucketReplicationConfig": ("bucket",),
}
"""What writes to a bucket or reads from one, and the properties that name it, at whatever depth."""


def handed_on(resource: Resource, _: Config) -> Iterator[str]:
    """Nothing streams, exports or copies what is stored."""
    for prefix, why in HANDED_ON.items():
        if resource.type.startswith(prefix):
            yield f"{resource.type} is not for this platform: {why}."
    if resource.type in BLOCKS and known(resource.at("state"), "state") == UNBLOCKED:
        yield "It takes away the block on sharing with everybody."


def own_buckets(resources: Sequence[Resource], _: Config) -> Iterator[tuple[str, str | None]]:
    """Whatever is written to a bucket, or filled from one, is with a bucket of this stack."""
    links = Links(resources)
    names = {name for bucket in links.of(*BUCKETS) for name in _names(bucket)}
    for one in resources:
        for path, value in _named(one):
            if value is UNKNOWN and links.targets(one, path[0], *BUCKETS):
                continue  # Before an update there is no name to compare; what the value is made from says enough.
            if _bucket(str(known(value, f"{one.name}.{path[0]}"))) not in names:
                yield f"{one.name}'s {'.'.join(path)} is {value}, which is no bucket of this stack.", one.urn or None


def _named(one: Resource) -> Iterator[tuple[tuple[str, ...], Any]]:
    keys = INTO.get(one.type, ())
    for path, value in walk(one.props):
        # A bucket, and what belongs to it, names itself at the top.
        if path[-1] in keys and path != ("bucket",) and value not in (None, ""):
            yield path, value


def _names(bucket: Resource) -> Iterator[str]:
    for key in ("id", "bucket"):
        if isinstance(value := bucket.at(key), str):
            yield value


def _bucket(text: str) -> str:
    """A bucket's name, given by itself, by its ARN, or as s3://name/path."""
    return text.removeprefix("s3://").rpartition(":")[2].partition("/")[0]


RULES: Final[list[Rule]] = [
    ResourceRule(
        "data-stays-where-it-is",
        handed_on,
        protects="Models, logs and tables are in places whose readers are known; every stream, export and copy is one "
        "more place.",
        fix="Take the resource out.",
        types=("aws:",),
    ),
    StackRule(
        "data-goes-to-own-buckets",
        own_buckets,
        protects="A bucket's ARN tells nothing of whose it is: what is replicated, exported or logged to a stranger's "
        "is the stranger's, and models from one are whatever it puts there.",
        fix="Name a bucket that this program makes.",
    ),
]
