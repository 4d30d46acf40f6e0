"""Reads a fuzzer's bytes as choices: numbers, strings and pieces, never failing, zeros where the bytes end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


class Choices:
    """A reader of one input."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._position

    def raw(self, count: int) -> bytes:
        """The next bytes, fewer at the end."""
        taken = self._data[self._position : self._position + count]
        self._position += len(taken)
        return taken

    def rest(self) -> bytes:
        """All that is left."""
        return self.raw(self.left)

    def number(self, most: int) -> int:
        """A number from 0 to `most`, in as few bytes as hold it."""
        width = max(1, (most.bit_length() + 7) // 8)
        return int.from_bytes(self.raw(width)) % (most + 1)

    def one(self, options: Sequence[T]) -> T:
        """One of `options`."""
        return options[self.number(len(options) - 1)]

    def short(self) -> bytes:
        """Up to 255 bytes, their number first."""
        return self.raw(self.number(255))

    def text(self) -> str:
        """Up to 255 bytes as text, whatever they are."""
        return self.short().decode("utf-8", "surrogateescape")

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """`data` cut where the next bytes say; at most 64 cuts, then the rest at once."""
        start = 0
        for _ in range(64):
            if start >= len(data):
                return
            size = 1 + self.number(255) * (1 + self.number(255))
            yield data[start : start + size]
            start += size
        yield data[start:]
