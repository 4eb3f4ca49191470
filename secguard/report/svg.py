"""Pictures as inline SVG: icons, timelines and plots. Shape and pattern carry the meaning, colour only helps."""

import math
from collections.abc import Callable, Sequence

from secguard.core.verdict import Outcome
from secguard.report.model import Bar, BarPlot, LinePlot, Timeline, Words
from secguard.report.words import number

__all__ = ["PATTERNS", "icon", "merge", "name", "render_bars", "render_lines", "render_timeline", "ticks"]

Escape = Callable[[Words], str]

_MAX_BARS = 400

_ICONS = {
    "pass": '<circle cx="8" cy="8" r="7.5"/><path class="ink" d="M4.4 8.3l2.4 2.4 4.8-5"/>',
    "fail": (
        '<path d="M4.9.5h6.2l4.4 4.4v6.2l-4.4 4.4H4.9L.5 11.1V4.9z"/>'
        '<path class="ink" d="M5.3 5.3l5.4 5.4m0-5.4l-5.4 5.4"/>'
    ),
    "unknown": (
        '<path d="M8 .3L15.7 8 8 15.7.3 8z"/><path class="ink" d="M6.2 6.6a1.85 1.85 0 1 1 2.7 1.6'
        'c-.7.35-.9.7-.9 1.4"/><circle class="dot" cx="8" cy="11.7" r=".9"/>'
    ),
    "none": '<circle class="ring" cx="8" cy="8" r="6.7"/><path class="bar" d="M5 8h6"/>',
}

PATTERNS = (
    '<svg class="defs" width="0" height="0" aria-hidden="true" focusable="false"><defs>'
    '<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="6" height="6" class="fill-fail"/><path class="hatch" d="M0 0v6"/></pattern>'
    '<pattern id="dots" width="6" height="6" patternUnits="userSpaceOnUse">'
    '<rect width="6" height="6" class="fill-unknown"/><circle class="dots" cx="3" cy="3" r="1.3"/></pattern>'
    "</defs></svg>"
)


def name(outcome: Outcome | None) -> str:
    """The CSS name of an outcome; `none` for what was not examined."""
    return outcome.value if outcome is not None else "none"


def icon(outcome: Outcome | None) -> str:
    """A small sign whose shape differs by outcome; the word always stands beside it."""
    kind = name(outcome)
    return f'<svg class="icon {kind}" viewBox="0 0 16 16" aria-hidden="true" focusable="false">{_ICONS[kind]}</svg>'


def merge(bars: Sequence[Bar], limit: int = _MAX_BARS) -> list[tuple[Bar, int]]:
    """Join neighbours of the same outcome when there are more than `limit` bars; with each, how many it stands for."""
    if len(bars) <= limit:
        return [(bar, 1) for bar in bars]
    joined: list[tuple[Bar, int]] = []
    for bar in bars:
        if joined and joined[-1][0].outcome is bar.outcome:
            last, count = joined[-1]
            joined[-1] = (Bar(last.label, last.start, max(last.stop, bar.stop), bar.outcome, last.detail), count + 1)
        else:
            joined.append((bar, 1))
    return joined


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values that span low to high, about `count` of them (steps of 1, 2 or 5 times a power of ten)."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999), 10 * power)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _short(value: float) -> str:
    for limit, divisor, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= limit:
            return f"{value / divisor:.4g}{letter}"
    return f"{value:.4g}"


def render_timeline(timeline: Timeline, text: Escape, title: Escape) -> str:
    """Bars along a time axis that fills the width; a failed bar is taller and hatched, an unknown one dotted."""
    bars = [bar for bar in timeline.bars if math.isfinite(bar.start) and math.isfinite(bar.stop)]
    if not bars:
        return ""
    low = min(bar.start for bar in bars)
    high = max([low + 1e-9, *(bar.stop for bar in bars)])
    scale = 100 / (high - low)
    parts = []
    for bar, count in merge(bars):
        kind = name(bar.outcome)
        x = (bar.start - low) * scale
        width = max((bar.stop - bar.start) * scale, 0.15)
        gap = min(0.12, width / 6)
        top = {"fail": 4, "unknown": 10}.get(kind, 16)
        label = title(bar.label) + (f" ({count})" if count > 1 else "")
        detail = f": {title(bar.detail)}" if bar.detail else ""
        parts.append(
            f'<rect class="bar {kind}" x="{x:.3f}%" y="{top}" width="{max(width - gap, 0.1):.3f}%" '
            f'height="{44 - top}" rx="1.5"><title>{label}{detail}</title></rect>'
        )
    marks = ticks(low, high)
    for index, mark in enumerate(marks):
        x = (mark - low) * scale
        anchor = "start" if x < 4 else "end" if x > 96 else "middle"
        unit = f" {text(timeline.unit)}" if index == len(marks) - 1 else ""
        parts.append(f'<line class="tick" x1="{x:.3f}%" x2="{x:.3f}%" y1="46" y2="51"/>')
        parts.append(f'<text x="{x:.3f}%" y="64" text-anchor="{anchor}">{_short(mark)}{unit}</text>')
    return (
        f'<svg class="timeline" role="img" width="100%" height="70" aria-label="{title(timeline.title)}">'
        f'<line class="axis" x1="0" x2="100%" y1="45.5" y2="45.5"/>{"".join(parts)}</svg>'
    )


