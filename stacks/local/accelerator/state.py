"""The accelerator's only changing state: dials, weights, health and counts, with the rules applied to them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from stacks.local.accelerator.health import TargetHealth, Thresholds
from stacks.local.accelerator.rules import AcceleratorError, Decision, Draw, Endpoint, Group, decide
from stacks.local.accelerator.settings import AcceleratorSettings, EndpointSettings


class AcceleratorState:
    """What new connections are decided on. Used from one event loop, so it takes no lock."""

    def __init__(self, settings: AcceleratorSettings, *, draw: Draw) -> None:
        """Start with every target `initial`: a load balancer sends nothing to a target that it has not checked."""
        self._settings = settings
        self._draw = draw
        self._thresholds = Thresholds(settings.health.healthy_threshold, settings.health.unhealthy_threshold)
        self._groups = {
            group.region: Group(
                group.region,
                tuple(Endpoint(endpoint.name, endpoint.weight) for endpoint in group.endpoints),
                group.dial,
            )
            for group in settings.groups
        }
        self.endpoints: dict[str, EndpointSettings] = {
            endpoint.name: endpoint for group in settings.groups for endpoint in group.endpoints
        }
        self._health = {name: TargetHealth() for name in self.endpoints}
        self.opened: Counter[str] = Counter()
        self.active: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()

    def place_of(self, address: str) -> str:
        """Return where the client with this source address is."""
        return self._settings.clients.get(address, self._settings.default_place)

    def decide(self, address: str) -> Decision:
        """Decide where a new connection from `address` goes."""
        latency = self._settings.latency_ms.get(self.place_of(address), {})
        decision = decide(tuple(self._groups.values()), latency, self._draw)
        self.reasons[decision.reason] += 1
        return decision

    def set_dial(self, region: str, dial: float) -> None:
        """Set a region's traffic dial, for new connections only; raises `AcceleratorError`."""
        self._groups[region] = replace(self._group(region), dial=dial)

    def set_weight(self, name: str, weight: int) -> None:
        """Set an endpoint's weight; raises `AcceleratorError`."""
        self._change(name, weight=weight)

    def record_check(self, name: str, *, passed: bool) -> bool:
        """Count one health check of an endpoint; say whether the verdict changed."""
        before = self._health[name]
        self._health[name] = before.after(passed=passed, thresholds=self._thresholds)
        state = self._health[name].state
        self._change(name, healthy=state == "healthy")
        return state != before.state

    def status(self) -> dict[str, Any]:
        """Return everything as JSON: groups with their dials, endpoints with weight, health and connections."""
        return {
            "listen": f"{self._settings.listen_host}:{self._settings.listen_port}",
            "default_place": self._settings.default_place,
            "decisions": dict(self.reasons),
            "groups": [
                {
                    "region": group.region,
                    "dial": group.dial,
                    "endpoints": [
                        {
                            "name": endpoint.name,
                            "weight": endpoint.weight,
                            "health": self._health[endpoint.name].state,
                            "opened": self.opened[endpoint.name],
                            "active": self.active[endpoint.name],
                            "refused": self.refused[endpoint.name],
                        }
                        for endpoint in group.endpoints
                    ],
                }
                for group in self._groups.values()
            ],
        }

    def _group(self, region: str) -> Group:
        if region not in self._groups:
            raise AcceleratorError(f"There is no endpoint group for {region}; there are {', '.join(self._groups)}.")
        return self._groups[region]

    def _change(self, name: str, **changes: Any) -> None:
        """Replace one endpoint's weight or health."""
        if name not in self.endpoints:
            raise AcceleratorError(f"There is no endpoint {name}; there are {', '.join(self.endpoints)}.")
        for region, group in self._groups.items():
            changed = tuple(replace(e, **changes) if e.name == name else e for e in group.endpoints)
            self._groups[region] = replace(group, endpoints=changed)
