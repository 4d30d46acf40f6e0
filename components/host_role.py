"""The role of a region's GPU hosts, which tenants name in their keys' policies.

A tenant's key lives in the tenant's account, and a call across accounts needs both: the key's policy, which is the
tenant's, and an Allow of this account's IAM. The Allow here repeats the tenants' condition: decrypt, and only with the
attestation document of an enclave of a published measurement, and only under the protocol's encryption context. So a
tenant whose key policy is too wide is still not read by a host itself.

A key policy holds the role's unique id, not its name (IAM user guide, "AWS JSON policy elements: Principal"). A role
deleted and made anew has another id, and every tenant would have to put its policy again: protect it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pulumi
import pulumi_aws as aws

from components.permissions import (
    Statement,
    open_secrets,
    policy,
    read_parameters,
    report_host,
    role_name,
    send_traces,
    trust,
    use_table_key,
    write_logs,
)
from components.placement import Placement
from dataplane.protocol.attestation.document import MAX_PCRS
from dataplane.protocol.attestation.key_policy import CONTEXT_KEYS, REQUIRED_PCRS

PCR_HEX_DIGITS: Final = 96
HOST: Final = "host"
SECRETS: Final = {"host-certificate": "host.crt", "host-key": "host.key", "callers-ca": "callers.crt"}
"""SecureString parameters below /mrgc/<environment>/host/, with the files that a host puts them into."""
ARTEFACTS_PREFIX: Final = "host/sha256/"
"""Where in the model bucket a host's artefacts are, each in a folder named by its SHA-256."""


@dataclass(frozen=True, kw_only=True)
class HostRoleArgs:
    """`measurements`: PCR index to 96 hex digits, one mapping for each enclave image that may run now.

    `bucket_arn` and `storage_key_arn`: where the hosts fetch their artefacts, None where the image holds them all.
    `secrets_key_arn`: the key of the hosts' SecureString parameters, None for the account's `aws/ssm`.
    `session_manager`: allow Session Manager's agent. `protect`: keep the role, whose id tenants' policies hold.
    """

    placement: Placement
    measurements: Sequence[Mapping[int, str]]
    group_name: str
    registry_table: str
    tables_key_arn: pulumi.Input[str]
    log_groups: Sequence[str]
    bucket_arn: pulumi.Input[str] | None = None
    storage_key_arn: pulumi.Input[str] | None = None
    secrets_key_arn: pulumi.Input[str] | None = None
    session_manager: bool = False
    protect: bool = True


