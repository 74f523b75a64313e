"""What people see while a run goes on says what there is, and ends nothing."""
import pytest

from lib.presets import preset_config
from lib.runs.folder import METRICS, RunFolder
from lib.show import live
from lib.show.live import LiveView
from lib.show.plots import loss_curve, loss_curves
from lib.show.terminal import standing
from lib.show.wording import shown

SUMMARY = {"state": "running", "mean_loss": 1.5, "step": 2, "step_sec": 3.0, "steps_to_target": None}


class Place:
    """Stands for a handle to a place in a notebook: what was last shown there."""

    def update(self, data, raw, metadata=None):
        self.shown = data["text/plain"]


@pytest.fixture
def view(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "display", lambda *args, **kwargs: Place())
    run = RunFolder(tmp_path)
    for step in (1, 2):
        run.append_metrics(dict.fromkeys(METRICS, 1.5) | {"step": step, "corpus_loss": None})
    run.write_summary(SUMMARY | {"target_loss": 0.0})
    with run.lock():
        yield LiveView(run, preset_config("tiny", target_loss=0), floor=0.01)


def test_a_curve_that_cannot_be_drawn_says_so_in_its_place(view, monkeypatch):
    view.draw()
    assert view.curve.shown == "Training loss up to step 2: 1.5000"

    def failing(*args):
        raise RuntimeError("latex was not found")
    monkeypatch.setattr(live.plots, "loss_curve", failing)
    view.draw()
    assert view.curve.shown == "the curve cannot be drawn: RuntimeError: latex was not found"


def test_a_run_without_a_target_is_shown_without_one(view):
    view.draw()
    assert "mean over the last epoch 1.5000 | 2 tokens/s" in view.status.shown and "target" not in view.status.shown
    assert standing(SUMMARY | {"target_loss": 0.0}) == "mean loss 1.5000"
    assert standing(SUMMARY | {"target_loss": 0.1}) == "mean loss 1.5000, target 0.1"
    assert shown({"target_loss": 0.0}) == {"target": "none"} and shown({"target_loss": 0.1}) == {"target": "0.1"}
    metrics = view.run.read_metrics()
    for figures, told in (((loss_curve(metrics, 0.0, 0.01), loss_curves({"a": metrics}, 0.0)), 0),
                          ((loss_curve(metrics, 0.1, 0.01), loss_curves({"a": metrics}, 0.1)), 1)):
        for figure in figures:
            labels = [line.get_label() for line in figure.axes[0].lines]
            assert labels.count("target 0.1") == told and sum("target" in label for label in labels) == told
