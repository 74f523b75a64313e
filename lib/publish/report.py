"""The executed notebooks of a run -> one page of HTML that needs nothing else: no network, no folder beside it."""
import copy
import hashlib
import html
import re
from pathlib import Path
from typing import Any

import nbformat
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

from lib.config import InputError
from lib.files import write_whole
from lib.publish.first_screen import first_screen, render
from lib.publish.parameters import parameters_table
from lib.runs.folder import RunFolder

TEMPLATES = Path(__file__).parent / "templates"
CHAPTERS = ("1_data", "2_model", "3_training", "4_results")  # in the order in which they run
PAGE = ("4_results", "3_training", "1_data", "2_model")  # and are read: what came of it, how, and then the lessons
LONG = 150  # lines of a log that are folded away
UNCHANGED = hashlib.sha256(b"").hexdigest()  # what a chapter keeps of the changes in a checkout that has none


def write_report(run: RunFolder) -> Path:
    """Write report.html into the run's folder from the notebooks that are there, executed to the end or not, and the
    same as one notebook, report.ipynb."""
    names = [name for name in PAGE if run.notebook(name).exists()]
    chapters = [nbformat.read(run.notebook(name), as_version=4) for name in names]
    screen = first_screen(run)
    write_whole(nbformat.writes(merge(chapters, screen["title"])) + "\n", run.notebook("report"))
    parameters = ""
    if "3_training" in names:
        try:
            parameters = parameters_table(run.read_config()[0])
        except InputError:  # it never came so far as to write them
            parameters = ""
    page = merge([presented(chapter, parameters if name == "3_training" else "")
                  for name, chapter in zip(names, chapters, strict=True)], screen["title"])
    write_whole(page_of(page, screen), run.report)
    return run.report


def page_of(notebook: nbformat.NotebookNode, screen: dict[str, Any]) -> str:
    """The HTML of a notebook of which `presented` made the chapters, below a first screen, of which only a title, a
    kicker and a state need be there."""
    config = Config({
        "HTMLExporter": {"extra_template_basedirs": [str(TEMPLATES)], "template_name": "report",
                         "exclude_anchor_links": True, "filters": {"tidy": tidy}},
    })
    resources = {"first_screen": render(screen), "chapters": contents(notebook), "long": LONG,
                 "light_code": HtmlFormatter(style="default").get_style_defs(".highlight"),
                 "dark_code": HtmlFormatter(style="github-dark").get_style_defs(".highlight")}
    return HTMLExporter(config=config).from_notebook_node(notebook, resources)[0]


def presented(chapter: nbformat.NotebookNode, parameters: str = "") -> nbformat.NotebookNode:
    """A chapter as it stands on a page: headings below the page's title, its own without a number, parameters as this
    HTML in place of the cells that hold them, nothing behind a cell that failed."""
    chapter = copy.deepcopy(chapter)
    cells = [cell for cell in chapter.cells
             if not {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", []))]
    for cell in cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\A(?=#+ )", "#", re.sub(r"\A# \d+ · ", "# ", cell.source))
        else:  # what was renewed all the time stands on the first screen and in the results
            cell.outputs = [output for output in cell.outputs if not output.get("metadata", {}).get("live")]
    for place, cell in enumerate(cells):
        if any(output.output_type == "error" for output in cell.get("outputs", [])):
            cells[place + 1:] = [nbformat.v4.new_markdown_cell(
                '<p class="how">The rest of this chapter was not executed.</p>')]
            break
    if parameters:
        cells.insert(1, nbformat.v4.new_markdown_cell(parameters))
    code = chapter.metadata.get("code", {})
    if commit := code.get("commit"):  # chapters may be of several: a run can be resumed
        changed = ", with changes" if code.get("changes", UNCHANGED) != UNCHANGED else ""
        cells.append(nbformat.v4.new_markdown_cell(
            f'<p class="how">This chapter was executed by the code of commit {html.escape(commit[:7])}{changed}.</p>'))
    chapter.cells = cells
    return chapter


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
    """The headings of a page as (cell id, escaped text, level from 1 on), for a table of contents."""
    headings = []
    for cell in page.cells:
        first = cell.source.partition("\n")[0]
        if cell.cell_type == "markdown" and first.startswith(("## ", "### ")):
            marks, text = first.split(" ", 1)
            headings.append((cell.id, html.escape(text), len(marks) - 1))
    return headings


def tidy(table: str) -> str:
    """A table as pandas writes it, without a style of its own, a second row of headings, an empty heading, or
    a token that breaks behind its quote. Other HTML stays as it is."""
    table = re.sub(r"<style scoped>.*?</style>", "", table, flags=re.DOTALL)
    table = re.sub(r"<th></th>(.*?)</tr>\s*<tr>\s*<th>([^<]*)</th>\s*(?:<th></th>\s*)+</tr>(\s*</thead>)",
                   r"<th>\2</th>\1</tr>\3", table, count=1, flags=re.DOTALL)
    table = table.replace("<th></th>", "<td></td>")
    if "<table" in table:
        table = re.sub(r"(?<![^\s>])(['\"]) (?=\S)", "\\1\N{NO-BREAK SPACE}", table)
    return table
