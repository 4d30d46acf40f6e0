"""Dev with three regions, applied by the AWS provider: made, planned again, and taken down, on moto for want of an AWS.

moto is no AWS. What it cannot do is left out, and what it forgets shows as drift; both are written down in
tests/support/moto_limits.py, and anything that is not written down there fails a test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pytest
from docker.errors import DockerException  # type: ignore[import-untyped]  # docker publishes no types
from testcontainers.core.docker_client import DockerClient

from stacks.program import deploy
from stacks.settings import parse
from tests.support.moto_limits import DRIFT, NOT_MADE, NOT_REMOVED, NOT_SET
from tests.support.moto_server import IMAGE, moto_container, moto_process
from tests.support.pulumi_program import record
from tests.support.stacks import stack_values
from tests.support.terraform_cli import Deployment, Outcome, Terraform
from tests.support.terraform_document import Document, document

pytestmark = [pytest.mark.terraform, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Applied:
    """One life of the platform on an emulator."""

    configuration: Document
    made: Outcome
    drift: Mapping[str, list[str]]
    unreadable: list[str]
    removed: Outcome

    def left(self) -> set[str]:
        """The addresses that are left to the emulator when the rest is removed."""
        return {one for one in self.configuration.resources if one.partition(".")[0] in NOT_REMOVED}


def emulator(kind: str, folder: pytest.TempPathFactory) -> AbstractContextManager[str]:
    if kind == "process":
        return moto_process(folder.mktemp("moto") / "moto.log")
    try:
        DockerClient().client.ping()
    except DockerException:
        pytest.skip(f"There is no Docker engine here to run {IMAGE} in; with one, this test runs too.")
    return moto_container()


@pytest.fixture(scope="module", params=["process", pytest.param("container", marks=pytest.mark.docker)])
def applied(
    request: pytest.FixtureRequest, terraform: Terraform, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Applied]:
    with emulator(request.param, tmp_path_factory) as endpoint:
        # As an operator does before a stack is taken down for good.
        settings = parse({**stack_values("dev"), "deletion_protection": False})
        program = record(lambda: deploy(settings), stack="dev")
        configuration = document(program, terraform.schema, without=NOT_MADE, without_arguments=NOT_SET)
        deployment = Deployment(tmp_path_factory.mktemp("dev") / "stack", configuration, endpoint)
        made = deployment.apply()
        drift, unreadable = deployment.drift()
        deployment.forget([one for one in made.done if one.partition(".")[0] in NOT_REMOVED])
        removed = deployment.destroy()
        yield Applied(configuration, made, drift, [one.text for one in unreadable], removed)


def test_everything_that_the_emulator_knows_is_made(applied: Applied) -> None:
    assert applied.made.errors == []
    assert applied.made.done == set(applied.configuration.resources)
    assert len(applied.made.done) > 550, "the program was not applied whole"


def test_a_second_plan_reads_everything_and_changes_nothing_of_its_own(applied: Applied) -> None:
    assert applied.unreadable == []
    strange = {
        address: paths
        for address, changes in applied.drift.items()
        if (paths := [one for one in changes if reason(address, one) is None])
    }
    assert strange == {}, "no reason is written for this drift: the program's, or one more of the emulator's"


def test_every_written_drift_is_seen(applied: Applied) -> None:
    seen = {reason(address, one) for address, changes in applied.drift.items() for one in changes}
    assert set(DRIFT) <= seen, "the emulator has learned this; take it out of the list"


def test_everything_is_taken_down_again(applied: Applied) -> None:
    assert applied.removed.errors == []
    assert applied.removed.done == applied.made.done - applied.left()


def reason(address: str, change: str) -> tuple[str, str] | None:
    """The entry of DRIFT that a change (`path: before -> after`) of a resource falls under."""
    kind = address.partition(".")[0]
    path = change.partition(": ")[0].replace("tags_all", "tags")
    return next(((known, part) for known, part in DRIFT if known == kind and f"{path}.".startswith(f"{part}.")), None)
