"""The full mesh between the regions' transit gateways: peerings, their acceptance, static routes, blackholes.

Which table sends what where is decided in `components/mesh_routes.py`. A lost peering keeps its attachment: only the
routes go round it, so that going back is a change of two routes and not a new peering.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from components.addressing import RegionPlan
from components.mesh_routes import BLACKHOLES, Peering, peerings, routes
from components.placement import Placement


@dataclass(frozen=True, kw_only=True)
class TransitMeshArgs:
    """What the mesh joins: everything by region, home first, the same regions in each mapping.

    `gateways` and `route_tables` are the ids that `RegionTransit` gives. `lost_peerings` names pairs of regions, in
    either order, whose peering carries nothing.
    """

    placements: Mapping[str, Placement]
    plans: Mapping[str, RegionPlan]
    gateways: Mapping[str, pulumi.Input[str]]
    route_tables: Mapping[str, pulumi.Input[str]]
    providers: Mapping[str, aws.Provider]
    lost_peerings: Sequence[tuple[str, str]] = ()


class TransitMesh(pulumi.ComponentResource):
    """Every pair of regions peered.

    `peering_ids` maps `<region>/<region>` (the asking one first) to the accepted attachment's id. Raises MeshError
    where the lost peerings cut a region off.
    """

    peering_ids: dict[str, pulumi.Output[str]]

    def __init__(self, name: str, args: TransitMeshArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mrgc:mesh:TransitMesh", name, {}, opts)
        # Before anything is registered: a mesh that falls apart is refused whole.
        found = routes({region: plan.block for region, plan in args.plans.items()}, args.lost_peerings)
        accepted: dict[Peering, aws.ec2transitgateway.PeeringAttachmentAccepter] = {}
        associated: dict[tuple[Peering, str], aws.ec2transitgateway.RouteTableAssociation] = {}
        for pair in peerings(tuple(args.plans)):
            accepted[pair] = self._peer(name, args, pair)
            for region in pair:
                associated[pair, region] = aws.ec2transitgateway.RouteTableAssociation(
                    f"{name}-{'-'.join(pair)}-table-{region}",
                    transit_gateway_attachment_id=accepted[pair].id,
                    transit_gateway_route_table_id=args.route_tables[region],
                    opts=self._in_turn(args.providers[region]),
                )
        for route in found:
            aws.ec2transitgateway.Route(
                # Named by where it leads, not by the way: a lost peering changes this route and adds none.
                f"{name}-{route.region}-to-{route.destination}",
                destination_cidr_block=str(route.block),
                # The accepter's id, not the request's: a route over a peering that is pending is refused.
                transit_gateway_attachment_id=accepted[route.peering].id,
                transit_gateway_route_table_id=args.route_tables[route.region],
                opts=self._in_turn(args.providers[route.region], associated[route.peering, route.region]),
            )
        for region in args.plans:
            for block in BLACKHOLES:
                aws.ec2transitgateway.Route(
                    f"{name}-{region}-drop-{block.network_address}",
                    destination_cidr_block=str(block),
                    blackhole=True,
                    transit_gateway_route_table_id=args.route_tables[region],
                    opts=self._in_turn(args.providers[region]),
                )
        self.peering_ids = {f"{one}/{other}": accepter.id for (one, other), accepter in accepted.items()}
        self.register_outputs({"peering_ids": self.peering_ids})

    def _peer(self, name: str, args: TransitMeshArgs, pair: Peering) -> aws.ec2transitgateway.PeeringAttachmentAccepter:
        one, other = pair
        tag = f"mesh-{one}-{other}"
        asked = aws.ec2transitgateway.PeeringAttachment(
            f"{name}-{one}-{other}",
            transit_gateway_id=args.gateways[one],
            peer_transit_gateway_id=args.gateways[other],
            peer_region=other,
            peer_account_id=args.placements[other].account,
            tags=args.placements[one].tags("mesh", tag),
            opts=pulumi.ResourceOptions(parent=self, provider=args.providers[one]),
        )
        return aws.ec2transitgateway.PeeringAttachmentAccepter(
            f"{name}-{one}-{other}-accepter",
            transit_gateway_attachment_id=asked.id,
            tags=args.placements[other].tags("mesh", tag),
            opts=pulumi.ResourceOptions(parent=self, provider=args.providers[other]),
        )

    def _in_turn(self, provider: aws.Provider, *after: pulumi.Resource) -> pulumi.ResourceOptions:
        """Options of what AWS holds once: the provider has no update for it, and AWS refuses a second beside the first.

        An attachment has one route table, and a table one static route for a block.
        """
        return pulumi.ResourceOptions(
            parent=self, provider=provider, depends_on=list(after), delete_before_replace=True
        )
