"""What an earlier version of this project left can be read, or is refused with the version's name."""
from pathlib import Path

import pytest

from lib.config import InputError
from lib.model.gpt import new_model
from lib.runs.checkpoint import save_checkpoint
from lib.runs.folder import METRICS, RunFolder
from lib.show.plots import training_health
from lib.training.provenance import provenance
from lib.training.trainer import Trainer


def test_a_run_folder_of_an_earlier_version_opens():
    run = RunFolder(Path(__file__).parent / "earlier")  # of commit 6be13ec; the first and the last rows of its metrics
    text = run.config_file.read_text()
    assert '"muon_blocks"' in text and '"tag"' in text and '"muon_rows"' not in text
    config, facts = run.read_config()
    assert config.muon_rows == 0 and facts["versions"]["torch"]
    assert ",lr," in run.metrics_file.read_text().partition("\n")[0]
    metrics = run.read_metrics().set_index("step")
    assert ("step", *metrics.columns) == METRICS
    assert metrics["rate"].max() == metrics["rate"][9] == 1 and metrics["rate"].is_monotonic_decreasing == (
        config.warmup_steps == 0)
    last = metrics.index[-1]
    left = 1 - (last - 1 - config.warmup_steps) / (config.steps - config.warmup_steps)
    assert metrics["rate"][last] == pytest.approx(left)  # linear to zero
    assert len(training_health(run.read_metrics(), config.clip_grad).axes) == 3


def test_a_checkpoint_with_the_keys_of_another_version_is_refused_by_its_name(config, corpus, machine):
    run = RunFolder(config.out_dir)
    facts = provenance(corpus, machine, floor=0.0)
    run.write_config(config, facts | {"code": {"commit": "c0ffee1234", "dirty": False, "diff": ""}})
    t = Trainer(new_model(config, machine.device), corpus, config, run, machine)
    state = t.update.state_dict() | {"progress": t.progress.state_dict()}
    for progress in (state["progress"] | {"due": None},
                     {name: value for name, value in state["progress"].items() if name != "epoch_steps"}):
        save_checkpoint(state | {"progress": progress}, run.last_checkpoint)
        with pytest.raises(InputError, match="was written by commit c0ffee1 of this project, which keeps other "
                                             "things in it: go on with that one, or begin a new run"):
            Trainer(new_model(config, machine.device), corpus, config, run, machine)
    save_checkpoint(state, run.last_checkpoint)
    assert Trainer(new_model(config, machine.device), corpus, config, run, machine).progress.step == 0
