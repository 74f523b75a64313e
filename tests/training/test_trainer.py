"""The loop does what it says: gradients, schedule, verdict, files, and a resume that nobody can tell."""
import dataclasses
import functools
import json
import math
import shutil
import signal
import threading
from collections import namedtuple

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lib.config import InputError
from lib.model.gpt import GPT, new_model
from lib.runs.checkpoint import load_checkpoint
from lib.runs.folder import METRICS, USAGE, RunFolder
from lib.runs.knowledge import read_depth_losses, read_token_losses
from lib.runs.locate import open_run
from lib.runs.trained import open_model
from lib.training import trainer as training
from lib.training import verdict
from lib.training.evaluation import CorpusLoss, corpus_loss
from lib.training.machine import Machine, memory_needed
from lib.training.progress import Progress
from lib.training.provenance import provenance
from lib.training.sampled_softmax import FIRST_STEPS
from lib.training.trainer import Trainer


def trainer(config, corpus, machine, **changes) -> Trainer:
    config = dataclasses.replace(config, **changes)
    return Trainer(new_model(config, machine.device), corpus, config, RunFolder(config.out_dir), machine)


def test_1_x_4_and_2_x_2_accumulation_give_the_same_gradients(config, corpus, machine):
    gradients = []
    for batch_size, grad_accum in ((4, 1), (2, 2), (1, 4)):
        t = trainer(config, corpus, machine, batch_size=batch_size, grad_accum=grad_accum)
        t.model.zero_grad = lambda set_to_none: None  # keep them to look at
        t.update(0)
        gradients.append(torch.cat([p.grad.flatten() for p in t.model.parameters()]))
    for other in gradients[1:]:
        # sums in another order: of float32's 24 bits, or of bfloat16's 8
        assert ((other - gradients[0]).norm() / gradients[0].norm()).item() <= (1e-5 if machine.amp is None else 1e-2)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_loss_over_the_text_weighs_every_target_once(config, corpus, machine, batch_size):
    model = new_model(config, machine.device)
    tokens = corpus.tokens[:32 * 5 + 9]  # five whole windows and 8 targets more
    text = torch.from_numpy(tokens.astype(np.int64))
    total = sum(32 * model(text[None, start:start + 32], text[None, start + 1:start + 33]).item()
                for start in range(0, 160, 32))
    logits = model(text[None, -33:-1])[0, -8:]  # seen in the window that training moves inside the text
    total += torch.nn.functional.cross_entropy(logits, text[-8:], reduction="sum").item()
    measured = corpus_loss(model, tokens, 32, batch_size, machine)
    assert measured.mean == pytest.approx(total / (len(text) - 1), rel=1e-6)
    assert measured.counts.tolist() == [5] * 24 + [6] * 8
    first = [model(text[None, start:start + 1], text[None, start + 1:start + 2]).item() for start in range(0, 160, 32)]
    assert measured.by_position[0] == pytest.approx(sum(first) / 5, rel=1e-5)
    logits = model(text[None, :16])[0]  # of the first window
    total = torch.nn.functional.cross_entropy(logits, text[1:17], reduction="sum").item()
    total += sum(32 * model(text[None, start:start + 32], text[None, start + 1:start + 33]).item()
                 for start in range(16, 144, 32))
    logits = model(text[None, -33:-1])[0, -24:]
    total += torch.nn.functional.cross_entropy(logits, text[-24:], reduction="sum").item()
    moved = corpus_loss(model, tokens, 32, batch_size, machine, offset=16)
    assert moved.counts.sum() == len(text) - 1
    assert moved.mean == pytest.approx(total / (len(text) - 1), rel=1e-6)


