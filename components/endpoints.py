"""One region's interface endpoints: every AWS service that hosts, routers and control loops call, without the internet.

Private DNS makes each service's usual name answer with addresses of the private tier. S3 and DynamoDB have gateway
endpoints, which belong to the route tables and are made with them (`network.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from components.endpoint_policies import INTERFACE_SERVICES, SESSION_SERVICES, endpoint_policy
from components.placement import Placement


@dataclass(frozen=True, kw_only=True)
class RegionEndpointsArgs:
    """`subnet_ids` are the private tier's, one a zone; `security_group_id` is the endpoints' group.

    `session_manager` adds what Session Manager needs; a host that can be logged into is not at assurance level 2.
    """

    placement: Placement
    vpc_id: pulumi.Input[str]
    subnet_ids: Sequence[pulumi.Input[str]]
    security_group_id: pulumi.Input[str]
    session_manager: bool


def services(*, session_manager: bool) -> tuple[str, ...]:
    """The services with an interface endpoint, by the last part of their service name."""
    return INTERFACE_SERVICES + (SESSION_SERVICES if session_manager else ())


class RegionEndpoints(pulumi.ComponentResource):
    """Interface endpoints of one region, each in every zone, with private DNS and a policy of its own."""

    endpoint_ids: dict[str, pulumi.Output[str]]

    def __init__(self, name: str, args: RegionEndpointsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mrgc:endpoints:RegionEndpoints", name, None, opts)
        placement = args.placement
        self.endpoint_ids = {}
        for service in services(session_manager=args.session_manager):
            what = service.replace(".", "-")
            endpoint = aws.ec2.VpcEndpoint(
                f"{name}-{what}",
                vpc_id=args.vpc_id,
                vpc_endpoint_type="Interface",
                service_name=f"com.amazonaws.{placement.region}.{service}",
                subnet_ids=list(args.subnet_ids),
                security_group_ids=[args.security_group_id],
                private_dns_enabled=True,
                policy=endpoint_policy(placement, service, session_manager=args.session_manager),
                tags=placement.tags("endpoints", what),
                opts=pulumi.ResourceOptions(parent=self),
            )
            self.endpoint_ids[service] = endpoint.id
        self.register_outputs({"endpoint_ids": self.endpoint_ids})
