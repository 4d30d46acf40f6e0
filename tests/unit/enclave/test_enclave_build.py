"""The image build: what is run, what of nitro-cli's output is taken, what is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from dataplane.enclave.build import (
    BuildError,
    BuildPlan,
    build,
    main,
    parse_build_output,
    render_measurements,
    run_command,
)

ROOT = Path(__file__).parents[3]
REGISTERS = {0: b"\x01" * 48, 1: b"\x02" * 48, 2: b"\x03" * 48}


def printed(**changes: object) -> str:
    """What `nitro-cli build-enclave` writes (AWS Nitro Enclaves user guide, "nitro-cli build-enclave")."""
    registers = {f"PCR{index}": value.hex() for index, value in REGISTERS.items()}
    measurements = {"HashAlgorithm": "Sha384 { ... }"} | registers | changes
    shown = {key: value for key, value in measurements.items() if value is not None}
    return "Start building the Enclave Image...\nEnclave Image successfully created.\n" + json.dumps(
        {"Measurements": shown}, indent=2
    )


def plan(tmp_path: Path, **changes: Path) -> BuildPlan:
    return BuildPlan(
        root=tmp_path, tag="t", eif=tmp_path / "e.eif", measurements=tmp_path / "measurements.json", **changes
    )


def test_the_registers_are_read_from_between_the_messages() -> None:
    assert parse_build_output(printed()) == REGISTERS, "PCR0 to PCR2"


def test_a_signed_image_has_pcr8() -> None:
    assert parse_build_output(printed(PCR8="88" * 48))[8] == b"\x88" * 48, "the signing certificate's"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "{",
        "{}",
        '{"Measurements": []}',
        printed(PCR0=None),
        printed(PCR1="00"),
        printed(PCR2="zz" * 48),
        printed(PCR0="00" * 48),
        printed(PCR8="00" * 48),
        printed(PCR0=7),
    ],
)
def test_output_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(BuildError, match="nitro-cli printed"):
        parse_build_output(text)


def test_measurements_json_is_what_tenants_read(tmp_path: Path) -> None:
    from dataplane.tenant.config import load_measurements  # noqa: PLC0415 - only this test crosses over

    path = tmp_path / "measurements.json"
    path.write_text(render_measurements({**REGISTERS, 8: b"\x08" * 48}))
    assert load_measurements(path) == ({**REGISTERS, 8: b"\x08" * 48},), "written here, read there"


def test_a_build_runs_docker_then_nitro_cli_and_writes_the_file(tmp_path: Path) -> None:
    ran: list[Sequence[str]] = []

    def run(command: Sequence[str]) -> str:
        ran.append(command)
        return printed()

    assert build(plan(tmp_path), run) == REGISTERS, "what was measured"
    assert [command[:2] for command in ran] == [["docker", "build"], ["nitro-cli", "build-enclave"]], "in this order"
    assert json.loads((tmp_path / "measurements.json").read_text())["PCR0"] == "01" * 48, "written"


def test_allowed_hosts_are_baked_in_where_there_are_any(tmp_path: Path) -> None:
    assert "--build-arg" not in plan(tmp_path).commands()[0], "none, so level 2 is not had"
    (tmp_path / "dataplane/enclave").mkdir(parents=True)
    (tmp_path / "dataplane/enclave/host_measurements.json").write_text("{}")
    docker, _ = plan(tmp_path).commands()
    assert "HOST_MEASUREMENTS_FILE=/app/dataplane/enclave/host_measurements.json" in docker, "the path in the image"


def test_a_signature_takes_certificate_and_key(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="both or neither"):
        plan(tmp_path, signing_certificate=tmp_path / "c.pem").commands()
    signed = plan(tmp_path, signing_certificate=tmp_path / "c.pem", private_key=tmp_path / "k.pem")
    assert "--signing-certificate" in signed.commands()[1], "given to nitro-cli"
    with pytest.raises(BuildError, match="no PCR8"):
        build(signed, lambda _: printed())


def test_a_tool_that_is_missing_or_fails_is_one_sentence() -> None:
    with pytest.raises(BuildError, match="not installed"):
        run_command(["/nonexistent/nitro-cli", "build-enclave"])
    with pytest.raises(BuildError, match="failed with status 1"):
        run_command(["false", "build"])
    assert run_command(["echo", "out"]) == "out\n", "what a tool prints comes back"


def test_the_command_line_exits_as_mrgc_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = str(tmp_path / "m.json")
    with pytest.raises(SystemExit) as done:
        main(["--measurements", written], run=lambda _: printed())
    assert done.value.code == 0, "done"
    assert "PCR0, PCR1, PCR2" in capsys.readouterr().out, "says what it has"
    with pytest.raises(SystemExit) as failed:
        main(["--measurements", written], run=lambda _: "nothing")
    assert failed.value.code == 1, "failed"
    with pytest.raises(SystemExit) as misused:
        main(["--no-such-option"])
    assert misused.value.code == 2, "misused"


def test_the_image_has_what_the_program_imports_and_no_stand_in() -> None:
    lines = (ROOT / "dataplane/enclave/Dockerfile").read_text().splitlines()
    copied = {line.split()[1] for line in lines if line.startswith("COPY ") and "--from" not in line}
    assert copied >= {"dataplane/protocol", "dataplane/mesh", "dataplane/enclave", "observability"}, "its packages"
    assert not any("stacks" in path or "tests" in path for path in copied), "no software NSM in an image"
    assert not any(line.startswith("ENV") and "DEBUG" in line for line in lines), "no debug flag"