def test_a_run_reaches_its_target_by_the_whole_text_and_leaves_its_files(config, corpus, machine):
    t = trainer(config, corpus, machine, max_tokens=0, target_loss=2.5, steps=400, sample_every=50)
    summary = t.train()
    run = t.run
    assert summary["state"] == "reached" and "Target reached" in summary["verdict"]
    written = json.loads(run.summary_file.read_text())
    assert summary.items() <= written.items() and set(written) - set(summary) == {"heartbeat"}
    best = load_model_for(t, run)
    measured = {cut: corpus_loss(best, corpus.tokens, 32, 4, machine, cut).mean for cut in (0, 8, 16, 24)}
    assert summary["corpus_loss"] == pytest.approx(max(measured.values()), abs=1e-6) and summary["corpus_loss"] < 2.5
    assert summary["shifted_loss"] == pytest.approx(measured[16], abs=1e-6)
    assert f"< 2.5, in windows moved by half {measured[16]:.4f} (step" in summary["verdict"]  # not known yet
    assert summary["tokens"] == summary["step"] * 128 and summary["epochs"] == summary["tokens"] / len(corpus.tokens)

    metrics = run.read_metrics()
    assert tuple(metrics.columns) == METRICS
    assert metrics["step"].is_monotonic_increasing and metrics["step"].iloc[-1] == summary["step"]
    assert metrics["corpus_loss"].iloc[-1] == summary["corpus_loss"]
    assert (metrics["tokens"] == metrics["step"] * 128).all() and metrics["elapsed_sec"].is_monotonic_increasing
    assert metrics.drop(columns="corpus_loss").notna().all(axis=None)
    assert (metrics["rate"] == 1).all() and "| rate 1.000 |" in run.log_file.read_text()
    samples = run.read_samples()
    assert [s[0] for s in samples] == [*range(50, summary["step"], 50), summary["step"]]
    assert all(s[1] == t.prompt and s[2].startswith(t.prompt) for s in samples)
    assert run.log_file.read_text().splitlines()[-1] == summary["verdict"]
    positions = run.read_position_losses()
    assert positions["position"].tolist() == list(range(1, 33))
    # the last window counts in part
    assert positions["loss"].mean() == pytest.approx(summary["cut_losses"]["0"], rel=0.05)
    known, by_depth = read_token_losses(run), read_depth_losses(run)
    assert known["step"].tolist() == by_depth["step"].tolist() == [s[0] for s in samples] and known.shape[1] == 1 + 32
    assert known.iloc[-1, 1:].mean() < known.iloc[0, 1:].mean() < 11
    assert by_depth.columns.tolist() == ["step", *map(str, range(config.n_layer + 1))]
    # the last depth is the model's own: the same 31 targets
    assert by_depth.iloc[:, -1].tolist() == pytest.approx(known.iloc[:, 1:32].mean(axis=1).tolist(), rel=1e-4)
    usage = run.read_usage()
    assert tuple(usage.columns) == USAGE and usage["step"].iloc[-1] == summary["step"]
    assert (usage["memory_gb"] > 0.1).all() and (usage["processor_percent"] > 20).all()


def load_model_for(t: Trainer, run: RunFolder) -> GPT:
    run.write_config(t.config, {})
    return open_model(run.path).model


def test_a_lucky_mean_does_not_end_a_run(config, corpus, machine, monkeypatch):
    monkeypatch.setattr("lib.training.verdict.corpus_loss",
                        lambda *args, **kwargs: CorpusLoss(np.array([9.0]), np.array([1])))
    summary = trainer(config, corpus, machine, target_loss=8.0, steps=30).train()
    assert summary["state"] == "limit" and summary["corpus_loss"] == 9.0 and summary["mean_loss"] < 8


def test_the_steps_left_to_a_target_follow_from_the_fall_of_the_running_mean():
    p = Progress(epoch_steps=2)
    told = []
    for loss in (8.0, 8.0, 4.0, 4.0, 4.0, 4.0):
        p.add_loss(loss)
        told.append(p.steps_to(1.0))
    assert told == [None, None, None, 4, 7, None]  # halved twice more; by 2 / 3 3.4 times; no fall any more
    assert Progress(epoch_steps=2).steps_to(0.0) is None


def test_a_target_exactly_met_is_not_below_it(config, corpus, machine, monkeypatch):
    monkeypatch.setattr("lib.training.verdict.corpus_loss",
                        lambda *args, **kwargs: CorpusLoss(np.array([8.0]), np.array([1])))
    assert trainer(config, corpus, machine, target_loss=8.0, steps=30).train()["state"] == "limit"


def test_a_run_of_less_than_an_epoch_leaves_the_whole_text_unmeasured(config, corpus, machine):
    summary = trainer(config, corpus, machine, steps=2).train()
    assert summary["corpus_loss"] is None and "unmeasured" in summary["verdict"]


