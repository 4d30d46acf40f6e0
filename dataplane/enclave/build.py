"""`python -m dataplane.enclave.build`: the enclave image, and measurements.json with what it measures.

    docker build    dataplane/enclave/Dockerfile       -> a container image
    nitro-cli build-enclave                            -> an enclave image file (EIF) and its registers
    measurements.json                                  -> PCR0, PCR1, PCR2, and PCR8 where the image is signed

Everything that names measurements (tenants' key policies, `mrgc tenant attest`) reads that file. It needs Docker and
nitro-cli (Amazon Linux: `dnf install aws-nitro-enclaves-cli aws-nitro-enclaves-cli-devel`), so it runs on a build host
and in no test; what is read and written here is tested.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from dataplane.protocol.attestation.document import PCR_BYTES
from dataplane.protocol.errors import MrgcError

REQUIRED = (0, 1, 2)
SIGNED = 8
"""PCR8 measures the certificate that signed the image."""

DOCKERFILE = Path("dataplane/enclave/Dockerfile")
HOST_MEASUREMENTS = Path("dataplane/enclave/host_measurements.json")
IN_IMAGE = "/app"
TIMEOUT_S = 1800
"""A first build downloads a base image and compiles nothing."""

Runner = Callable[[Sequence[str]], str]
"""Runs a command and returns its standard output; raises `BuildError`."""


class BuildError(MrgcError):
    """An image that can't be built, or a tool that answered otherwise than documented."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPlan:
    """What to build and where to."""

    root: Path
    tag: str
    eif: Path
    measurements: Path
    signing_certificate: Path | None = None
    private_key: Path | None = None

    def commands(self) -> tuple[list[str], list[str]]:
        """Return the two commands, to be run in this order."""
        docker = ["docker", "build", "--file", str(self.root / DOCKERFILE), "--tag", self.tag]
        if (self.root / HOST_MEASUREMENTS).exists():
            # Baked in, so that PCR0 says which hosts this image takes for level 2.
            docker += ["--build-arg", f"HOST_MEASUREMENTS_FILE={IN_IMAGE}/{HOST_MEASUREMENTS}"]
        docker.append(str(self.root))
        nitro = ["nitro-cli", "build-enclave", "--docker-uri", self.tag, "--output-file", str(self.eif)]
        if (self.signing_certificate is None) != (self.private_key is None):
            raise BuildError("An image is signed with a certificate and its key: give both or neither.")
        if self.signing_certificate is not None:
            nitro += ["--signing-certificate", str(self.signing_certificate), "--private-key", str(self.private_key)]
        return docker, nitro


def parse_build_output(text: str) -> dict[int, bytes]:
    """Return the registers from what `nitro-cli build-enclave` prints: some lines, then one JSON object.

    PCR0, PCR1 and PCR2 must be there, PCR8 is where the image is signed. Raises `BuildError`, also for a register that
    is zero: such an image would be a debug image's equal.
    """
    start = text.find("{")
    try:
        document = json.loads(text[start:]) if start >= 0 else None
    except ValueError:
        document = None
    registers = document.get("Measurements") if isinstance(document, dict) else None
    if not isinstance(registers, dict):
        raise BuildError("nitro-cli printed no measurements; is it version 1.x, and did the build succeed?")
    found: dict[int, bytes] = {}
    for index in (*REQUIRED, SIGNED):
        value = registers.get(f"PCR{index}")
        if value is None and index == SIGNED:
            continue
        found[index] = _register(index, value)
    return found


def _register(index: int, value: object) -> bytes:
    try:
        register = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        register = b""
    if len(register) != PCR_BYTES or not any(register):
        raise BuildError(f"nitro-cli printed no PCR{index} of {PCR_BYTES} bytes that is not zero.")
    return register


def render_measurements(registers: Mapping[int, bytes]) -> str:
    """Return measurements.json: `{"PCR0": "hex", …}`, in order, with a newline at its end."""
    return json.dumps({f"PCR{index}": registers[index].hex() for index in sorted(registers)}, indent=2) + "\n"


def build(plan: BuildPlan, run: Runner) -> dict[int, bytes]:
    """Build the image and write measurements.json; returns the registers. Raises `BuildError`."""
    docker, nitro = plan.commands()
    run(docker)
    registers = parse_build_output(run(nitro))
    if plan.signing_certificate is not None and SIGNED not in registers:
        raise BuildError("The image was to be signed, and nitro-cli printed no PCR8.")
    plan.measurements.write_text(render_measurements(registers), encoding="utf-8")
    return registers


def run_command(command: Sequence[str]) -> str:
    """Run one tool; its messages go to the terminal, its standard output comes back."""
    try:
        done = subprocess.run(  # noqa: S603 - two fixed programs, arguments as a list
            command, stdout=subprocess.PIPE, text=True, check=False, timeout=TIMEOUT_S
        )
    except FileNotFoundError:
        raise BuildError(f"{command[0]} is not installed; the enclave image is built where it is.") from None
    except subprocess.TimeoutExpired:
        raise BuildError(f"{command[0]} took over {TIMEOUT_S} s and was stopped.") from None
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command[:2])} failed with status {done.returncode}; its messages say why.")
    return done.stdout


def main(arguments: Sequence[str] | None = None, *, run: Runner = run_command) -> NoReturn:
    """Build from the command line; exit 0 done, 1 failed, 2 misused."""
    parser = argparse.ArgumentParser(prog="python -m dataplane.enclave.build", description=build.__doc__)
    parser.add_argument("--root", type=Path, default=Path(), help="the checkout (default: here)")
    parser.add_argument("--tag", default="mrgc-enclave:latest", help="the container image's name")
    parser.add_argument("--eif", type=Path, default=Path("mrgc-enclave.eif"), help="the enclave image file to write")
    parser.add_argument("--measurements", type=Path, default=Path("measurements.json"), help="the file to write")
    parser.add_argument("--signing-certificate", type=Path, help="sign the image (PCR8): certificate in PEM")
    parser.add_argument("--private-key", type=Path, help="sign the image: the certificate's key in PEM")
    given = vars(parser.parse_args(arguments))
    try:
        plan = BuildPlan(**given)
        registers = build(plan, run)
    except (BuildError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
    sys.stdout.write(f"{plan.measurements} has PCR{', PCR'.join(map(str, sorted(registers)))} of {plan.eif}\n")
    sys.exit(0)


if __name__ == "__main__":
    main()
