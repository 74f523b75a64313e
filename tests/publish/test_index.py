"""The page of all runs shows what their files say, however many rows these have."""
import re
import time

import numpy as np
import pytest

from lib.presets import preset_config
from lib.publish.index import write_index
from lib.runs.folder import METRICS, RunFolder


def made(path, rows: int = 3, **summary) -> RunFolder:
    run = RunFolder(path)
    run.metrics_file.parent.mkdir(parents=True)
    lines = [",".join(METRICS), *(f"{step},{128 * step},2,{9 / step},0.1,1.0,9.9,{step},"
                                  for step in range(1, rows + 1))]
    run.metrics_file.write_text("\n".join(lines) + "\n")
    run.write_summary({"state": "limit", "corpus_loss": None, "tokens": 384, "step": rows, "elapsed_sec": 90} | summary)
    return run


@pytest.mark.parametrize("rows", [1, 2, 3, 39, 41, 5000])
def test_a_sketch_has_the_ends_and_true_rows_between(tmp_path, rows):
    losses = made(tmp_path / "a", rows).sampled_losses(points=40)
    assert losses[0] == (1, 9.0) and losses[-1] == (rows, 9 / rows) and len(losses) <= 60
    assert all(loss == 9 / step for step, loss in losses) and len(losses) >= min(rows, 30)
    assert [step for step, _ in losses] == sorted({step for step, _ in losses})


def test_a_cut_last_row_is_left_out(tmp_path):
    run = made(tmp_path / "a", 5)
    with open(run.metrics_file, "a") as file:
        file.write("6,768,2,1.")
    assert run.sampled_losses()[-1] == (5, 9 / 5)


def test_every_run_has_a_row_and_a_strange_name_does_no_harm(tmp_path):
    made(tmp_path / "plain", corpus_loss=0.0123456789).report.write_text("")
    made(tmp_path / "<img src=x onerror=alert(1)>&", state="reached")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "summary.json").write_text("[not ours")
    text = write_index(tmp_path).read_text()
    assert text.count("<tr>") == 3 and '<a href="plain/report.html">plain</a>' in text and "0.012346" in text
    assert "<img" not in text and "&lt;img src=x onerror=alert(1)&gt;&amp;" in text
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)
    x, y = np.array([point.split(",") for point in re.search(r'points="([^"]+)"', text)[1].split()], dtype=float).T
    assert (np.diff(x) > 0).all() and (np.diff(y) > 0).all()  # a falling loss goes down on the page


def test_a_note_stands_with_the_run(tmp_path):
    run = made(tmp_path / "a")
    run.write_config(preset_config("tiny", note="half the <b>rate</b>"), {})
    assert '<small class="faint">half the &lt;b&gt;rate&lt;/b&gt;</small>' in write_index(tmp_path).read_text()


def test_a_line_of_its_last_sample_stands_with_a_run_and_one_run_is_no_runs(tmp_path):
    run = made(tmp_path / "a")
    run.append_samples(1, "First:\n", ["First:\nearly"])
    run.append_samples(2, "First:\n", ["First:\n\n <b>late</b> " + "and on " * 20 + "\nmore"])
    text = write_index(tmp_path).read_text()
    assert "<q>&lt;b&gt;late&lt;/b&gt; and on" in text and "…</q>" in text and "early" not in text
    assert ">1 run</span>" in text
    made(tmp_path / "b")
    assert ">2 runs</span>" in write_index(tmp_path).read_text()


def test_long_runs_take_no_longer(tmp_path):
    for i in range(20):
        made(tmp_path / str(i), rows=20_000 if i else 10).append_samples(1, "", ["so it goes\n" * 20_000])
    begin = time.perf_counter()
    write_index(tmp_path)
    assert time.perf_counter() - begin < 1
