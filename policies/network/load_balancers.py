"""Rules over load balancers: internal, guarded, listening where listed, and quick to notice a dead router."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from policies.network.configuration import LISTENER_PORTS, least, ports, whole
from policies.rule import UNKNOWN, Config, Resource, ResourceRule, Rule, Setting, at, is_true, known, listed

_MODULES: Final = ("lb", "alb", "elasticloadbalancingv2", "applicationloadbalancing")
"""The provider's several names of one service."""
BALANCERS: Final = tuple(f"aws:{module}/loadBalancer:LoadBalancer" for module in _MODULES)
LISTENERS: Final = tuple(f"aws:{module}/listener:Listener" for module in _MODULES)
TARGETS: Final = tuple(f"aws:{module}/targetGroup:TargetGroup" for module in _MODULES)
ACCELERATOR_LISTENER: Final = "aws:globalaccelerator/listener:Listener"

BUDGET: Final = Setting(
    name="budgetSeconds",
    description="Seconds after which a dead router gets no more connections: interval times unhealthy threshold, and "
    "one time-out.",
    default=30,
    schema={"type": "integer", "minimum": 5},
)
INTERVAL: Final = Setting(
    name="maximumInterval",
    description="Seconds between two health checks at the most.",
    default=10,
    schema={"type": "integer", "minimum": 5},
)
DEFAULT_INTERVAL_S: Final = 30
DEFAULT_THRESHOLD: Final = 3
DEFAULT_TIMEOUT_S: Final = 10
"""What AWS takes where a health check does not say: the longest of its defaults."""
TARGET_PORTS: Final = Setting(
    name="targetPorts",
    description="TCP ports of the routers that load balancers may lead to.",
    default=[443],
    schema={"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 65535}},
)
TASKS: Final = "aws:ecs/service:Service"
READINESS: Final = ("HTTP", "HTTPS")
"""Protocols whose answer can be "not ready": a TCP check is passed by any process that listens."""


def guarded(resource: Resource, _: Config) -> Iterator[str]:
    """A network load balancer, internal, with a security group that PrivateLink does not get around."""
    if known(resource.at("loadBalancerType"), "loadBalancerType") != "network":
        yield "It is no network load balancer; TLS ends in the router, and nothing before it may open it."
    if not is_true(known(resource.at("internal"), "internal")):
        yield "It is not internal; it would have public addresses beside the accelerator's."
    if known(resource.at("ipAddressType"), "ipAddressType") not in (None, "ipv4"):
        yield f"ipAddressType is {resource.at('ipAddressType')}; the network has IPv4 only."
    groups = resource.at("securityGroups")
    if groups is not UNKNOWN and not listed(groups):
        yield "It has no security group, so that its ports are open to everyone, and none can be added later."
    enforced = known(
        resource.at("enforceSecurityGroupInboundRulesOnPrivateLinkTraffic"),
        "enforceSecurityGroupInboundRulesOnPrivateLinkTraffic",
    )
    if enforced not in (None, "on"):
        yield "PrivateLink's traffic passes by its security group; set the enforcement on."


def listens_as_listed(resource: Resource, config: Config) -> Iterator[str]:
    """Listeners take TCP on the listed ports."""
    allowed = ports(config)
    protocol = known(resource.at("protocol"), "protocol")
    if protocol != "TCP":
        yield f"It speaks {protocol or 'what is not given'}; listeners pass TCP on, and TLS ends in the router."
    spans = [(resource.at("port"), resource.at("port"))]
    if resource.type == ACCELERATOR_LISTENER:
        ranges = listed(known(resource.at("portRanges"), "portRanges"))
        spans = [(at(one, "fromPort"), at(one, "toPort")) for one in ranges]
    for low, high in spans:
        first, last = whole(known(low, "port")), whole(known(high, "port"))
        if first is None or last is None or not all(port in allowed for port in range(first, last + 1)):
            yield f"It listens on {first} to {last}; listeners are on {' and '.join(map(str, sorted(allowed)))}."


def leads_to_routers(resource: Resource, config: Config) -> Iterator[str]:
    """Load balancers lead to the routers' tasks, at the port where these open TLS."""
    allowed = ports(config, TARGET_PORTS)
    listing = " and ".join(map(str, sorted(allowed)))
    if resource.type == TASKS:
        where = known(resource.at("launchType"), "launchType")
        if where not in (None, "FARGATE"):
            yield f"It runs on {where}; routers and control loops are tasks of Fargate."
        for one in listed(known(resource.at("loadBalancers"), "loadBalancers")):
            port = known(at(one, "containerPort"), "loadBalancers.containerPort")
            if whole(port) not in allowed:
                yield f"It takes connections at {port}; routers take tenants' at {listing}."
        return
    if known(resource.at("targetType"), "targetType") != "ip":
        yield f"Its targets are by {resource.at('targetType') or 'instance'}; routers are tasks, by ip."
    if known(resource.at("protocol"), "protocol") != "TCP":
        yield f"It speaks {resource.at('protocol') or 'what is not given'} to its targets; TLS is passed on as TCP."
    if whole(known(resource.at("port"), "port")) not in allowed:
        yield f"It leads to port {resource.at('port')}; routers take tenants' connections at {listing}."


def meets_the_budget(resource: Resource, config: Config) -> Iterator[str]:
    """A router that is dead, or says that it is not ready, gets no new connection within the budget."""
    check = known(resource.at("healthCheck"), "healthCheck")
    if check is None:
        yield "It has no health check of its own, and AWS's default waits for 90 seconds of failed connections."
        return
    enabled = known(at(check, "enabled"), "healthCheck.enabled")
    if enabled is not None and not is_true(enabled):
        yield "Its health check is off; a dead router would keep its connections."
        return
    protocol = known(at(check, "protocol"), "healthCheck.protocol")
    if protocol not in READINESS:
        yield f"It checks by {protocol or 'TCP, the default'}; only by HTTP and HTTPS can a router say not ready."
    elif not at(check, "path"):
        yield "Its health check has no path; name the router's readiness."
    matcher = known(at(check, "matcher"), "healthCheck.matcher")
    if matcher is not None and not all(text.strip().startswith(("2", "3")) for text in str(matcher).split(",")):
        yield f"It takes {matcher} for healthy; a router that is not ready answers 503."
    interval = whole(known(at(check, "interval"), "healthCheck.interval")) or DEFAULT_INTERVAL_S
    threshold = whole(known(at(check, "unhealthyThreshold"), "healthCheck.unhealthyThreshold")) or DEFAULT_THRESHOLD
    timeout = whole(known(at(check, "timeout"), "healthCheck.timeout")) or DEFAULT_TIMEOUT_S
    longest, budget = least(INTERVAL, config), least(BUDGET, config)
    if interval > longest:
        yield f"It checks every {interval} s; check every {longest} s or more often."
    elif interval * threshold + timeout > budget:
        yield (
            f"A dead router is out after {interval} s times {threshold} and {timeout} s, "
            f"{interval * threshold + timeout} s in all; the failover budget is {budget} s."
        )


RULES: Final[list[Rule]] = [
    ResourceRule(
        "load-balancers-are-guarded",
        guarded,
        protects="The load balancer is the edge of the cluster: it opens no TLS, has no public address, and lets in "
        "what its security group says.",
        fix="Make it a network load balancer, internal, with the load balancer's security group from its creation and "
        "enforcement for PrivateLink on.",
        types=BALANCERS,
    ),
    ResourceRule(
        "listeners-as-listed",
        listens_as_listed,
        protects="Whatever listens to everyone is listed, and passes TLS on to the routers unopened.",
        fix="Listen by TCP on the listed ports only.",
        types=(*LISTENERS, ACCELERATOR_LISTENER),
        settings=(LISTENER_PORTS,),
    ),
    ResourceRule(
        "targets-are-routers",
        leads_to_routers,
        protects="Tenants reach the port where the router opens TLS, and neither its administration nor any host.",
        fix="Make the target group by ip, TCP and on the routers' TLS port, and give services the same.",
        types=(*TARGETS, TASKS),
        settings=(TARGET_PORTS,),
    ),
    ResourceRule(
        "health-checks-meet-the-failover-budget",
        meets_the_budget,
        protects="The load balancer's health checks are the accelerator's: how soon they fail is how soon a lost "
        "region is left.",
        fix="Check the router's readiness by HTTP, every 10 s with a threshold of 2, or sooner.",
        types=TARGETS,
        settings=(INTERVAL, BUDGET),
    ),
]
