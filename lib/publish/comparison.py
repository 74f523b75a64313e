"""The runs in a folder -> one executed notebook that compares them, its page, and the table of all of them."""
import glob
from collections import Counter
from pathlib import Path

import nbformat

from lib.config import relative_to_root
from lib.files import write_whole
from lib.publish.index import write_index
from lib.publish.notebooks import run_notebook
from lib.publish.report import merge, page_of, presented
from lib.runs.locate import find_runs
from lib.show.comparison import over_seeds

NAME = "compare_runs"


def write_comparison(folder: Path) -> tuple[str, bool]:
    """Write compare_runs.ipynb, executed over the runs in a folder, compare_runs.html, which is its page, and
    index.html, all runs with links to their reports. Returns where these are and the means over seeds, in words, and
    whether the notebook came to its end.

    Raises InputError where no run has logged a step; OSError passes.
    """
    # a pattern that finds what is in this folder, whatever its name is; patterns are separated by spaces
    pattern = glob.escape(relative_to_root(folder)).replace(" ", "?") + "/*"
    runs, _ = find_runs(pattern)
    notebook = folder / f"{NAME}.ipynb"
    outcome = run_notebook(NAME, notebook, {"runs": pattern})
    states = Counter(run.read_summary()["state"] for run in runs)
    verdict = f"{len(runs):,} runs: " + ", ".join(f"{count:,} {state}" for state, count in states.items())
    chapter = merge([presented(nbformat.read(notebook, as_version=4))], title=folder.name)
    page = folder / f"{NAME}.html"
    write_whole(page_of(chapter, {"title": folder.name, "kicker": verdict,
                                   "state": "reached" if set(states) == {"reached"} else ""}), page)
    index = write_index(folder)
    return (f"{verdict}\n\n{over_seeds(runs).to_string()}\n\n{NAME}: {outcome}, {relative_to_root(page)}\n"
            f"all runs: {relative_to_root(index)}"), outcome == "completed"
