"""A region's way in: an internal network load balancer in front of the routers, and the PrivateLink service before it.

The load balancer passes TCP; TLS ends in the router. Its health check is what moves traffic to another region: the
accelerator has no other (docs/endpoint.md).

It writes no access logs: a network load balancer logs TLS listeners only, and these are TCP. The VPC's flow logs and
the accelerator's have the connections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pulumi
import pulumi_aws as aws

from components.placement import Placement

TLS_PORT: Final = 443
"""Where routers end tenants' TLS; every listener's target."""
ALTERNATE_PORT: Final = 8080
"""A second listener in front of the same TLS, for networks that let 443 go through proxies only."""
HEALTH_PORT: Final = 8080
"""The router's plain port, for the load balancer's checks; no listener leads there."""
HEALTH_PATH: Final = "/health"
HEALTH_INTERVAL_S: Final = 10
HEALTH_TIMEOUT_S: Final = 5
HEALTH_THRESHOLD: Final = 2
"""Checks in a row that change a target's state. With 10 s and a time-out of 5 s, a dead router is out after 25 s."""
DRAIN_S: Final = 105
"""Seconds that streams have when their router leaves or turns unhealthy: as long as the router's own drain."""
IDLE_S: Final = 350
"""Seconds of silence before a connection is dropped; the accelerator's own limit is 340 and cannot be changed."""


@dataclass(frozen=True, kw_only=True)
class RegionEndpointArgs:
    """What a region's load balancer is made of.

    `subnet_ids` are the public tier's, one a zone; `security_group_id` is the load balancer's, from its creation, since
    adding a first group later replaces the load balancer. `allowed_principals` are ARNs of those who may ask for a
    PrivateLink connection; each request is accepted by hand. `private_dns_name` is a name that you own, or None.
    `after` is what the load balancer stands on without naming it: the internet gateway's route, for the accelerator.
    """

    placement: Placement
    vpc_id: pulumi.Input[str]
    subnet_ids: Sequence[pulumi.Input[str]]
    security_group_id: pulumi.Input[str]
    alternate_port: bool
    allowed_principals: Sequence[str] = ()
    private_dns_name: str | None = None
    after: Sequence[pulumi.Resource] = ()


class RegionEndpoint(pulumi.ComponentResource):
    """One region's load balancer, its target group and its endpoint service.

    `load_balancer_arn`, `load_balancer_dns_name`, `load_balancer_arn_suffix` (as metrics name it), `target_group_arns`,
    `target_group_arn_suffix` and `service_name` are outputs. `private_dns_records` holds the TXT record (name, type,
    value) that proves to AWS that `private_dns_name` is yours.
    """

    load_balancer_arn: pulumi.Output[str]
    load_balancer_dns_name: pulumi.Output[str]
    load_balancer_arn_suffix: pulumi.Output[str]
    target_group_arns: list[pulumi.Output[str]]
    target_group_arn_suffix: pulumi.Output[str]
    service_name: pulumi.Output[str]
    private_dns_records: pulumi.Output[Sequence[aws.ec2.outputs.VpcEndpointServicePrivateDnsNameConfiguration]]

    def __init__(self, name: str, args: RegionEndpointArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mrgc:endpoint:RegionEndpoint", name, {}, opts)
        region = args.placement.region
        child = pulumi.ResourceOptions(parent=self)
        # Named by region and not by component: names of load balancers end at 32 characters, 8 of them Pulumi's.
        balancer = aws.lb.LoadBalancer(
            f"nlb-{region}",
            load_balancer_type="network",
            internal=True,
            subnets=list(args.subnet_ids),
            security_groups=[args.security_group_id],
            # The group bounds the ports for PrivateLink too.
            enforce_security_group_inbound_rules_on_private_link_traffic="on",
            enable_cross_zone_load_balancing=True,
            tags=args.placement.tags("endpoint", f"nlb-{region}"),
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(args.after)),
        )
        targets = self._targets(args)
        for port in (TLS_PORT, ALTERNATE_PORT) if args.alternate_port else (TLS_PORT,):
            aws.lb.Listener(
                f"{name}-listener-{port}",
                load_balancer_arn=balancer.arn,
                port=port,
                protocol="TCP",
                tcp_idle_timeout_seconds=IDLE_S,
                default_actions=[aws.lb.ListenerDefaultActionArgs(type="forward", target_group_arn=targets.arn)],
                tags=args.placement.tags("endpoint", f"nlb-{region}-{port}"),
                opts=child,
            )
        service = aws.ec2.VpcEndpointService(
            f"{name}-service",
            network_load_balancer_arns=[balancer.arn],
            acceptance_required=True,
            allowed_principals=list(args.allowed_principals),
            private_dns_name=args.private_dns_name,
            tags=args.placement.tags("endpoint", f"service-{region}"),
            opts=child,
        )
        self.load_balancer_arn = balancer.arn
        self.load_balancer_dns_name = balancer.dns_name
        self.load_balancer_arn_suffix = balancer.arn_suffix
        self.target_group_arns = [targets.arn]
        self.target_group_arn_suffix = targets.arn_suffix
        self.service_name = service.service_name
        self.private_dns_records = service.private_dns_name_configurations
        self.register_outputs(
            {
                "load_balancer_arn": self.load_balancer_arn,
                "load_balancer_dns_name": self.load_balancer_dns_name,
                "load_balancer_arn_suffix": self.load_balancer_arn_suffix,
                "target_group_arns": self.target_group_arns,
                "target_group_arn_suffix": self.target_group_arn_suffix,
                "service_name": self.service_name,
                "private_dns_records": self.private_dns_records,
            }
        )

    def _targets(self, args: RegionEndpointArgs) -> aws.lb.TargetGroup:
        """The one group of routers. One, so that both listeners share its health, and a router registers once."""
        return aws.lb.TargetGroup(
            f"tls-{args.placement.region}",
            vpc_id=args.vpc_id,
            target_type="ip",
            port=TLS_PORT,
            protocol="TCP",
            # Routers see the load balancer's addresses, so the private tier admits nobody from outside the cluster.
            preserve_client_ip="false",
            proxy_protocol_v2=False,
            deregistration_delay=DRAIN_S,
            # A draining router says "not ready" on purpose; by default its streams would be cut there and then.
            target_health_states=[
                aws.lb.TargetGroupTargetHealthStateArgs(
                    enable_unhealthy_connection_termination=False, unhealthy_draining_interval=DRAIN_S
                )
            ],
            health_check=aws.lb.TargetGroupHealthCheckArgs(
                enabled=True,
                protocol="HTTP",
                port=str(HEALTH_PORT),
                path=HEALTH_PATH,
                matcher="200",
                interval=HEALTH_INTERVAL_S,
                timeout=HEALTH_TIMEOUT_S,
                healthy_threshold=HEALTH_THRESHOLD,
                unhealthy_threshold=HEALTH_THRESHOLD,
            ),
            tags=args.placement.tags("endpoint", f"tls-{args.placement.region}"),
            opts=pulumi.ResourceOptions(parent=self),
        )
