"""What a stack costs a month at list prices, by component and region, as far as prices of it are known.

`prices.toml` has the prices with their sources and its date; what it lacks is listed as unpriced with the reason and
never guessed, so a total is what is priced, not what the bill will be. Only what a stack keeps running is counted: what
bills by use (traffic, requests, log volume) is unpriced. Money is `Decimal` throughout and rounded only to be shown.
"""

from __future__ import annotations

import datetime as dt
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final, Literal

from components import control_loops
from components.addressing import ZONES
from components.endpoint_policies import INTERFACE_SERVICES, SESSION_SERVICES
from components.global_state import TABLES
from components.gpu_fleet import ROOT_GIB
from observability import alerts, dashboards
from stacks.settings import Settings

HOURS_PER_MONTH: Final = 730
"""365 days of 24 hours over 12 months, as AWS's calculator has it."""
GLOBAL: Final = "global"
"""The place of what stands in no region."""
KEYS_PER_REGION: Final = 3
"""The platform's own: logs, storage, and the tables' key or its replica."""
EVENTUAL_TABLES: Final = sum(not table.strong for table in TABLES)
"""Tables whose replication lag is watched, each a metric that an alarm reads."""
PRICES: Final = Path(__file__).with_name("prices.toml")

CPU_UNITS: Final = 1024
"""ECS's CPU units in one vCPU."""
MIB_PER_GB: Final = 1024
"""Fargate bills what it calls GB by 1,024 MiB."""

Unit = Literal["hour", "month"]


