"""Figures: each function returns one, labelled with units, drawn for a reader who may not tell red from green."""
import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from lib.show.drawing import FOOT, LETTER, LINE_HEIGHT, house, log, mark, name_below, name_ends, new
from lib.show.fonts import legible, use
from lib.show.svg import BLUE, FAINT, GREEN, GREY, INK, ORANGE, SKY
from lib.show.wording import brief

X_LABELS = {"step": "step (updates of the weights)", "tokens": "tokens trained on", "elapsed_sec": "of training"}
UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))
POINTS = 600  # a curve is drawn with about as many


def _thin(table: pd.DataFrame) -> pd.DataFrame:
    """About so many rows of a table, the last among them."""
    return table.iloc[::-max(1, len(table) // POINTS)][::-1].reset_index(drop=True)


@house
def loss_curve(metrics: pd.DataFrame, target: float, floor: float, by: str = "step",
               restarts: Sequence[int] = ()) -> Figure:
    """The loss of each logged step, its mean over the last epoch, and every pass over all tokens, on a log scale.

    `metrics` has the columns of a run's train_metrics.csv; `by` names the one to draw against: step, tokens or
    elapsed_sec, where the lines are broken by pauses. `restarts` are steps after which the run was interrupted and gone
    on with. A target of 0 is none, and has no line.
    """
    figure, axes = new()
    thin, unit, label = _thin(metrics), 1, X_LABELS[by]
    if by == "elapsed_sec":
        name, unit = next((name, unit) for name, unit in UNITS if metrics[by].iloc[-1] >= 2 * unit or unit == 1)
        label, thin = f"{name} {label}", _broken(thin)
    axes.plot(thin[by] / unit, thin["loss"], color=SKY, linewidth=1)
    axes.plot(thin[by] / unit, thin["mean_loss"], color=BLUE, linewidth=2.2)
    axes.plot(thin[by].iloc[-1:] / unit, thin["mean_loss"].iloc[-1:], "o", color=BLUE, markersize=4)
    ends = [(metrics["mean_loss"].iloc[-1], f"{brief(metrics['mean_loss'].iloc[-1])} mean", BLUE),
            (floor, f"{floor:.2g} floor", GREY)]
    passes = metrics[metrics["corpus_loss"].notna()]
    if len(passes):
        axes.plot(passes[by] / unit, passes["corpus_loss"], "o", color=ORANGE, markersize=7)
        ends.append((passes["corpus_loss"].iloc[-1], f"{brief(passes['corpus_loss'].iloc[-1])} all tokens", ORANGE))
    if target:
        axes.axhline(target, color=ORANGE, linestyle="--", linewidth=1.2, label=f"target {target:g}")
        ends.append((target, f"{brief(target)} target", ORANGE))
    axes.axhline(floor, color=GREY, linestyle=":", linewidth=1.5)
    for place in np.interp(restarts, metrics["step"], metrics[by] / unit):
        mark(axes, place, "resumed", GREEN)
    log(axes.yaxis)
    axes.set(xlabel=label, title="loss, nats per token")
    axes.xaxis.set_major_formatter("{x:,.10g}")
    axes.locator_params(axis="x", nbins=6, integer=unit == 1)
    name_ends(axes, ends)
    return figure


def _broken(metrics: pd.DataFrame) -> pd.DataFrame:
    """The rows of a run's metrics, with an empty one wherever the steps before the next took far longer than usual."""
    pace = metrics["elapsed_sec"].diff() / metrics["step"].diff()
    paused = metrics.index[pace > 3 * pace.median()]
    return pd.concat([metrics, pd.DataFrame(math.nan, paused - 0.5, metrics.columns)]).sort_index()


@house
def loss_curves(metrics: dict[str, pd.DataFrame], target: float, by: str = "tokens") -> Figure:
    """The mean loss over the last epoch of several runs, by name, and their passes over all tokens, on a log scale.

    `by` names what to draw against: tokens or elapsed_sec. A target of 0 is none, and has no line.
    """
    named = len(metrics) if len(metrics) <= 10 else 0  # more names would hide the curves
    figure, axes = new(height=300 + (named + 1) * LINE_HEIGHT, foot=FOOT + (named + 1) * LINE_HEIGHT)
    styles = itertools.product(("-", "--", ":", "-."), (BLUE, ORANGE, GREEN, SKY, GREY))
    names, fonts = legible(list(metrics))
    for name, table, (line, color) in zip(names, metrics.values(), itertools.cycle(styles)):
        thin = _thin(table)
        axes.plot(thin[by], thin["mean_loss"], color=color, linestyle=line, linewidth=1.5, label=name)
        passes = table[table["corpus_loss"].notna()]
        axes.plot(passes[by], passes["corpus_loss"], "o", color=color, markersize=5)
    if target:
        axes.axhline(target, color=GREY, linestyle=(0, (1, 1)), linewidth=1.2, label=f"target {target:g}")
    log(axes.xaxis)
    log(axes.yaxis)
    axes.set(xlabel=X_LABELS[by] if by == "tokens" else f"seconds {X_LABELS[by]}",
             title="mean loss of an epoch, nats per token")
    if named:
        name_below(figure, [line for line in axes.lines if not line.get_label().startswith("_")])
    return use(fonts, figure)


@house
def training_health(metrics: pd.DataFrame, clip_grad: float) -> Figure:
    """Learning rate as the share of its peak, gradient norm before clipping, with the longest let through (0: any) and
    the share of logged steps above it, and throughput, one above the other."""
    figure, (rate, norm, speed) = new(3, 500, sharex=True)
    thin = _thin(metrics)
    for axes, column, title, color in ((rate, "rate", "learning rate, share of its peak", BLUE),
                                       (norm, "grad_norm", "gradient norm", GREEN),
                                       (speed, "tokens_per_sec", "tokens per second", GREY)):
        axes.plot(thin["step"], thin[column], color=color, linewidth=1.5)
        axes.set_title(title)
    if clip_grad:
        norm.axhline(clip_grad, color=ORANGE, linestyle="--", linewidth=1.2)
    log(norm.yaxis)
    if clip_grad:
        clipped = (metrics["grad_norm"] > clip_grad).mean()
        name_ends(norm, [(clip_grad, f"clipped at {clip_grad:g}:\n{clipped:.0%} of steps", ORANGE)])
    for axes in (rate, speed):
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter("{x:,.10g}")
        axes.locator_params(axis="y", nbins=4)
    speed.set_xlabel(X_LABELS["step"])
    speed.locator_params(axis="x", nbins=6, integer=True)
    return figure


@house
def usage(table: pd.DataFrame) -> Figure:
    """Memory and processor time by minutes of training, one above the other; the columns are those of usage.csv."""
    figure, (memory, processor) = new(2, 340, sharex=True)
    minutes, marker = table["elapsed_sec"] / 60, "." if len(table) < 40 else ""
    memory.plot(minutes, table["memory_gb"], color=BLUE, marker=marker, linewidth=1.5)
    ends = [(table["memory_gb"].iloc[-1], "main memory", BLUE)]
    if table["gpu_memory_gb"].notna().any():
        memory.plot(minutes, table["gpu_memory_gb"], color=ORANGE, marker=marker, linewidth=1.5)
        ends.append((table["gpu_memory_gb"].iloc[-1], "GPU memory", ORANGE))
    processor.plot(minutes, table["processor_percent"] / 100, color=GREEN, marker=marker, linewidth=1.5)
    memory.set(title="memory, GB", ylim=(0, None))
    processor.set(title="cores at work", xlabel="minutes of training", xlim=(0, None), ylim=(0, None))
    for axes in (memory, processor):
        axes.locator_params(axis="y", nbins=4)
    processor.locator_params(axis="x", nbins=6)
    if len(ends) == 2:
        name_ends(memory, ends)
    return figure


@house
def position_losses(table: pd.DataFrame, floors: Sequence[float], crossed: bool) -> Figure:
    """The mean loss at each position of windows cut from the start of the text, and of those moved by half their
    length, beside what one who knows the text cannot do without.

    `table` has the columns position, loss and moved; `floors` are those of the first positions. Where a run always cut
    its text alike, moved windows are `crossed` by a cut, which is marked.
    """
    figure, axes = new(height=340, foot=FOOT + 3 * LINE_HEIGHT + 8)
    axes.plot(table["position"], table["moved"], color=SKY, linewidth=1.2, label="windows moved by half")
    axes.plot(table["position"], table["loss"], color=BLUE, linewidth=1.8, label="windows cut from the start")
    axes.plot(range(1, len(floors) + 1), floors, color=ORANGE, linestyle=":", linewidth=2.2,
              label="one who knows the text")
    if crossed:
        mark(axes, len(table) / 2, "a cut", GREY)
    axes.set(xlabel="position in the window (tokens)", title="mean loss, nats", ylim=(0, None))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.locator_params(axis="x", nbins=6)
    name_below(figure, axes.lines[:3])
    return figure


@house
def token_frequencies(counts: Sequence[int]) -> Figure:
    """How often each token occurs, from the most frequent to the rarest, on two log scales."""
    figure, axes = new()
    ordered = np.sort(np.asarray(counts))[::-1]
    axes.plot(np.arange(1, len(ordered) + 1), ordered, color=BLUE, linewidth=2.2)
    axes.plot([1, len(ordered)], [ordered[0], ordered[0] / len(ordered)], color=GREY, linestyle=":", linewidth=1.5)
    log(axes.xaxis)
    log(axes.yaxis)
    axes.set(xlabel="rank of the token", title="times it occurs")
    name_ends(axes, [(ordered[-1], "this text", BLUE), (ordered[0] / len(ordered), "Zipf: 1 / rank", GREY)])
    return figure


@house
def bars(labels: Sequence[str], values: Sequence[float], title: str, form: str = "{:,.0f}") -> Figure:
    """Horizontal bars, the first on top, each with its value behind it."""
    (title, *labels), fonts = legible([title, *labels])
    left = 12 + LETTER * max(len(label) for label in labels)
    figure, axes = new(height=34 + 24 * len(labels), width=600, left=left, foot=6)
    drawn = axes.barh(range(len(labels)), values, height=0.7, color=BLUE)
    axes.bar_label(drawn, [form.format(value) for value in values], padding=4, color=FAINT)
    axes.set_yticks(range(len(labels)), labels, parse_math=False)  # a $ begins no formula
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.grid(visible=False)
    axes.xaxis.set_visible(False)  # the values stand there
    axes.spines["bottom"].set_visible(False)
    axes.set_title(title, parse_math=False)
    return use(fonts, figure)


@house
def matrix(values: np.ndarray, title: str, names: Sequence[str], xlabel: str, ylabel: str) -> Figure:
    """A square matrix (T, T) of values from 0 on, as shades of blue, the largest darkest, row 0 on top, with the
    numbers above 0 where there is room for them. `names` are those of rows and columns."""
    roomy = len(values) <= 8
    names, fonts = legible(names)
    size, most = 11 if roomy else 9, values.max()
    room = 30 + size * 0.6 * max(len(name) for name in names)
    figure, axes = new(height=300 + room if roomy else 400 + room, width=320 + room if roomy else 400 + room, left=room,
                       foot=room)
    shades = np.dstack([np.full((*values.shape, 3), to_rgb(BLUE)), values / most])
    axes.imshow(shades, interpolation="nearest")  # 0 is the page's own ground, light or dark
    axes.grid(visible=False)
    axes.set_title(title, parse_math=False)
    axes.set_xticks(range(len(names)), names, parse_math=False, fontsize=size, rotation=90)
    axes.set_yticks(range(len(names)), names, parse_math=False, fontsize=size)
    for row, column in np.argwhere(values) if roomy else ():
        value = values[row, column]
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=11,
                  color="white" if value > 0.85 * most else INK)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return use(fonts, figure)


@house
def curves(x: Sequence[float], values: dict[str, Sequence[float]], xlabel: str, title: str,
           names: Sequence[str] = ()) -> Figure:
    """Curves over one x by what they are called, at most three. Where `names` are given, x counts these."""
    figure, axes = new()
    ends = []
    for (label, y), color, line in zip(values.items(), (BLUE, GREY, ORANGE), ("-", ":", "--"), strict=False):
        axes.plot(x, y, color=color, linestyle=line, marker="o" if names else "", markersize=5, linewidth=2)
        ends.append((float(y[-1]), label, color))
    if names:
        axes.set_xticks(x, names)
    axes.set(xlabel=xlabel, title=title)
    axes.locator_params(axis="y", nbins=5)
    name_ends(axes, ends)
    return figure
