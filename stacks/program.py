"""The whole platform as one program: every region, what joins them, and the accelerator in front."""

from __future__ import annotations

import pulumi
import pulumi_aws as aws

from components.accelerator import Accelerator, AcceleratorArgs
from components.accelerator_alarms import AcceleratorAlarms, AcceleratorAlarmsArgs
from components.dashboards import Dashboards, DashboardsArgs
from components.global_state import TABLES, GlobalState, GlobalStateArgs
from components.keys import PlatformKeys, PlatformKeysArgs
from components.mesh import TransitMesh, TransitMeshArgs
from components.model_replication import ModelReplication, ModelReplicationArgs
from components.placement import Placement
from stacks.estimate import estimate
from stacks.region import Region, RegionContext
from stacks.sections import ACCELERATOR_REGION
from stacks.settings import Settings, SettingsError, load

PROTECTED = ("staging", "prod")
"""Environments whose data is protected from deletion and kept when its resource goes."""


def run() -> None:
    """Load the stack's configuration and stand the platform up; a wrong setting ends the run with its sentence."""
    try:
        settings = load()
    except SettingsError as error:
        raise pulumi.RunError(str(error)) from None
    deploy(settings)


def deploy(settings: Settings) -> None:
    """Every resource of one stack, and its outputs."""
    protect = settings.environment in PROTECTED
    plans, names, home = settings.plans(), settings.region_names, settings.home.name
    placements = {name: _placement(settings, name) for name in names}
    providers = {name: _provider(placements[name]) for name in names}
    keys = PlatformKeys(
        "keys", PlatformKeysArgs(placements=placements, home=home, providers=providers, protect=protect)
    )
    at_home = pulumi.ResourceOptions(provider=providers[home])
    state = GlobalState(
        "state",
        GlobalStateArgs(
            placement=placements[home],
            regions=names,
            strong_regions=settings.strong_regions,
            key_arns=keys.tables,
            protect=protect,
            deletion_protection=settings.deletion_protection,
        ),
        at_home,
    )
    contexts = {
        region.name: RegionContext(
            settings=settings,
            region=region,
            placement=placements[region.name],
            provider=providers[region.name],
            plan=plans[region.name],
            peer_blocks={other: plan.block for other, plan in plans.items() if other != region.name},
            logs_key_arn=keys.logs[region.name],
            storage_key_arn=keys.storage[region.name],
            tables_key_arns=keys.tables,
            table_names=state.table_names,
            protect=protect,
        )
        for region in settings.regions
    }
    regions = {name: Region(context) for name, context in contexts.items()}
    TransitMesh(
        "mesh",
        TransitMeshArgs(
            placements=placements,
            plans=plans,
            gateways={name: region.transit.gateway_id for name, region in regions.items()},
            route_tables={name: region.transit.route_table_id for name, region in regions.items()},
            providers=providers,
            lost_peerings=settings.lost_peerings,
        ),
    )
    ModelReplication(
        "replication",
        ModelReplicationArgs(
            placements=placements,
            home=home,
            buckets={name: region.bucket for name, region in regions.items()},
            key_arns=keys.storage,
        ),
        at_home,
    )
    accelerator = Accelerator(
        "accelerator",
        AcceleratorArgs(
            placement=placements[ACCELERATOR_REGION],
            load_balancers={name: region.endpoint.load_balancer_arn for name, region in regions.items()},
            dials=settings.accelerator.dials,
            weights=settings.accelerator.weights,
            alternate_port=settings.accelerator.alternate_port,
            protect=protect,
        ),
        pulumi.ResourceOptions(provider=providers[ACCELERATOR_REGION]),
    )
    for name, region in regions.items():
        region.watch(contexts[name], accelerator.arn)
    failovers = AcceleratorAlarms(
        "accelerator-alarms",
        AcceleratorAlarmsArgs(
            placement=placements[ACCELERATOR_REGION],
            topics=regions[ACCELERATOR_REGION].topics.arns,
            accelerator_arn=accelerator.arn,
            listener_arn=accelerator.listener_arn,
            regions=names,
        ),
        pulumi.ResourceOptions(provider=providers[ACCELERATOR_REGION]),
    )
    boards = Dashboards(
        "dashboards",
        DashboardsArgs(
            placement=placements[home],
            accelerator_arn=accelerator.arn,
            listener_arn=accelerator.listener_arn,
            regions={name: region.watched() for name, region in regions.items()},
            tables=list(state.table_names.values()),
            eventual_tables=[state.table_names[spec.name] for spec in TABLES if not spec.strong],
            alarm_arns=[
                *(arn for region in regions.values() for arn in region.alarms.arns.values()),
                *failovers.arns.values(),
            ],
        ),
        at_home,
    )
    _export(settings, regions, keys, state, accelerator)
    pulumi.export("dashboards", boards.links)
    pulumi.export("estimate", estimate(settings).as_output())


def _export(
    settings: Settings, regions: dict[str, Region], keys: PlatformKeys, state: GlobalState, accelerator: Accelerator
) -> None:
    pulumi.export("accelerator", {"addresses": accelerator.addresses, "dns_name": accelerator.dns_name})
    pulumi.export(
        "regions",
        {
            name: {
                "load_balancer": region.endpoint.load_balancer_dns_name,
                "endpoint_service": region.endpoint.service_name,
            }
            for name, region in regions.items()
        },
    )
    pulumi.export("tables", state.table_names)
    pulumi.export("keys", {"logs": keys.logs, "storage": keys.storage, "tables": keys.tables})
    pulumi.export(
        "measurements",
        {
            "eif_version": settings.measurements.eif_version,
            **{f"pcr{index}": value for index, value in settings.measurements.registers().items()},
        },
    )


def _placement(settings: Settings, region: str) -> Placement:
    return Placement(region=region, environment=settings.environment, account=settings.account)


def _provider(placement: Placement) -> aws.Provider:
    """A region's explicit provider; it refuses any other account than the configured one."""
    return aws.Provider(
        f"aws-{placement.region}",
        region=placement.region,
        allowed_account_ids=[placement.account],
        default_tags=aws.ProviderDefaultTagsArgs(tags=placement.default_tags()),
    )
