"""What KMS was asked, what it checked, and what it decided: shown to people, so without keys, texts or documents."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

MAX_RECORDS = 2_000
"""Latest calls remembered; counts go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One call. `attested` holds the registers of the verified document in hex, by index, or nothing."""

    time_ms: int
    operation: str
    region: str
    principal: str | None
    key: str | None
    outcome: str
    reason: str
    module_id: str | None = None
    attested: Mapping[str, str] = field(default_factory=dict)
    context: Mapping[str, str] = field(default_factory=dict)


class Audit:
    """The latest calls and counts of all."""

    def __init__(self) -> None:
        """Start empty."""
        self._records: deque[AuditRecord] = deque(maxlen=MAX_RECORDS)
        self._counts: Counter[str] = Counter()

    def add(self, record: AuditRecord) -> None:
        """Remember a call."""
        self._records.append(record)
        self._counts[f"{record.operation} {record.outcome}"] += 1

    def to_json(self) -> dict[str, Any]:
        """Return `{"counts": {"Decrypt allowed": 3, ...}, "records": [...]}`, oldest first."""
        return {"counts": dict(self._counts), "records": [asdict(record) for record in self._records]}