def render_bars(plot: BarPlot, text: Escape, title: Escape) -> str:
    """Horizontal bars from zero: the name and the value above each, so that it reads at every width."""
    values = [value for _, value in plot.items]
    if any(not math.isfinite(value) or value < 0 for value in values):
        raise ValueError("a bar plot shows finite values from zero")
    high = max([*values, 1e-12])
    unit = f" {text(plot.unit)}" if plot.unit else ""
    parts = [
        f"<li><span>{text(label)}</span><span>{number(value)}{unit}</span>"
        '<svg width="100%" height="10" aria-hidden="true"><rect class="track" width="100%" height="10" rx="2"/>'
        f'<rect class="mark" width="{max(value / high * 100, 0.2):.3f}%" height="10" rx="2"/></svg></li>'
        for label, value in plot.items
    ]
    return f'<ul class="plot" aria-label="{title(plot.title)}">{"".join(parts)}</ul>'


_W, _H, _LEFT, _TOP, _BOTTOM, _RIGHT = 860.0, 260.0, 56.0, 14.0, 46.0, 16.0
_Marker = Callable[[float, float], str]
_MARKERS: tuple[_Marker, ...] = (
    lambda x, y: f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>',
    lambda x, y: f'<rect x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6"/>',
    lambda x, y: f'<path d="M{x:.1f} {y - 4:.1f}l4 7h-8z"/>',
    lambda x, y: f'<path d="M{x:.1f} {y - 4:.1f}l4 4-4 4-4-4z"/>',
)


def render_lines(plot: LinePlot, text: Escape, title: Escape) -> str:
    """Lines from zero over a common x axis; series differ by marker and dash as well as by colour."""
    points = [point for series in plot.series for point in series.points]
    if not points:
        return ""
    if not all(math.isfinite(x) and math.isfinite(y) for x, y in points):
        raise ValueError("a line plot shows finite values")
    low_x, high_x = min(x for x, _ in points), max(x for x, _ in points)
    low_y, high_y = min(0.0, *(y for _, y in points)), max(y for _, y in points)
    span_x, span_y = (high_x - low_x) or 1.0, (high_y - low_y) or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (x - low_x) / span_x * (_W - _LEFT - _RIGHT),
            _TOP + (1 - (y - low_y) / span_y) * (_H - _TOP - _BOTTOM),
        )

    parts = []
    for mark in ticks(low_y, low_y + span_y, 4):
        _, y = at(low_x, mark)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_short(mark)}</text>')
    for mark, label in _x_marks(plot, low_x, high_x):
        x, y = at(mark, low_y)
        parts.append(f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{y:.1f}" y2="{y + 5:.1f}"/>')
        parts.append(f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{title(label)}</text>')
    for index, series in enumerate(plot.series):
        places = [at(x, y) for x, y in series.points]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        marker = _MARKERS[index % len(_MARKERS)]
        signs = "".join(marker(x, y) for x, y in places) if len(places) <= 60 else ""
        parts.append(f'<g class="series s{index % 4}"><path class="line" d="{path}"/>{signs}</g>')
    if plot.x_label:
        parts.append(
            f'<text x="{(_LEFT + _W - _RIGHT) / 2}" y="{_H - 6}" text-anchor="middle">{text(plot.x_label)}</text>'
        )
    return (
        f'<svg class="plot lines" role="img" viewBox="0 0 {_W:.0f} {_H:.0f}" '
        f'aria-label="{title(plot.title)}">{"".join(parts)}</svg>'
    )


def _x_marks(plot: LinePlot, low: float, high: float) -> list[tuple[float, str]]:
    if not plot.x_names:
        return [(mark, _short(mark)) for mark in ticks(low, high, 6)]
    step = math.ceil(len(plot.x_names) / 8)
    return [
        (float(index), label) for index, label in enumerate(plot.x_names) if low <= index <= high and index % step == 0
    ]