class HostRole(pulumi.ComponentResource):
    """The role, its policies and its instance profile. Outputs: `role_arn`, `role_name`, `profile_arn`, `policies`."""

    def __init__(self, name: str, args: HostRoleArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mrgc:host_role:HostRole", name, None, opts)
        place = args.placement
        child = pulumi.ResourceOptions(parent=self)
        role = aws.iam.Role(
            f"{name}-role",
            name=host_role_name(place),
            assume_role_policy=trust("ec2.amazonaws.com"),
            tags=place.tags(HOST, HOST),
            opts=pulumi.ResourceOptions(parent=self, protect=args.protect),
        )
        documents: dict[str, pulumi.Input[str]] = {
            "kms": policy(*(decrypt_attested(place, one, number) for number, one in enumerate(args.measurements))),
            "host": policy(*host_statements(args)),
            "table-key": use_table_key([args.tables_key_arn], [place.region]),
        }
        if args.bucket_arn is not None:
            documents["artefacts"] = _fetch_artefacts(place, args.bucket_arn, args.storage_key_arn)
        if args.secrets_key_arn is not None:
            documents["secrets-key"] = open_secrets(place, args.secrets_key_arn)
        self.policies = [
            aws.iam.RolePolicy(f"{name}-{what}-policy", role=role.name, policy=document, opts=child)
            for what, document in documents.items()
        ]
        profile = aws.iam.InstanceProfile(f"{name}-profile", role=role.name, tags=place.tags(HOST, HOST), opts=child)
        self.role_arn = role.arn
        self.role_name = role.name
        self.profile_arn = profile.arn
        self.register_outputs({"role_arn": self.role_arn, "role_name": self.role_name, "profile_arn": self.profile_arn})


def host_role_name(placement: Placement) -> str:
    """`mrgc-<environment>-<region>-host`: the name that tenants put into their keys' policies."""
    return role_name(placement, HOST)


def host_role_arn(placement: Placement) -> str:
    """The role's ARN, known before it exists."""
    return placement.arn("iam", f"role/{host_role_name(placement)}", region="")


def secret_parameters(placement: Placement) -> list[str]:
    """The hosts' SecureString parameters by name. An operator makes them: docs/fleet.md."""
    return [placement.path(HOST, name) for name in SECRETS]


def group_arn(placement: Placement, group_name: str) -> str:
    """An Auto Scaling group's ARN, whose middle part only AWS knows."""
    return placement.arn("autoscaling", f"autoScalingGroup:*:autoScalingGroupName/{group_name}")


def decrypt_attested(placement: Placement, measurement: Mapping[int, str], number: int = 0) -> Statement:
    """`kms:Decrypt` on any tenant's key of this region, by an enclave of this measurement alone.

    The region: without a NAT a host reaches KMS by the region's own endpoint only, so tenants' keys are multi-region
    keys with a replica here. Raises ValueError for a register that is missing, that does not exist, that is no SHA-384,
    or that is zero where only a debug enclave's is (PCR0 to PCR2).
    """
    missing = [index for index in REQUIRED_PCRS if index not in measurement]
    if missing:
        raise ValueError(f"measurements: PCR{missing[0]} is missing; PCR0, PCR1 and PCR2 are required.")
    for index, value in measurement.items():
        if not 0 <= index < MAX_PCRS:
            raise ValueError(f"measurements: PCR{index} is no register; there are PCR0 to PCR{MAX_PCRS - 1}.")
        digits = set(value.lower())
        if len(value) != PCR_HEX_DIGITS or not digits <= set("0123456789abcdef"):
            raise ValueError(f"measurements: PCR{index} is not {PCR_HEX_DIGITS} hex digits.")
        if digits == {"0"} and index in REQUIRED_PCRS:
            raise ValueError(
                f"measurements: PCR{index} is zero, a debug enclave, which no host's role may decrypt for."
            )
    return {
        "Sid": f"AttestedEnclaveDecrypts{number}",
        "Effect": "Allow",
        "Action": "kms:Decrypt",
        "Resource": f"arn:aws:kms:{placement.region}:*:key/*",
        "Condition": {
            "StringEqualsIgnoreCase": {
                f"kms:RecipientAttestation:PCR{index}": measurement[index].lower() for index in sorted(measurement)
            },
            "StringLike": {f"kms:EncryptionContext:{key}": "?*" for key in CONTEXT_KEYS},
            "ForAllValues:StringEquals": {"kms:EncryptionContextKeys": list(CONTEXT_KEYS)},
        },
    }


def host_statements(args: HostRoleArgs) -> list[Statement]:
    """What a host does besides decrypting: report itself, finish its hooks, read its certificate, send telemetry."""
    place = args.placement
    statements: list[Statement] = [
        report_host(place, args.registry_table),
        {
            "Sid": "FinishHooks",
            "Effect": "Allow",
            "Action": ["autoscaling:CompleteLifecycleAction", "autoscaling:RecordLifecycleActionHeartbeat"],
            "Resource": group_arn(place, args.group_name),
        },
        write_logs(place, args.log_groups),
        send_traces(),
        read_parameters(place, secret_parameters(place)),
    ]
    if args.session_manager:
        # What the agent needs for a session, and not the managed policy, which reads every parameter besides.
        statements.append(
            {
                "Sid": "SessionManager",
                "Effect": "Allow",
                "Action": [
                    "ssm:UpdateInstanceInformation",
                    "ssmmessages:CreateControlChannel",
                    "ssmmessages:CreateDataChannel",
                    "ssmmessages:OpenControlChannel",
                    "ssmmessages:OpenDataChannel",
                ],
                "Resource": "*",
            }
        )
    return statements


def _fetch_artefacts(
    placement: Placement, bucket_arn: pulumi.Input[str], key_arn: pulumi.Input[str] | None
) -> pulumi.Output[str]:
    statements: list[dict[str, object]] = [
        {
            "Sid": "FetchArtefacts",
            "Effect": "Allow",
            "Action": "s3:GetObject",
            "Resource": pulumi.Output.concat(bucket_arn, "/", ARTEFACTS_PREFIX, "*"),
        }
    ]
    if key_arn is not None:
        statements.append(
            {
                "Sid": "OpenArtefacts",
                "Effect": "Allow",
                "Action": "kms:Decrypt",
                "Resource": key_arn,
                "Condition": {"StringEquals": {"kms:ViaService": f"s3.{placement.region}.amazonaws.com"}},
            }
        )
    return pulumi.Output.json_dumps({"Version": "2012-10-17", "Statement": statements})
