"""The executed notebooks of a run -> one page of HTML that needs nothing else: no network, no folder beside it."""
import copy
import html
from pathlib import Path
from typing import Any

import nbformat
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

from lib.files import write_whole
from lib.runs.folder import RunFolder
from lib.show.wording import shown

TEMPLATES = Path(__file__).parent / "templates"
CHAPTERS = ("1_data", "2_model", "3_training", "4_results")
BANNER = ("state", "corpus_loss", "target_loss", "tokens", "step", "elapsed_sec", "parameters")


def write_report(run: RunFolder) -> Path:
    """Write report.html into the run's folder from the notebooks that are there, executed to the end or not, and the
    same as one notebook, report.ipynb."""
    chapters = [nbformat.read(run.notebook(name), as_version=4) for name in CHAPTERS if run.notebook(name).exists()]
    page = merge(chapters, title=run.path.name)
    write_whole(nbformat.writes(page) + "\n", run.notebook("report"))
    summary = {"state": "failed", "verdict": "Training did not begin"}
    if run.summary_file.exists():
        summary = run.read_summary()
    write_whole(page_of(page, summary["verdict"], summary["state"], banner(run, summary)), run.report)
    return run.report


def page_of(notebook: nbformat.NotebookNode, verdict: str, state: str, figures: dict[str, str]) -> str:
    """The HTML of a notebook that `merge` made, below a verdict and some figures by what they are called."""
    config = Config({
        "HTMLExporter": {"extra_template_basedirs": [str(TEMPLATES)], "template_name": "report",
                         "exclude_anchor_links": True},
    })
    resources = {"verdict": verdict, "state": state, "figures": figures, "chapters": contents(notebook),
                 "light_code": HtmlFormatter(style="default").get_style_defs(".highlight"),
                 "dark_code": HtmlFormatter(style="github-dark").get_style_defs(".highlight")}
    return HTMLExporter(config=config).from_notebook_node(notebook, resources)[0]


def banner(run: RunFolder, summary: dict[str, Any]) -> dict[str, str]:
    """What stands below the verdict: the figures of a run by what they are called, as far as there are any."""
    figures = shown({name: summary[name] for name in BANNER if name in summary})
    if run.config_file.exists():
        config, facts = run.read_config()
        figures["device"] = f"{facts['machine']['device']}, {facts['machine']['precision']}"
        figures |= {"note": config.note} if config.note else {}
    return figures


def merge(chapters: list[nbformat.NotebookNode], title: str) -> nbformat.NotebookNode:
    """One notebook with the cells of all, in order, each with an id of its own."""
    merged = nbformat.v4.new_notebook(metadata={
        "title": title, "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"}})
    for number, chapter in enumerate(chapters, 1):
        for place, cell in enumerate(chapter.cells):
            cell = copy.deepcopy(cell)
            cell.id = f"{number}-{place}"
            merged.cells.append(cell)
    return merged


def contents(page: nbformat.NotebookNode) -> list[tuple[str, str, int]]:
    """The headings of a notebook as (cell id, escaped text, level), for a table of contents."""
    headings = []
    for cell in page.cells:
        first = cell.source.partition("\n")[0]
        if cell.cell_type == "markdown" and first.startswith(("# ", "## ")):
            marks, text = first.split(" ", 1)
            headings.append((cell.id, html.escape(text), len(marks)))
    return headings
