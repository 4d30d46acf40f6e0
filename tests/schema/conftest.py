"""Terraform, initialised once for every test that asks the AWS provider."""

from __future__ import annotations

import pytest

from tests.support.terraform_cli import Terraform, missing


@pytest.fixture(scope="session")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    lacking = missing()
    if lacking:
        pytest.skip(lacking)
    return Terraform(tmp_path_factory.mktemp("terraform"))
