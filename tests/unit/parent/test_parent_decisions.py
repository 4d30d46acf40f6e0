"""What the parent decides, without any server: credentials, binding, health, the registry's record, settings."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from dataplane.enclave.binding import MAX_BINDING_AGE_S
from dataplane.mesh.address import UnixAddress, VsockAddress
from dataplane.mesh.health import Health
from dataplane.mesh.settings import load_settings
from dataplane.parent.credentials import RENEW_BEFORE_S, Credentials, must_hand_over
from dataplane.parent.headers import read_inference_headers, read_nonce
from dataplane.parent.keeper import REBIND_JITTER, enclave_fault, must_bind
from dataplane.parent.report import PARTS, health_page, host_record, metrics_page
from dataplane.parent.settings import MAX_REBIND_S, ParentSettings
from dataplane.parent.view import EnclaveReport, HostView, ReplyError, WorkerReport
from dataplane.protocol.errors import ProblemError, SettingsError
from dataplane.registry.host import HostRecord, HostState
from tests.support.parent_host import HEADERS

NOW_MS = 1_900_000_000_000
HELD = Credentials("AKIA1", "secret", "token-1", NOW_MS + 3_600_000)
EPOCH, OTHER_EPOCH = b"e" * 16, b"o" * 16

ENCLAVE = EnclaveReport(
    ready=True, credentials=True, worker=True, assurance=1, worker_epoch=EPOCH, figures={"kms_calls": 1}
)
WORKER = WorkerReport(
    engine="vllm",
    ready=True,
    epoch=EPOCH,
    waiting=2,
    running=5,
    kv_cache_usage=0.5,
    gpu={},
    models={"loaded": ["b"], "available": ["a"]},
    requests={},
    released={},
)

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=17),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def view(*, enclave: EnclaveReport | None = ENCLAVE, worker: WorkerReport | None = WORKER) -> HostView:
    return HostView(enclave=enclave, worker=worker)


def health(*, ok: bool = True) -> Health:
    health = Health(PARTS, monotonic=lambda: 0.0)
    for part in PARTS:
        health.report(part, ok=ok)
    return health


def record(of: HostView, health: Health, *, in_flight: int = 0, waiting: int = 0) -> HostRecord:
    return host_record(
        of,
        health,
        instance_id="i-1",
        region="us-east-1",
        address="http://10.0.0.7:8080",
        capacity=256,
        in_flight=in_flight,
        waiting=waiting,
        now_ms=NOW_MS,
    )


@pytest.mark.parametrize(
    ("given_before", "current", "enclave_has", "expected", "why"),
    [
        (None, HELD, True, True, "this parent has given none yet, so what the enclave has may be old"),
        (HELD, HELD, True, False, "nothing has changed"),
        (HELD, HELD, False, True, "the enclave has restarted"),
        (HELD, dataclasses.replace(HELD, session_token="token-2"), True, True, "the chain has renewed them"),
        (
            dataclasses.replace(HELD, expires_ms=NOW_MS + RENEW_BEFORE_S * 1000 - 1),
            HELD,
            True,
            True,
            "the same keys, with more time left than the enclave believes",
        ),
        (
            dataclasses.replace(HELD, expires_ms=NOW_MS + 1000),
            dataclasses.replace(HELD, expires_ms=NOW_MS + 1000),
            True,
            False,
            "giving the same again would help nobody",
        ),
    ],
)
def test_credentials_are_handed_over_when_it_helps(
    given_before: Credentials | None, current: Credentials, *, enclave_has: bool, expected: bool, why: str
) -> None:
    assert must_hand_over(given_before, current, enclave_has=enclave_has, now_ms=NOW_MS) is expected, why


@pytest.mark.parametrize(
    ("enclave", "worker", "expected", "why"),
    [
        (ENCLAVE, WORKER, False, "the enclave holds this epoch"),
        (ENCLAVE, dataclasses.replace(WORKER, epoch=OTHER_EPOCH), True, "the worker has a new key"),
        (dataclasses.replace(ENCLAVE, worker=False, worker_epoch=None), WORKER, True, "the enclave holds none"),
        (None, WORKER, False, "nobody can challenge"),
        (ENCLAVE, None, False, "nobody can answer"),
        (ENCLAVE, dataclasses.replace(WORKER, epoch=None), False, "the worker has no key yet"),
        (dataclasses.replace(ENCLAVE, binding_age_ms=599_999), WORKER, False, "the binding is young enough"),
        (dataclasses.replace(ENCLAVE, binding_age_ms=600_000), WORKER, True, "it is time to renew it"),
        (dataclasses.replace(ENCLAVE, binding_age_ms=2**52), WORKER, True, "it is long past that"),
        (
            ENCLAVE,
            dataclasses.replace(WORKER, epoch=OTHER_EPOCH, accepted=(OTHER_EPOCH, EPOCH)),
            True,
            "the enclave's key is accepted for a short time only",
        ),
    ],
)
def test_the_worker_is_bound_when_epochs_differ_or_the_binding_is_old(
    enclave: EnclaveReport | None, worker: WorkerReport | None, *, expected: bool, why: str
) -> None:
    assert must_bind(view(enclave=enclave, worker=worker), rebind_s=600.0) is expected, why


@pytest.mark.parametrize(
    ("enclave", "expected"),
    [
        (ENCLAVE, ""),
        (None, "does not answer"),
        (dataclasses.replace(ENCLAVE, credentials=False), "has no credentials"),
        (dataclasses.replace(ENCLAVE, worker=False), "has no worker"),
        (dataclasses.replace(ENCLAVE, worker_epoch=OTHER_EPOCH), "has an older key of the worker"),
        (dataclasses.replace(ENCLAVE, ready=False), "is not ready"),
        (
            dataclasses.replace(ENCLAVE, ready=False, binding_age_ms=901_000, clock_skew_ms=-61_000),
            "is not ready (the binding's age 901 s, the clock's skew -61 s)",
        ),
    ],
)
def test_what_is_wrong_with_the_enclave_is_named(enclave: EnclaveReport | None, expected: str) -> None:
    assert enclave_fault(view(enclave=enclave)) == expected, "the first thing that keeps it from serving"


def test_an_older_key_that_the_worker_still_accepts_is_no_fault() -> None:
    renewing = dataclasses.replace(WORKER, epoch=OTHER_EPOCH, accepted=(OTHER_EPOCH, EPOCH))
    assert enclave_fault(view(worker=renewing)) == "", "a host is not taken out while its binding is renewed"


def test_every_renewal_leaves_two_minutes_before_the_enclave_stops() -> None:
    assert MAX_REBIND_S * (1 + REBIND_JITTER) <= MAX_BINDING_AGE_S - 100, "for attempts that fail"


def test_the_record_counts_work_here_and_in_the_engine() -> None:
    made = record(view(), health(), in_flight=9, waiting=3)
    assert (made.queue_depth, made.running) == (5, 9), (
        "3 wait here and 2 there; 9 in hand are more than 5 in the engine"
    )
    assert made.pools == ("a", "b"), "what is loaded is available"
    assert (made.state, made.health, made.assurance) == (HostState.READY, 100, 1), "a well host"


def test_a_host_that_fails_is_less_healthy_and_recovers_while_it_is_quiet() -> None:
    of = view()
    for _ in range(5):
        of.note_success(ok=False)
    failing = record(of, health()).health
    assert 20 < failing < 50, "five failures in a row weigh two thirds"
    for _ in range(200):
        of.forgive()
    assert record(of, health()).health > 95, "or it would never get a request again"


def test_the_state_follows_health_and_drain() -> None:
    unwell = record(view(enclave=None, worker=None), health(ok=False))
    assert (unwell.state, unwell.health, unwell.engine) == (HostState.UNHEALTHY, 0, "unknown"), "nothing is known"
    draining = health()
    draining.draining = True
    assert record(view(), draining).state is HostState.DRAINING, "however well it is"


def test_the_time_to_the_first_byte_is_a_moving_average() -> None:
    of = view()
    of.note_first_byte(0.1)
    assert of.first_byte_ms == pytest.approx(100), "the first one is the average"
    of.note_first_byte(0.2)
    assert of.first_byte_ms == pytest.approx(120), "the next one weighs a fifth"


def test_pages_of_a_host_whose_worker_is_silent_say_zero_and_not_nothing() -> None:
    unwell = health(ok=False)
    page = metrics_page(view(worker=None), unwell)
    assert page["gpu_stats"]["gpu_available"] is False, "no worker, no GPU to speak of"
    assert page["gpu_stats"]["success_rate"] == 1.0, "no request has failed"
    assert page["model_stats"]["loaded_models"] == [], "nothing is loaded"
    assert health_page(view(worker=None), unwell)["models_loaded"] == [], "here too"


def test_model_details_are_shown_as_json_can() -> None:
    models = {"details": {"tiny": {"digest": b"\xab", "loads": 3, "odd": [1]}, "bad": 7}}
    page = metrics_page(view(worker=dataclasses.replace(WORKER, models=models)), health())
    assert page["model_stats"]["models"] == {"tiny": {"digest": "ab", "loads": 3}}, "bytes in hex, the rest left out"


@given(
    st.dictionaries(st.sampled_from([*WorkerReport.__dataclass_fields__]), plain),
    st.sampled_from([{}, {"engine": "vllm", "epoch": EPOCH}]),
)
def test_no_reply_of_a_worker_breaks_the_pages(reply: dict[str, Any], good: dict[str, Any]) -> None:
    reply |= good
    try:
        worker = WorkerReport.from_reply(reply)
    except ReplyError:
        return
    of = view(worker=worker)
    HostRecord.from_item(record(of, health()).to_item())
    metrics_page(of, health())


@given(st.dictionaries(st.sampled_from([*EnclaveReport.__dataclass_fields__, "kms_calls"]), plain))
def test_no_reply_of_an_enclave_breaks_the_record(reply: dict[str, Any]) -> None:
    try:
        enclave = EnclaveReport.from_reply(reply)
    except ReplyError:
        return
    HostRecord.from_item(record(view(enclave=enclave), health()).to_item())


def test_the_default_pool_stands_in_for_a_missing_header() -> None:
    headers = CIMultiDict(HEADERS)
    del headers["X-Model-Pool"]
    assert read_inference_headers(headers, default_model="tiny").model == "tiny", "as configured"
    with pytest.raises(ProblemError, match="X-Model-Pool is missing"):
        read_inference_headers(headers, default_model=None)


@pytest.mark.parametrize("value", ["", "x" * 129, "a\x07b"])
def test_a_bad_request_id_is_replaced_and_refuses_nothing(value: str) -> None:
    read = read_inference_headers(CIMultiDict(HEADERS | {"X-Request-ID": value}), default_model=None)
    assert len(read.request_id) == 16, "a fresh one, for the logs"


def test_header_names_are_read_whatever_their_case() -> None:
    headers = CIMultiDict({name.lower(): value for name, value in HEADERS.items()})
    assert read_inference_headers(headers, default_model=None).tenant == "tenant-a", "as HTTP has it"


@given(st.binary(min_size=16, max_size=64))
def test_every_nonce_of_16_to_64_bytes_is_read(nonce: bytes) -> None:
    assert read_nonce(nonce.hex()) == nonce, "as bytes"


@given(st.none() | st.text(max_size=140))
def test_nothing_else_is_a_nonce(text: str | None) -> None:
    try:
        nonce = read_nonce(text)
    except ProblemError:
        return
    assert 16 <= len(nonce) <= 64, "only what is in bounds passes"
    assert nonce.hex() == (text or "").lower(), "and only plain hex"


def test_settings_have_the_documented_defaults() -> None:
    settings = load_settings(ParentSettings, {"HTTP_HOST": "127.0.0.1"})
    assert settings.fsx_mount_point == Path("/fsx"), "FSX_MOUNT_POINT"
    assert (settings.enclave_cid, settings.enclave_port) == (16, 5000), "ENCLAVE_CID and ENCLAVE_PORT"
    assert (settings.http_port, settings.gpu_memory_utilization) == (8080, 0.90), "HTTP_PORT, GPU_MEMORY_UTILIZATION"
    assert settings.enclave_address == UnixAddress("/run/mrgc/proxy.sock"), "through the proxy"


def test_without_a_proxy_the_enclave_is_reached_over_vsock() -> None:
    settings = load_settings(
        ParentSettings, {"HTTP_HOST": "127.0.0.1", "ENCLAVE_PROXY_ADDRESS": "none", "ENCLAVE_CID": "17"}
    )
    assert settings.enclave_address == VsockAddress(17, 5000), "at its context and port"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_PORT", "0"),
        ("ENCLAVE_CID", "2"),
        ("ENCLAVE_PROXY_ADDRESS", "proxy.sock"),
        ("WORKER_ADDRESS", "unix:relative"),
        ("GPU_MEMORY_UTILIZATION", "1.5"),
        ("ADVERTISED_URL", "http://host/path"),
        ("REGISTRY", "memory"),
        ("MAX_IN_FLIGHT", "0"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named_with_its_value(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is '{value}'; expected"):
        load_settings(ParentSettings, {name: value})


TLS = {"TLS_CERT_FILE": "/c.pem", "TLS_KEY_FILE": "/k.pem", "TLS_CLIENT_CA_FILE": "/ca.pem"}


def test_a_parent_that_others_reach_asks_routers_for_certificates() -> None:
    with pytest.raises(SettingsError, match="whoever reaches the port would pass by the routers' limits"):
        load_settings(ParentSettings, {})
    assert load_settings(ParentSettings, TLS).scheme == "https", "with all three files it may listen anywhere"
    assert load_settings(ParentSettings, {"HTTP_HOST": "127.0.0.1"}).scheme == "http", "on loopback it needs none"


@pytest.mark.parametrize("missing", TLS)
def test_two_of_three_tls_files_are_refused(missing: str) -> None:
    some = {name: value for name, value in TLS.items() if name != missing}
    with pytest.raises(SettingsError, match="come together: set all three or none"):
        load_settings(ParentSettings, {"HTTP_HOST": "127.0.0.1", **some})


def test_a_plain_url_is_not_advertised_for_a_tls_listener() -> None:
    with pytest.raises(SettingsError, match="ADVERTISED_URL must be an https URL"):
        load_settings(ParentSettings, {**TLS, "ADVERTISED_URL": "http://10.0.0.7:8080"})
