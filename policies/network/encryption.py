"""Rules over data at rest: encrypted wherever a service of ours stores it, and no bucket open to the public.

What is stored by a service that these rules do not know is refused by `only-services-with-rules` (`regions.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from policies.network.configuration import TEXTS
from policies.network.links import Links
from policies.rule import UNKNOWN, Config, Resource, ResourceRule, Rule, Setting, StackRule, at, is_true, known, listed

BUCKETS: Final = ("aws:s3/bucket:Bucket", "aws:s3/bucketV2:BucketV2")
BUCKET_ENCRYPTION: Final = (
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration",
    "aws:s3/bucketServerSideEncryptionConfigurationV2:BucketServerSideEncryptionConfigurationV2",
)
BUCKET_CLOSED: Final = "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock"
ACCOUNT_CLOSED: Final = "aws:s3/accountPublicAccessBlock:AccountPublicAccessBlock"
CLOSED: Final = ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")
OBJECTS: Final = ("aws:s3/bucketObject:BucketObject", "aws:s3/bucketObjectv2:BucketObjectv2")
OPEN_BUCKETS: Final = {
    "aws:s3/bucketWebsiteConfiguration:BucketWebsiteConfiguration": "a website is public",
    "aws:s3/bucketWebsiteConfigurationV2:BucketWebsiteConfigurationV2": "a website is public",
    "aws:s3/bucketAclV2:BucketAclV2": "buckets have no ACLs",
    "aws:s3/bucketAcl:BucketAcl": "buckets have no ACLs",
}
TABLE: Final = "aws:dynamodb/table:Table"
PARAMETER: Final = "aws:ssm/parameter:Parameter"
REPOSITORY: Final = "aws:ecr/repository:Repository"
QUEUE: Final = "aws:sqs/queue:Queue"
TEMPLATE: Final = "aws:ec2/launchTemplate:LaunchTemplate"
VOLUME_ENCRYPTION: Final = "aws:ebs/encryptionByDefault:EncryptionByDefault"

SECRET_NAMES: Final = Setting(
    name="secretNames",
    description="Regular expressions (any case) of the names of parameters that hold secrets.",
    default=[r"secret", r"passw(or)?d", r"token", r"credential", r"api[-_/]?key", r"private[-_/]?key", r"tls-key"],
    schema=TEXTS,
)

KEYED: Final = {
    "aws:cloudwatch/logGroup:LogGroup": "kmsKeyId",
    "aws:sns/topic:Topic": "kmsMasterKeyId",
    "aws:fsx/lustreFileSystem:LustreFileSystem": "kmsKeyId",
    "aws:fsx/openZfsFileSystem:OpenZfsFileSystem": "kmsKeyId",
    "aws:fsx/ontapFileSystem:OntapFileSystem": "kmsKeyId",
    "aws:fsx/windowsFileSystem:WindowsFileSystem": "kmsKeyId",
    "aws:fsx/fileCache:FileCache": "kmsKeyId",
    "aws:secretsmanager/secret:Secret": "kmsKeyId",
    "aws:cloudtrail/trail:Trail": "kmsKeyId",
    "aws:dynamodb/tableReplica:TableReplica": "kmsKeyArn",
    "aws:dynamodb/tableExport:TableExport": "s3SseKmsKeyId",
}
"""Types that are encrypted with a key of ours when they name one, and the property that names it."""
SWITCHED: Final = {
    "aws:ebs/volume:Volume": "encrypted",
    "aws:ebs/snapshotCopy:SnapshotCopy": "encrypted",
    "aws:ebs/snapshotImport:SnapshotImport": "encrypted",
    "aws:ec2/amiCopy:AmiCopy": "encrypted",
    VOLUME_ENCRYPTION: "enabled",
}
"""Types that are encrypted when a switch says so."""
COPIED: Final = ("aws:ebs/volume:Volume", "aws:ec2/amiCopy:AmiCopy")
"""Switched types that take a key of ours besides."""
ROOTED: Final = (
    "aws:ec2/instance:Instance",
    "aws:ec2/spotInstanceRequest:SpotInstanceRequest",
    "aws:ec2/launchConfiguration:LaunchConfiguration",
)
DISKS: Final = ("ebsBlockDevices", "ebsBlockDevice")
KMS: Final = ("KMS", "KMS_DSSE")
ALGORITHMS: Final = ("aws:kms", "aws:kms:dsse", "AES256")


def encrypted(resource: Resource, config: Config) -> Iterator[str]:
    """What a resource stores is encrypted, with a key of ours where the service takes one."""
    if resource.type in KEYED:
        key = KEYED[resource.type]
        # A key's ARN is not known before the key is there; that one is named is.
        if resource.at(key) in (None, ""):
            yield f"{key} names no key; give one of the platform's."
    if resource.type in SWITCHED and not is_true(known(resource.at(SWITCHED[resource.type]), SWITCHED[resource.type])):
        yield f"{SWITCHED[resource.type]} is not true."
    if resource.type in COPIED and resource.at("kmsKeyId") in (None, ""):
        yield "kmsKeyId names no key; give one of the platform's."
    if resource.type in ROOTED:
        yield from _root(resource)
    judge = _BY_TYPE.get(resource.type)
    if judge is not None:
        yield from judge(resource, config)
    yield from _switched_off(resource.props)


def _switched_off(value: Any, path: str = "") -> Iterator[str]:
    """No `encrypted` anywhere inside says no."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if path and key in ("encrypted", "storageEncrypted") and inner in (False, "false"):
                yield f"{path}{key} is {inner}."
            yield from _switched_off(inner, f"{path}{key}.")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _switched_off(inner, f"{path}{number}.")


