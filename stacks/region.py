"""One region of the platform: its network, its endpoint, its routers, its hosts and what watches them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network

import pulumi
import pulumi_aws as aws

from components.addressing import RegionPlan
from components.alarms import RegionAlarms, RegionAlarmsArgs
from components.cluster import RegionCluster, RegionClusterArgs
from components.control_loops import ControlLoops, ControlLoopsArgs
from components.dashboards import RegionWatched
from components.endpoint import RegionEndpoint, RegionEndpointArgs
from components.endpoints import RegionEndpoints, RegionEndpointsArgs
from components.global_state import TABLES
from components.gpu_fleet import GpuFleet, GpuFleetArgs, HostArtefacts, group_name
from components.log_groups import RegionLogs, RegionLogsArgs
from components.model_bucket import ModelBucket, ModelBucketArgs
from components.model_files import ModelFiles, ModelFilesArgs
from components.network import RegionNetwork, RegionNetworkArgs
from components.placement import Placement
from components.registries import Registries, RegistriesArgs
from components.router_service import RouterService, RouterServiceArgs
from components.security_groups import SecurityGroups, SecurityGroupsArgs
from components.topic import AlarmTopics, AlarmTopicsArgs
from components.transit import RegionTransit, RegionTransitArgs
from stacks.sections import RegionSettings
from stacks.settings import Settings


@dataclass(frozen=True, kw_only=True)
class RegionContext:
    """What a region takes from what is shared: its place, its keys, the tables, the other regions' blocks."""

    settings: Settings
    region: RegionSettings
    placement: Placement
    provider: aws.Provider
    plan: RegionPlan
    peer_blocks: Mapping[str, IPv4Network]
    logs_key_arn: pulumi.Input[str]
    storage_key_arn: pulumi.Input[str]
    table_names: Mapping[str, str]
    tables_key_arns: Mapping[str, pulumi.Input[str]]
    protect: bool