class PriceFileError(Exception):
    """A price file that can't be used; the sentence names the entry and what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """One list price by region (or "global"). `assumed` regions were not read but taken to be like the others."""

    item: str
    what: str
    unit: Unit
    amounts: Mapping[str, Decimal]
    assumed: frozenset[str]
    page: str
    read_from: str
    as_of: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpriced:
    """Something that costs money and is not in the total. `region` is "" where it holds everywhere."""

    component: str
    region: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceList:
    """A price file. `reasons` say why an item has no price, by item and region ("" for any)."""

    currency: str
    collected: dt.date
    prices: Mapping[str, Price]
    reasons: Mapping[tuple[str, str], str]
    by_use: tuple[Unpriced, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """`quantity` of one thing for a month. `unit_price` is for one of `unit`; `assumed` where it was not read."""

    component: str
    region: str
    what: str
    quantity: Decimal
    unit: Unit
    unit_price: Decimal
    assumed: bool

    @property
    def monthly(self) -> Decimal:
        """The month's cost."""
        return self.quantity * self.unit_price * (HOURS_PER_MONTH if self.unit == "hour" else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Every priced line, and what is not priced. Money in `currency`, as of the price file's date."""

    currency: str
    prices_collected: dt.date
    lines: tuple[Line, ...]
    unpriced: tuple[Unpriced, ...]

    @property
    def total(self) -> Decimal:
        """A month of all that is priced."""
        return sum((line.monthly for line in self.lines), Decimal(0))

    def by_component(self) -> dict[str, Decimal]:
        """A month of each component over all regions."""
        return self._summed("component")

    def by_region(self) -> dict[str, Decimal]:
        """A month of each region, and of what is global."""
        return self._summed("region")

    def as_output(self) -> dict[str, Any]:
        """Plain values for a stack's output: money as text with two decimals."""
        return {
            "currency": self.currency,
            "prices_collected": self.prices_collected.isoformat(),
            "hours_per_month": HOURS_PER_MONTH,
            "monthly_total_of_what_is_priced": money(self.total),
            "by_component": {name: money(amount) for name, amount in self.by_component().items()},
            "by_region": {name: money(amount) for name, amount in self.by_region().items()},
            "unpriced": [
                f"{one.component}{f' in {one.region}' if one.region else ''}: {one.reason}" for one in self.unpriced
            ],
        }

    def _summed(self, attribute: Literal["component", "region"]) -> dict[str, Decimal]:
        sums: dict[str, Decimal] = {}
        for line in self.lines:
            key = line.component if attribute == "component" else line.region
            sums[key] = sums.get(key, Decimal(0)) + line.monthly
        return sums


@dataclass(frozen=True, slots=True, kw_only=True)
class _Need:
    """So much of an item, wanted by a component in a region."""

    component: str
    region: str
    item: str
    quantity: Decimal
    what: str = ""


def money(amount: Decimal) -> str:
    """An amount with two decimals, halves away from zero."""
    return str(amount.quantize(Decimal("0.01"), ROUND_HALF_UP))


def estimate(settings: Settings, prices: PriceList | None = None, *, hosts: Literal["min", "max"] = "min") -> Estimate:
    """A month of the stack with `hosts` GPU hosts and router tasks a region, at their configured least or most.

    Raises PriceFileError where the price file that comes with this module can't be read.
    """
    prices = prices or load_prices()
    lines: list[Line] = []
    missing: list[Unpriced] = []
    for need in _needs(settings, hosts):
        price = prices.prices.get(need.item)
        if price is None or need.region not in price.amounts:
            missing.append(Unpriced(component=need.component, region=need.region, reason=_why(prices, need)))
            continue
        lines.append(
            Line(
                component=need.component,
                region=need.region,
                what=need.what or price.what,
                quantity=need.quantity,
                unit=price.unit,
                unit_price=price.amounts[need.region],
                assumed=need.region in price.assumed,
            )
        )
    return Estimate(
        currency=prices.currency,
        prices_collected=prices.collected,
        lines=tuple(lines),
        unpriced=(*missing, *prices.by_use),
    )


def load_prices(path: Path = PRICES) -> PriceList:
    """Read a price file. Raises PriceFileError."""
    try:
        values = tomllib.loads(path.read_text(), parse_float=Decimal)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise PriceFileError(f"The price file {path} can't be read: {error}.") from None
    try:
        prices = [_price(entry) for entry in values["price"]]
        notes = values["unpriced"]
        listed = PriceList(
            currency=values["currency"],
            collected=values["collected"],
            prices={price.item: price for price in prices},
            reasons={
                (note["item"], region): note["reason"]
                for note in notes
                if "item" in note
                for region in note.get("regions", ("",))
            },
            by_use=tuple(
                Unpriced(component=note["component"], region="", reason=note["reason"])
                for note in notes
                if "item" not in note
            ),
        )
    except KeyError as error:
        raise PriceFileError(f"The price file {path} has an entry without {error}.") from None
    if len(listed.prices) != len(prices):
        raise PriceFileError(f"The price file {path} prices an item twice; keep one entry an item.")
    return listed


def _price(entry: Mapping[str, Any]) -> Price:
    item = entry["item"]
    try:
        amounts = {region: Decimal(amount) for region, amount in entry["amounts"].items()}
    except (InvalidOperation, TypeError):
        raise PriceFileError(f"{item}: an amount is a decimal number, such as 0.05.") from None
    if not amounts or not all(amount.is_finite() and amount > 0 for amount in amounts.values()):
        raise PriceFileError(f"{item}: every amount must be above zero, and there must be one.")
    if entry["unit"] not in ("hour", "month"):
        raise PriceFileError(f"{item}: the unit is {entry['unit']!r}; expected hour or month.")
    assumed = frozenset(entry.get("assumed", ()))
    if not assumed < set(amounts):
        raise PriceFileError(f"{item}: assumed regions need an amount each, and at least one amount must be read.")
    return Price(
        item=item,
        what=entry["what"],
        unit=entry["unit"],
        amounts=amounts,
        assumed=assumed,
        page=entry["page"],
        read_from=entry["read_from"],
        as_of=entry["as_of"],
    )


def _why(prices: PriceList, need: _Need) -> str:
    for key in ((need.item, need.region), (need.item, "")):
        if key in prices.reasons:
            return prices.reasons[key]
    return f"no price of {need.item} is known for {need.region}"


def _needs(settings: Settings, hosts: Literal["min", "max"]) -> Iterator[_Need]:
    regions = settings.region_names
    for region in regions:
        yield from _fleet(settings, region, hosts)
        yield from _router(settings, region, hosts)
        yield from _control(settings, region)
        yield from _network(settings, region, len(regions))
        store = f"fsx.{settings.models.throughput}"
        yield _need("Model store", region, store, settings.models.capacity_gib)
        yield _need("Keys", region, "kms.key", KEYS_PER_REGION)
        yield _need("Observability", region, "cloudwatch.alarm", _alarm_metrics(settings, len(regions)))
    # Their alarms are in us-west-2, one an endpoint group.
    yield _need("Observability", dashboards.ACCELERATOR_REGION, "cloudwatch.alarm", len(regions))
    yield _need("Observability", GLOBAL, "cloudwatch.dashboard", len(dashboards.names(regions)))
    yield _need("Accelerator", GLOBAL, "accelerator.hour", 1)


def _fleet(settings: Settings, region: str, hosts: Literal["min", "max"]) -> Iterator[_Need]:
    fleet = settings.fleet
    count = fleet.min if hosts == "min" else fleet.max
    above = max(0, count - fleet.on_demand_base)
    # Auto Scaling rounds the on-demand share up.
    spot = above - -(-above * fleet.on_demand_percent // 100)
    item = f"gpu.{fleet.instance_type}"
    if count > spot:
        yield _need("GPU hosts", region, item, count - spot, f"{fleet.instance_type}, on demand")
    if spot:
        yield _need("GPU hosts", region, item, spot, f"{fleet.instance_type}, spot, at the on-demand price at most")
    yield _need("GPU hosts", region, "ebs.gp3", count * ROOT_GIB, "root volumes")


def _router(settings: Settings, region: str, hosts: Literal["min", "max"]) -> Iterator[_Need]:
    router = settings.router
    tasks = Decimal(router.min if hosts == "min" else router.max)
    yield _need("Router", region, "fargate.vcpu", tasks * router.cpu / CPU_UNITS)
    yield _need("Router", region, "fargate.memory", tasks * router.memory_mib / MIB_PER_GB)


def _control(settings: Settings, region: str) -> Iterator[_Need]:
    """The loops that are services: health everywhere, the autoscaler where leases are within the VPC's reach."""
    if settings.control_loops:
        tasks = Decimal(2 if region in settings.strong_regions else 1)
        yield _need("Control loops", region, "fargate.vcpu", tasks * control_loops.CPU / CPU_UNITS)
        yield _need("Control loops", region, "fargate.memory", tasks * control_loops.MEMORY_MIB / MIB_PER_GB)


def _network(settings: Settings, region: str, regions: int) -> Iterator[_Need]:
    services = len(INTERFACE_SERVICES) + (len(SESSION_SERVICES) if settings.session_manager else 0)
    yield _need("Network", region, "nlb.hour", 1)
    yield _need("Network", region, "endpoint.hour", services * ZONES)
    # The VPC's attachment, and this side of the peering with every other region, lost ones too: they stay attached.
    yield _need("Network", region, "transit.attachment", regions)


def _alarm_metrics(settings: Settings, regions: int) -> int:
    own = sum(len(alert.series) for alert in alerts.region_alerts(settings.models.capacity_gib))
    return own + (regions - 1) * EVENTUAL_TABLES


def _need(component: str, region: str, item: str, quantity: int | Decimal, what: str = "") -> _Need:
    return _Need(component=component, region=region, item=item, quantity=Decimal(quantity), what=what)
