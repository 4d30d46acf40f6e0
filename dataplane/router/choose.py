"""The choice of a host: the better of two random candidates by score, or a warm one if it is nearly as good.

Pure. Taking the best of all herds: between two reports every router would send everything to the same host. Two random
candidates spread the load nearly as well as perfect knowledge (Mitzenmacher, "The Power of Two Choices", 2001).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WARM_MARGIN = 10.0
"""Points by which a warm host may score below the better of two and still be taken: a cached prefix saves prefill
time, and 10 points are what a queue of a quarter of the capacity costs (50 - 50 / 1.25)."""

MAX_WARM_ENTRIES = 65_536
"""Tags remembered, about 300 bytes each: 20 MB at most. Day keys change the tags daily, so old ones just age out."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A host that may take the request now, and its score from 0 to 100."""

    instance_id: str
    score: float


def choose(
    candidates: Sequence[Candidate], *, randrange: Callable[[int], int], warm: str | None = None
) -> Candidate | None:
    """Return the host to send to, or None when there is none.

    `randrange(n)` returns an integer from 0 to n - 1. `warm` is the instance that may hold the prompt's prefix.
    """
    count = len(candidates)
    if count == 0:
        return None
    if count == 1:
        return candidates[0]
    first = randrange(count)
    second = randrange(count - 1)
    if second >= first:
        second += 1
    one, other = candidates[first], candidates[second]
    best = other if other.score > one.score else one
    if warm is not None and warm != best.instance_id:
        for candidate in candidates:
            if candidate.instance_id == warm and candidate.score >= best.score - WARM_MARGIN:
                return candidate
    return best


class WarmTable:
    """Which host last took a prompt with a given affinity tag; least recently used entries go first.

    Keys hold the tenant too: a tenant who repeats another's tags learns nothing and steers nobody.
    """

    def __init__(self, *, max_entries: int = MAX_WARM_ENTRIES) -> None:
        """Hold at most `max_entries` tags."""
        self._max_entries = max_entries
        self._hosts: OrderedDict[tuple[str, str], str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._hosts)

    def lookup(self, tenant: str, tags: Sequence[str]) -> str | None:
        """Return the host of the longest known prefix: tags come from the shortest to the longest prefix."""
        for tag in reversed(tags):
            host = self._hosts.get((tenant, tag))
            if host is not None:
                return host
        return None

    def remember(self, tenant: str, tags: Sequence[str], instance_id: str) -> None:
        """Note that `instance_id` has now seen these prefixes."""
        for tag in tags:
            key = (tenant, tag)
            self._hosts[key] = instance_id
            self._hosts.move_to_end(key)
        while len(self._hosts) > self._max_entries:
            self._hosts.popitem(last=False)
