"""Figures: each function returns one, labelled with units, drawn for a reader who may not tell red from green."""
import base64
import io
import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from IPython.display import DisplayHandle, display
from matplotlib import style
from matplotlib.figure import Figure

from lib.show.fonts import legible, use

# Okabe & Ito's colours ("Color Universal Design", 2008)
BLUE, ORANGE, GREEN, SKY, GREY = "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#767676"
STYLE = {"font.size": 10, "axes.grid": True, "grid.color": "#e4e4e4", "axes.spines.top": False,
         "axes.spines.right": False, "axes.edgecolor": "#8a8a8a", "legend.edgecolor": "none", "legend.framealpha": 0.9,
         "figure.facecolor": "white", "axes.titlesize": 11, "axes.titlelocation": "left"}
# over matplotlib's own defaults: a person's matplotlibrc may ask for what is not there, LaTeX for instance
_house = style.context(STYLE, after_reset=True)
WIDTH = 6.2  # inches: small enough for its letters to be read on a phone
X_LABELS = {"step": "step (updates of the weights)", "tokens": "tokens trained on",
            "elapsed_sec": "seconds of training"}
POINTS = 2000  # a curve is drawn with at most this many


def show(figure: Figure, alt: str, handle: DisplayHandle | None = None) -> DisplayHandle:
    """Show a figure in the notebook, with a text in its place for those who cannot see it.

    With the handle that an earlier call returned, the new figure takes the place of the earlier one. A figure that
    cannot be drawn is told in words: what only shows ends no chapter.
    """
    try:
        data = {"image/png": base64.b64encode(png(figure)).decode(), "text/plain": alt}
    except Exception as error:  # of many kinds: a font, the disk, a program that is not there
        data = {"text/plain": f"{alt}\n(this figure could not be drawn: {error})"}
    metadata = {"image/png": {"alt": alt, "width": round(figure.get_figwidth() * 110)}} if "image/png" in data else {}
    if handle is None:
        return display(data, raw=True, metadata=metadata, display_id=True)
    handle.update(data, raw=True, metadata=metadata)
    return handle


