"""What the local cluster's enclaves take from its workers: the digests of the configurations that the plan gives them.

A real image has this file baked in and measured; here it lies in the cluster's directory. Either way the enclave
refuses a worker of any other configuration.
"""

from __future__ import annotations

from collections.abc import Mapping

from dataplane.mesh.settings import load_settings
from dataplane.worker.configuration import config_digest, configuration
from stacks.local.engine.install import ALIAS_VERSION
from stacks.local.plan import Plan
from stacks.local.worker import LocalWorkerSettings, make_factory


def worker_digest(variables: Mapping[str, str], inherited: Mapping[str, str]) -> bytes:
    """Return the digest of a worker that is given `variables` by the plan, over what it inherits."""
    environ = {**inherited, **variables}
    settings = load_settings(LocalWorkerSettings, environ)
    factory = make_factory(settings, environ)
    # vLLM is installed in the engine's own environment, by this version.
    version = ALIAS_VERSION if settings.engine == "vllm" else None
    return config_digest(configuration(settings, factory, environ, version=version))


def host_rules(plan: Plan, inherited: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the content of the enclaves' rules file; no host is measured here, so none is `allowed` for level 2."""
    digests = {worker_digest(host.processes["worker"].env, inherited).hex() for host in plan.hosts}
    return {"configurations": sorted(digests)}
