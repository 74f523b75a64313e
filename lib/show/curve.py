"""The loss of a run as an inline SVG: in the fonts and colours of the page it stands in, the labels at the line ends.

Places across are shares of the width and those down are pixels, so that its letters keep their size on any screen. What
is too wide for a phone stands in a <tspan class="wide">, which the page hides there.
"""
import html
import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from lib.show.wording import brief

HEIGHT, TOP, FOOT, LEFT = 300, 12, 30, 30  # pixels: all of it, above, below and left of what is drawn
PLOT, ACROSS = 62, 1000  # share of the width that curves take, in percent; their own units across
APART = 17  # pixels between two labels, one below the other
POINTS = 600  # a curve is drawn with about as many


class End(NamedTuple):
    """A loss at the end of a run, to be drawn as a point ("dot" or "ring") or named as what a line ends at."""

    loss: float
    what: str  # in one word
    more: str  # words behind that, where there is room
    kind: str  # "dot", "ring", "dark" (the mean) or "target"


def loss_svg(metrics: pd.DataFrame, text_tokens: int, target: float, ends: Sequence[End], restarts: Sequence[int],
             told: str) -> str:
    """A run's loss by epochs, the times its text was read, on a log scale, as an <svg> that is told as `told`.

    `metrics` has the columns of train_metrics.csv, and a row at least; `restarts` are steps after which the run was
    interrupted and gone on with. A target of 0 is none. All words are escaped.
    """
    thin = metrics.iloc[::-max(1, len(metrics) // POINTS)][::-1]  # the last row is among them
    epochs = metrics["tokens"].iloc[-1] / text_tokens
    losses = [*metrics["loss"], *metrics["mean_loss"], *(end.loss for end in ends)]
    low, high = _range([loss for loss in losses if 0 < loss < math.inf])

    def down(loss: float) -> float:
        share = (math.log(high) - math.log(max(loss, low))) / (math.log(high) - math.log(low))
        return TOP + share * (HEIGHT - TOP - FOOT)

    def across(tokens: float) -> float:
        return tokens / text_tokens / epochs

    def line(column: str) -> str:
        points = " ".join(f"{ACROSS * across(tokens):.1f},{down(loss):.1f}"
                          for tokens, loss in zip(thin["tokens"], thin[column], strict=True) if math.isfinite(loss))
        return f'<polyline class="{"pale" if column == "loss" else "dark"}" points="{points}"/>'

    parts = []
    for loss in _ticks(low, high):
        parts += [f'<line class="grid" x1="0" x2="{PLOT}%" y1="{down(loss):.1f}" y2="{down(loss):.1f}"/>',
                  f'<text x="-6" y="{down(loss) + 4:.1f}" text-anchor="end">{loss:g}</text>']
    parts += _epoch_names(epochs)
    if target:
        parts.append(f'<line class="target" x1="0" x2="{PLOT}%" y1="{down(target):.1f}" y2="{down(target):.1f}"/>')
    for step in restarts:
        tokens = metrics.loc[metrics["step"] <= step, "tokens"].max()
        if tokens > 0:
            x = PLOT * across(tokens)
            parts.append(f'<line class="restart" x1="{x:.2f}%" x2="{x:.2f}%" y1="{TOP}" y2="{HEIGHT - FOOT}"/>')
    parts += [f'<svg width="{PLOT}%" height="{HEIGHT}" viewBox="0 0 {ACROSS} {HEIGHT}" preserveAspectRatio="none">',
              line("loss"), line("mean_loss"), "</svg>"]
    parts += [f'<circle class="{end.kind}" cx="{PLOT}%" cy="{down(end.loss):.1f}" r="5"/>'
              for end in ends if end.kind in (("dot", "ring") if len(thin) > 1 else ("dot", "ring", "dark"))]
    for end, y in zip(ends, apart([down(end.loss) for end in ends], TOP, HEIGHT - FOOT - 2), strict=True):
        parts.append(f'<text class="{end.kind}" x="{PLOT}%" dx="9" y="{y + 4:.1f}">{brief(end.loss)} '
                     f'{html.escape(end.what)}<tspan class="wide"> {html.escape(end.more)}</tspan></text>')
    return (f'<svg class="curve" width="100%" height="{HEIGHT}" role="img" aria-label="{html.escape(told)}">'
            f'<g transform="translate({LEFT} 0)">{"".join(parts)}</g></svg>')


def _range(losses: Sequence[float]) -> tuple[float, float]:
    """From which loss to which to draw, wider than one line."""
    low, high = min(losses), max(losses)
    return (low / 1.25, high * 1.08) if high > 1.5 * low else (low / 2, high * 1.5)


def _ticks(low: float, high: float) -> list[float]:
    """The losses to name: powers of ten, or where few of them are between, 2 and 5 of each as well."""
    powers = [10.0 ** power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    ticks = [tick for tick in powers if low <= tick <= high]
    if len(ticks) < 2:
        ticks = [n * power for power in powers for n in (1, 2, 5) if low <= n * power <= high]
    return ticks


def _epoch_names(epochs: float) -> list[str]:
    """The names of the epochs below their ends: each of a few, every so many of many."""
    y, step = HEIGHT - FOOT + 20, 1
    while epochs / step > 8:
        step *= 2 if f"{step}".startswith(("1", "5")) else 2.5
        step = int(step)
    if epochs < 1:
        return [f'<text x="{PLOT}%" y="{y}" text-anchor="end">{epochs:.2f} of the first epoch</text>']
    names = []
    for number in range(step, math.floor(epochs + 1e-9) + 1, step):
        x = PLOT * number / epochs
        names += [f'<line class="grid" x1="{x:.2f}%" x2="{x:.2f}%" y1="{HEIGHT - FOOT}" y2="{HEIGHT - FOOT + 5}"/>',
                  f'<text x="{x:.2f}%" y="{y}" text-anchor="{"end" if x > PLOT - 4 else "middle"}">'
                  f'{"epoch " if number == step else ""}{number:,}</text>']
    return names


def apart(places: Sequence[float], top: float, foot: float) -> list[float]:
    """Places of labels, in pixels from above, moved as little as keeps each below the one before and all inside."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    for before, i in zip([None, *order], order, strict=False):
        moved[i] = max(moved[i], top if before is None else moved[before] + APART)
    for i in reversed(order):
        moved[i] = min(moved[i], foot)
        foot = moved[i] - APART
    return moved
