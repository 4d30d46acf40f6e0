from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pulumi
import pulumi_aws as aws
import pytest

from components.endpoint import DRAIN_S, HEALTH_INTERVAL_S, HEALTH_PORT, HEALTH_THRESHOLD, TLS_PORT
from components.placement import Placement
from components.router_service import (
    ALIVE,
    DRAIN_DELAY_S,
    DRAIN_TIMEOUT_S,
    GRACE_S,
    STOP_TIMEOUT_S,
    WRITE_FILES,
    RouterService,
    RouterServiceArgs,
    router_containers,
    router_environment,
    secret_parameters,
)
from dataplane.mesh.settings import load_settings
from dataplane.router.settings import RouterSettings
from tests.support.pulumi_program import ACCOUNT, ROOT, Program, record

PLACE = Placement(region="us-east-1", environment="dev", account=ACCOUNT)
REGISTRY = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"
ARGS = RouterServiceArgs(
    placement=PLACE,
    cluster_arn="arn:aws:ecs:us-east-1:123456789012:cluster/c",
    cluster_name="c",
    subnet_ids=["subnet-a", "subnet-b", "subnet-c"],
    security_group_id="sg-router",
    target_group_arns=["arn:target"],
    image=f"{REGISTRY}/mrgc/router@sha256:{'a' * 64}",
    collector_image=f"{REGISTRY}/mrgc/collector@sha256:{'b' * 64}",
    cpu=2048,
    memory_mib=4096,
    min=3,
    max=12,
    log_group_name="/mrgc/dev/router",
    collector_log_group_name="/mrgc/dev/collector",
    table_names={"gpu_instances": "mrgc-dev-gpu_instances"},
    tables_key_arn="arn:aws:kms:us-east-1:123456789012:key/mrk-1",
)
SIDECAR_GRACE_S = 10
"""What a sidecar may take beyond DRAIN_TIMEOUT_S, as the units' comments say."""


def service(args: RouterServiceArgs = ARGS) -> Program:
    def run() -> None:
        provider = aws.Provider("aws-us-east-1", region="us-east-1")
        made = RouterService("router-us-east-1", args, pulumi.ResourceOptions(provider=provider))
        pulumi.export("service", made.service_name)
        pulumi.export("role", made.task_role_arn)

    return record(run)


@pytest.fixture(scope="module")
def program() -> Program:
    return service()


def containers(args: RouterServiceArgs = ARGS) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in router_containers(args)}


def variables() -> dict[str, str]:
    return {one["name"]: one["value"] for one in containers()["router"]["environment"]}


def test_the_routers_variables_are_taken_by_the_router_itself() -> None:
    settings = load_settings(RouterSettings, variables())
    assert (settings.http_port, settings.admin_port, settings.admin_host) == (443, 8080, "0.0.0.0")
    assert settings.registry_table == "mrgc-dev-gpu_instances"
    assert settings.mrgc_region == "us-east-1"
    assert settings.hosts_ca_file is not None, "hosts are reached by TLS only"


def test_every_variable_is_one_that_the_router_or_opentelemetry_reads() -> None:
    known = {name.upper() for name in RouterSettings.model_fields} | {"OTEL_EXPORTER_OTLP_ENDPOINT"}
    assert set(router_environment(PLACE, "t")) <= known


def test_the_load_balancer_and_the_router_agree_on_ports() -> None:
    assert (variables()["HTTP_PORT"], variables()["ADMIN_PORT"]) == (str(TLS_PORT), str(HEALTH_PORT))


def test_a_leaving_router_serves_until_the_load_balancer_has_noticed() -> None:
    assert DRAIN_DELAY_S > HEALTH_INTERVAL_S * HEALTH_THRESHOLD


def test_fargate_waits_longer_than_the_router_takes_to_leave() -> None:
    assert DRAIN_TIMEOUT_S + SIDECAR_GRACE_S < STOP_TIMEOUT_S
    assert STOP_TIMEOUT_S <= 120, "Fargate gives no more"
    assert DRAIN_S >= DRAIN_TIMEOUT_S, "the target group would cut what the router still answers"
    assert containers()["router"]["stopTimeout"] == STOP_TIMEOUT_S


def test_no_container_is_root_or_writes_its_root_file_system() -> None:
    for container in containers().values():
        assert container["user"] == "10001:10001"
        assert container["readonlyRootFilesystem"] is True


def test_a_router_that_is_not_root_can_listen_on_443() -> None:
    assert containers()["router"]["systemControls"] == [
        {"namespace": "net.ipv4.ip_unprivileged_port_start", "value": "0"}
    ]


def test_containers_fit_into_the_task() -> None:
    made = containers().values()
    assert sum(one["cpu"] for one in made) == 2048
    assert sum(one.get("memory", 0) for one in made) == 4096


