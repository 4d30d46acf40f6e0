"""The accelerator's CloudWatch alarms, which stand where its metrics are, in us-west-2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi

from components.alarms import Values, metric_alarm
from components.placement import Placement
from observability import alerts


@dataclass(frozen=True, kw_only=True)
class AcceleratorAlarmsArgs:
    """`placement` and `topics` are us-west-2's: the metrics are there, and an alarm's topic must be beside it.

    `regions` are those with an endpoint group.
    """

    placement: Placement
    topics: Mapping[str, pulumi.Input[str]]
    accelerator_arn: pulumi.Input[str]
    listener_arn: pulumi.Input[str]
    regions: Sequence[str]


class AcceleratorAlarms(pulumi.ComponentResource):
    """One alarm an endpoint group; `arns` has them by region. Its provider is us-west-2's."""

    arns: dict[str, pulumi.Output[str]]

    def __init__(self, name: str, args: AcceleratorAlarmsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mrgc:accelerator_alarms:AcceleratorAlarms", name, {}, opts)
        values: Values = {"Accelerator": last_part(args.accelerator_arn), "Listener": last_part(args.listener_arn)}
        self.arns = {
            region: metric_alarm(
                f"{name}-{region}",
                alerts.ACCELERATOR_FAILOVER,
                {**values, "EndpointGroup": region},
                args.placement,
                args.topics,
                self,
            )
            for region in args.regions
        }
        self.register_outputs({"arns": self.arns})


def last_part(arn: pulumi.Input[str]) -> pulumi.Output[str]:
    """The id at an ARN's end, which is what Global Accelerator's dimensions hold."""
    return pulumi.Output.from_input(arn).apply(lambda text: text.rsplit("/", 1)[-1])
