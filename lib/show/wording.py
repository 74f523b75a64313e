"""The figures of a run as people see them: one name and one form for each, wherever it is shown."""
import math
from typing import Any, NamedTuple


class Figure(NamedTuple):
    """What a figure is called and how it is written, in units of so many of its own."""

    label: str
    form: str
    unit: float = 1


FIGURES = {  # by their names in summary.json, those that other files give as well
    "corpus_loss": Figure("loss over all tokens", "{:.6f}"),
    "shifted_loss": Figure("loss, windows moved by half", "{:.6f}"),
    "mean_loss": Figure("mean loss over the last epoch", "{:.6f}"),
    "loss": Figure("loss of the last step", "{:.6f}"),
    "lowest_loss": Figure("lowest loss of a step", "{:.6f}"),
    "target_loss": Figure("target", "{:g}"),
    "step": Figure("steps", "{:,.0f}"),
    "tokens": Figure("tokens trained on", "{:,.0f}"),
    "epochs": Figure("pseudo-epochs", "{:.1f}"),
    "elapsed_sec": Figure("minutes of training", "{:,.1f}", 60),
    "step_sec": Figure("minutes in steps", "{:,.1f}", 60),
    "text_tokens": Figure("tokens of text", "{:,.0f}"),
    "parameters": Figure("parameters", "{:,.0f}"),
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
    return FIGURES[name].form.format(value / FIGURES[name].unit)


def shown(figures: dict[str, Any]) -> dict[str, str]:
    """Figures as they are written, by what they are called."""
    return {label(name): written(name, value) for name, value in figures.items()}
