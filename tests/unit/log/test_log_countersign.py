"""Sigstore beside the log: what is signed, where it is put, what is refused. Nothing here asks Sigstore's servers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dataplane.log.countersign import (
    MAX_BUNDLE_BYTES,
    CountersignError,
    artifact,
    countersign,
    sign_with_sigstore,
    verify_with_sigstore,
)
from dataplane.log.disk import Disk
from dataplane.log.store import read_head
from dataplane.protocol.errors import SettingsError
from tests.support.measurement_log import NOW_S, SIGNER, images, make_log, store

IDENTITY = {"identity": "https://mrgc.example/release.yml@main", "issuer": "https://issuer.example"}


def test_the_heads_text_is_signed_and_the_bundle_is_a_file_of_the_log(tmp_path: Path) -> None:
    folder = make_log(tmp_path, images(3))
    signed: list[bytes] = []

    def sign(data: bytes) -> str:
        signed.append(data)
        return '{"bundle": 1}'

    head = read_head(folder, SIGNER.verifier)
    assert countersign(Disk(folder), head, sign) == "sigstore/3.json", "one bundle a head"
    assert (folder / "sigstore/3.json").read_text(encoding="utf-8") == '{"bundle": 1}', "as Sigstore gave it"
    assert signed == [head.checkpoint.text().encode()], "origin, size and root, which cover every entry"
    later = store(tmp_path).refresh(time_s=NOW_S + 3600)
    assert artifact(later) == signed[0], "and a later time on the same head leaves it valid"


def test_a_bundle_without_measure_is_not_kept(tmp_path: Path) -> None:
    folder = make_log(tmp_path, images(3))
    with pytest.raises(CountersignError, match="not kept"):
        countersign(Disk(folder), read_head(folder, SIGNER.verifier), lambda _: "x" * (MAX_BUNDLE_BYTES + 1))
    assert not (folder / "sigstore").exists(), "nothing is published"


def test_a_machine_without_an_identity_signs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "BUILDKITE", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    # The library also asks the machine's firmware whether it is one of Google's.
    monkeypatch.setattr("id.detect_credential", lambda _audience: None)
    with pytest.raises(SettingsError, match="no identity"):
        sign_with_sigstore(b"head")


@pytest.mark.parametrize("bundle", [b"", b"{}", b"[]", b"\xff", json.dumps({"mediaType": "application/x"}).encode()])
def test_what_is_no_bundle_is_refused(bundle: bytes) -> None:
    with pytest.raises(CountersignError, match="no Sigstore bundle"):
        verify_with_sigstore(b"head", bundle, **IDENTITY)


def test_without_the_library_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "sigstore"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sigstore", None)
    for call in (lambda: sign_with_sigstore(b"x"), lambda: verify_with_sigstore(b"x", b"{}", **IDENTITY)):
        with pytest.raises(SettingsError, match="uv sync --group sigstore"):
            call()
