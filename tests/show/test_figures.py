"""A figure is at home in its page: its font, its colours, its width; and names its lines at their ends."""
import re

import numpy as np
import pandas as pd
import pytest

from lib.runs.folder import METRICS
from lib.show import drawing, plots
from lib.show.wording import written


@pytest.fixture(scope="module")
def metrics() -> pd.DataFrame:
    """Ten logged steps of a second each, but for a pause of a minute before the ninth, with a pass over all tokens."""
    seconds = [1, 2, 3, 4, 5, 6, 7, 8, 69, 70]
    return pd.DataFrame([dict.fromkeys(METRICS, 1.0) | {
        "step": n, "tokens": 100 * n, "loss": 10 / n, "mean_loss": 11 / n, "corpus_loss": 0.9 if n == 10 else np.nan,
        "elapsed_sec": second, "grad_norm": 12 / n} for n, second in enumerate(seconds, 1)])


def words(figure) -> str:
    """All that a figure has in letters."""
    return " ".join(text.get_text() for axes in figure.axes for text in axes.texts)


def test_a_figure_is_drawn_in_the_pages_font_and_colours_and_once_more_for_a_phone(metrics, capsys):
    drawing.show(plots.loss_curve(metrics, 0.1, 0.01), r"Loss <from> \x")
    page = eval(capsys.readouterr().out)["text/html"]
    wide, narrow = re.findall(r"<svg .*?</svg>", page, re.DOTALL)
    for svg, width in ((wide, 864), (narrow, 358)):
        assert f'width="{width}"' in svg and f'viewBox="0 0 {width} ' in svg.replace(".0 ", " ")
        assert 'role="img" aria-label="Loss &lt;from&gt; \\x"' in svg and "0.900 all tokens</text>" in svg
        assert "font-family" not in svg and "<style" not in svg and "<metadata" not in svg
        assert set(re.findall(r"#[0-9a-f]{6}", svg)) <= {"#0072b2", "#56b4e9", "#d55e00", "#767676"}  # as fallbacks
        assert {"blue", "sky", "orange", "grey", "faint", "line"} <= set(re.findall(r"var\(--(\w+)", svg))
    assert "display: none" in narrow and "display: none" not in wide
    assert page.endswith("<figcaption>Loss &lt;from&gt; \\x</figcaption></figure>") and len(page) < 40_000


def test_of_several_figures_the_chosen_one_is_shown(metrics, capsys):
    drawing.show({"steps": plots.loss_curve(metrics, 0.1, 0.01),
                  "time": plots.loss_curve(metrics, 0.1, 0.01, "elapsed_sec")}, "Loss")
    page = eval(capsys.readouterr().out)["text/html"]
    assert page.count('type="radio"') == 2 and page.count(" checked>") == 1 and page.count("<svg") == 4
    assert "label:nth-of-type(2) input:not(:checked)) div:nth-of-type(2) { display: none }" in page
    assert "<script" not in page and page.count("<figcaption>") == 1


def test_ids_of_one_figure_are_no_others(metrics, capsys):
    for alt in ("a", "b"):
        drawing.show(plots.loss_curve(metrics, 0.1, 0.01), alt)
    ids = re.findall(r' id="([^"]+)"', capsys.readouterr().out)
    assert ids and len(set(ids)) == len(ids)


def test_against_time_a_line_breaks_where_training_paused(metrics):
    axes, = plots.loss_curve(metrics, 0.1, 0.01, "elapsed_sec").axes
    pale, dark, *_ = axes.lines
    assert list(np.flatnonzero(np.isnan(dark.get_ydata()))) == list(np.flatnonzero(np.isnan(pale.get_ydata()))) == [8]
    axes, = plots.loss_curve(metrics, 0.1, 0.01, "step").axes
    assert not np.isnan(axes.lines[0].get_ydata()).any()
    assert axes.get_xlabel() == "step (updates of the weights)"


@pytest.mark.parametrize(("factor", "unit"), [(1, "seconds"), (10, "minutes"), (1000, "hours")])
def test_time_has_the_unit_that_people_would_take(metrics, factor, unit):
    axes, = plots.loss_curve(metrics.assign(elapsed_sec=metrics["elapsed_sec"] * factor), 0.1, 0.01, "elapsed_sec").axes
    assert axes.get_xlabel() == f"{unit} of training"


def test_lines_are_named_at_their_ends(metrics):
    assert words(plots.loss_curve(metrics, 0.1, 0.01, restarts=[4])).split("\N{EN SPACE}") == [
        "resumed ", "1.10 mean ", "0.01 floor ", "0.900 all tokens ", "0.100 target"]
    assert words(plots.curves([1, 2], {"GELU": [1, 2], "no bend": [2, 2]}, "in", "out")) == "\N{EN SPACE}GELU " \
        "\N{EN SPACE}no bend"


def test_the_gradient_norm_has_its_clipping_line_and_the_share_of_clipped_steps(metrics):
    figure = plots.training_health(metrics, 2.0)
    assert "clipped at 2:\n\N{EN SPACE}50% of steps" in words(figure) and figure.axes[1].get_yscale() == "log"
    assert words(plots.training_health(metrics, 0.0)) == ""


def test_loss_by_position_marks_the_cut_that_moved_windows_cross():
    table = pd.DataFrame({"position": range(1, 9), "loss": 0.1, "moved": 3.0})
    assert words(plots.position_losses(table, [1, 0.1], crossed=True)) == "a cut"
    assert words(plots.position_losses(table, [1, 0.1], crossed=False)) == ""
    assert plots.position_losses(table, [1], crossed=True).axes[0].get_xscale() == "linear"


def test_a_matrix_is_as_dark_as_its_largest_value_and_clear_where_it_is_zero():
    figure = plots.matrix(np.array([[0.2, 0], [0.1, 0.05]]), "t", ["a", "b"], "x", "y")
    shades = figure.axes[0].images[0].get_array()
    assert shades[0, 0, 3] == 1 and shades[0, 1, 3] == 0 and shades[1, 0, 3] == 0.5
    assert words(figure) == "0.20 0.10 0.05"


def test_figures_are_written_as_people_write_them():
    assert [written("perplexity", choices) for choices in (1.085, 50257.4)] == ["1.08", "50,257"]
