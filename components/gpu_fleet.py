"""The GPU hosts of one region: launch template, Auto Scaling group, lifecycle hooks, role. docs/fleet.md.

Decisions, each with its reason beside it in the code: the autoscaler alone says how many and which hosts (desired
capacity is ignored, hosts are protected from scale-in, zones are not rebalanced); a host joins when its own `/health`
says so and leaves after a drain (two hooks); a new template reaches new hosts only (no instance refresh), since a new
enclave image must first be in tenants' key policies.

NitroTPM and UEFI are properties of an AMI (`RegisterImage`'s `TpmSupport` and `BootMode`), not of a launch template:
level 2 is claimed for an AMI that has them, and the enclave policy pack asks for an AMI that is listed as such.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pulumi
import pulumi_aws as aws

from components.host_role import HostRole, HostRoleArgs
from components.placement import PROJECT, Placement
from components.user_data import LAUNCH_HOOK, TERMINATE_HOOK, Artefacts, HostSettings, encoded, user_data

HOSTS_TABLE: Final = "gpu_instances"

LAUNCH_HEARTBEAT_S: Final = 1200
"""Twice the slowest expected start: boot and driver 180 s, artefacts 60 s, enclave 120 s (its unit's limit), and 48 GB
of weights, an L40S full, first read from S3 through a 1.2 TiB store at 250 MB/s/TiB, 160 s: 520 s."""
TERMINATE_HEARTBEAT_S: Final = 240
"""More than the drain's bound: 5 s until the host looks, 45 s for the parent (TimeoutStopSec), then the longer of the
worker's 60 s and enclave and proxy one after the other, 60 + 45 s: 155 s. A spot notice (120 s) covers the parent's."""
HEALTH_GRACE_S: Final = 120
"""EC2's own status checks settle; the launch hook has held the host until it served."""
ROOT_GIB: Final = 200
"""Driver, CUDA, the Python environment with vLLM and torch (some 12 GB), its compile cache, and room for logs."""
METRICS: Final = (
    aws.autoscaling.Metric.GROUP_MIN_SIZE,
    aws.autoscaling.Metric.GROUP_MAX_SIZE,
    aws.autoscaling.Metric.GROUP_DESIRED_CAPACITY,
    aws.autoscaling.Metric.GROUP_IN_SERVICE_INSTANCES,
    aws.autoscaling.Metric.GROUP_PENDING_INSTANCES,
    aws.autoscaling.Metric.GROUP_TERMINATING_INSTANCES,
    aws.autoscaling.Metric.GROUP_TOTAL_INSTANCES,
)
LEVEL_2: Final = 2
ALL: Final = 100
"""Percent."""
ROOT_DEVICE: Final = "/dev/xvda"
"""Amazon Linux 2023's root device; an AMI with another would get this volume besides its own."""


@dataclass(frozen=True, kw_only=True)
class HostArtefacts:
    """What level 1's hosts fetch: see `components.user_data.Artefacts`. Digests in lower-case hex."""

    bucket_name: pulumi.Input[str]
    bucket_arn: pulumi.Input[str]
    eif_sha256: str
    wheel_sha256: str
    version: str


@dataclass(frozen=True, kw_only=True)
class GpuFleetArgs:
    """One region's fleet. Memory in MiB; `on_demand_percent` of the hosts above `on_demand_base`, the rest are spot.

    `measurements`: PCR index to hex digits of the enclave image that hosts start; `earlier_measurements`: of images
    that may still run during a roll-out. `artefacts`: for level 1, None at level 2, whose image holds everything.
    `table_names`: by the tables' short names. `metrics_log_group_name`: the collector's.
    """

    placement: Placement
    subnet_ids: Sequence[pulumi.Input[str]]
    security_group_id: pulumi.Input[str]
    ami_id: str
    instance_type: str
    min: int
    max: int
    enclave_memory_mib: int
    enclave_cpus: int
    assurance_level: int
    on_demand_base: int
    on_demand_percent: int
    file_system_dns: pulumi.Input[str]
    mount_name: pulumi.Input[str]
    default_model_pool: str
    storage_key_arn: pulumi.Input[str]
    tables_key_arn: pulumi.Input[str]
    log_group_name: str
    metrics_log_group_name: str
    table_names: Mapping[str, str]
    measurements: Mapping[int, str]
    earlier_measurements: Sequence[Mapping[int, str]] = field(default=())
    artefacts: HostArtefacts | None = None
    reservation_id: str | None = None
    secrets_key_arn: pulumi.Input[str] | None = None
    session_manager: bool = False
    protect: bool = True

    def __post_init__(self) -> None:
        if self.assurance_level == LEVEL_2 and self.session_manager:
            raise ValueError("session_manager: a host that can be logged into is not at assurance level 2.")
        if (self.artefacts is None) != (self.assurance_level == LEVEL_2):
            raise ValueError(
                f"artefacts: a host of level {self.assurance_level} "
                + ("has everything in its measured image; give none." if self.artefacts else "fetches them; say which.")
            )
        if self.reservation_id is not None and self.on_demand_percent < ALL:
            raise ValueError("reservation_id: reserved hosts are on-demand hosts; set on_demand_percent to 100.")


class GpuFleet(pulumi.ComponentResource):
    """The fleet. Outputs: `group_name`, `launch_template_id`, `role_arn`, `role_name`."""

    def __init__(self, name: str, args: GpuFleetArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mrgc:gpu_fleet:GpuFleet", name, None, opts)
        role = HostRole(f"{name}-host", _role_args(args), pulumi.ResourceOptions(parent=self))
        template = self._template(name, args, role)
        group = self._group(name, args, template, role)
        for hook in _HOOKS:
            # The group's own hooks are set at its creation only; these keep them as they are written here.
            aws.autoscaling.LifecycleHook(
                f"{name}-{hook['name']}",
                autoscaling_group_name=group.name,
                **hook,
                opts=pulumi.ResourceOptions(parent=self),
            )
        self.group_name = group.name
        self.launch_template_id = template.id
        self.role_arn = role.role_arn
        self.role_name = role.role_name
        self.register_outputs(
            {
                "group_name": self.group_name,
                "launch_template_id": self.launch_template_id,
                "role_arn": self.role_arn,
                "role_name": self.role_name,
            }
        )

    def _template(self, name: str, args: GpuFleetArgs, role: HostRole) -> aws.ec2.LaunchTemplate:
        tags = args.placement.tags("gpu-fleet", "gpu")
        return aws.ec2.LaunchTemplate(
            f"{name}-template",
            image_id=args.ami_id,
            instance_type=args.instance_type,
            update_default_version=True,
            iam_instance_profile=aws.ec2.LaunchTemplateIamInstanceProfileArgs(arn=role.profile_arn),
            enclave_options=aws.ec2.LaunchTemplateEnclaveOptionsArgs(enabled=True),
            metadata_options=aws.ec2.LaunchTemplateMetadataOptionsArgs(
                http_endpoint="enabled",
                http_tokens="required",
                # One hop: nothing behind another network namespace, and no machine behind this one, gets credentials.
                http_put_response_hop_limit=1,
                http_protocol_ipv6="disabled",
                instance_metadata_tags="disabled",
            ),
            monitoring=aws.ec2.LaunchTemplateMonitoringArgs(enabled=True),
            # A host that shuts itself down goes, rather than staying as a stopped instance with its volume.
            instance_initiated_shutdown_behavior="terminate",
            private_dns_name_options=aws.ec2.LaunchTemplatePrivateDnsNameOptionsArgs(hostname_type="ip-name"),
            network_interfaces=[
                aws.ec2.LaunchTemplateNetworkInterfaceArgs(
                    device_index=0,
                    associate_public_ip_address="false",
                    delete_on_termination="true",
                    security_groups=[args.security_group_id],
                )
            ],
            block_device_mappings=[
                aws.ec2.LaunchTemplateBlockDeviceMappingArgs(
                    device_name=ROOT_DEVICE,
                    ebs=aws.ec2.LaunchTemplateBlockDeviceMappingEbsArgs(
                        encrypted="true",
                        kms_key_id=args.storage_key_arn,
                        volume_type="gp3",
                        volume_size=ROOT_GIB,
                        delete_on_termination="true",
                    ),
                )
            ],
            # The provider's default tags reach the template and not what is launched from it.
            tag_specifications=[
                aws.ec2.LaunchTemplateTagSpecificationArgs(resource_type=kind, tags=tags)
                for kind in ("instance", "volume", "network-interface")
            ],
            user_data=fleet_user_data(args).apply(encoded),
            tags=tags,
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _group(
        self, name: str, args: GpuFleetArgs, template: aws.ec2.LaunchTemplate, role: HostRole
    ) -> aws.autoscaling.Group:
        spot = args.on_demand_percent < ALL
        return aws.autoscaling.Group(
            f"{name}-group",
            # Fixed: hosts name their group when they finish a hook, before any output of it exists, and the roles'
            # policies name it. AWS replaces a group only when its name changes.
            name=group_name(args.placement),
            min_size=args.min,
            max_size=args.max,
            vpc_zone_identifiers=list(args.subnet_ids),
            health_check_type="EC2",
            health_check_grace_period=HEALTH_GRACE_S,
            # Which host goes is the autoscaler's choice: it terminates one by its id, which protection lets pass.
            protect_from_scale_in=True,
            # Moving hosts between zones for balance would end a host that holds a loaded model.
            suspended_processes=["AZRebalance"],
            # A spot host that AWS expects to take back gets its successor before it goes.
            capacity_rebalance=spot,
            enabled_metrics=list(METRICS),
            metrics_granularity="1Minute",
            # GPUs may be short for hours; the program does not fail for that, and the alarms say so.
            wait_for_capacity_timeout="0",
            initial_lifecycle_hooks=[aws.autoscaling.GroupInitialLifecycleHookArgs(**hook) for hook in _HOOKS],
            tags=[
                aws.autoscaling.GroupTagArgs(key=key, value=value, propagate_at_launch=False)
                for key, value in args.placement.tags("gpu-fleet", "gpu").items()
            ],
            **_capacity(args, template),
            # How many there are is the autoscaler's from the first minute on.
            opts=pulumi.ResourceOptions(parent=self, depends_on=role.policies, ignore_changes=["desiredCapacity"]),
        )


_HOOKS: Final[tuple[dict[str, Any], ...]] = (
    {
        "name": LAUNCH_HOOK,
        "lifecycle_transition": "autoscaling:EC2_INSTANCE_LAUNCHING",
        "heartbeat_timeout": LAUNCH_HEARTBEAT_S,
        # A host that has not come to serve is replaced.
        "default_result": "ABANDON",
    },
    {
        "name": TERMINATE_HOOK,
        "lifecycle_transition": "autoscaling:EC2_INSTANCE_TERMINATING",
        "heartbeat_timeout": TERMINATE_HEARTBEAT_S,
        "default_result": "CONTINUE",
    },
)


def group_name(placement: Placement) -> str:
    """The group's fixed name, `mrgc-<environment>-gpu`; names are a region's own."""
    return f"{PROJECT}-{placement.environment}-gpu"


def fleet_user_data(args: GpuFleetArgs) -> pulumi.Output[str]:
    """The hosts' user data, once file system and bucket have their names."""
    artefacts = args.artefacts

    def text(values: Mapping[str, str]) -> str:
        settings = HostSettings(
            placement=args.placement,
            group_name=group_name(args.placement),
            file_system_dns=values["dns"],
            mount_name=values["mount"],
            registry_table=args.table_names[HOSTS_TABLE],
            default_model_pool=args.default_model_pool,
            log_group_name=args.log_group_name,
            metrics_log_group_name=args.metrics_log_group_name,
            enclave_memory_mib=args.enclave_memory_mib,
            enclave_cpus=args.enclave_cpus,
            artefacts=None
            if artefacts is None
            else Artefacts(
                bucket_name=values["bucket"],
                eif_sha256=artefacts.eif_sha256,
                pcr0=args.measurements[0],
                wheel_sha256=artefacts.wheel_sha256,
                version=artefacts.version,
            ),
        )
        return user_data(settings, assurance_level=args.assurance_level)

    bucket: pulumi.Input[str] = "" if artefacts is None else artefacts.bucket_name
    return pulumi.Output.all(dns=args.file_system_dns, mount=args.mount_name, bucket=bucket).apply(text)


def _role_args(args: GpuFleetArgs) -> HostRoleArgs:
    return HostRoleArgs(
        placement=args.placement,
        measurements=(args.measurements, *args.earlier_measurements),
        group_name=group_name(args.placement),
        registry_table=args.table_names[HOSTS_TABLE],
        tables_key_arn=args.tables_key_arn,
        log_groups=(args.log_group_name, args.metrics_log_group_name),
        bucket_arn=None if args.artefacts is None else args.artefacts.bucket_arn,
        storage_key_arn=None if args.artefacts is None else args.storage_key_arn,
        secrets_key_arn=args.secrets_key_arn,
        session_manager=args.session_manager,
        protect=args.protect,
    )


def _capacity(args: GpuFleetArgs, template: aws.ec2.LaunchTemplate) -> dict[str, Any]:
    """What is bought: reserved capacity first, or on-demand and spot mixed.

    A reservation goes with a plain launch template: it serves on-demand hosts alone, so a mixture has no part in it.
    """
    # The version by number, so that a new template is a change of the group that a preview shows.
    version = template.latest_version.apply(str)
    if args.reservation_id is not None:
        target = aws.autoscaling.GroupCapacityReservationSpecificationCapacityReservationTargetArgs(
            capacity_reservation_ids=[args.reservation_id]
        )
        return {
            "launch_template": aws.autoscaling.GroupLaunchTemplateArgs(id=template.id, version=version),
            "capacity_reservation_specification": aws.autoscaling.GroupCapacityReservationSpecificationArgs(
                capacity_reservation_preference="capacity-reservations-first", capacity_reservation_target=target
            ),
        }
    return {
        "mixed_instances_policy": aws.autoscaling.GroupMixedInstancesPolicyArgs(
            instances_distribution=aws.autoscaling.GroupMixedInstancesPolicyInstancesDistributionArgs(
                on_demand_allocation_strategy="prioritized",
                on_demand_base_capacity=args.on_demand_base,
                on_demand_percentage_above_base_capacity=args.on_demand_percent,
                spot_allocation_strategy="capacity-optimized",
            ),
            launch_template=aws.autoscaling.GroupMixedInstancesPolicyLaunchTemplateArgs(
                launch_template_specification=(
                    aws.autoscaling.GroupMixedInstancesPolicyLaunchTemplateLaunchTemplateSpecificationArgs(
                        launch_template_id=template.id, version=version
                    )
                ),
                overrides=[
                    aws.autoscaling.GroupMixedInstancesPolicyLaunchTemplateOverrideArgs(
                        instance_type=args.instance_type
                    )
                ],
            ),
        )
    }