class Region:
    """Every regional component, in the order in which they need each other."""

    def __init__(self, context: RegionContext) -> None:
        settings, place, name = context.settings, context.placement, context.placement.region
        here = pulumi.ResourceOptions(provider=context.provider)
        self.logs = RegionLogs(
            f"logs-{name}",
            RegionLogsArgs(
                placement=place, key_arn=context.logs_key_arn, days=settings.log_days, protect=context.protect
            ),
            here,
        )
        self.network = RegionNetwork(
            f"network-{name}",
            RegionNetworkArgs(
                placement=place,
                plan=context.plan,
                zones=context.region.zones,
                logs_key_arn=context.logs_key_arn,
                log_days=settings.log_days,
                protect=context.protect,
            ),
            here,
        )
        self.groups = SecurityGroups(
            f"groups-{name}",
            SecurityGroupsArgs(
                placement=place,
                vpc_id=self.network.vpc_id,
                s3_prefix_list_id=self.network.s3_prefix_list_id,
                dynamodb_prefix_list_id=self.network.dynamodb_prefix_list_id,
                alternate_port=settings.endpoint.alternate_port,
            ),
            here,
        )
        self.endpoints = RegionEndpoints(
            f"endpoints-{name}",
            RegionEndpointsArgs(
                placement=place,
                vpc_id=self.network.vpc_id,
                subnet_ids=self.network.private_subnet_ids,
                security_group_id=self.groups.endpoints_id,
                session_manager=settings.session_manager,
            ),
            here,
        )
        self.transit = RegionTransit(
            f"transit-{name}",
            RegionTransitArgs(
                placement=place,
                vpc_id=self.network.vpc_id,
                subnet_ids=self.network.transit_subnet_ids,
                route_table_ids=self.network.private_route_table_ids,
                asn=context.region.asn,
                block=context.plan.block,
                peer_blocks=context.peer_blocks,
            ),
            here,
        )
        self.registries = Registries(
            f"registries-{name}",
            RegistriesArgs(
                placement=place,
                measurements=settings.measurements.registers(),
                eif_version=settings.measurements.eif_version,
                images=settings.images.model_dump(),
                key_arn=context.storage_key_arn,
                functions=("control",),
                protect=context.protect,
            ),
            here,
        )
        self._store(context, here)
        self._serve(context, here)
        self._host(context)

    def _store(self, context: RegionContext, here: pulumi.ResourceOptions) -> None:
        settings, name = context.settings, context.placement.region
        self.bucket = ModelBucket(
            f"models-{name}",
            ModelBucketArgs(
                placement=context.placement,
                key_arn=context.storage_key_arn,
                protect=context.protect,
                backup_days=settings.models.backup_days,
            ),
            here,
        )
        self.files = ModelFiles(
            f"files-{name}",
            ModelFilesArgs(
                placement=context.placement,
                subnet_id=self.network.fsx_subnet_ids[0],
                security_group_id=self.groups.fsx_id,
                key_arn=context.storage_key_arn,
                bucket_name=self.bucket.bucket_name,
                capacity_gib=settings.models.capacity_gib,
                throughput=settings.models.throughput,
                protect=context.protect,
            ),
            here,
        )

    def _serve(self, context: RegionContext, here: pulumi.ResourceOptions) -> None:
        settings, place, name = context.settings, context.placement, context.placement.region
        self.endpoint = RegionEndpoint(
            f"nlb-{name}",
            RegionEndpointArgs(
                placement=place,
                vpc_id=self.network.vpc_id,
                subnet_ids=self.network.public_subnet_ids,
                security_group_id=self.groups.nlb_id,
                alternate_port=settings.endpoint.alternate_port,
                allowed_principals=settings.endpoint.allowed_principals,
                private_dns_name=settings.endpoint.private_dns_name,
                # The internet gateway must outlive the accelerator's endpoints. Said to the load balancer itself:
                # a component's children do not inherit what the component depends on.
                after=[self.network.internet_route],
            ),
            here,
        )
        self.cluster = RegionCluster(
            f"cluster-{name}",
            RegionClusterArgs(placement=place, logs_key_arn=context.logs_key_arn, log_days=settings.log_days),
            here,
        )
        self.router = RouterService(
            f"router-{name}",
            RouterServiceArgs(
                placement=place,
                cluster_arn=self.cluster.cluster_arn,
                cluster_name=self.cluster.cluster_name,
                subnet_ids=self.network.private_subnet_ids,
                security_group_id=self.groups.router_id,
                target_group_arns=self.endpoint.target_group_arns,
                image=self.registries.image["router"],
                collector_image=self.registries.image["collector"],
                cpu=settings.router.cpu,
                memory_mib=settings.router.memory_mib,
                min=settings.router.min,
                max=settings.router.max,
                log_group_name=self.logs.names["router"],
                collector_log_group_name=self.logs.names["collector"],
                table_names=context.table_names,
                tables_key_arn=context.tables_key_arns[name],
                listeners=[self.endpoint],
            ),
            here,
        )

    def _host(self, context: RegionContext) -> None:
        """The GPU hosts."""
        settings, name, fleet = context.settings, context.placement.region, context.settings.fleet
        artefacts = fleet.artefacts
        fetched = (
            artefacts
            if artefacts is None
            else HostArtefacts(
                bucket_name=self.bucket.bucket_name,
                bucket_arn=self.bucket.bucket_arn,
                eif_sha256=artefacts.eif_sha256,
                wheel_sha256=artefacts.wheel_sha256,
                version=artefacts.version,
            )
        )
        self.fleet = GpuFleet(
            f"fleet-{name}",
            GpuFleetArgs(
                placement=context.placement,
                subnet_ids=self.network.private_subnet_ids,
                security_group_id=self.groups.gpu_id,
                ami_id=fleet.amis[name],
                instance_type=fleet.instance_type,
                min=fleet.min,
                max=fleet.max,
                enclave_memory_mib=fleet.enclave_memory_mib,
                enclave_cpus=fleet.enclave_cpus,
                assurance_level=fleet.assurance_level,
                on_demand_base=fleet.on_demand_base,
                on_demand_percent=fleet.on_demand_percent,
                file_system_dns=self.files.dns_name,
                mount_name=self.files.mount_name,
                default_model_pool=fleet.default_model_pool,
                storage_key_arn=context.storage_key_arn,
                tables_key_arn=context.tables_key_arns[name],
                log_group_name=self.logs.names["host"],
                metrics_log_group_name=self.logs.names["collector"],
                table_names=context.table_names,
                measurements=settings.measurements.registers(),
                earlier_measurements=[image.registers() for image in settings.earlier_measurements],
                artefacts=fetched,
                reservation_id=fleet.reservations.get(name),
                session_manager=settings.session_manager,
                protect=context.protect,
            ),
            pulumi.ResourceOptions(provider=context.provider),
        )

    def watch(self, context: RegionContext, accelerator_arn: pulumi.Input[str]) -> None:
        """The control loops and the alarms."""
        settings, place, name = context.settings, context.placement, context.placement.region
        here = pulumi.ResourceOptions(provider=context.provider)
        self.loops = ControlLoops(
            f"control-{name}",
            ControlLoopsArgs(
                placement=place,
                cluster_arn=self.cluster.cluster_arn,
                subnet_ids=self.network.private_subnet_ids,
                security_group_id=self.groups.control_id,
                image=self.registries.image["control"],
                collector_image=self.registries.image["collector"],
                log_group_name=self.logs.names["control"],
                collector_log_group_name=self.logs.names["collector"],
                table_names=context.table_names,
                tables_key_arns=context.tables_key_arns,
                state_region=name if name in settings.strong_regions else settings.home.name,
                fleet_group_name=group_name(place),
                accelerator_arn=accelerator_arn,
                enabled=settings.control_loops,
                pulls=self.registries.function_pulls,
            ),
            here,
        )
        self.topics = AlarmTopics(
            f"topics-{name}",
            AlarmTopicsArgs(placement=place, key_arn=context.logs_key_arn, email=settings.alarm_email),
            here,
        )
        self.alarms = RegionAlarms(
            f"alarms-{name}",
            RegionAlarmsArgs(
                placement=place,
                topics=self.topics.arns,
                load_balancer_arn_suffix=self.endpoint.load_balancer_arn_suffix,
                target_group_arn_suffix=self.endpoint.target_group_arn_suffix,
                file_system_id=self.files.file_system_id,
                capacity_gib=settings.models.capacity_gib,
                failure_queue_name=self.loops.failure_queue_name,
                eventual_tables=[context.table_names[spec.name] for spec in TABLES if not spec.strong],
                peers=[other for other in settings.region_names if other != name],
            ),
            here,
        )

    def watched(self) -> RegionWatched:
        """What the dashboards chart of this region."""
        return RegionWatched(
            load_balancer=self.endpoint.load_balancer_arn_suffix,
            target_group=self.endpoint.target_group_arn_suffix,
            file_system=self.files.file_system_id,
            transit_gateway=self.transit.gateway_id,
            scaling_group=self.fleet.group_name,
            cluster=self.cluster.cluster_name,
            router_service=self.router.service_name,
            bucket=self.bucket.bucket_name,
            flow_log_group=self.network.flow_log_group_name,
        )