def test_secrets_reach_the_writer_of_files_only() -> None:
    made = containers()
    assert [name for name, one in made.items() if "secrets" in one] == ["files"]
    assert made["router"]["mountPoints"][0]["readOnly"] is True
    values = json.dumps([one["environment"] for one in made.values() if "environment" in one])
    assert "PRIVATE KEY" not in values


def test_the_router_starts_after_its_files_are_written() -> None:
    assert {"containerName": "files", "condition": "SUCCESS"} in containers()["router"]["dependsOn"]
    assert containers()["files"]["essential"] is False, "an essential container that ends takes its task along"


def test_the_writer_puts_each_secret_into_the_file_that_the_router_reads(tmp_path: Path) -> None:
    given = {variable: f"<{name}>" for variable, name in secret_parameters(PLACE, tenant_parts=2).items()}
    script = WRITE_FILES.replace("/run/mrgc", str(tmp_path))
    subprocess.run([sys.executable, "-c", script], env={**os.environ, **given}, check=True)
    for variable, path in variables().items():
        if variable.endswith("_FILE") and variable != "TENANTS_FILE":
            file = tmp_path / Path(path).name
            assert file.read_text() == f"</mrgc/dev/router/{file.name}>"
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, "its owner's only"
    tenants = tmp_path / Path(variables()["TENANTS_FILE"]).name
    assert tenants.read_text() == "</mrgc/dev/router/tenants/0></mrgc/dev/router/tenants/1>", "the parts in order"


def test_a_tenants_file_in_ten_parts_keeps_its_order(tmp_path: Path) -> None:
    given = {name: path[-1] for name, path in secret_parameters(PLACE, 10).items() if "tenants" in path}
    script = WRITE_FILES.replace("/run/mrgc", str(tmp_path))
    subprocess.run([sys.executable, "-c", script], env={**os.environ, **given}, check=True)
    assert (tmp_path / "tenants").read_text() == "0123456789"


@pytest.mark.parametrize("parts", [0, 11])
def test_a_number_of_parts_out_of_bounds_is_refused(parts: int) -> None:
    with pytest.raises(ValueError, match="1 to 10 parts"):
        replace(ARGS, tenant_parts=parts)


