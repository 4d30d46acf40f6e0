"""The plan of a local cluster: every process, port and socket, from options alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataplane.enclave.hostrules import read_host_rules
from dataplane.enclave.settings import EnclaveSettings
from dataplane.mesh.address import MAX_UNIX_PATH, UnixAddress
from dataplane.mesh.settings import SidecarSettings, load_settings
from dataplane.parent.settings import ParentSettings
from dataplane.proxy.settings import ProxySettings
from dataplane.router.settings import RouterSettings
from dataplane.worker.settings import WorkerSettings
from stacks.local.accelerator.settings import AcceleratorSettings
from stacks.local.aws.settings import AwsSettings
from stacks.local.enclave import LocalEnclaveSettings
from stacks.local.hostrules import host_rules, worker_digest
from stacks.local.layout import LONGEST_SOCKET, Layout, make_layout, short_name
from stacks.local.options import REGIONS, ClusterOptions
from stacks.local.plan import (
    Plan,
    PlanError,
    Secrets,
    accelerator_settings,
    instance_id,
    make_plan,
    ports_needed,
)
from stacks.local.supervisor import ProcessSpec
from stacks.local.worker import LocalWorkerSettings

PCRS = {number: bytes([number + 1]) * 48 for number in range(3)}


def plan_of(root: Path = Path("/c"), **options: object) -> Plan:
    chosen = ClusterOptions.model_validate({"directory": root, "engine": "synthetic", **options})
    return make_plan(
        chosen,
        Layout(root, root / "run"),
        ports=list(range(20_000, 20_000 + ports_needed(chosen))),
        python="python",
        engine_python="engine-python",
        pcrs=PCRS,
        router_keys=Secrets(access_key_id="AKIAROUTER", secret_access_key="router-secret"),
    )


def specs(plan: Plan) -> list[ProcessSpec]:
    alone = [plan.aws, plan.accelerator, plan.console, *([plan.tap] if plan.tap else [])]
    routers = [region.router for region in plan.regions]
    return [*alone, *routers, *(spec for host in plan.hosts for spec in host.processes.values())]


def test_every_process_has_a_name_and_a_log_of_its_own() -> None:
    plan = plan_of(tampered=True, tap=True)
    all_specs = specs(plan)
    assert len(all_specs) == 4 + 3 + 7 * 4, "aws, accelerator, console, tap; three routers; seven hosts of four"
    assert len({spec.name for spec in all_specs}) == len(all_specs), "names are unique"
    assert len({spec.log for spec in all_specs}) == len(all_specs), "and so are logs"
    stopped = {name for names in plan.stop_order() for name in names}
    assert {spec.name for spec in all_specs} - stopped == {"aws", "tap"}, "these two end last, after all that use them"


@pytest.mark.parametrize(
    ("role", "settings"),
    [
        ("proxy", ProxySettings),
        ("parent", ParentSettings),
        ("worker", WorkerSettings),
        ("worker", LocalWorkerSettings),
        ("enclave", EnclaveSettings),
        ("enclave", LocalEnclaveSettings),
    ],
)
def test_each_sidecar_accepts_its_environment(role: str, settings: type[SidecarSettings]) -> None:
    for host in plan_of(tampered=True, tap=True).hosts:
        parsed = load_settings(settings, host.processes[role].env)
        assert parsed.mrgc_region == host.region, "it knows its region"
        assert parsed.instance_id == host.id, "and its instance"


def test_router_and_aws_accept_theirs() -> None:
    plan = plan_of()
    for region in plan.regions:
        settings = load_settings(RouterSettings, region.router.env)
        assert (settings.http_port, settings.admin_port) == (region.port, region.admin_port)
    assert load_settings(AwsSettings, plan.aws.env).aws_https_port == plan.kms_port


def test_a_hosts_sockets_meet() -> None:
    for host in plan_of().hosts:
        env = {role: spec.env for role, spec in host.processes.items()}
        assert env["parent"]["ENCLAVE_PROXY_ADDRESS"] == env["proxy"]["PARENT_ADDRESS"], "parent to proxy"
        assert env["proxy"]["ENCLAVE_ADDRESS"] == env["enclave"]["ENCLAVE_LISTEN_ADDRESS"], "proxy to enclave"
        assert env["enclave"]["KMS_PROXY_ADDRESS"] == env["proxy"]["KMS_LISTEN_ADDRESS"], "enclave to KMS"
        assert env["parent"]["WORKER_ADDRESS"] == env["worker"]["WORKER_LISTEN_ADDRESS"], "parent to worker"
        assert host.short in env["worker"]["WORKER_LISTEN_ADDRESS"], "and no two hosts share one"


def test_no_port_is_used_twice() -> None:
    plan = plan_of(tampered=True, tap=True)
    ports = [plan.aws_port, plan.kms_port, plan.admin_port, plan.console_port, plan.options.port]
    ports += [port for region in plan.regions for port in (region.port, region.admin_port)]
    ports += [port for host in plan.hosts for port in (host.port, host.tap_port) if port is not None]
    assert len(set(ports)) == len(ports), f"each listener has its own of {sorted(ports)}"


def test_only_the_tampered_host_measures_otherwise_and_serves_its_own_pool() -> None:
    plan = plan_of(tampered=True)
    tampered = [host for host in plan.hosts if host.tampered]
    assert [(host.region, host.pool, host.engine) for host in tampered] == [("us-east-1", "tampered", "synthetic")]
    for host in plan.hosts:
        env = host.processes["enclave"].env
        assert (env["PCR0"] != PCRS[0].hex()) == host.tampered, "PCR0 differs on that host alone"
        assert (env["PCR1"], env["PCR2"]) == (PCRS[1].hex(), PCRS[2].hex()), "and nothing else does"


def test_a_tapped_host_is_reached_through_the_tap() -> None:
    plan = plan_of(tap=True, tampered=True)
    assert plan.tap is not None, "it was asked for"
    routes = plan.tap.argv[-2].split(",")
    for host in plan.hosts:
        advertised = host.processes["parent"].env["ADVERTISED_URL"]
        if host.region == "us-east-1" and not host.tampered:
            assert advertised == f"http://127.0.0.1:{host.tap_port}", "routers are told the tap's port"
            assert f"{host.tap_port}:{host.port}" in routes, "which leads to the parent's"
        else:
            assert advertised == host.parent, "everybody else is reached directly"
    assert len(routes) == 2, "two hosts of the first region"


def test_the_engine_has_its_own_interpreter() -> None:
    vllm = plan_of(engine="vllm", tampered=True)
    assert {host.processes["worker"].argv[0] for host in vllm.hosts if not host.tampered} == {"engine-python"}
    assert {host.processes["worker"].argv[0] for host in vllm.hosts if host.tampered} == {"python"}
    assert {host.processes["parent"].argv[0] for host in vllm.hosts} == {"python"}, "only workers need it"


def test_the_accelerator_gets_one_endpoint_a_region() -> None:
    plan = plan_of(health_interval_s=1.0)
    settings = AcceleratorSettings.model_validate(accelerator_settings(plan))
    assert [group.region for group in settings.groups] == list(REGIONS)
    assert settings.health.interval_s == 1.0, "as asked"
    assert [group.endpoints[0].port for group in settings.groups] == [region.port for region in plan.regions]


def test_secrets_do_not_show() -> None:
    plan = plan_of()
    assert "router-secret" in plan.regions[0].router.env.values(), "the router is given it"
    assert "router-secret" not in repr(plan), "and nobody sees it by accident"
    assert "router-secret" not in repr(Secrets(access_key_id="a", secret_access_key="router-secret"))


def test_the_enclaves_list_the_configurations_of_the_plans_own_workers_and_no_other(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, engine="vllm", tampered=True)
    content = host_rules(plan, {})
    assert len(content["configurations"]) == 2, "vLLM's, and the synthetic one of the host with another image"
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(content))
    rules = read_host_rules(path)
    for host in plan.hosts:
        worker = host.processes["worker"].env
        assert worker_digest(worker, {}) in rules.configurations, "what the plan starts is taken"
        for changed in ({"LOG_LEVEL": "DEBUG"}, {"VLLM_PLUGINS": "spy"}, {"MAX_NUM_SEQS": "5"}):
            assert worker_digest({**worker, **changed}, {}) not in rules.configurations, f"and nothing with {changed}"
        listed = host.processes["enclave"].env["HOST_MEASUREMENTS_FILE"]
        assert listed == str(plan.layout.host_rules_file), "by every enclave"
    caches = {host.processes["worker"].env["MODEL_CACHE_DIR"] for host in plan.hosts}
    assert len(caches) == len(list(plan.hosts)), "every worker has copies of its own"


def test_too_few_ports_are_refused() -> None:
    options = ClusterOptions(directory=Path("/c"))
    with pytest.raises(PlanError, match="needs 22 ports and was given 1"):
        make_plan(
            options,
            Layout(Path("/c"), Path("/c/run")),
            ports=[1],
            python="p",
            engine_python="e",
            pcrs=PCRS,
            router_keys=Secrets(access_key_id="a", secret_access_key="s"),
        )


def test_instance_ids_are_shaped_like_ec2s_and_stay() -> None:
    ids = {instance_id(region, number) for region in REGIONS for number in range(8)}
    assert len(ids) == 24, "every host has its own"
    assert all(len(each) == 19 and each.startswith("i-") for each in ids)
    assert instance_id("us-east-1", 0) in ids, "the same in every run"


def test_a_long_directory_puts_its_sockets_elsewhere(tmp_path: Path) -> None:
    short = make_layout(tmp_path / "s")
    deep = make_layout(tmp_path / ("d" * 90))
    assert short.run == tmp_path / "s" / "run", "beside the rest where it fits"
    assert not deep.run.is_relative_to(tmp_path), "elsewhere where it does not"
    try:
        for name in ("proxy", "enclave", "kms", "worker"):
            path = deep.socket(short_name("us-west-2", 7), name)
            assert len(str(path).encode()) <= MAX_UNIX_PATH, "a socket's path fits"
            assert len(str(path.relative_to(deep.run))) <= len(LONGEST_SOCKET), "and is no longer than was allowed for"
            UnixAddress(str(path))
        assert deep.run.stat().st_mode & 0o077 == 0, "and is private"
    finally:
        deep.run.rmdir()
