"""The tenant's program: a provider for each region, bound to the tenant's account, and the key."""

from __future__ import annotations

from pathlib import Path

import pulumi
import pulumi_aws as aws

from components.placement import Placement
from components.tenant_key import TenantKey, TenantKeyArgs
from dataplane.protocol.attestation.key_policy import KeyPolicyError
from stacks.tenant.settings import TenantSettings, TenantSettingsError, load, read_measurements

FOLDER = Path(__file__).parent


def main() -> None:
    """Plan the key of the stack that runs; a wrong value ends the run with its sentence and no traceback."""
    try:
        settings = load()
        build(settings, FOLDER)
    except (TenantSettingsError, KeyPolicyError) as error:
        raise pulumi.RunError(str(error)) from None


def build(settings: TenantSettings, folder: Path) -> TenantKey:
    """Plan the key. Measurements are read from files named relative to `folder`."""
    placements = {
        region: Placement(region=region, environment=settings.environment, account=settings.account)
        for region in settings.regions
    }
    providers = {
        region: aws.Provider(
            f"aws-{region}",
            region=region,
            # With another account's credentials the plan fails, before a key stands in the wrong place.
            allowed_account_ids=[settings.account],
            default_tags=aws.ProviderDefaultTagsArgs(tags=place.default_tags()),
        )
        for region, place in placements.items()
    }
    key = TenantKey(
        "tenant-key",
        TenantKeyArgs(
            admin_arn=settings.admin_arn,
            user_arn=settings.user_arn,
            platform_role_arns=settings.platform_role_arns,
            tenant_id=settings.tenant_id,
            measurements=[read_measurements(folder / name) for name in settings.measurements_files],
            home=settings.home,
            replica_regions=settings.replica_regions,
            providers=providers,
            placements=placements,
        ),
    )
    pulumi.export("key_arn", key.key_arn)
    pulumi.export("key_arns", key.key_arns)
    return key