def test_a_router_that_answers_not_ready_is_alive(tmp_path: Path) -> None:
    server = (
        "import http.server as h\n"
        "class S(h.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_error(503)\n"
        "    def log_message(self, *a): pass\n"
        "s = h.HTTPServer(('127.0.0.1', 0), S); print(s.server_port, flush=True); s.handle_request()\n"
    )
    with subprocess.Popen([sys.executable, "-c", server], stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        check = [sys.executable, "-c", ALIVE.replace("8080", port)]
        assert subprocess.run(check, check=False).returncode == 0
        process.wait(timeout=10)
        assert subprocess.run(check, check=False, stderr=subprocess.DEVNULL).returncode != 0, "nobody is there"


def test_no_health_check_makes_ecs_stop_routers(program: Program) -> None:
    made = program.one("ecs/service:Service").inputs
    assert made["healthCheckGracePeriodSeconds"] == GRACE_S == 2**31 - 1


def test_the_service_survives_a_bad_image_and_the_loss_of_a_zone(program: Program) -> None:
    made = program.one("ecs/service:Service").inputs
    assert made["deploymentCircuitBreaker"] == {"enable": True, "rollback": True}
    assert (made["deploymentMinimumHealthyPercent"], made["deploymentMaximumPercent"]) == (100, 200)
    assert made["availabilityZoneRebalancing"] == "ENABLED"
    assert made["networkConfiguration"]["subnets"] == ["subnet-a", "subnet-b", "subnet-c"]


def test_tasks_have_no_public_address_and_no_way_in_for_commands(program: Program) -> None:
    made = program.one("ecs/service:Service").inputs
    assert made["networkConfiguration"]["assignPublicIp"] is False
    assert made["networkConfiguration"]["securityGroups"] == ["sg-router"]
    assert made["enableExecuteCommand"] is False


def test_the_service_stands_behind_every_target_group() -> None:
    made = service(replace(ARGS, target_group_arns=["arn:one", "arn:two"])).one("ecs/service:Service").inputs
    assert [one["targetGroupArn"] for one in made["loadBalancers"]] == ["arn:one", "arn:two"]
    assert {one["containerPort"] for one in made["loadBalancers"]} == {443}, "8080 is no listener's target"


def test_how_many_routers_there_are_is_left_to_the_scaling(program: Program) -> None:
    assert program.one("ecs/service:Service").ignore_changes == ("desiredCount",)
    target = program.one("appautoscaling/target:Target").inputs
    assert (target["minCapacity"], target["maxCapacity"]) == (3, 12)
    assert target["resourceId"].startswith("service/c/")


def scaling(program: Program, what: str) -> dict[str, Any]:
    made = program.one("appautoscaling/policy:Policy", f"router-us-east-1-scaling-{what}")
    configuration: dict[str, Any] = made.inputs["targetTrackingScalingPolicyConfiguration"]
    return configuration


def test_routers_are_scaled_by_cpu_and_by_requests_at_once(program: Program) -> None:
    cpu, in_flight = (scaling(program, what) for what in ("cpu", "in-flight"))
    assert cpu["predefinedMetricSpecification"]["predefinedMetricType"] == "ECSServiceAverageCPUUtilization"
    metric = in_flight["customizedMetricSpecification"]
    assert (metric["namespace"], metric["metricName"], metric["statistic"]) == (
        "MRGC",
        "mrgc_router_in_flight",
        "Average",
    )
    assert metric["dimensions"] == [
        {"name": "Environment", "value": "dev"},
        {"name": "Region", "value": "us-east-1"},
    ]


def test_the_scaling_starts_well_before_a_router_refuses(program: Program) -> None:
    limit = RouterSettings.model_fields["max_in_flight"].default
    assert scaling(program, "in-flight")["targetValue"] * 4 == limit


def policies_of(program: Program, role: str) -> list[dict[str, Any]]:
    return [
        statement
        for one in program.of("iam/rolePolicy:RolePolicy")
        if one.inputs["role"] == role
        for statement in json.loads(one.inputs["policy"])["Statement"]
    ]


def test_the_router_may_read_its_regions_hosts_and_send_telemetry_and_nothing_else(program: Program) -> None:
    statements = policies_of(program, "mrgc-dev-us-east-1-router-task")
    assert {one["Sid"] for one in statements} == {"ReadHosts", "SendTraces", "WriteMetrics", "OpenTables"}
    keys = next(one for one in statements if one["Sid"] == "OpenTables")
    assert keys["Condition"] == {"StringEquals": {"kms:ViaService": ["dynamodb.us-east-1.amazonaws.com"]}}
    assert keys["Resource"] == ["arn:aws:kms:us-east-1:123456789012:key/mrk-1"]


def test_ecs_may_read_exactly_the_routers_parameters(program: Program) -> None:
    statements = policies_of(program, "mrgc-dev-us-east-1-router-execution")
    read = next(one for one in statements if one["Sid"] == "ReadParameters")
    assert len(read["Resource"]) == 6
    assert all(":parameter/mrgc/dev/router/" in arn for arn in read["Resource"])


def test_a_key_of_the_operators_own_opens_the_secrets_through_parameter_store_alone() -> None:
    made = service(replace(ARGS, secrets_key_arn="arn:aws:kms:us-east-1:123456789012:key/own"))
    statements = policies_of(made, "mrgc-dev-us-east-1-router-execution")
    opened = next(one for one in statements if one["Sid"] == "OpenSecrets")
    assert opened["Condition"] == {"StringEquals": {"kms:ViaService": "ssm.us-east-1.amazonaws.com"}}
    assert opened["Resource"].endswith("key/own")


def test_everything_is_the_components_child_in_its_region(program: Program) -> None:
    component = program.one("mrgc:router_service:RouterService")
    children = [one for one in program if one.custom and one.type.startswith("aws:")]
    assert {one.parent for one in children} == {component.urn}
    assert {program.region(one) for one in children} == {"us-east-1"}
    assert "None" not in str(program.outputs.values()), "an output that is not there yet turns into this word"


def test_the_service_waits_for_its_roles_policies_and_listeners() -> None:
    def run() -> None:
        provider = aws.Provider("aws-us-east-1", region="us-east-1")
        listener = aws.lb.Listener(
            "listener", default_actions=[], load_balancer_arn="arn:lb", opts=pulumi.ResourceOptions(provider=provider)
        )
        RouterService("router", replace(ARGS, listeners=[listener]), pulumi.ResourceOptions(provider=provider))

    made = record(run)
    waits = made.one("ecs/service:Service").dependencies
    assert made.one("lb/listener:Listener").urn in waits, "ECS refuses a target group without a load balancer"
    assert {one.urn for one in made.of("iam/rolePolicy:RolePolicy")} <= set(waits)


def test_the_image_has_the_user_and_the_folder_that_the_task_names() -> None:
    text = (ROOT / "dataplane/router/Dockerfile").read_text()
    assert 'VOLUME ["/run/mrgc"]' in text, "the volume takes its owner from the image's folder"
    assert "-o 10001 -g 10001 /run/mrgc" in text
    assert "USER 10001:10001" in text
    assert 'ENTRYPOINT ["mrgc", "router"]' in text


def test_the_image_is_given_every_package_that_the_router_imports() -> None:
    allowed = {
        line.removeprefix("!dataplane/")
        for line in (ROOT / "dataplane/router/Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!dataplane/")
    }
    imported: set[str] = set()
    for package in ("router", "registry", "mesh", "protocol"):
        for file in (ROOT / "dataplane" / package).rglob("*.py"):
            for line in file.read_text().splitlines():
                if line.startswith("from dataplane."):
                    imported.add(line.split(".")[1].split(" ")[0])
    assert {"router", "registry"} <= imported, "this test reads the imports"
    assert imported <= allowed
