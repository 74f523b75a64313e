"""The figures of a run as people see them: one name and one form for each, wherever it is shown."""
import math
from collections.abc import Callable
from typing import Any, NamedTuple


def duration(seconds: float) -> str:
    """A time as people say it: 0.4 s, 45 s, 2 min 45 s, 5 h 53 min, 3 d 4 h."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    for unit, name, part, below in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= unit - part / 2:  # which is rounded up to it
            parts = round(seconds / part)
            return f"{parts // (unit // part):,} {name} {parts % (unit // part)} {below}"
    return f"{seconds:.0f} s"


class Figure(NamedTuple):
    """What a figure is called and how it is written."""

    label: str
    write: Callable[[float], str]


FIGURES = {  # by their names in summary.json, those that other files give as well
    "corpus_loss": Figure("loss over all tokens", "{:.6f}".format),
    "shifted_loss": Figure("loss, windows moved by half", "{:.6f}".format),
    "known": Figure("what that means", str),
    "mean_loss": Figure("mean loss over the last epoch", "{:.6f}".format),
    "loss": Figure("loss of the last step", "{:.6f}".format),
    "lowest_loss": Figure("lowest loss of a step", "{:.6f}".format),
    "target_loss": Figure("target", "{:g}".format),
    "step": Figure("steps", "{:,.0f}".format),
    "tokens": Figure("tokens trained on", "{:,.0f}".format),
    "epochs": Figure("pseudo-epochs", "{:.1f}".format),
    "elapsed_sec": Figure("time of training", duration),
    "step_sec": Figure("time in steps", duration),
    "perplexity": Figure("perplexity", lambda choices: f"{choices:,.0f}" if choices >= 100 else f"{choices:.2f}"),
    "text_tokens": Figure("tokens of text", "{:,.0f}".format),
    "parameters": Figure("parameters", "{:,.0f}".format),
}


def label(name: str) -> str:
    """What a figure is called; of anything else, its name."""
    return FIGURES[name].label if name in FIGURES else name


def written(name: str, value: float | str | None) -> str:
    """A figure as it is written; one that is missing was not measured. Words stay as they are."""
    if isinstance(value, str):
        return value
    if name == "target_loss" and value == 0:
        return "none"
    if value is None or math.isnan(value):
        return "unmeasured"
    return FIGURES[name].write(value)


def shown(figures: dict[str, Any]) -> dict[str, str]:
    """Figures as they are written, by what they are called."""
    return {label(name): written(name, value) for name, value in figures.items()}


def brief(loss: float) -> str:
    """A loss in the three figures that a person can keep in mind."""
    return f"{loss:#.3g}" if loss < 99.95 else f"{loss:,.0f}"