def test_a_machine_with_too_little_memory_is_told_of_what_would_need_less(config, corpus, machine, monkeypatch):
    needed = memory_needed(config, new_model(config, machine.device).num_parameters(), machine)
    assert 0.05e9 < needed < 0.3e9
    for free, told in ((needed, 0), (needed - 1, 1)):
        monkeypatch.setattr("lib.training.machine.memory_free", lambda device, free=free: free)
        t = trainer(config, corpus, machine, steps=1, out_dir=f"{config.out_dir}-{told}")
        t.train()
        log = t.run.log_file.read_text()
        assert log.count("GB of memory are needed") == 1 and log.count("--grad_accum") == told


def test_the_rate_of_the_metrics_is_the_share_of_every_peak(config, corpus, machine):
    t = trainer(config, corpus, machine, optimizer="muon", embedding_lr=5e-3, warmup_steps=2, lr_schedule="linear",
                steps=6, log_every=1)
    shares = []
    t.on_log = lambda row: shares.append({group["lr"] / group["peak_lr"] for optimizer in t.update.optimizers
                                          for group in optimizer.param_groups})
    t.train()
    rates = t.run.read_metrics()["rate"].tolist()
    assert rates == pytest.approx([0.5, 1, 1, 0.75, 0.5, 0.25])
    assert all(share == pytest.approx(rate) for rate, of_groups in zip(rates, shares, strict=True)
               for share in of_groups)


def test_a_run_without_a_target_goes_on_to_its_last_step(config, corpus, machine):
    reached = trainer(config, corpus, machine, steps=60, target_loss=9.0, out_dir=f"{config.out_dir}-9").train()
    assert reached["state"] == "reached"
    t = trainer(config, corpus, machine, steps=60, target_loss=0)
    summary = t.train()
    assert (summary["state"], summary["step"]) == ("limit", 60) and summary["corpus_loss"] < 9
    assert summary["verdict"].startswith("Trained to the limits, without a target: largest loss over all")
    assert summary["steps_to_target"] is None and t.run.read_metrics()["corpus_loss"].notna().sum() == 1


class Clock:
    """A clock that moves on only when it is told to."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def costly(self, function, seconds: float):
        """The same function, for so many seconds of this clock."""
        def slowed(*args, **kwargs):
            self.now += seconds
            return function(*args, **kwargs)
        return slowed


def test_a_run_is_measured_and_ended_within_its_hours(config, corpus, machine, monkeypatch):
    t = trainer(config, corpus, machine, max_hours=60 / 3600, steps=1000, log_every=1, target_loss=0)
    clock, epoch = Clock(), t.progress.epoch_steps  # a step of a second, a pass at a third of a step's time for a token
    monkeypatch.setattr("lib.training.trainer.time", clock)
    monkeypatch.setattr("lib.training.verdict.corpus_loss", clock.costly(corpus_loss, epoch / 3))
    t.update.forward = clock.costly(t.update.forward, 1.0)
    summary = t.train()
    assert summary["corpus_loss"] is not None and summary["shifted_loss"] is not None
    assert 60 - 2 - 4 * epoch / 3 < clock.now <= 60 and summary["elapsed_sec"] == pytest.approx(clock.now)


def test_what_shows_a_run_cannot_end_it(config, corpus, machine, monkeypatch):
    def failing(*args):
        raise RuntimeError("no picture today")
    t = trainer(config, corpus, machine, steps=4, log_every=1)
    t.on_log = failing
    monkeypatch.setattr(t.run, "append_usage", failing)
    assert t.train()["step"] == 4 and t.run.read_metrics()["step"].tolist() == [1, 2, 3, 4]
    log = t.run.log_file.read_text()
    assert log.count("the view of the run failed, and training goes on: RuntimeError: no picture today") == 1
    assert log.count("memory and processor are recorded no more: RuntimeError: no picture today") == 1


def test_gradients_of_an_interrupted_step_are_not_added_to_the_next(config, corpus, machine, undisturbed, tmp_path):
    settings = dict(batch_size=2, grad_accum=2, steps=6, save_every=6)
    whole = undisturbed(config, corpus, machine, **settings)
    parted = trainer(config, corpus, machine, **settings, out_dir=str(tmp_path / "parted"))
    forward, calls = parted.update.forward, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 6:  # in the second half of the third step
            raise KeyboardInterrupt
        return forward(*args, **kwargs)
    parted.update.forward = interrupted
    with pytest.raises(KeyboardInterrupt):
        parted.train()
    assert parted.progress.step == 2
    parted.train()
    for ours, theirs in zip(parted.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_max_hours_ends_a_run(config, corpus, machine):
    t = trainer(config, corpus, machine, max_hours=1e-9)
    assert [t.train()["step"] for _ in range(3)] == [1, 2, 3]  # counted anew each time


def test_training_is_the_same_with_sampling_on_or_off(config, corpus, machine, tmp_path):
    weights = []
    for sample_every in (1, 1000):
        t = trainer(config, corpus, machine, steps=10, sample_every=sample_every, dropout=0.1,
                    out_dir=str(tmp_path / str(sample_every)))
        t.train()
        weights.append(t.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


RESUMED = dict(optimizer="adamw", init="gpt2", n_embd=16, muon_rows=8, steps=20, dropout=0.1, batch_size=2,
               grad_accum=2, log_every=1, sample_every=5, save_every=7, lr_schedule="linear", sampled_softmax=True)
TIMES = ["tokens_per_sec", "elapsed_sec"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A function that gives the run of some settings which nothing interrupts, made once in each precision."""
    made = {}

    def run(config, corpus, machine, **settings) -> Trainer:
        key = machine.amp, *sorted(settings.items())
        if key not in made:
            made[key] = trainer(config, corpus, machine, **settings, out_dir=str(tmp_path_factory.mktemp("whole")))
            made[key].train()
        return made[key]
    return run


