"""What a CloudWatch dashboard is made of: a metric's line, widgets, and rows of them on a grid 24 columns wide.

The structure is the Amazon CloudWatch user guide's, "Dashboard body structure and syntax".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from observability.metrics import Emitter, Metric

COLUMNS: Final = 24
PERIOD_S: Final = 60

Widget = dict[str, Any]
Body = dict[str, Any]


def line(metric: Metric, values: Mapping[str, str], statistic: str, label: str, region: str | None = None) -> list[Any]:
    """CloudWatch's array of one metric. Takes those of `values` that the metric has as dimensions, in its order."""
    if metric.emitter is Emitter.CONTROL:
        raise ValueError(f"{metric.name} is emitted by nobody yet, so a chart of it would stay empty")
    options = {"stat": statistic, "label": label} | ({"region": region} if region else {})
    pairs = [part for dimension in metric.dimensions for part in (dimension, values[dimension])]
    return [metric.namespace, metric.name, *pairs, options]


def chart(title: str, region: str, lines: Sequence[list[Any]], *, period_s: int = PERIOD_S) -> Widget:
    """Lines over time, from zero up; `region` is where lines that name no region of their own are read."""
    properties = {
        "title": title,
        "region": region,
        "view": "timeSeries",
        "stacked": False,
        "period": period_s,
        "metrics": list(lines),
        "yAxis": {"left": {"min": 0}},
    }
    return {"type": "metric", "properties": properties}


def text(markdown: str) -> Widget:
    """A few words."""
    return {"type": "text", "properties": {"markdown": markdown}}


def body(rows: Sequence[tuple[int, Sequence[Widget]]]) -> Body:
    """Rows of (height, widgets) from top to bottom; the widgets of a row share its width evenly."""
    placed: list[Widget] = []
    top = 0
    for height, widgets in rows:
        width = COLUMNS // len(widgets)
        for column, widget in enumerate(widgets):
            placed.append({**widget, "x": column * width, "y": top, "width": width, "height": height})
        top += height
    return {"widgets": placed}
