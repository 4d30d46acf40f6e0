"""What the configuration digest covers: all that concerns a tenant, and nothing that differs from host to host."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from dataplane.mesh.settings import load_settings
from dataplane.protocol.errors import SettingsError
from dataplane.worker.configuration import Configuration, config_digest, configuration
from dataplane.worker.settings import WorkerSettings
from dataplane.worker.vllm_engine import NEVER, OFFLINE, QUIET, VllmFactory
from stacks.local.synthetic import SyntheticFactory

BASE = {"DEFAULT_MODEL_POOL": "tiny"}
DIGEST = "ab" * 32


class Vllm(VllmFactory):
    """vLLM's own factory with a version that needs no installation."""

    version = "0.32.0"


def content(environ: Mapping[str, str] = {}, *, version: str = "0.32.0", synthetic: bool = False) -> Configuration:
    everything = {**BASE, **environ}
    settings = load_settings(WorkerSettings, everything)
    if synthetic:
        return configuration(settings, SyntheticFactory(clock_ms=lambda: 0), everything)
    factory = Vllm(options=settings.vllm_options(), environ=everything)
    factory.version = version
    return configuration(settings, factory, everything)


def test_whatever_concerns_a_tenant_changes_the_digest() -> None:
    variants = [
        content(),
        content(synthetic=True),
        content(version="0.32.1"),
        content({"MAX_NUM_SEQS": "7"}),
        content({"TPM": "nitro"}),
        content({"LOG_LEVEL": "DEBUG"}),
        content({"MODEL_DIGESTS": f"tiny={DIGEST}"}),
        content({"VLLM_PLUGINS": "spy"}),
        content({"VLLM_LOGGING_LEVEL": "DEBUG"}),
        content({"PYTHONPATH": "/elsewhere"}),
        content({"LD_PRELOAD": "/elsewhere.so"}),
        content({"CUDA_INJECTION64_PATH": "/elsewhere.so"}),
        content({"NVTX_INJECTION64_PATH": "/elsewhere.so"}),
        content({"OPENSSL_CONF": "/elsewhere.cnf"}),
        content({"GCONV_PATH": "/elsewhere"}),
        content({"TRITON_CACHE_DIR": "/fsx/kernels"}),
        content({"FLASHINFER_WORKSPACE_BASE": "/fsx/kernels"}),
        content({"XDG_CACHE_HOME": "/fsx/kernels"}),
        content({"CC": "/fsx/cc"}),
        content({"HOME": "/fsx/home"}),
    ]
    digests = {config_digest(each) for each in variants}
    assert len(digests) == len(variants), "an operator can change none of these unseen"


@pytest.mark.parametrize(
    "more",
    [
        {"FSX_MOUNT_POINT": "/other"},
        {"MODEL_CACHE_DIR": "/other"},
        {"DEFAULT_MODEL_POOL": "other"},
        {"WORKER_LISTEN_ADDRESS": "unix:/other.sock"},
        {"MAX_QUEUE": "3"},
        {"MRGC_REGION": "us-west-2"},
        {"INSTANCE_ID": "i-1"},
        {"PYTHONUNBUFFERED": "1"},
    ],
)
def test_where_things_lie_does_not_so_one_digest_serves_a_fleet(more: dict[str, str]) -> None:
    assert config_digest(content(more)) == config_digest(content()), f"{more} concerns no tenant"


def test_no_environment_can_bring_the_engine_online_or_back_to_its_own_logging() -> None:
    environ = dict.fromkeys((*OFFLINE, *QUIET, *NEVER), "0")
    VllmFactory(options=load_settings(WorkerSettings, BASE).vllm_options(), environ=environ)
    assert environ == OFFLINE | QUIET, "the worker's word, whatever worker.env says"


def test_the_content_says_what_a_tenant_asks_for() -> None:
    options = content()["options"]
    assert isinstance(options, dict), "a map"
    assert options["trust_remote_code"] is False, "files of a model are no code"
    assert options["log_requests"] is False, "prompts are not logged"
    assert options["prefix_caching"] == "salted", "and not shared"


@pytest.mark.parametrize(
    "value",
    ["tiny", "tiny=", f"tiny={DIGEST},", f"tiny={DIGEST},tiny={DIGEST}", f"../x={DIGEST}", f"tiny={DIGEST.upper()}"],
)
def test_pinned_digests_that_make_no_sense_are_named(value: str) -> None:
    with pytest.raises(SettingsError, match="MODEL_DIGESTS"):
        load_settings(WorkerSettings, BASE | {"MODEL_DIGESTS": value})


def test_pins_without_the_default_pool_and_a_cache_in_the_store_are_refused() -> None:
    with pytest.raises(SettingsError, match="DEFAULT_MODEL_POOL"):
        load_settings(WorkerSettings, BASE | {"MODEL_DIGESTS": f"other={DIGEST}"})
    with pytest.raises(SettingsError, match="outside FSX_MOUNT_POINT"):
        load_settings(WorkerSettings, BASE | {"FSX_MOUNT_POINT": "/fsx", "MODEL_CACHE_DIR": "/fsx/copies"})
