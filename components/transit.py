"""A region's transit gateway: the VPC's attachment, one route table with static routes, and the way to it from the VPC.

Nothing is associated or propagated by default: what may pass is written down, and everything else has no route. The
routes to other regions are the mesh's (`components/mesh.py`), which needs all gateways first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

import pulumi
import pulumi_aws as aws

from components.placement import Placement


@dataclass(frozen=True, kw_only=True)
class RegionTransitArgs:
    """What a region's transit gateway is made of.

    `subnet_ids` are the transit tier's, one a zone: hosts of a zone without one cannot reach the gateway.
    `route_table_ids` are the VPC's tables whose hosts talk to other regions. `asn` is the gateway's own, 64512 to
    65534. `block` is the region's /18, `peer_blocks` every other region's by name.
    """

    placement: Placement
    vpc_id: pulumi.Input[str]
    subnet_ids: Sequence[pulumi.Input[str]]
    route_table_ids: Sequence[pulumi.Input[str]]
    asn: int
    block: IPv4Network
    peer_blocks: Mapping[str, IPv4Network]


class RegionTransit(pulumi.ComponentResource):
    """One region's transit gateway, attached to its VPC.

    `gateway_id`, `attachment_id` (the VPC's) and `route_table_id` (the gateway's one table) are outputs.
    """

    gateway_id: pulumi.Output[str]
    attachment_id: pulumi.Output[str]
    route_table_id: pulumi.Output[str]

    def __init__(self, name: str, args: RegionTransitArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mrgc:transit:RegionTransit", name, {}, opts)
        region = args.placement.region
        child = pulumi.ResourceOptions(parent=self)
        gateway = aws.ec2transitgateway.TransitGateway(
            f"{name}-gateway",
            description=f"Joins {region} to the other regions",
            # The original design gives every gateway 64512; docs/transit.md says why each has its own.
            amazon_side_asn=args.asn,
            default_route_table_association="disable",
            default_route_table_propagation="disable",
            auto_accept_shared_attachments="disable",
            vpn_ecmp_support="disable",
            tags=args.placement.tags("transit", f"transit-{region}"),
            opts=child,
        )
        attachment = aws.ec2transitgateway.VpcAttachment(
            f"{name}-attachment",
            transit_gateway_id=gateway.id,
            vpc_id=args.vpc_id,
            subnet_ids=list(args.subnet_ids),
            transit_gateway_default_route_table_association=False,
            transit_gateway_default_route_table_propagation=False,
            tags=args.placement.tags("transit", f"transit-{region}-vpc"),
            opts=child,
        )
        table = aws.ec2transitgateway.RouteTable(
            f"{name}-table",
            transit_gateway_id=gateway.id,
            tags=args.placement.tags("transit", f"transit-{region}"),
            opts=child,
        )
        # An attachment has one table, and a table one static route for a block: the new one cannot stand beside the
        # old, so what is replaced is deleted first.
        in_turn = pulumi.ResourceOptions(parent=self, delete_before_replace=True)
        aws.ec2transitgateway.RouteTableAssociation(
            f"{name}-association",
            transit_gateway_attachment_id=attachment.id,
            transit_gateway_route_table_id=table.id,
            opts=in_turn,
        )
        aws.ec2transitgateway.Route(
            f"{name}-own",
            destination_cidr_block=str(args.block),
            transit_gateway_attachment_id=attachment.id,
            transit_gateway_route_table_id=table.id,
            opts=in_turn,
        )
        self._lead_to_peers(name, args, gateway, attachment)
        self.gateway_id = gateway.id
        self.attachment_id = attachment.id
        self.route_table_id = table.id
        self.register_outputs(
            {
                "gateway_id": self.gateway_id,
                "attachment_id": self.attachment_id,
                "route_table_id": self.route_table_id,
            }
        )

    def _lead_to_peers(
        self,
        name: str,
        args: RegionTransitArgs,
        gateway: aws.ec2transitgateway.TransitGateway,
        attachment: aws.ec2transitgateway.VpcAttachment,
    ) -> None:
        """Routes of the VPC: each peer's /18, never the /16 and never a default route."""
        for peer, block in args.peer_blocks.items():
            for zone, route_table_id in enumerate(args.route_table_ids):
                aws.ec2.Route(
                    f"{name}-to-{peer}-{zone}",
                    route_table_id=route_table_id,
                    destination_cidr_block=str(block),
                    transit_gateway_id=gateway.id,
                    # EC2 refuses a route to a gateway that is not yet attached to the VPC.
                    opts=pulumi.ResourceOptions(parent=self, depends_on=[attachment], delete_before_replace=True),
                )
