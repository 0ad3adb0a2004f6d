"""Draws bars and lines as SVG: a plotting library would be the largest package of the whole environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0")
_WIDTH, _HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 56, 40
_STEPS = (1, 2, 2.5, 5, 10)
_INK = "#6b7280"
"""Grey that reads on white and on black."""


def ticks(most: float, wanted: int = 5) -> list[float]:
    """Return round values from 0 to at least `most`, about as many as wanted."""
    if most <= 0:
        return [0.0, 1.0]
    magnitude = 1.0
    while magnitude * 10 * wanted <= most:
        magnitude *= 10
    while magnitude * wanted > most:
        magnitude /= 10
    step = next(step * magnitude for step in _STEPS if step * magnitude * wanted >= most * 0.999)
    values = [0.0]
    while values[-1] < most * 0.999:
        values.append(round(values[-1] + step, 10))
    return values


def lines(title: str, unit: str, along: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Draw values over a growing one. along: the unit of the first number of each pair; series: points by name."""
    points = [point for values in series.values() for point in values]
    across, marks = ticks(max((x for x, _ in points), default=0.0)), ticks(max((y for _, y in points), default=0.0))
    plot_w, plot_h = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return _LEFT + plot_w * x / across[-1], _TOP + plot_h * (1 - y / marks[-1])

    parts = _frame(title, unit, marks)
    for mark in across:
        parts.append(
            f'<text x="{place(mark, 0)[0]:.1f}" y="{_HEIGHT - 22}" text-anchor="middle" font-size="10">{mark:g}</text>'
        )
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 6}" text-anchor="end">{escape(along)}</text>')
    for number, (name, values) in enumerate(series.items()):
        parts += _legend(number, name)
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in values))
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    return "\n".join((*parts, "</svg>", ""))


def _frame(title: str, unit: str, marks: Sequence[float]) -> list[str]:
    """Draw the common parts: the title, the unit, and a line for each mark of the scale."""
    plot_h = _HEIGHT - _TOP - _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'font-family="sans-serif" font-size="12" fill="{_INK}">',
        f"<title>{escape(title)}</title>",
        f'<text x="{_LEFT}" y="20" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    for mark in marks:
        y = _TOP + plot_h * (1 - mark / marks[-1])
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
                     f'stroke="{_INK}" stroke-opacity="0.3"/>')  # fmt: skip
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{mark:g}</text>')
    parts.append(f'<text x="{_LEFT - 6}" y="{_TOP - 10}" text-anchor="end">{escape(unit)}</text>')
    return parts


def _legend(number: int, name: str) -> list[str]:
    x = _LEFT + 150 * number
    return [
        f'<rect x="{x}" y="30" width="10" height="10" fill="{COLOURS[number % len(COLOURS)]}"/>',
        f'<text x="{x + 15}" y="39">{escape(name)}</text>',
    ]


def bars(title: str, unit: str, groups: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> str:
    """Draw bars. groups: names along the bottom; series: values by name, one a group, None where there is none."""
    marks = ticks(max((value for values in series.values() for value in values if value is not None), default=0.0))
    plot_w, plot_h = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    group_w = plot_w / max(1, len(groups))
    bar_w = group_w * 0.8 / max(1, len(series))

    def y(value: float) -> float:
        return _TOP + plot_h * (1 - value / marks[-1])

    parts = _frame(title, unit, marks)
    for number, (name, values) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        parts += _legend(number, name)
        for place, value in enumerate(values):
            if value is None:
                continue
            x = _LEFT + group_w * place + group_w * 0.1 + bar_w * number
            parts.append(f'<rect x="{x:.1f}" y="{y(value):.1f}" width="{bar_w * 0.92:.1f}" '
                         f'height="{max(0.5, _TOP + plot_h - y(value)):.1f}" fill="{colour}"/>')  # fmt: skip
            parts.append(f'<text x="{x + bar_w * 0.46:.1f}" y="{y(value) - 3:.1f}" text-anchor="middle" '
                         f'font-size="10">{value:.3g}</text>')  # fmt: skip
    for place, group in enumerate(groups):
        x = _LEFT + group_w * (place + 0.5)
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 14}" text-anchor="middle">{escape(group)}</text>')
    return "\n".join((*parts, "</svg>", ""))
