"""Line plots as SVG, drawn from docs/performance.json: the same figures give the same bytes."""

import math
from collections.abc import Iterable, Iterator
from html import escape

_WIDTH, _HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 40, 50, 60
_COLOURS = ("#1f6feb", "#d1570c", "#2a7d2e", "#8250df")

Line = tuple[str, list[tuple[float, float]]]
"""A name and its points."""


def _steps(most: float) -> list[float]:
    """Round numbers from 0 to at least `most`."""
    rough = max(most, 1e-9) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * one for one in (1, 2, 2.5, 5, 10) if power * one >= rough)
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]


def _text(x: float, y: float, text: str, *, anchor: str = "middle", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'


def svg(title: str, grows: str, lines: Iterable[Line], *, logarithmic: bool) -> str:
    """One plot; `logarithmic`: what grows does so by factors."""
    return "\n".join(_elements(title, grows, list(lines), logarithmic=logarithmic)) + "\n"


def _elements(title: str, grows: str, lines: list[Line], *, logarithmic: bool) -> Iterator[str]:
    at = sorted({x for _, points in lines for x, _ in points})
    steps = _steps(max(y for _, points in lines for _, y in points))

    def place(x: float) -> float:
        first, value, last = ((math.log10(one) if logarithmic else one) for one in (at[0], x, at[-1]))
        share = (value - first) / (last - first) if last > first else 0.5
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def height(y: float) -> float:
        return _HEIGHT - _BOTTOM - y / steps[-1] * (_HEIGHT - _TOP - _BOTTOM)

    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" fill="#444">'
    yield f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>'
    yield _text(_WIDTH / 2, 20, title, size=15)
    for step in steps:
        y = height(step)
        yield f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" stroke="#ddd"/>'
        yield _text(_LEFT - 8, y + 4, f"{step:g}", anchor="end")
    for x in at:
        yield _text(place(x), _HEIGHT - _BOTTOM + 18, f"{x:,.0f}")
    yield _text(_WIDTH / 2, _HEIGHT - 18, f"{grows} (logarithmic)" if logarithmic else grows)
    for number, (name, points) in enumerate(lines):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{place(x):.1f},{height(y):.1f}" for x, y in points)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        for x, y in points:
            yield f'<circle cx="{place(x):.1f}" cy="{height(y):.1f}" r="3" fill="{colour}"/>'
        left = _LEFT + 180 * number
        yield f'<rect x="{left}" y="30" width="12" height="4" fill="{colour}"/>'
        yield _text(left + 18, 37, name, anchor="start")
    yield "</svg>"
