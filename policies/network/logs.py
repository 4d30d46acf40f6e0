"""Rules over logs: a flow log for every network, and every log kept long enough to look back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from policies.network.addresses import VPC
from policies.network.configuration import LOG_DAYS, least, whole
from policies.network.links import Links
from policies.rule import Config, Resource, ResourceRule, Rule, StackRule, at, known, listed

GROUP: Final = "aws:cloudwatch/logGroup:LogGroup"
LIFECYCLE: Final = (
    "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration",
    "aws:s3/bucketLifecycleConfigurationV2:BucketLifecycleConfigurationV2",
)
FLOW_LOG: Final = "aws:ec2/flowLog:FlowLog"
BUCKETS: Final = ("aws:s3/bucket:Bucket", "aws:s3/bucketV2:BucketV2")
DELIVERY: Final = "DELIVERY"
"""A class of log groups that are kept two days, whatever their retention says."""


def kept_long_enough(resource: Resource, config: Config) -> Iterator[str]:
    """Log groups, and buckets' current objects, are kept the least number of days; 0 or none is for ever."""
    days = least(LOG_DAYS, config)
    if resource.type == GROUP:
        if known(resource.at("logGroupClass"), "logGroupClass") == DELIVERY:
            yield f"Its class is {DELIVERY}, which keeps logs two days."
        kept = known(resource.at("retentionInDays"), "retentionInDays")
        number = 0 if kept is None else whole(kept)
        if number is None or 0 < number < days:
            yield f"It is kept {kept} days; keep logs {days} or more."
        return
    for rule in listed(known(resource.at("rules"), "rules")):
        kept = known(at(rule, "expiration", "days"), "expiration.days")
        number = None if kept in (None, 0) else whole(kept)
        if number is not None and number < days:
            yield f"Its rule {at(rule, 'id') or ''} deletes objects after {number} days; keep them {days} or more."
        if at(rule, "expiration", "date") not in (None, ""):
            yield f"Its rule {at(rule, 'id') or ''} deletes every object on one day; give days, {days} or more."


def flow_logs(resources: Sequence[Resource], config: Config) -> Iterator[tuple[str, str | None]]:
    """Every VPC has a flow log of all traffic, into a log group or bucket of this stack that keeps it."""
    links = Links(resources)
    days = least(LOG_DAYS, config)
    for vpc in links.of(VPC):
        problems = [
            problem
            for one in links.of(FLOW_LOG)
            if vpc in links.targets(one, "vpcId", VPC)
            for problem in [_wanting(links, one, days)]
        ]
        if None not in problems:
            why = f": {problems[0]}" if problems else ""
            yield f"{vpc.name} in {vpc.region} has no flow log that will do{why}.", vpc.urn or None


def _wanting(links: Links, log: Resource, days: int) -> str | None:
    """What a flow log lacks; None where nothing."""
    if log.at("trafficType") != "ALL":
        return f"{log.name} records {log.at('trafficType')}, and not ALL"
    groups = links.targets(log, "logDestination", GROUP) or links.targets(log, "logGroupName", GROUP)
    if not groups and not links.targets(log, "logDestination", *BUCKETS):
        return f"{log.name} goes to no log group or bucket of this stack"
    for group in groups:
        kept = whole(group.at("retentionInDays")) or 0
        if 0 < kept < days:
            return f"{log.name} goes to {group.name}, which keeps it {kept} days and not {days}"
    return None


RULES: Final[list[Rule]] = [
    ResourceRule(
        "logs-kept-long-enough",
        kept_long_enough,
        protects="An intrusion is found weeks later; logs that are gone by then can't tell what was taken.",
        fix="Set retention_in_days, or the lifecycle rule's expiration, to the configured days or more.",
        types=(GROUP, *LIFECYCLE),
        settings=(LOG_DAYS,),
    ),
    StackRule(
        "flow-logs-on-every-network",
        flow_logs,
        protects="Flow logs are the one record of who spoke to whom that no host can leave out or change.",
        fix='Give each VPC an aws.ec2.FlowLog with traffic_type "ALL" into a log group that keeps it.',
        settings=(LOG_DAYS,),
    ),
]
