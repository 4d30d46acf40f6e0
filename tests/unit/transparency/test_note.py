"""Signed notes and checkpoints: the known answers of Go's note package, and every way to get them wrong."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol.transparency.checkpoint import Checkpoint, open_checkpoint
from dataplane.protocol.transparency.errors import TransparencyError
from dataplane.protocol.transparency.merkle import EMPTY_ROOT
from dataplane.protocol.transparency.note import Note, SignerKey, VerifierKey, sign_note

# golang.org/x/mod/sumdb/note, its package documentation.
GO_SIGNER = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_VERIFIER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_NOTE = (
    GO_TEXT
    + "\n\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"  # noqa: E501 - as published
).encode()
# Verifier keys of other tools: the specification's example, Go's tests, and one whose base64 has a plus sign.
OTHERS = [
    "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop",
    "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
    "TEST+7997405c+AQcC+FTVKf0jlTdHDY3rbevmnKxxPjigCXlVtGe6RIr6",
]
# The example of c2sp.org/tlog-checkpoint, with its witness.
CHECKPOINT = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "\u2014 example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"  # noqa: E501 - as published
    "\u2014 witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"  # noqa: E501 - as published
).encode()

SIGNER = SignerKey("mrgc.example/log", b"\x07" * 32)
HEAD = Checkpoint("mrgc.example/log", 3, b"\x09" * 32)


def reason(note: bytes, key: VerifierKey = SIGNER.verifier) -> str:
    with pytest.raises(TransparencyError) as caught:
        open_checkpoint(note, key)
    return caught.value.reason


def test_gos_note_is_signed_byte_for_byte() -> None:
    signer = SignerKey.parse(GO_SIGNER)
    assert sign_note(GO_TEXT, signer) == GO_NOTE, "Ed25519 is deterministic: the same key gives the same note"
    assert str(signer.verifier) == GO_VERIFIER, "and its public half is written the same"
    assert signer.text() == GO_SIGNER, "and its private half"


def test_gos_note_is_verified() -> None:
    note = Note.parse(GO_NOTE)
    note.verify(VerifierKey.parse(GO_VERIFIER))
    assert note.text == GO_TEXT, "the text is what was signed"
    assert note.encode() == GO_NOTE, "and it is written as it was read"


@pytest.mark.parametrize("text", OTHERS)
def test_keys_of_other_tools_are_read_and_written(text: str) -> None:
    assert str(VerifierKey.parse(text)) == text, "their ids are reckoned as ours are"


def test_the_specifications_checkpoint_is_read() -> None:
    note = Note.parse(CHECKPOINT)
    head = Checkpoint.parse(note.text)
    assert (head.origin, head.size, head.root[:2].hex()) == ("example.com/behind-the-sofa", 20852163, "0ac5"), (
        "as written"
    )
    assert [line.name for line in note.signatures] == ["example.com/behind-the-sofa", "witness.example.com/w1"], "both"
    assert head.text() == note.text, "and it is written as it was read"


@pytest.mark.parametrize("cut", range(len(GO_VERIFIER)))
def test_no_part_of_a_key_is_a_key(cut: int) -> None:
    for part in (GO_VERIFIER[:cut], GO_VERIFIER[cut + 1 :], GO_VERIFIER[:cut] + GO_VERIFIER[cut + 1 :]):
        with pytest.raises(TransparencyError) as caught:
            VerifierKey.parse(part)
        assert caught.value.reason == "key", "the fault is named"


def test_a_private_key_shows_in_no_text() -> None:
    secret = base64.b64encode(b"\x01" + SIGNER.seed).decode()
    assert secret in SIGNER.text(), "what is kept in the file"
    assert secret not in f"{SIGNER}{SIGNER!r}", "is in no log line"
    with pytest.raises(TransparencyError) as caught:
        SignerKey.parse(SIGNER.text()[:-1])
    assert secret[:20] not in str(caught.value), "nor in an error"


def test_a_checkpoint_of_the_pinned_key_is_opened() -> None:
    head = open_checkpoint(HEAD.sign(SIGNER, time_s=1_764_000_000), SIGNER.verifier)
    assert (head.size, head.root, head.time_s) == (3, b"\x09" * 32, 1_764_000_000), "size, root and the log's time"
    assert open_checkpoint(HEAD.sign(SIGNER), SIGNER.verifier).time_s is None, "a head may say no time"


def test_a_checkpoint_of_another_key_is_refused_though_it_has_the_name() -> None:
    other = SignerKey(SIGNER.name, b"\x08" * 32)
    assert reason(HEAD.sign(other)) == "signature", "the name alone is nothing"


def test_a_checkpoint_of_another_log_under_the_same_key_is_refused() -> None:
    assert reason(Checkpoint("another.example/log", 3, b"\x09" * 32).sign(SIGNER)) == "checkpoint", (
        "the origin is the name"
    )


def test_an_unknown_signature_is_passed_over_and_a_wrong_one_is_not() -> None:
    witness = SignerKey("witness.example", b"\x05" * 32)
    other = Note.parse(HEAD.sign(witness)).signatures
    assert open_checkpoint(sign_note(HEAD.text(), SIGNER, others=other), SIGNER.verifier).size == 3, (
        "a witness may sign"
    )
    timed = HEAD.sign(SIGNER, time_s=5).replace(b"mrgc", b"mrgc", 1)
    lines = timed.split(b"\n")
    lines[5] = Checkpoint("mrgc.example/log", 4, b"\x09" * 32).sign(SIGNER, time_s=5).split(b"\n")[5]
    assert reason(b"\n".join(lines)) == "signature", "a time signed over another head does not count as none"


@given(st.data())
def test_no_flipped_bit_of_a_checkpoint_goes_unnoticed(data: st.DataObject) -> None:
    note = HEAD.sign(SIGNER, time_s=1_764_000_000)
    at = data.draw(st.integers(0, len(note) * 8 - 1))
    flipped = bytearray(note)
    flipped[at // 8] ^= 1 << at % 8
    try:
        head = open_checkpoint(bytes(flipped), SIGNER.verifier)
    except TransparencyError:
        return
    # What is left: a flip that turned the timed signature into one of nobody known.
    assert (head.size, head.root) == (HEAD.size, HEAD.root), "the head stands as signed"
    assert head.time_s is None, "and the time is not another one"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "name\n",
        "name\n1\n",
        "name\n01\n" + "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=\n",
        "name\n-1\nCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=\n",
        "name\n1\nCQkJ\n",
        "name\n1\nnot base64\n",
        "name\n1\nCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=\n\nextension\n",
        "name\n1\nCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=",
        f"name\n{'9' * 5000}\nCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=\n",
        "name\n٣\nCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=\n",
        "name\n0\nCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(TransparencyError) as caught:
        Checkpoint.parse(text)
    assert caught.value.reason == "checkpoint", "the fault is named"


@given(st.binary(max_size=400))
def test_no_bytes_make_the_note_reader_fail_otherwise(data: bytes) -> None:
    for read in (data, HEAD.sign(SIGNER)[:60] + data, HEAD.sign(SIGNER) + data):
        try:
            note = Note.parse(read)
        except TransparencyError:
            continue
        assert note.encode() == read, "what is read is written the same"


@given(
    st.integers(0, 1 << 48),
    st.binary(min_size=32, max_size=32),
    st.lists(st.text("abc \u00e9", min_size=1), max_size=3),
)
def test_a_checkpoint_is_read_as_it_was_written(size: int, root: bytes, extensions: list[str]) -> None:
    head = Checkpoint("mrgc.example/log", size, root if size else EMPTY_ROOT, tuple(extensions))
    assert Checkpoint.parse(head.text()) == head, "nothing is lost"