def _root(resource: Resource) -> Iterator[str]:
    root = listed(resource.at("rootBlockDevice"))
    if not root or not all(is_true(known(at(one, "encrypted"), "rootBlockDevice.encrypted")) for one in root):
        yield "rootBlockDevice.encrypted is not true; the disk would be as the image's is."
    for key in DISKS:
        for disk in listed(resource.at(key)):
            if not is_true(known(at(disk, "encrypted"), f"{key}.encrypted")) and not is_true(at(disk, "noDevice")):
                yield f"The disk {at(disk, 'deviceName') or ''} of {key} is not encrypted."


def _template(resource: Resource, _: Config) -> Iterator[str]:
    mappings = listed(known(resource.at("blockDeviceMappings"), "blockDeviceMappings"))
    if not mappings:
        yield "It has no blockDeviceMappings; its disks would be as the image's are. Map them, encrypted."
    for one in mappings:
        if at(one, "noDevice") in (None, "") and not is_true(known(at(one, "ebs", "encrypted"), "ebs.encrypted")):
            yield f"The disk {at(one, 'deviceName') or ''} is not encrypted (ebs.encrypted)."
        elif at(one, "noDevice") in (None, "") and at(one, "ebs", "kmsKeyId") in (None, ""):
            yield f"The disk {at(one, 'deviceName') or ''} names no key (ebs.kmsKeyId), which makes it AWS's."


def _table(resource: Resource, _: Config) -> Iterator[str]:
    rest = known(resource.at("serverSideEncryption"), "serverSideEncryption")
    if not is_true(at(rest, "enabled")) or at(rest, "kmsKeyArn") in (None, ""):
        yield "serverSideEncryption names no key of ours (enabled and kmsKeyArn)."
    for replica in listed(known(resource.at("replicas"), "replicas")):
        if at(replica, "kmsKeyArn") in (None, ""):
            yield f"Its replica in {at(replica, 'regionName')} names no key of that region (kmsKeyArn)."


def _queue(resource: Resource, _: Config) -> Iterator[str]:
    if resource.at("kmsMasterKeyId") in (None, "") and not is_true(
        known(resource.at("sqsManagedSseEnabled"), "sqsManagedSseEnabled")
    ):
        yield "It names no key (kmsMasterKeyId), nor SQS's own encryption (sqsManagedSseEnabled)."


def _repository(resource: Resource, _: Config) -> Iterator[str]:
    found = listed(known(resource.at("encryptionConfigurations"), "encryptionConfigurations"))
    if not found or not all(at(one, "encryptionType") in KMS for one in found):
        yield 'encryptionConfigurations does not say "KMS".'
    elif not all(at(one, "kmsKey") is UNKNOWN or at(one, "kmsKey") for one in found):
        yield "encryptionConfigurations names no key (kmsKey), which makes it AWS's and not the platform's."


