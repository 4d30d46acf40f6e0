"""`cluster.json`: everything that a client of the local cluster needs, ours or not (docs/local-stack.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stacks.local.options import MODEL_POOL
from stacks.local.plan import LOOPBACK, HostPlan, Plan
from stacks.local.provision import Prepared, Provisioned


def describe_cluster(
    plan: Plan, prepared: Prepared, provisioned: Provisioned, *, pids: Mapping[str, int]
) -> dict[str, Any]:
    """Return the file's content; `pids` are the processes' by name. It holds the local tenants' secrets."""
    return {
        "endpoint": f"https://{LOOPBACK}:{plan.options.port}",
        "ca_file": str(plan.layout.pki / "ca.pem"),
        "aws_endpoint_url": plan.aws_url,
        "kms_endpoint_url": f"https://{LOOPBACK}:{plan.kms_port}",
        "otlp_endpoint": plan.aws_url,
        "spans_file": str(plan.layout.spans_file),
        "console": f"http://{LOOPBACK}:{plan.console_port}",
        "accelerator_admin": f"http://{LOOPBACK}:{plan.admin_port}",
        "regions": {
            region.name: {
                "router": f"https://{LOOPBACK}:{region.port}",
                "admin": f"http://{LOOPBACK}:{region.admin_port}",
                "pids": {"router": pids[region.router.name]},
                "hosts": [_host(host, pids) for host in region.hosts],
            }
            for region in plan.regions
        },
        "model": MODEL_POOL,
        "engine": plan.options.engine,
        "tenants": [
            {
                "id": tenant.id,
                "api_key": tenant.api_key,
                "kms_key_arn": provisioned.key_arns[tenant.id],
                "region": tenant.region,
                "aws_access_key_id": tenant.principal.access_key_id,
                "aws_secret_access_key": tenant.principal.secret_access_key,
            }
            for tenant in prepared.tenants
        ],
        "attestation_root": str(plan.layout.pki / "nsm-root.pem"),
        "pcrs": {str(number): value.hex() for number, value in prepared.pcrs.items()},
        # A key of this machine's: what is logged under it proves as little as the measurements themselves.
        "log": {
            "url": f"http://{LOOPBACK}:{plan.console_port}/log",
            "key": prepared.log_key,
            "assurance": "mock",
        },
        "pids": {
            spec.name: pids[spec.name]
            for spec in (plan.aws, plan.accelerator, plan.console, plan.tap)
            if spec is not None
        },
    }


def _host(host: HostPlan, pids: Mapping[str, int]) -> dict[str, Any]:
    return {
        "id": host.id,
        "parent": host.parent,
        "pool": host.pool,
        "engine": host.engine,
        "tampered": host.tampered,
        "pids": {role: pids[spec.name] for role, spec in host.processes.items()},
    }
