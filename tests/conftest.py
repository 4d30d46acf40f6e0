"""What every test shares: hypothesis profiles, and the rule that CI skips nothing that this machine can run."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from hypothesis import settings

from observability import disclosure
from tests.support.terraform_cli import missing as lacks_terraform

MAY_SKIP_ON_CI = ("docker", "hardware", "pulumi", *(("terraform",) if lacks_terraform() else ()))
"""Markers of what CI's machine does not have: a Docker engine, a Nitro instance, Pulumi's engine; and Terraform with
the AWS provider, which a machine that has both must use."""

# Two shared cores: a slow example is the machine's doing, not the code's.
settings.register_profile("default", deadline=None, max_examples=60)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip on CI into a failure, unless a marker says that CI's machine can't run the test."""
    report = yield
    expected = any(item.get_closest_marker(name) for name in MAY_SKIP_ON_CI)
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") and not expected:
        report.outcome = "failed"
        report.longrepr = f"skipped on CI, where it must run: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def kept_back(monkeypatch: pytest.MonkeyPatch) -> Generator[list[str]]:
    """Names that were kept from leaving enclave or worker; one that the test did not expect and clear fails it."""
    seen: list[str] = []
    monkeypatch.setattr(disclosure, "refused", seen.append)
    yield seen
    assert not seen, f"production code tried to let out what observability/disclosure.py does not: {seen}"
