"""Rules over what the platform's roles may do by their own IAM policies, and what those policies are read from.

A policy whose text is known only after its resources exist is judged at the update, before it is created; at preview
the engine warns that it could not be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from policies.enclave.keys import ATTESTATION_KEYS
from policies.enclave.tenant_keys import ATTESTED_OPERATOR, DECRYPT
from policies.rule import (
    Config,
    ConfigurationError,
    DocumentError,
    Resource,
    ResourceRule,
    Rule,
    Setting,
    at,
    document,
    known,
    like,
    listed,
)
from policies.statements import Condition, Statement, statements

ROLE: Final = "aws:iam/role:Role"
POLICIES_OF_ROLES: Final = (
    "aws:iam/rolePolicy:RolePolicy",
    "aws:iam/policy:Policy",
    "aws:iam/groupPolicy:GroupPolicy",
    "aws:iam/userPolicy:UserPolicy",
    "aws:ssoadmin/permissionSetInlinePolicy:PermissionSetInlinePolicy",
)
ATTACHMENTS: Final = (
    "aws:iam/rolePolicyAttachment:RolePolicyAttachment",
    "aws:iam/rolePolicyAttachmentsExclusive:RolePolicyAttachmentsExclusive",
    "aws:iam/policyAttachment:PolicyAttachment",
    "aws:iam/groupPolicyAttachmentsExclusive:GroupPolicyAttachmentsExclusive",
    "aws:iam/userPolicyAttachmentsExclusive:UserPolicyAttachmentsExclusive",
    "aws:iam/groupPolicyAttachment:GroupPolicyAttachment",
    "aws:iam/userPolicyAttachment:UserPolicyAttachment",
)
READ: Final = (ROLE, *POLICIES_OF_ROLES, *ATTACHMENTS)

KEY_CONTROL: Final = (
    "kms:PutKeyPolicy",
    "kms:CreateGrant",
    "kms:ReplicateKey",
    "kms:UpdatePrimaryRegion",
    "kms:ImportKeyMaterial",
    "kms:DisableKey",
    "kms:DisableKeyRotation",
    "kms:ScheduleKeyDeletion",
)
SELF_CONTROL: Final = (
    "iam:PutRolePolicy",
    "iam:AttachRolePolicy",
    "iam:PutUserPolicy",
    "iam:AttachUserPolicy",
    "iam:PutGroupPolicy",
    "iam:AttachGroupPolicy",
    "iam:CreatePolicyVersion",
    "iam:SetDefaultPolicyVersion",
    "iam:UpdateAssumeRolePolicy",
    "iam:DeleteRolePermissionsBoundary",
    "iam:CreateAccessKey",
    "iam:CreateRole",
    "iam:PassRole",
    "iam:AddRoleToInstanceProfile",
    "iam:AddUserToGroup",
    "iam:CreateLoginProfile",
    "iam:UpdateLoginProfile",
    "iam:PutRolePermissionsBoundary",
)
"""With any of these a role could give itself, or something that it starts, what it lacks."""

RUNNING: Final = (
    "ec2:RunInstances",
    "ec2:CreateLaunchTemplateVersion",
    "ec2:ModifyLaunchTemplate",
    "ec2:ModifyInstanceAttribute",
    "ec2:ModifyInstanceMetadataOptions",
    "ec2:ModifyInstanceMetadataDefaults",
    "ec2:AssociateIamInstanceProfile",
    "ec2:ReplaceIamInstanceProfileAssociation",
    "ec2:GetConsoleOutput",
    "ec2:GetConsoleScreenshot",
    "autoscaling:CreateAutoScalingGroup",
    "autoscaling:UpdateAutoScalingGroup",
    "autoscaling:CreateLaunchConfiguration",
    "ecs:RegisterTaskDefinition",
    "ecs:ExecuteCommand",
    "lambda:UpdateFunctionCode",
    "ecr:PutImage",
    "ssm:PutParameter",
    "ssm:StartSession",
    "ssm:SendCommand",
    "ec2-instance-connect:SendSSHPublicKey",
    "ec2-instance-connect:SendSerialConsoleSSHPublicKey",
)
"""What changes which hosts, images and measurements there are, or looks into those that run."""

OPENING: Final = (DECRYPT, "kms:ReEncryptFrom", "kms:DeriveSharedSecret")
"""What opens things sealed under a key."""

MANAGED_POLICIES: Final = Setting(
    name="managedPolicies",
    description="ARN patterns (* and ?) of the AWS managed policies that roles may have; every other one is refused, "
    "for AWS writes and rewrites them.",
    default=[
        "arn:*:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy",
        "arn:*:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole",
        "arn:*:iam::aws:policy/AmazonSSMManagedInstanceCore",
        "arn:*:iam::aws:policy/AWSXRayDaemonWriteAccess",
    ],
    schema={"type": "array", "items": {"type": "string"}},
)

_BINDING: Final = ("StringEquals", "StringEqualsIgnoreCase", "StringLike")


def documents(resource: Resource) -> Iterator[Statement]:
    """Every statement of a role's or policy's documents; asks the engine to come back with what is not known.

    Raises ConfigurationError, which is reported, for a document that can't be read with certainty.
    """
    values: list[Any] = []
    if resource.type == ROLE:
        values += [at(inline, "policy") for inline in listed(resource.at("inlinePolicies"))]
    elif resource.type in POLICIES_OF_ROLES:
        values.append(resource.at("inlinePolicy" if "ssoadmin" in resource.type else "policy"))
    for value in values:
        if value is None:
            continue
        try:
            found = statements(known(document(value), "policy"))
        except DocumentError as error:
            raise ConfigurationError(f"A policy of {resource.name} {error}.") from None
        odd = [oddity for one in found for oddity in one.oddities]
        if odd:
            raise ConfigurationError(f"A policy of {resource.name} can't be read with certainty: it has {odd[0]}.")
        yield from found


def attached(resource: Resource) -> list[Any]:
    """The ARNs of the policies that a role or an attachment names; `UNKNOWN` for one not known yet."""
    if resource.type == ROLE:
        return listed(resource.at("managedPolicyArns"))
    if resource.type in ATTACHMENTS:
        return listed(resource.at("policyArn")) + listed(resource.at("policyArns"))
    return []


def no_control(resource: Resource, _: Config) -> Iterator[str]:
    """No policy of the program allows changing a key's policy, granting its use, or changing one's own permissions."""
    for statement in documents(resource):
        actions = statement.reaches_any((*KEY_CONTROL, *SELF_CONTROL)) if statement.allow else []
        if actions:
            yield f"{statement.label} allows {', '.join(actions)}."


def leaves_running(resource: Resource, _: Config) -> Iterator[str]:
    """No policy of the program allows changing what runs, what is published of it, or opening a session on it."""
    for statement in documents(resource):
        actions = statement.reaches_any(RUNNING) if statement.allow else []
        if actions:
            yield f"{statement.label} allows {', '.join(actions)}."


def known_managed(resource: Resource, config: Config) -> Iterator[str]:
    """Roles have no AWS managed policy but those that were looked at."""
    patterns = [str(pattern) for pattern in listed(MANAGED_POLICIES.read(config))]
    for arn in attached(resource):
        text = str(known(arn, "policyArn"))
        if like(text, "arn:*:iam::aws:*") and not any(like(text, pattern) for pattern in patterns):
            yield f"The AWS managed policy {text} is attached."


def decrypts_attested(resource: Resource, _: Config) -> Iterator[str]:
    """A role decrypts by itself only as an attested enclave, or through an AWS service that stores for it."""
    for statement in documents(resource):
        actions = statement.reaches_any(OPENING) if statement.allow else []
        if actions and not _bound(statement):
            yield f"{statement.label} allows {', '.join(actions)} without an attestation document."


def _bound(statement: Statement) -> bool:
    """Whether a condition holds only with an attestation document, or only for calls made by an AWS service."""
    return any(_binds(one) for one in statement.conditions)


def _binds(condition: Condition) -> bool:
    values = [str(value) for value in condition.values]
    if condition.key.startswith(ATTESTATION_KEYS):
        if condition.operator == "Null":
            return [value.lower() for value in values] == ["false"]
        # Zeros are what a debug enclave measures.
        return condition.operator == ATTESTED_OPERATOR and all(value.strip("0") for value in values)
    return (
        condition.key == "kms:viaservice"
        and condition.operator in _BINDING
        and bool(values)
        and all(like(value, "?*.?*.amazonaws.com*") for value in values)
    )


RULES: Final[list[Rule]] = [
    ResourceRule(
        "platform-role-no-key-control",
        no_control,
        types=READ,
        protects="The platform's roles can neither change a key's policy, nor grant its use, nor give themselves the "
        "permission to.",
        fix="Remove kms:PutKeyPolicy, kms:CreateGrant, kms:ReplicateKey and the iam: actions that change permissions, "
        "also where a wildcard or NotAction reaches them.",
    ),
    ResourceRule(
        "platform-role-leaves-what-runs",
        leaves_running,
        types=READ,
        protects="What runs is what this program says: no role of the platform starts other hosts, replaces images, "
        "publishes measurements, or looks into a host.",
        fix="Remove the actions that start, change or open hosts, tasks and functions, push images or put parameters, "
        "also where a wildcard or NotAction reaches them.",
    ),
    ResourceRule(
        "platform-role-managed-policies",
        known_managed,
        types=READ,
        settings=(MANAGED_POLICIES,),
        protects="What the platform's roles may do is written in this program, and not in policies that AWS changes.",
        fix="Write the statements that are needed into a policy of the role's own.",
    ),
    ResourceRule(
        "platform-role-attested-decrypt",
        decrypts_attested,
        types=READ,
        protects="The platform's roles open nothing under a KMS key by themselves: a tenant's key needs an attested "
        "enclave, the platform's own an AWS service that stores for it.",
        fix="Put kms:Decrypt under a condition on kms:RecipientAttestation (StringEqualsIgnoreCase, or Null = false) "
        "or on kms:ViaService.",
    ),
]