def assert_same_end(one: Trainer, other: Trainer) -> None:
    """Nobody can tell the runs apart by their files, but for the clock."""
    for path in ("last_checkpoint", "best_checkpoint"):
        ours, theirs = (load_checkpoint(getattr(t.run, path)) for t in (one, other))
        assert all(torch.equal(ours["model"][name], theirs["model"][name]) for name in ours["model"])
    ours, theirs = (load_checkpoint(t.run.last_checkpoint) for t in (one, other))
    for mine, its in zip(ours["optimizers"], theirs["optimizers"], strict=True):
        for key, moments in mine["state"].items():
            assert all(torch.equal(moments[name], its["state"][key][name]) for name in moments)
    assert torch.equal(ours["rng"], theirs["rng"])
    clock = ("elapsed_sec", "step_sec", "logged_sec", "restarts")
    assert ({name: value for name, value in ours["progress"].items() if name not in clock}
            == {name: value for name, value in theirs["progress"].items() if name not in clock})
    metrics, others = one.run.read_metrics(), other.run.read_metrics()
    pd.testing.assert_frame_equal(metrics.drop(columns=TIMES), others.drop(columns=TIMES))
    assert others["elapsed_sec"].is_monotonic_increasing
    assert one.run.read_samples() == other.run.read_samples()
    for read in (read_token_losses, read_depth_losses):
        pd.testing.assert_frame_equal(read(one.run), read(other.run))
    pd.testing.assert_frame_equal(one.run.read_position_losses(), other.run.read_position_losses())


@pytest.mark.parametrize(("stop", "optimizer"), [(1, "muon"), (4, "adamw"), (5, "muon"), (10, "muon"), (10, "sgd"),
                                                 (13, "adamw")])
def test_resumed_run_equals_uninterrupted_run(config, corpus, machine, undisturbed, tmp_path, stop, optimizer):
    """Stopped after the first step, at the end of an epoch, just after samples, and in between. dropout draws from the
    global generator, so its state is part of what must come back."""
    settings = RESUMED | dict(optimizer=optimizer, init="key_value" if optimizer == "sgd" else "gpt2")
    whole = undisturbed(config, corpus, machine, **settings)
    parted = trainer(config, corpus, machine, **settings, out_dir=str(tmp_path / "parted"))
    parted.on_log = lambda row: parted.run.stop_file.touch() if row["step"] == stop else None
    assert parted.train()["state"] == "stopped"
    torch.manual_seed(99)
    resumed = trainer(config, corpus, machine, **settings, out_dir=str(tmp_path / "parted"))
    assert resumed.progress.step == stop
    assert resumed.train()["restarts"] == [stop]
    assert_same_end(whole, resumed)


