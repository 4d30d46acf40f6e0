"""Measurements of an enclave image, as the tools that publish them write them."""

from __future__ import annotations

from collections.abc import Mapping

from dataplane.protocol.errors import SettingsError

PCR_BYTES = 48
"""A Nitro PCR is a SHA-384 value."""
REQUIRED = (0, 1, 2)
"""Image, kernel and boot, application. PCR8, the signing certificate, counts where it is published."""
READ = (*REQUIRED, 8)


def parse_measurements(document: object, *, source: str) -> dict[int, bytes]:
    """The PCRs that a document must show, from `{"PCR0": hex, ...}`, `{"0": hex, ...}` or what nitro-cli prints.

    `nitro-cli build-enclave` nests them in "Measurements". Raises SettingsError naming `source`.
    """
    found = document
    for key in ("Measurements", "measurements", "pcrs"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping):
        raise SettingsError(f"{source} has no measurements; give the measurements.json of the enclave image.")
    pcrs: dict[int, bytes] = {}
    for index in READ:
        text = found.get(f"PCR{index}", found.get(str(index)))
        if text is not None:
            pcrs[index] = _parse(text, index, source)
    for index in REQUIRED:
        if index not in pcrs:
            raise SettingsError(f"{source} has no PCR{index}; give the measurements.json of the enclave image.")
        if not any(pcrs[index]):
            raise SettingsError(f"{source} has a zero PCR{index}: a debug image's, which measures nothing; build anew.")
    # A zero PCR8 stays: it is what an image that nobody signed has, and a signed one is then another image.
    return pcrs


def _parse(text: object, index: int, source: str) -> bytes:
    try:
        value = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        value = b""
    if len(value) != PCR_BYTES:
        raise SettingsError(
            f"{source} has a PCR{index} that is not {PCR_BYTES} bytes in hex; give the published value."
        )
    return value
