"""Runs side by side show what their files say."""

import pytest

from lib.config import InputError, relative_to_root
from lib.presets import preset_config
from lib.runs.folder import METRICS, RunFolder
from lib.runs.locate import find_runs
from lib.show.comparison import agreement, differing_parameters, leaderboard, over_seeds
from lib.show.plots import loss_curves


def made(path, name: str, corpus_loss: float | None, **changes) -> RunFolder:
    run = RunFolder(path / name)
    run.path.mkdir()
    config = preset_config("tiny", out_dir=str(run.path), **changes)
    run.write_config(config, {"corpus": {"tokens": 512}, "machine": {"device": "a processor"}})
    for step in (1, 2, 3):
        run.append_metrics(dict.fromkeys(METRICS, 1.5) | {"step": step, "tokens": 128 * step, "corpus_loss": None})
    run.write_summary(dict(state="limit", corpus_loss=corpus_loss, shifted_loss=None, loss=1.25, tokens=384,
                           epochs=0.75, elapsed_sec=90, step=3))
    return run


def test_the_run_with_the_lowest_loss_leads_and_unmeasured_ones_come_last(tmp_path):
    made(tmp_path, "b", 0.5), made(tmp_path, "a", 0.0912345678), made(tmp_path, "c", None, lr=1e-4)
    (tmp_path / "not-a-run").mkdir()
    runs, unread = find_runs(f"{relative_to_root(tmp_path)}/*  {relative_to_root(tmp_path)}/a")
    assert not unread and [run.path.name for run in runs] == ["a", "b", "c"]
    table = leaderboard(runs).rename(index=lambda path: path.rpartition("/")[2])
    assert list(table.index) == ["a", "b", "c", "the course project's run"]
    assert list(table["loss over all tokens"]) == ["0.091235", "0.500000", "unmeasured", "unmeasured"]
    assert list(table.loc["a"][["time of training", "tokens trained on", "pseudo-epochs"]]) == \
        ["1 min 30 s", "384", "0.8"]
    assert table.loc["the course project's run", "tokens trained on"] == "39,400,000"
    differences = differing_parameters(runs)
    assert list(differences.index) == ["lr"] and list(differences.loc["lr"]) == [3e-3, 3e-3, 1e-4]
    assert not len(differing_parameters(runs[:2]))


def test_runs_that_differ_in_their_seeds_alone_have_a_mean_and_a_spread(tmp_path):
    for name, loss, changes in (("a", 0.25, {}), ("b", 0.75, {}), ("c", 0.125, dict(lr=1e-4)),
                                ("d", None, dict(lr=1e-4)), ("e", None, dict(lr=1e-5))):
        made(tmp_path, name, loss, seed=ord(name), note=name, **changes)
    table = over_seeds(find_runs(f"{relative_to_root(tmp_path)}/*")[0])
    assert list(table.index) == ["lr 0.0001", "lr 0.003", "lr 1e-05"]
    assert list(table["runs"]) == [2, 2, 1] and list(table["reached"]) == [0, 0, 0]
    assert list(table["loss over all tokens"]) == ["0.125000 (1)", "0.500000 ± 0.353553", "unmeasured"]
    assert list(table["tokens trained on"]) == ["384 ± 0", "384 ± 0", "384"]
    assert list(over_seeds(find_runs(f"{relative_to_root(tmp_path)}/a")[0]).index) == ["all"]


@pytest.mark.parametrize("by", ["tokens", "elapsed_sec"])
def test_every_run_has_a_curve(tmp_path, by):
    run = made(tmp_path, "a", 0.5)
    axes, = loss_curves({str(i): run.read_metrics() for i in range(3)}, target=0.1, by=by).axes
    assert len({line.get_color() for line in axes.lines if len(line.get_xdata()) == 3}) == 3
    assert axes.get_yscale() == "log"


def test_a_run_is_reproduced_by_equal_losses_or_by_close_means(tmp_path):
    original, same, close, other = (made(tmp_path, name, 0.5) for name in ("original", "same", "close", "other"))
    close.metrics_file.write_text(close.metrics_file.read_text().replace("384,1.5,1.5", "384,1.4,1.5149"))
    other.metrics_file.write_text(other.metrics_file.read_text().replace("384,1.5,1.5", "384,1.4,1.5151"))
    assert agreement(same, original) == (True, "Reproduced: the losses of 3 steps that both logged are those of "
                                               "original, bit for bit")
    assert agreement(close, original) == (True, "Reproduced: the mean losses are within 0.99% of those of original, at "
                                                "step 3")
    assert agreement(other, original)[0] is False and "Not reproduced" in agreement(other, original)[1]
    other.metrics_file.write_text(other.metrics_file.read_text().splitlines()[0] + "\n")
    assert agreement(other, original) == (False, "Not reproduced: no logged step in common with original")


def test_globs_that_find_nothing_are_refused(tmp_path):
    with pytest.raises(InputError, match="finds no run"):
        find_runs(relative_to_root(tmp_path / "*"))