@_house
def png(figure: Figure) -> bytes:
    """A figure as the file of an image."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
    return file.getvalue()


def _new(rows: int = 1, columns: int = 1, size: tuple[float, float] = (WIDTH, 3.5), **subplots):
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, **subplots)


@_house
def loss_curve(metrics: pd.DataFrame, target: float, floor: float, by: str = "step",
               restarts: Sequence[int] = (), text_tokens: int = 0) -> Figure:
    """The loss of each logged step, its mean over the last epoch, and every pass over all tokens, on a log scale.

    `metrics` has the columns of a run's train_metrics.csv; `by` names the one to draw against: step, tokens or
    elapsed_sec. `restarts` are steps after which the run was interrupted and gone on with. Tokens are counted in
    pseudo-epochs of `text_tokens`, too, where that is given. A target of 0 is none, and has no line.
    """
    figure, axes = _new()
    thin = metrics.iloc[::-(-len(metrics) // POINTS) or 1]
    axes.plot(thin[by], thin["loss"], color=SKY, linewidth=0.8, label="loss of a step")
    axes.plot(thin[by], thin["mean_loss"], color=BLUE, linewidth=1.8, label="mean over the last epoch")
    passes = metrics[metrics["corpus_loss"].notna()]
    if len(passes):
        axes.plot(passes[by], passes["corpus_loss"], "o", color=ORANGE, markersize=6, label="loss over all tokens")
    if target:
        axes.axhline(target, color=ORANGE, linestyle="--", linewidth=1.2, label=f"target {target:g}")
    axes.axhline(floor, color=GREY, linestyle=":", linewidth=1.2, label=f"floor {floor:.3g}")
    for count, place in enumerate(np.interp(restarts, metrics["step"], metrics[by])):
        axes.axvline(place, color=GREEN, linestyle="-.", linewidth=1, label="restart" if count == 0 else None)
    axes.set(xlabel=X_LABELS[by], ylabel="loss (nats per token)", yscale="log")
    if text_tokens:
        to_epochs_and_back = (lambda tokens: tokens / text_tokens, lambda epochs: epochs * text_tokens)
        axes.secondary_xaxis("top", to_epochs_and_back).set_xlabel("pseudo-epochs")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.10g}")
    axes.legend(loc="best", fontsize=9)
    return figure


@_house
def loss_curves(metrics: dict[str, pd.DataFrame], target: float, by: str = "tokens") -> Figure:
    """The mean loss over the last epoch of several runs, by name, and their passes over all tokens, on a log scale.

    `by` names what to draw against: tokens or elapsed_sec. A target of 0 is none, and has no line.
    """
    figure, axes = _new()
    styles = itertools.product(("-", "--", ":", "-."), (BLUE, ORANGE, GREEN, SKY, GREY))
    names, fonts = legible(list(metrics))
    for name, table, (line, color) in zip(names, metrics.values(), itertools.cycle(styles)):
        thin = table.iloc[::-(-len(table) // POINTS) or 1]
        axes.plot(thin[by], thin["mean_loss"], color=color, linestyle=line, linewidth=1.5, label=name)
        passes = table[table["corpus_loss"].notna()]
        axes.plot(passes[by], passes["corpus_loss"], "o", color=color, markersize=5)
    if target:
        axes.axhline(target, color=GREY, linestyle=(0, (1, 1)), linewidth=1.2, label=f"target {target:g}")
    axes.set(xlabel=X_LABELS[by], ylabel="mean loss of an epoch (nats per token)", xscale="log", yscale="log")
    axes.yaxis.set_major_formatter("{x:,.10g}")
    if len(metrics) <= 10:  # more names would hide the curves
        axes.legend(loc="best", fontsize=8)
    return use(fonts, figure)


@_house
def training_health(metrics: pd.DataFrame) -> Figure:
    """Learning rate as the share of its peak, gradient norm before clipping, and throughput, one above the other."""
    figure, axes = _new(3, 1, (WIDTH, 5.6), sharex=True)
    thin = metrics.iloc[::-(-len(metrics) // POINTS) or 1]
    labels = {"rate": "learning rate\n(share of its peak)", "grad_norm": "gradient norm",
              "tokens_per_sec": "tokens per second"}
    for axis, (column, label), color in zip(axes, labels.items(), (BLUE, GREEN, GREY), strict=True):
        axis.plot(thin["step"], thin[column], color=color, linewidth=1.2)
        axis.set_ylabel(label)
        if column == "grad_norm":
            axis.set_yscale("log")  # its first steps would press the rest to the ground
        else:
            axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("step (updates of the weights)")
    return figure


@_house
def usage(table: pd.DataFrame) -> Figure:
    """Memory and processor time by minutes of training, one above the other; the columns are those of usage.csv."""
    figure, (memory, processor) = _new(2, 1, (WIDTH, 3.8), sharex=True)
    minutes = table["elapsed_sec"] / 60
    memory.plot(minutes, table["memory_gb"], color=BLUE, marker=".", linewidth=1.2, label="main memory")
    if table["gpu_memory_gb"].notna().any():
        memory.plot(minutes, table["gpu_memory_gb"], color=ORANGE, marker=".", linewidth=1.2, label="GPU memory")
        memory.legend(fontsize=9)
    processor.plot(minutes, table["processor_percent"] / 100, color=GREEN, marker=".", linewidth=1.2)
    memory.set(ylabel="memory (GB)", ylim=(0, None))
    processor.set(ylabel="cores at work", xlabel="minutes of training", xlim=(0, None), ylim=(0, None))
    return figure


@_house
def position_losses(table: pd.DataFrame, floors: Sequence[float]) -> Figure:
    """The mean loss at each position of windows cut from the start of the text, and of those moved by half their
    length, beside what one who knows the text cannot do without.

    `table` has the columns position, loss and moved; `floors` are those of the first positions.
    """
    figure, axes = _new()
    axes.plot(table["position"], table["moved"], color=SKY, linewidth=1.2, label="windows moved by half")
    axes.plot(table["position"], table["loss"], color=BLUE, linewidth=1.8, label="windows cut from the start")
    axes.plot(range(1, len(floors) + 1), floors, color=GREY, linestyle=":", linewidth=1.8,
              label="one who knows the text")
    axes.set(xlabel="position in the window (tokens)", ylabel="mean loss (nats)", ylim=(0, None))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend(fontsize=9)
    return figure


@_house
def token_frequencies(counts: Sequence[int]) -> Figure:
    """How often each token occurs, from the most frequent to the rarest, on two log scales."""
    figure, axes = _new()
    ordered = np.sort(np.asarray(counts))[::-1]
    axes.plot(np.arange(1, len(ordered) + 1), ordered, color=BLUE, linewidth=1.8, label="this text")
    axes.plot([1, len(ordered)], [ordered[0], ordered[0] / len(ordered)], color=GREY, linestyle=":",
              label="Zipf's law: 1 / rank")
    axes.set(xscale="log", yscale="log", xlabel="rank of the token", ylabel="times it occurs")
    axes.legend(fontsize=9)
    return figure


@_house
def bars(labels: Sequence[str], values: Sequence[float], xlabel: str, form: str = "{:,.0f}") -> Figure:
    """Horizontal bars, the first on top, each with its value behind it."""
    figure, axes = _new(size=(WIDTH, 0.9 + 0.3 * len(labels)))
    (xlabel, *labels), fonts = legible([xlabel, *labels])
    drawn = axes.barh(range(len(labels)), values, color=BLUE)
    axes.bar_label(drawn, [form.format(value) for value in values], padding=3, fontsize=9)
    axes.set_yticks(range(len(labels)), labels, parse_math=False)  # a $ begins no formula
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(xlabel, parse_math=False)
    axes.locator_params(axis="x", nbins=5)
    if max(values) >= 10:
        axes.xaxis.set_major_formatter("{x:,.0f}")
    return use(fonts, figure)


@_house
def matrices(values: dict[str, np.ndarray], xlabel: str, ylabel: str, names: Sequence[str] = ()) -> Figure:
    """Square matrices of values from 0 to 1 by their titles, in two columns, as shades of blue, row 0 on top, with the
    numbers where there is room for them. `names` are those of rows and columns."""
    rows, columns = -(-len(values) // 2), min(2, len(values))
    figure, axes = _new(rows, columns, (WIDTH * (0.35 + 0.325 * columns), 0.4 + 3.2 * rows), squeeze=False)
    names, fonts = legible(names)
    for axis in axes.flat[len(values):]:
        axis.remove()
    for axis, (title, matrix) in zip(axes.flat, values.items(), strict=False):
        image = axis.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
        axis.grid(visible=False)
        axis.set_title(title, fontsize=9, parse_math=False)
        roomy = len(matrix) <= 8
        if names:
            size = 9 if roomy else 6
            axis.set_xticks(range(len(names)), names, parse_math=False, fontsize=size, rotation=90)
            axis.set_yticks(range(len(names)), names, parse_math=False, fontsize=size)
        for (row, column), value in np.ndenumerate(matrix) if roomy else ():
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9,
                      color="white" if value > 0.6 else "black")
    figure.colorbar(image, ax=list(axes.flat[:len(values)]), shrink=0.6 / rows)
    figure.supxlabel(xlabel, fontsize=10)
    figure.supylabel(ylabel, fontsize=10)
    return use(fonts, figure)


@_house
def curves(x: Sequence[float], values: dict[str, Sequence[float]], xlabel: str, ylabel: str,
           names: Sequence[str] = ()) -> Figure:
    """Curves over one x by what they are called, at most three. Where `names` are given, x counts these."""
    figure, axes = _new()
    for (label, y), color, line in zip(values.items(), (BLUE, GREY, ORANGE), ("-", ":", "--"), strict=False):
        axes.plot(x, y, color=color, linestyle=line, marker="o" if names else "", linewidth=1.8, label=label)
    if names:
        axes.set_xticks(x, names)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend(fontsize=9)
    return figure
