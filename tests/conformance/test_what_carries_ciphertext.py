"""What router, parent and proxy load: they carry ciphertext, and need nothing that could open or verify it."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIST = "import sys, dataplane.{part}.__main__; print(*sorted(sys.modules))"


@pytest.mark.parametrize(
    ("part", "library"), [("router", "cryptography.x509"), ("parent", "cryptography"), ("proxy", "cryptography")]
)
def test_a_part_that_carries_ciphertext_loads_nothing_that_verifies_documents(part: str, library: str) -> None:
    listed = subprocess.run(
        [sys.executable, "-c", LIST.format(part=part)], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert f"dataplane.{part}.__main__" in listed, "control: the part was loaded"
    assert library not in listed, "9 MB, and code for which a process without keys has no use"
