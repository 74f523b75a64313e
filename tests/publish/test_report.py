"""A page of chapters has each thing once, in the order in which it is read."""
import nbformat
import pandas as pd
import pytest

from lib.presets import preset_config
from lib.publish import notebooks
from lib.publish.parameters import parameters_table
from lib.publish.report import LONG, contents, merge, page_of, presented, tidy


def test_a_table_has_one_row_of_headings_and_none_that_is_empty():
    named = pd.DataFrame({"a": ["' in' ' it'"], "b": [2]}, index=["x"]).rename_axis("looks at")
    table = tidy(named.to_html())
    assert table.count("<tr") == 2 and "<th></th>" not in table and table.index("looks at") < table.index("<th>a</th>")
    assert ">'\N{NO-BREAK SPACE}in' '\N{NO-BREAK SPACE}it'<" in table
    plain = tidy(pd.Series({"x": 1}, name="this run").to_frame().to_html())
    assert "<th></th>" not in plain and plain.count("<tr") == 2
    assert "<style" not in tidy(named._repr_html_()) and "<style" in named._repr_html_()
    assert tidy("<pre>' the</pre>") == "<pre>' the</pre>"


def test_the_parameters_stand_there_once_with_their_meaning_and_as_text():
    table = parameters_table(preset_config("tiny", note="<b>'x'</b>"))
    assert table.count("<tr><td>seed</td>") == 1 and "of the weights, the order of the windows" in table
    assert "<td><strong>64</strong></td><td>channels of the residual stream</td>" in table
    assert "<b>" not in table and "\n\n" not in table


def test_what_was_renewed_in_a_notebook_stands_on_a_page_in_its_own_place_alone():
    v4 = nbformat.v4
    outputs = [v4.new_output("display_data", {"text/plain": "at 12:00"}, metadata={"live": True}),
               v4.new_output("display_data", {"text/html": "<figure>kept</figure>"}),
               v4.new_output("display_data", {"text/html": "<pre>code</pre>"})]
    page = page_of(merge([presented(v4.new_notebook(cells=[v4.new_code_cell("show()", outputs=outputs)]))], "a"),
                   {"title": "a", "kicker": "done", "state": "reached"})
    assert "at 12:00" not in page and "<figure>kept</figure>" in page
    assert page.count('class="scroll"') == 2  # of the cell and of what is wider than a phone


@pytest.mark.parametrize(("diff", "words"), [("", "commit c0ffee1."), ("+ a line", "commit c0ffee1, with changes.")])
def test_a_chapter_says_what_code_executed_it(monkeypatch, diff, words):
    monkeypatch.setattr(notebooks, "git_state", lambda: {"commit": "c0ffee1234", "diff": diff, "dirty": bool(diff)})
    chapter = nbformat.v4.new_notebook(metadata={"code": notebooks.code_of("1_data")})
    assert words in presented(chapter).cells[-1].source


def test_a_traceback_has_the_pages_own_colour():
    error = nbformat.v4.new_output("error", ename="ValueError", evalue="<b>",
                                   traceback=["\x1b[31mValueError\x1b[39m: \x1b[38;5;28;01m<b>\x1b[39m"])
    page = page_of(merge([presented(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[error])]))],
                         "a"), {"title": "a", "kicker": "failed", "state": "failed"})
    assert "ValueError: &lt;b&gt;" in page and "ansi" not in page


def test_nothing_stands_behind_a_cell_that_failed_but_that_the_rest_was_not_executed():
    v4 = nbformat.v4
    error = v4.new_output("error", ename="ValueError", evalue="no", traceback=["ValueError: no"])
    cells = [v4.new_markdown_cell("# 4 · Results"), v4.new_code_cell("fails()", outputs=[error]),
             v4.new_markdown_cell("## What was memorised"), v4.new_code_cell("recite()")]
    chapter = v4.new_notebook(cells=cells)
    shown = presented(chapter).cells
    assert [cell.source for cell in shown] == ["## Results", "fails()",
                                               '<p class="how">The rest of this chapter was not executed.</p>']
    assert len(chapter.cells) == 4


def test_a_chapter_loses_its_number_and_its_parameters_cells_and_keeps_the_rest():
    v4 = nbformat.v4
    log = v4.new_output("stream", name="stdout", text="step\n" * (LONG + 1))
    cells = [v4.new_markdown_cell("# 3 · Training\n\nWords."),
             v4.new_code_cell("seed = 1", metadata={"tags": ["parameters"]}),
             v4.new_code_cell("seed = 2", metadata={"tags": ["injected-parameters"]}),
             v4.new_markdown_cell("## The steps <b>"), v4.new_code_cell("train()", outputs=[log])]
    chapter = v4.new_notebook(cells=cells, metadata={"code": {"commit": "0123456789"}})
    page = merge([presented(chapter, "<p>parameters</p>")], "a title")
    assert [text for _, text, level in contents(page) if level == 1] == ["Training"]
    html = page_of(page, {"title": "<i>A title", "kicker": "done", "state": "reached"})
    assert html.count("<h1") == 1 and "&lt;i&gt;A title</h1>" in html and "3 · Training" not in html
    assert "seed = " not in html and html.count("<p>parameters</p>") == 1
    assert html.count('<details class="code">') == 1 and f"{LONG + 1} lines</summary>" in html
    assert "by the code of commit 0123456." in html and len(chapter.cells) == 5