@pytest.mark.parametrize("moment", ["step", "corpus_loss", "sample_texts"])
def test_a_stop_in_the_middle_of_something_does_it_again_later(config, corpus, machine, undisturbed, tmp_path,
                                                               monkeypatch, moment):
    """in the middle of accumulation, of a pass over the text, of a sample"""
    settings = RESUMED | dict(n_embd=64, target_loss=9.5)  # passes over the text, which do not find it reached
    def nine_more(*args, **kwargs):
        measured = corpus_loss(*args, **kwargs)
        return CorpusLoss(measured.sums + 9 * measured.counts, measured.counts)
    monkeypatch.setattr("lib.training.verdict.corpus_loss", nine_more)
    whole = undisturbed(config, corpus, machine, **settings)
    assert whole.run.read_summary()["state"] == "limit" and whole.run.read_metrics()["corpus_loss"].notna().sum() >= 2
    parted = trainer(config, corpus, machine, **settings, out_dir=str(tmp_path / "parted"))
    place = {"corpus_loss": verdict, "sample_texts": training}.get(moment)
    before = parted.update.forward if moment == "step" else getattr(place, moment)
    calls = []

    def stopping(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            parted.run.stop_file.touch()
        return before(*args, **kwargs)
    if moment == "step":
        parted.update.forward = stopping
    else:
        monkeypatch.setattr(place, moment, stopping)
    summary = parted.train()
    assert summary["state"] == "stopped" and (parted.progress.pending is not None) == (moment != "step")
    resumed = trainer(config, corpus, machine, **settings, out_dir=str(tmp_path / "parted"))
    resumed.train()
    assert_same_end(whole, resumed)


def test_a_damaged_checkpoint_is_passed_over_for_its_predecessor(config, corpus, machine, undisturbed, tmp_path):
    whole = undisturbed(config, corpus, machine, **RESUMED)
    parted = trainer(config, corpus, machine, **RESUMED, out_dir=str(tmp_path / "parted"))
    parted.on_log = lambda row: parted.run.stop_file.touch() if row["step"] == 16 else None
    parted.train()
    with open(parted.run.last_checkpoint, "r+b") as file:
        file.seek(1000)
        file.write(b"damaged")
    resumed = trainer(config, corpus, machine, **RESUMED, out_dir=str(tmp_path / "parted"))
    assert resumed.progress.step == 14 and "from previous.pt" in resumed.run.log_file.read_text()
    resumed.train()
    assert_same_end(whole, resumed)
    for path in resumed.run.checkpoints():
        path.write_bytes(b"damaged")
    with pytest.raises(InputError, match="no checkpoint that can be read"):
        trainer(config, corpus, machine, **RESUMED, out_dir=str(tmp_path / "parted"))


def test_a_killed_run_is_seen_as_killed_and_goes_on(config, corpus, machine, undisturbed, tmp_path):
    whole = undisturbed(config, corpus, machine, **RESUMED)
    cut = trainer(config, corpus, machine, **RESUMED, out_dir=str(tmp_path / "cut"))
    states = []

    def killed(row):
        states.append(cut.run.read_summary()["state"])
        if row["step"] == 9:
            cut.writer.settle()
            shutil.copytree(cut.run.path, tmp_path / "killed")  # the files as a kill at this moment leaves them
    cut.on_log = killed
    cut.train()
    assert set(states) == {"running"}
    run = RunFolder(tmp_path / "killed")
    assert run.read_summary()["state"] == "killed" and "Killed after step" in run.read_summary()["verdict"]
    with open(run.metrics_file, "a") as file:
        file.write("10,12")  # half a row
    resumed = trainer(config, corpus, machine, **RESUMED, out_dir=str(run.path))
    assert resumed.progress.step == 7
    resumed.train()
    assert_same_end(whole, resumed)


def test_a_run_killed_before_its_first_checkpoint_begins_anew(config, corpus, machine):
    t = trainer(config, corpus, machine, **RESUMED)
    t.run.append_metrics(dict.fromkeys(METRICS, 1))
    t.run.append_samples(1, "a", ["ab"])
    t.train()
    assert t.run.read_metrics()["step"].tolist() == list(range(1, 21))
    assert t.run.read_samples()[0][1] == t.prompt


def test_two_processes_do_not_train_in_one_folder(config, corpus, machine, monkeypatch):
    t = trainer(config, corpus, machine, steps=3)
    monkeypatch.setattr("lib.runs.folder.PATIENCE_SEC", 0.1)
    with RunFolder(t.run.path).lock(), pytest.raises(InputError, match="another process is training"):
        t.train()
    assert t.train()["step"] == 3


def test_a_disk_too_small_is_noticed_before_the_first_step(config, corpus, machine, monkeypatch):
    t = trainer(config, corpus, machine)
    usage = namedtuple("usage", "total used free")(10 ** 9, 10 ** 9, 10 ** 6)
    monkeypatch.setattr("lib.runs.checkpoint.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match=r"132\.83 MB are needed and 1\.00 MB free"):
        t.train()
    assert t.progress.step == 0 and not t.run.checkpoints()


def test_rows_written_after_the_checkpoint_are_written_again_not_twice(config, corpus, machine):
    settings = dict(log_every=1, sample_every=4, save_every=5)
    t = trainer(config, corpus, machine, steps=10, **settings)
    t.train()
    t.run.append_metrics(dict.fromkeys(METRICS, 0) | {"step": 11})
    t.run.append_samples(12, "a", ["ab"])
    resumed = trainer(config, corpus, machine, steps=12, **settings)
    resumed.train()
    assert resumed.run.read_metrics()["step"].tolist() == list(range(1, 13))
    assert [s[0] for s in resumed.run.read_samples()] == [4, 8, 10, 12]


def test_a_run_on_another_text_is_not_resumed(config, corpus, machine):
    t = trainer(config, corpus, machine, steps=2)
    t.run.write_config(t.config, provenance(corpus, machine, floor=0.0))
    t.train()
    again = dataclasses.replace(t.config, resume=str(t.run.path), steps=4)
    assert open_run(again, "resumed", corpus.sha256).path == t.run.path
    with pytest.raises(InputError, match="is not the text"):
        open_run(again, "resumed", "0" * 64)


@pytest.mark.parametrize("is_asynchronous", [False, True])
def test_a_loss_gone_wrong_is_named_by_its_step_and_never_saved(config, corpus, machine, monkeypatch, is_asynchronous):
    monkeypatch.setattr(Machine, "is_asynchronous", is_asynchronous)
    monkeypatch.setattr("lib.training.step.READ_EVERY_SEC", math.inf)
    t = trainer(config, corpus, machine, save_every=2, log_every=100)
    t.progress.next_look = 100
    forward = t.update.forward
    t.update.forward = lambda x, y, candidates: forward(x, y) * (math.nan if t.progress.step == 4 else 1)
    with pytest.raises(FloatingPointError, match=r"step 5: loss nan.*lower --lr"):
        t.train()
    assert t.progress.step == (6 if is_asynchronous else 5)
    assert t.run.read_summary()["state"] == "failed" and "step 5" in t.run.read_summary()["verdict"]
    saved = load_checkpoint(t.run.last_checkpoint)
    assert saved["progress"]["step"] == 4 and all(p.isfinite().all() for p in saved["model"].values())


class Waiting(TorchDispatchMode):
    """Counts how often a number of a tensor is read, which on a GPU waits for all that was asked of it before."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default,
                               torch.ops.aten.nonzero.default)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_nothing_waits_for_a_gpu_between_the_steps_that_are_read(config, corpus, machine, optimizer):
    t = trainer(config, corpus, machine, optimizer=optimizer, grad_accum=2, sampled_softmax=True)
    with Waiting() as waiting:
        for step in range(20):
            t.update(step)
        assert waiting.count == 0
        assert len(t.update.read()) == 20


def test_a_run_whose_losses_are_read_now_and_then_is_the_same_run(config, corpus, machine, tmp_path, monkeypatch):
    settings = RESUMED | dict(log_every=4)
    runs = []
    for is_asynchronous in (False, True):
        monkeypatch.setattr(Machine, "is_asynchronous", is_asynchronous)
        runs.append(trainer(config, corpus, machine, **settings, out_dir=str(tmp_path / str(is_asynchronous))))
        runs[-1].train()
    assert_same_end(*runs)


@pytest.mark.parametrize("asked", ["stop", "max_hours"])
def test_a_stop_does_not_wait_for_the_next_step_that_is_logged(config, corpus, machine, monkeypatch, asked):
    monkeypatch.setattr(Machine, "is_asynchronous", True)
    monkeypatch.setattr("lib.training.step.READ_EVERY_SEC", math.inf if asked == "stop" else 0)
    t = trainer(config, corpus, machine, steps=60, log_every=50, sample_every=60, save_every=60,
                max_hours=0.0 if asked == "stop" else 1e-9)
    if asked == "stop":
        forward = t.update.forward

        def stopping(*args, **kwargs):
            if t.progress.step == 2:
                t.run.stop_file.touch()
            return forward(*args, **kwargs)
        t.update.forward = stopping
        assert t.train()["state"] == "stopped" and t.progress.step == 3
    else:
        assert [t.train()["step"] for _ in range(3)] == [1, 2, 3]


def test_when_a_target_is_looked_for_does_not_depend_on_the_clock(config, corpus, machine, monkeypatch, tmp_path):
    monkeypatch.setattr(Machine, "is_asynchronous", True)
    ends = []
    for seconds in (0, math.inf):
        monkeypatch.setattr("lib.training.step.READ_EVERY_SEC", seconds)
        t = trainer(config, corpus, machine, target_loss=8.0, steps=100, log_every=7,
                    out_dir=str(tmp_path / str(seconds)))
        ends.append((t.train()["step"], t.progress.corpus_loss, t.run.read_metrics()["step"].tolist()))
    assert ends[0] == ends[1] and ends[0][0] < 100


def test_a_batch_is_one_contiguous_piece_fetched_while_the_step_before_it_runs(config, corpus, machine, monkeypatch):
    fetched = []
    monkeypatch.setattr(Machine, "to_device", lambda self, tensor: fetched.append(tensor) or tensor)
    t = trainer(config, corpus, machine, grad_accum=2, sampled_softmax=False)
    for step in range(3):
        t.update(step)
        assert len(fetched) == 2 * (step + 1) + 1  # and the first of the next step
    assert all(tensor.is_contiguous() and tensor.shape == (4, 33) for tensor in fetched)
    assert all((tensor.numpy() == t.update.batches.windows(k)).all() for k, tensor in enumerate(fetched))


def test_the_change_to_the_sampled_softmax_costs_one_more_graph_and_none_after(config, corpus, machine):
    from torch._dynamo.testing import CompileCounter
    torch._dynamo.reset()
    t = trainer(config, corpus, machine, sampled_softmax=True)
    counter = CompileCounter()
    t.update.forward = torch.compile(t.model, backend=counter)
    counts = []
    for step in (0, 1, FIRST_STEPS, FIRST_STEPS + 1, FIRST_STEPS + 2):
        t.update(step)
        counts.append(counter.frame_count)
    assert counts == [1, 1, 2, 2, 2]


def test_an_interrupt_ends_the_step_and_saves(config, corpus, machine):
    t = trainer(config, corpus, machine, log_every=1, steps=20)
    t.on_log = lambda row: signal.raise_signal(signal.SIGINT) if row["step"] == 3 else None
    before = signal.getsignal(signal.SIGINT)
    summary = t.train()
    assert summary["state"] == "stopped" and "Stopped by the user at step 3" in summary["verdict"]
    assert load_checkpoint(t.run.last_checkpoint)["progress"]["step"] == summary["step"]
    assert signal.getsignal(signal.SIGINT) is before
    t.on_log = lambda row: None
    assert t.train()["step"] == 20  # the cell run again goes on


def test_training_works_outside_the_main_thread(config, corpus, machine):
    t = trainer(config, corpus, machine, steps=1)
    thread = threading.Thread(target=t.train)
    thread.start()
    thread.join()
    assert t.progress.step == 1


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))), reason="no C++ compiler")
def test_a_compiled_model_saves_the_plain_models_keys(config, corpus, machine, monkeypatch):
    if machine.amp:  # the compiler is asked in float32, once
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    t = trainer(config, corpus, machine, n_layer=1, steps=2, compile=True)
    t.train()
    assert set(load_checkpoint(t.run.last_checkpoint)["model"]) == set(new_model(t.config, machine.device).state_dict())
