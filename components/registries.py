"""A region's image repositories, and its published measurements and image references as parameters.

Tags are immutable and services name images by digest, so what was scanned is what runs. Parameters hold what anyone in
the account may know: a tenant's key policy, not a parameter, decides which image may decrypt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pulumi
import pulumi_aws as aws

from components.placement import Placement

UNTAGGED_DAYS: Final = 30
"""Kept that long; images in use have a tag, which is immutable, so nothing that runs loses its last one."""


@dataclass(frozen=True, kw_only=True)
class RegistriesArgs:
    """`measurements` is PCR index to 96 hex digits; `images` is role to `repository@sha256:...`; all plain values.

    `functions` are the roles whose image Lambda runs too. `protect` keeps repositories from being deleted; without it,
    they go with the images in them.
    """

    placement: Placement
    measurements: Mapping[int, str]
    eif_version: str
    images: Mapping[str, str]
    key_arn: pulumi.Input[str]
    functions: Sequence[str] = ()
    protect: bool = False


def image_reference(placement: Placement, image: str) -> str:
    """The whole reference of `repository@sha256:...` in the region's own registry."""
    return f"{placement.account}.dkr.ecr.{placement.region}.amazonaws.com/{image}"


def parameters(args: RegistriesArgs) -> dict[str, str]:
    """Every parameter's value by its path below /mrgc/<environment>/."""
    registers = {f"measurements/pcr{index}": value for index, value in sorted(args.measurements.items())}
    images = {f"images/{role}": image_reference(args.placement, image) for role, image in args.images.items()}
    return {**registers, "measurements/eif_version": args.eif_version, **images}


def lifecycle() -> dict[str, Any]:
    """Drop untagged images after UNTAGGED_DAYS, and no others."""
    return {
        "rules": [
            {
                "rulePriority": 1,
                "description": f"untagged for {UNTAGGED_DAYS} days",
                "selection": {
                    "tagStatus": "untagged",
                    "countType": "sinceImagePushed",
                    "countUnit": "days",
                    "countNumber": UNTAGGED_DAYS,
                },
                "action": {"type": "expire"},
            }
        ]
    }


def function_pull_policy(placement: Placement) -> dict[str, Any]:
    """Let Lambda pull a repository's image, for functions of this account and region alone.

    As in "Create a Lambda function using a container image" of Lambda's developer guide, whose condition on the
    function's ARN names region and account, and so keeps other accounts' functions out. Tasks need no such statement:
    within an account their roles' permissions are enough, while Lambda pulls as a service.
    """
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "FunctionsPull",
                "Effect": "Allow",
                "Principal": {"Service": "lambda.amazonaws.com"},
                "Action": ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
                "Condition": {"ArnLike": {"aws:SourceArn": placement.arn("lambda", "function:*")}},
            }
        ],
    }


class Registries(pulumi.ComponentResource):
    """`parameter_names` by path (`measurements/pcr0`), `repository_urls` by repository, `image` by role.

    `function_pulls` lets Lambda pull: functions wait for it.
    """

    parameter_names: dict[str, str]
    repository_urls: dict[str, pulumi.Output[str]]
    image: dict[str, str]
    function_pulls: list[pulumi.Resource]

    def __init__(self, name: str, args: RegistriesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mrgc:registries:Registries", name, None, opts)
        self.image = {role: image_reference(args.placement, image) for role, image in args.images.items()}
        self.function_pulls = []
        # Two roles may run two images of one repository.
        repositories = dict.fromkeys(image.partition("@")[0] for image in args.images.values())
        self.repository_urls = {repository: self._repository(name, repository, args) for repository in repositories}
        self.parameter_names = {}
        for path, value in parameters(args).items():
            self.parameter_names[path] = args.placement.path(path)
            aws.ssm.Parameter(
                f"{name}-{path.replace('/', '-')}",
                name=self.parameter_names[path],
                type="String",
                # Not `value`, which the provider takes for a secret: these are published.
                insecure_value=value,
                tags=args.placement.tags("registries", path.replace("/", "-")),
                opts=pulumi.ResourceOptions(parent=self),
            )
        self.register_outputs(
            {"parameter_names": self.parameter_names, "repository_urls": self.repository_urls, "image": self.image}
        )

    def _repository(self, name: str, repository: str, args: RegistriesArgs) -> pulumi.Output[str]:
        label = repository.replace("/", "-")
        made = aws.ecr.Repository(
            f"{name}-{label}",
            name=repository,
            image_tag_mutability="IMMUTABLE",
            image_scanning_configuration=aws.ecr.RepositoryImageScanningConfigurationArgs(scan_on_push=True),
            encryption_configurations=[
                aws.ecr.RepositoryEncryptionConfigurationArgs(encryption_type="KMS", kms_key=args.key_arn)
            ],
            force_delete=not args.protect,
            tags=args.placement.tags("registries", label),
            opts=pulumi.ResourceOptions(parent=self, protect=args.protect, retain_on_delete=args.protect),
        )
        aws.ecr.LifecyclePolicy(
            f"{name}-{label}-lifecycle",
            repository=made.name,
            policy=json.dumps(lifecycle()),
            opts=pulumi.ResourceOptions(parent=self),
        )
        if repository in {args.images[role].partition("@")[0] for role in args.functions}:
            self.function_pulls.append(
                aws.ecr.RepositoryPolicy(
                    f"{name}-{label}-functions",
                    repository=made.name,
                    policy=json.dumps(function_pull_policy(args.placement)),
                    opts=pulumi.ResourceOptions(parent=self),
                )
            )
        return made.repository_url
