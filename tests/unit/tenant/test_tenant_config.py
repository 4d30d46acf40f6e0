"""What a tenant is told about its cluster, and how bad files are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol.errors import SettingsError
from dataplane.tenant.affinity import canonical_prompt
from dataplane.tenant.config import load_cluster, load_measurements, read_secret
from dataplane.tenant.measurements import parse_measurements

PCRS = {str(index): f"{index + 1:02x}" * 48 for index in range(3)}


def cluster_file(folder: Path, **changes: Any) -> Path:
    tenants = [
        {
            "id": name,
            "api_key": f"key-of-{name}",
            "kms_key_arn": "arn:aws:kms:us-east-1:111122223333:key/mrk-1",
            "region": "us-east-1",
            "aws_access_key_id": f"id-of-{name}",
            "aws_secret_access_key": f"secret-of-{name}",
        }
        for name in ("tenant-a", "tenant-b")
    ]
    document = {
        "endpoint": "https://127.0.0.1:8443",
        "ca_file": "ca.pem",
        "aws_endpoint_url": "http://127.0.0.1:4566",
        "otlp_endpoint": "http://127.0.0.1:4318",
        "model": "tiny",
        "tenants": tenants,
        "attestation_root": "/elsewhere/root.pem",
        "pcrs": PCRS,
    }
    path = folder / "cluster.json"
    path.write_text(json.dumps(document | changes), encoding="utf-8")
    return path


def test_a_cluster_file_says_all_that_a_tenant_needs(tmp_path: Path) -> None:
    config = load_cluster(cluster_file(tmp_path), "tenant-b")
    assert (config.tenant, config.api_key, config.model) == ("tenant-b", "key-of-tenant-b", "tiny"), "that tenant's"
    assert config.ca_file == tmp_path / "ca.pem", "a relative file lies beside cluster.json"
    assert config.attestation_root == Path("/elsewhere/root.pem"), "an absolute one where it says"
    assert config.assurance == 0, "a local stack proves nothing, and is accepted as that"
    assert config.measurements[0][2] == b"\x03" * 48, "its PCRs are the allowed ones"
    assert load_cluster(cluster_file(tmp_path)).tenant == "tenant-a", "the first tenant when none is named"


def test_no_secret_shows_in_a_repr(tmp_path: Path) -> None:
    config = load_cluster(cluster_file(tmp_path)).changed(affinity_secret=b"affinity")
    for secret in ("key-of-tenant-a", "secret-of-tenant-a", "affinity'"):
        assert secret not in repr(config), f"{secret} is not for logs"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tenants": []}, "lists no tenant"),
        ({"tenants": [{}]}, "not the cluster.json"),
        ({"endpoint": None, "pcrs": {}}, "no PCR0"),
        ({"pcrs": PCRS | {"0": "00" * 48}}, "zero PCR0"),
    ],
)
def test_a_cluster_file_that_lacks_something_is_named(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence) as caught:
        load_cluster(cluster_file(tmp_path, **changes))
    assert "cluster.json" in str(caught.value), "the file is named"


def test_another_tenant_than_the_file_has_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no tenant 'tenant-c'; it has tenant-a, tenant-b"):
        load_cluster(cluster_file(tmp_path), "tenant-c")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_what_is_no_json_is_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cluster.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match="cannot be read as JSON"):
        load_cluster(path)
    with pytest.raises(SettingsError, match="No such file"):
        load_cluster(tmp_path / "none.json")


@pytest.mark.parametrize(
    "document",
    [
        {f"PCR{index}": PCRS[str(index)] for index in range(3)},
        {"Measurements": {"HashAlgorithm": "Sha384 { ... }"} | {f"PCR{i}": PCRS[str(i)] for i in range(3)}},
        {"pcrs": PCRS},
    ],
    ids=["plain", "nitro-cli", "cluster.json"],
)
def test_measurements_are_read_as_tools_write_them(tmp_path: Path, document: dict[str, Any]) -> None:
    path = tmp_path / "measurements.json"
    path.write_text(json.dumps([document]), encoding="utf-8")
    assert load_measurements(path) == ({0: b"\x01" * 48, 1: b"\x02" * 48, 2: b"\x03" * 48},), "three registers"


def test_a_signed_image_is_held_to_its_signer() -> None:
    pcrs = parse_measurements(PCRS | {"8": "88" * 48}, source="m")
    assert pcrs[8] == b"\x88" * 48, "PCR8 counts where it is published"


def test_an_unsigned_image_is_held_to_its_zero_pcr8() -> None:
    pcrs = parse_measurements(PCRS | {"8": "00" * 48}, source="m")
    assert pcrs[8] == bytes(48), "zero is compared: a signed image is another"


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)))
def test_what_has_no_measurements_is_refused(document: object) -> None:
    with pytest.raises(SettingsError, match="measurements"):
        parse_measurements(document, source="m")


@pytest.mark.parametrize("value", ["", "zz" * 48, "11" * 47, 5])
def test_a_register_that_is_no_sha384_is_refused(value: object) -> None:
    with pytest.raises(SettingsError, match="PCR1"):
        parse_measurements(PCRS | {"1": value}, source="m")


def test_secrets_come_from_files(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("  the-key\n", encoding="utf-8")
    assert read_secret(path, "the API key") == "the-key", "an editor's newline is no part of it"
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="is empty"):
        read_secret(path, "the API key")
    with pytest.raises(SettingsError, match="cannot be read for the API key"):
        read_secret(tmp_path, "the API key")


@given(st.text(min_size=1, max_size=50), st.text(max_size=20), st.text(max_size=20))
def test_prompts_that_start_alike_have_canonical_prompts_that_start_alike(system: str, one: str, two: str) -> None:
    def prompt(last: str) -> bytes:
        messages = [{"role": "system", "content": system}, {"content": last, "role": "user"}]
        return canonical_prompt(json.dumps({"messages": messages, "temperature": 0}).encode())

    shared = len(
        json.dumps([{"content": system, "role": "system"}], ensure_ascii=False, separators=(",", ":")).encode()
    )
    first, second = prompt(one), prompt(two)
    assert first[:shared] == second[:shared], "the shared beginning is the shared bytes"
    assert (first == second) is (one == two), "different prompts differ"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"[" * 100_000])
def test_what_has_no_prompt_gets_no_tags(body: bytes) -> None:
    assert canonical_prompt(body) == b"", "a lost hint and no error"


def test_a_completions_prompt_is_its_own_text() -> None:
    assert canonical_prompt(b'{"prompt": "once"}') == b"once", "text as it is"
    assert canonical_prompt(b'{"input": [1, 2]}') == b"[1,2]", "tokens as JSON"