def _parameter(resource: Resource, config: Config) -> Iterator[str]:
    if known(resource.at("type"), "type") == "SecureString":
        return
    name = str(known(resource.at("name"), "name") or resource.name)
    if any(re.search(expression, name, re.IGNORECASE) for expression in SECRET_NAMES.read(config)):
        yield f"{name} is named like a secret and is no SecureString."


def _bucket_encryption(resource: Resource, _: Config) -> Iterator[str]:
    rules = listed(known(resource.at("rules"), "rules"))
    if not rules:
        yield "It has no rule."
    for rule in rules:
        given = known(at(rule, "applyServerSideEncryptionByDefault"), "applyServerSideEncryptionByDefault")
        algorithm = known(at(given, "sseAlgorithm"), "sseAlgorithm")
        if algorithm not in ALGORITHMS:
            yield f"Its algorithm is {algorithm or 'not given'}; give one of {', '.join(ALGORITHMS)}."
        elif algorithm != "AES256" and at(given, "kmsMasterKeyId") in (None, ""):
            yield f"It says {algorithm} and names no key (kmsMasterKeyId), which makes it AWS's and not the platform's."


_BY_TYPE: Final[dict[str, Callable[[Resource, Config], Iterator[str]]]] = {
    TEMPLATE: _template,
    TABLE: _table,
    QUEUE: _queue,
    REPOSITORY: _repository,
    PARAMETER: _parameter,
    **dict.fromkeys(BUCKET_ENCRYPTION, _bucket_encryption),
}


def closed(resource: Resource, _: Config) -> Iterator[str]:
    """A bucket's block on public access blocks all four ways, and no ACL admits anybody."""
    if resource.type in OPEN_BUCKETS:
        yield f"{resource.type} is not for these buckets: {OPEN_BUCKETS[resource.type]}."
        return
    if resource.type in (*BUCKETS, *OBJECTS):
        acl = known(resource.at("acl"), "acl")
        if acl not in (None, "", "private", "bucket-owner-full-control"):
            yield f"Its ACL is {acl}; leave it private."
        if listed(known(resource.at("grants"), "grants")):
            yield "It grants access by an ACL; roles have policies for that."
        if resource.at("website") not in (None, {}):
            yield "It is a website, which is public."
        return
    for key in CLOSED:
        if not is_true(known(resource.at(key), key)):
            yield f"{key} is not true."


def buckets_guarded(resources: Sequence[Resource], _: Config) -> Iterator[tuple[str, str | None]]:
    """Every bucket says how it is encrypted, and is closed to the public."""
    links = Links(resources)
    for bucket in links.of(*BUCKETS):
        encryption = [one for one in links.of(*BUCKET_ENCRYPTION) if bucket in links.targets(one, "bucket", *BUCKETS)]
        if not encryption:
            yield f"{bucket.name} does not say how it is encrypted.", bucket.urn or None
        block = [one for one in links.of(BUCKET_CLOSED) if bucket in links.targets(one, "bucket", *BUCKETS)]
        if not block:
            yield f"{bucket.name} has no block on public access.", bucket.urn or None


STORES: Final = tuple(dict.fromkeys((*KEYED, *SWITCHED, *ROOTED, *_BY_TYPE, "aws:ecs/", "aws:ec2/", "aws:ebs/")))

RULES: Final[list[Rule]] = [
    ResourceRule(
        "encrypted-at-rest",
        encrypted,
        protects="Whoever gets hold of a disk, a snapshot, a backup or a log file reads nothing without the key, and "
        "the key's policy says who has it.",
        fix="Name one of the platform's keys, or turn the service's encryption on; keep secrets as SecureString.",
        types=STORES,
        settings=(SECRET_NAMES,),
    ),
    ResourceRule(
        "buckets-are-private",
        closed,
        protects="Models and logs are read by roles of the platform alone, whatever a policy says by mistake.",
        fix="Set all four of block_public_acls, block_public_policy, ignore_public_acls and restrict_public_buckets.",
        types=(BUCKET_CLOSED, ACCOUNT_CLOSED, *BUCKETS, *OBJECTS, *OPEN_BUCKETS),
    ),
    StackRule(
        "buckets-are-guarded",
        buckets_guarded,
        protects="A bucket gets its encryption and its block on public access from resources beside it, which are "
        "easily forgotten.",
        fix="Give each bucket a BucketServerSideEncryptionConfiguration and a BucketPublicAccessBlock.",
    ),
]
