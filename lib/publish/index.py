"""All runs -> one page, runs/index.html: a table to sort and to filter, with a curve and a line of a sample each."""
import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from lib.config import RunConfig
from lib.files import write_whole
from lib.runs.folder import RunFolder
from lib.show.wording import label, written
from lib.training.progress import known

TEMPLATES = Path(__file__).parent / "templates" / "index"
COLUMNS = ("corpus_loss", "shifted_loss", "known", "tokens", "step", "elapsed_sec")
WIDTH, HEIGHT = 120, 28  # of a curve, in pixels


def write_index(folder: Path) -> Path:
    """Write index.html into a folder of runs, the latest first; a run that cannot be read is only named. OSError
    passes."""
    rows, unread = [], []
    for summary in folder.glob("*/summary.json"):
        try:
            rows.append((summary.stat().st_mtime, summary.parent.name, _row(RunFolder(summary.parent))))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # whatever somebody put there
            unread.append(summary.parent.name)
    rows = [row for *_, row in sorted(rows, key=lambda row: row[:2], reverse=True)]
    # escapes every value: a folder may have any name
    template = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True).get_template("index.html.j2")
    write_whole(template.render(columns=["run", "state", *map(label, COLUMNS)], rows=rows, unread=sorted(unread)),
                folder / "index.html")
    return folder / "index.html"


def _row(run: RunFolder) -> dict[str, Any]:
    """What the page shows of a run; cells are (value to sort by, text), empty where nothing was measured."""
    summary = run.read_summary()
    config = run.read_config()[0] if run.config_file.exists() else RunConfig()
    cells = [(summary["state"], summary["state"])]
    for name in COLUMNS:
        value = known(summary) if name == "known" else summary.get(name)
        cells.append(("", "") if value is None else (value, written(name, value)))
    losses, samples = run.sampled_losses(), run.read_samples(tail=20_000)  # of any length, in the same time
    return {"name": run.path.name, "report": f"{run.path.name}/report.html" if run.report.exists() else "",
            "words": config.note, "says": _line(*samples[-1]) if samples else "",
            "cells": cells, "curve": _curve(losses),
            "told": f"mean loss from {losses[0][1]:.2f} to {losses[-1][1]:.3f}" if losses else ""}


def _line(step: int, prompt: str, output: str, most: int = 60) -> str:
    """The first line with words in it of what a sample says after its prompt, its end left out where it is long."""
    said = next((line.strip() for line in output.removeprefix(prompt).splitlines() if line.strip()), "")
    return said if len(said) <= most else said[:most].rstrip() + "…"


def _curve(losses: list[tuple[int, float]]) -> str:
    """(step, loss) pairs as the points of an SVG polyline, the loss on a log scale from 0.05 to 11."""
    if len(losses) < 2:
        return ""
    low, high, last = math.log(0.05), math.log(11), losses[-1][0]
    return " ".join(f"{1 + (WIDTH - 2) * step / last:.1f},"
                    f"{1 + (HEIGHT - 2) * (high - math.log(min(max(loss, 0.05), 11))) / (high - low):.1f}"
                    for step, loss in losses)
