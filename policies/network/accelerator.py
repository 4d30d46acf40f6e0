"""Rules over the accelerator: every region behind it, clients' addresses kept, its flows logged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from policies.network.configuration import REGIONS, blocks
from policies.network.links import Links
from policies.network.load_balancers import ACCELERATOR_LISTENER, BALANCERS
from policies.rule import Config, Resource, ResourceRule, Rule, StackRule, at, is_true, known, listed

ACCELERATOR: Final = "aws:globalaccelerator/accelerator:Accelerator"
GROUP: Final = "aws:globalaccelerator/endpointGroup:EndpointGroup"


def keeps_addresses(resource: Resource, _: Config) -> Iterator[str]:
    """Each endpoint gets the client's own address, and each group has one at least."""
    endpoints = listed(known(resource.at("endpointConfigurations"), "endpointConfigurations"))
    if not endpoints:
        yield "It has no endpoint; its region would be skipped."
    for number, one in enumerate(endpoints):
        what = f"endpointConfigurations.{number}"
        kept = known(at(one, "clientIpPreservationEnabled"), f"{what}.clientIpPreservationEnabled")
        if not is_true(kept):
            yield f"{what}.clientIpPreservationEnabled is not true."
        if at(one, "attachmentArn") not in (None, ""):
            yield f"{what} is of another account (attachmentArn); the regions' own load balancers are the endpoints."


def keeps_logs(resource: Resource, _: Config) -> Iterator[str]:
    """The accelerator writes its flows to a bucket."""
    if not is_true(known(at(resource.at("attributes"), "flowLogsEnabled"), "attributes.flowLogsEnabled")):
        yield "attributes.flowLogsEnabled is not true."
    elif at(resource.at("attributes"), "flowLogsS3Bucket") in (None, ""):
        yield "attributes.flowLogsS3Bucket is missing."


def every_region(resources: Sequence[Resource], config: Config) -> Iterator[tuple[str, str | None]]:
    """Each listener has one endpoint group a region, each with a load balancer of that region."""
    links = Links(resources)
    listeners = links.of(ACCELERATOR_LISTENER)
    if links.of(*BALANCERS) and not listeners:
        yield "There are load balancers and no accelerator with a listener before them.", None
    for listener in listeners:
        groups = [one for one in links.of(GROUP) if listener in links.targets(one, "listenerArn", ACCELERATOR_LISTENER)]
        for region in blocks(config):
            found = [one for one in groups if _region(one) == region]
            if len(found) != 1:
                yield f"{listener.name} has {len(found) or 'no'} endpoint groups in {region}; it has one.", listener.urn
    for group in links.of(GROUP):
        balancers = links.targets(group, "endpointConfigurations", *BALANCERS)
        if not any(balancer.region == _region(group) for balancer in balancers):
            yield f"{group.name} leads to no load balancer of {_region(group)} in this stack.", group.urn or None
        elif len(balancers) != len(listed(group.at("endpointConfigurations"))):
            yield f"{group.name} leads elsewhere than to load balancers of this stack as well.", group.urn or None


def _region(group: Resource) -> str:
    return str(group.at("endpointGroupRegion"))


RULES: Final[list[Rule]] = [
    ResourceRule(
        "accelerator-keeps-client-addresses",
        keeps_addresses,
        protects="Flow logs and limits at the load balancer see who really calls; internal load balancers are "
        "endpoints only with it.",
        fix="Set client_ip_preservation_enabled to true on every endpoint.",
        types=(GROUP,),
    ),
    ResourceRule(
        "accelerator-keeps-flow-logs",
        keeps_logs,
        protects="Who called the cluster's addresses, and where the accelerator sent them, is known afterwards.",
        fix="Set attributes.flow_logs_enabled with a bucket of the platform.",
        types=(ACCELERATOR,),
    ),
    StackRule(
        "accelerator-reaches-every-region",
        every_region,
        protects="A region without an endpoint group takes no traffic, and is none to fail over to.",
        fix="Give each listener an endpoint group with the load balancer of every region.",
        settings=(REGIONS,),
    ),
]
