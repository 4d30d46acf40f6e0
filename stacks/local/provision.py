"""What exists before the first request: authorities, accounts, tenants, keys with their policies, tables, models.

`prepare` needs files only and comes before the embedded AWS starts; `create` asks it for keys and tables. Each tenant
has an AWS account of its own, as in the real platform: its administrator makes the key, its application's user wraps
data keys, and the platform's role, in a third account, may unwrap them in a measured enclave only.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from dataplane.protocol.attestation.key_policy import tenant_key_policy
from dataplane.protocol.errors import MrgcError
from dataplane.registry.dynamodb import TABLE
from stacks.local.aws.principals import Principal, PrincipalsFile, new_principal
from stacks.local.engine.tiny_model import make_tiny_model
from stacks.local.files import PRIVATE, write_json
from stacks.local.layout import Layout
from stacks.local.measure import measure
from stacks.local.measurement_log import publish
from stacks.local.options import MODEL_POOL, TAMPERED_POOL, ClusterOptions
from stacks.local.pki import create_ca, create_nsm_root, create_server_certificate
from stacks.local.plan import Plan

PLATFORM_ACCOUNT = "999900001111"
HOST_ROLE = f"arn:aws:iam::{PLATFORM_ACCOUNT}:role/mrgc-host"
ROUTER_USER = f"arn:aws:iam::{PLATFORM_ACCOUNT}:user/mrgc-router"
TENANT_ACCOUNTS = {"tenant-a": "111122223333", "tenant-b": "444455556666"}
"""Made-up accounts, one each: a tenant's key lies where the platform can't touch its policy."""

API_KEY_BYTES = 32
CALL_TIMEOUT_S = 10.0


class ProvisionError(MrgcError):
    """The embedded AWS refused what the cluster needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTenant:
    """One tenant: `admin` makes its key, `principal` is what its application signs with; `region` is its home."""

    id: str
    account: str
    region: str
    api_key: str = field(repr=False)
    admin: Principal
    principal: Principal


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What `prepare` made. `pcrs` are a good enclave's PCR0 to PCR2, 48 bytes each; `log_key` the log's public key."""

    pcrs: Mapping[int, bytes]
    log_key: str
    router: Principal
    tenants: tuple[LocalTenant, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisioned:
    """What `create` made: each tenant's KMS key, as its ARN in the tenant's home region."""

    key_arns: Mapping[str, str]


def prepare(options: ClusterOptions, layout: Layout) -> Prepared:
    """Make authorities, principals, API keys and the model store; blocking, about a second."""
    shutil.rmtree(layout.pki, ignore_errors=True)
    layout.pki.mkdir(parents=True, mode=0o700)
    ca = create_ca()
    ca.save(layout.pki, "ca")
    create_server_certificate(ca).save(layout.pki, "server")
    create_nsm_root().save(layout.pki, "nsm-root")
    regions = options.region_names
    tenants = tuple(
        LocalTenant(
            id=name,
            account=account,
            region=regions[number % len(regions)],
            api_key=f"mrgc-{secrets.token_urlsafe(API_KEY_BYTES)}",
            admin=new_principal(f"arn:aws:iam::{account}:root"),
            principal=new_principal(f"arn:aws:iam::{account}:user/inference"),
        )
        for number, (name, account) in enumerate(TENANT_ACCOUNTS.items())
    )
    router = new_principal(ROUTER_USER)
    everybody = (router, *(who for tenant in tenants for who in (tenant.admin, tenant.principal)))
    PrincipalsFile(principals=everybody, role_arn=HOST_ROLE).write(layout.principals_file)
    make_tiny_model(layout.fsx / "models" / MODEL_POOL)
    if options.tampered:
        make_tiny_model(layout.fsx_tampered / "models" / TAMPERED_POOL)
    layout.spans_file.unlink(missing_ok=True)
    layout.spans_file.touch(mode=PRIVATE)
    for host in range(options.hosts + int(options.tampered)):
        for region in regions:
            layout.host_run(region, host).mkdir(parents=True, exist_ok=True, mode=0o700)
    pcrs = measure()
    model = layout.fsx / "models" / MODEL_POOL
    log_key = publish(layout.log, layout.pki / "log.key", pcrs=pcrs, models={MODEL_POOL: model})
    return Prepared(pcrs=pcrs, log_key=log_key, router=router, tenants=tenants)


def create(plan: Plan, prepared: Prepared) -> Provisioned:
    """Make the table in every region, a multi-region key a tenant, and the routers' tenants file; blocking.

    Raises `ProvisionError`.
    """
    try:
        for region in plan.regions:
            _make_table(plan, prepared.router, region.name)
        key_arns = {tenant.id: _make_key(plan, tenant, prepared.pcrs) for tenant in prepared.tenants}
    except (BotoCoreError, ClientError) as error:
        raise ProvisionError(f"The embedded AWS did not make what the cluster needs: {error}.") from error
    write_json(plan.layout.tenants_file, _tenants_file(prepared, key_arns))
    return Provisioned(key_arns=key_arns)


def _make_table(plan: Plan, principal: Principal, region: str) -> None:
    dynamodb = _client("dynamodb", plan, principal, region)
    dynamodb.create_table(
        TableName=TABLE,
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
    dynamodb.update_time_to_live(TableName=TABLE, TimeToLiveSpecification={"Enabled": True, "AttributeName": "expires"})


def _make_key(plan: Plan, tenant: LocalTenant, pcrs: Mapping[int, bytes]) -> str:
    """Make a multi-region key at home and its replicas; a replica's policy is its own, so it is given each time."""
    policy = json.dumps(tenant_key_policy(tenant.admin.arn, tenant.principal.arn, HOST_ROLE, pcrs, tenant_id=tenant.id))
    kms = _client("kms", plan, tenant.admin, tenant.region)
    made = kms.create_key(MultiRegion=True, Policy=policy, Description=f"MRGC data keys of {tenant.id}")
    metadata = made["KeyMetadata"]
    for region in plan.regions:
        if region.name != tenant.region:
            kms.replicate_key(KeyId=metadata["KeyId"], ReplicaRegion=region.name, Policy=policy)
    return str(metadata["Arn"])


def _tenants_file(prepared: Prepared, key_arns: Mapping[str, str]) -> dict[str, Any]:
    return {
        "tenants": [
            {
                "id": tenant.id,
                "api_key_sha256": [hashlib.sha256(tenant.api_key.encode()).hexdigest()],
                "kms_keys": [key_arns[tenant.id]],
            }
            for tenant in prepared.tenants
        ]
    }


def _client(service: Any, plan: Plan, principal: Principal, region: str) -> Any:
    # A session of its own: boto3's default one is shared by threads and reads the user's profile.
    session = boto3.session.Session(
        aws_access_key_id=principal.access_key_id,
        aws_secret_access_key=principal.secret_access_key,
        region_name=region,
    )
    return session.client(
        service,
        endpoint_url=plan.aws_url,
        config=Config(connect_timeout=CALL_TIMEOUT_S, read_timeout=CALL_TIMEOUT_S, retries={"total_max_attempts": 2}),
    )
