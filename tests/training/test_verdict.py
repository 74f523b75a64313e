"""What decides that a text is known, and when that is measured."""
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lib.model.gpt import new_model
from lib.training import evaluation, verdict
from lib.training.evaluation import CorpusLoss, corpus_loss
from lib.training.machine import prepare_machine
from lib.training.progress import Progress, known
from lib.training.verdict import deciding_cuts, deciding_loss, is_look_due, look, measure, note_look, windows_of_a_look


@pytest.fixture
def losses(monkeypatch) -> dict[int, float]:
    """What every pass finds, by where it cuts the text."""
    found = {0: 0.05, 16: 0.06, 8: 0.08, 24: 0.07}
    monkeypatch.setattr(verdict, "corpus_loss", lambda model, tokens, seq_len, batch_size, machine, cut, check,
                        scored: CorpusLoss(np.array([found[cut]]), np.array([1])))
    return found


@pytest.mark.parametrize(("order", "text_tokens", "cuts"), [
    ("epoch", 4096, {0, 8, 16, 24}), ("random", 4096, {0, 8, 16, 24}), ("epoch", 338_025, {0, 16}),
    ("fixed", 4096, {0}), ("sequential", 338_025, {0})])
def test_orders_that_cut_anew_are_measured_at_several_cuts(config, order, text_tokens, cuts):
    assert set(deciding_cuts(dataclasses.replace(config, order=order), text_tokens)) == cuts


def test_the_largest_of_the_cuts_decides(config, corpus, machine, losses):
    config = dataclasses.replace(config, target_loss=0.1)
    passes = measure(None, corpus.tokens, config, machine, False, lambda: None)
    assert deciding_loss(passes, config, len(corpus.tokens)) == 0.08 and len(passes) == 4
    losses[24] = 0.3
    passes = measure(None, corpus.tokens, config, machine, False, lambda: None)
    assert deciding_loss(passes, config, len(corpus.tokens)) == 0.3
    losses[0] = 0.2  # the first pass is enough to go on with training
    assert list(measure(None, corpus.tokens, config, machine, False, lambda: None)) == [0]
    assert len(measure(None, corpus.tokens, config, machine, True, lambda: None)) == 4  # an ended run is told all


def test_what_is_known_only_where_it_was_cut_reaches_its_target_and_says_so(config, corpus, machine, losses):
    losses[16] = 2.7
    config = dataclasses.replace(config, target_loss=0.1, order="fixed")
    passes = measure(None, corpus.tokens, config, machine, False, lambda: None)
    assert list(passes) == [0, 16] and deciding_loss(passes, config, len(corpus.tokens)) == 0.05


@pytest.mark.parametrize("loss, moved, target, words", [
    (0.05, 2.7, 0.1, "known only where it was cut"), (0.08, 0.06, 0.1, "known from any place"),
    (0.2, 0.06, 0.1, ""), (0.05, None, 0.1, ""), (None, None, 0.1, ""), (0.05, 0.05, 0.0, ""),
    (0.8, 0.8, 0.9, ""), (0.4, 0.4, 0.9, "known from any place"),  # such a target alone says little
])
def test_known_is_what_a_model_is_sure_of(loss, moved, target, words):
    assert known({"corpus_loss": loss, "shifted_loss": moved, "target_loss": target}) == words


def test_passes_score_a_window_they_share_once(config, corpus, machine, monkeypatch):
    model, read = new_model(config, machine.device), []
    token_losses = evaluation.token_losses
    monkeypatch.setattr(evaluation, "token_losses",
                        lambda model, x, y, machine: read.append(len(x)) or token_losses(model, x, y, machine))
    passes = measure(model, corpus.tokens, config, machine, True, lambda: None)
    together, read[:] = sum(read), []
    for cut, loss in passes.items():
        alone = corpus_loss(model, corpus.tokens, config.seq_len, config.batch_size, machine, cut)
        assert alone.mean == pytest.approx(loss.mean, rel=1e-6) and (alone.counts == loss.counts).all()
    assert len(passes) == 4 and together == sum(read) - 2 * 3  # the first and the last one of three


@pytest.mark.parametrize("order", ["epoch", "fixed"])
def test_a_look_is_the_mean_of_windows_that_the_step_determines(config, corpus, machine, order):
    config = dataclasses.replace(config, order=order)
    model = new_model(config, machine.device)
    mean, error = look(model, corpus.tokens, config, machine, 5, lambda: None)
    assert (mean, error) == look(model, corpus.tokens, config, machine, 5, lambda: None)
    assert mean != look(model, corpus.tokens, config, machine, 6, lambda: None)[0]
    assert mean == pytest.approx(10.82, abs=0.1) and 0 < error < 0.1


@pytest.mark.parametrize(("target", "read"), [(0.1, 1), (4.0, 2), (12.0, 4)])
def test_a_look_ends_where_its_mean_can_no_longer_be_below_the_target(config, corpus, machine, target, read):
    config = dataclasses.replace(config, target_loss=target, max_tokens=256)  # windows of 10.8 nats each
    model, windows = new_model(config, machine.device), []
    model.register_forward_hook(lambda *_: windows.append(1))
    mean, _ = look(model, corpus.tokens[:256], config, machine, 5, lambda: None)
    assert len(windows) == read and windows_of_a_look(256, config) == 4
    assert (mean < target) == (read == 4)


@pytest.mark.parametrize(("losses", "read", "promises"), [
    ([1.0], 1, False), ([0.05, 0.9], 2, False),  # the usual four cannot be below
    ([0.05, 0.05, 0.15, 0.14], 4, False), ([0.05] * 4 + [0.9], 5, False), ([0.05] * 16, 16, True)])
def test_a_look_at_a_long_text_that_promises_to_be_below_the_target_reads_on(config, machine, losses, read, promises):
    config = dataclasses.replace(config, target_loss=0.1, seq_len=2048, block_size=2048)
    told = iter(losses)

    class Told(torch.nn.Module):
        def forward(self, x, y):
            return torch.tensor(next(told))
    mean, error = look(Told(), np.zeros(200_000, np.uint16), config, machine, 5, lambda: None)
    assert (mean + error < config.target_loss) == promises and list(told) == losses[read:]
    assert windows_of_a_look(200_000, config) == 4


def test_a_look_casts_the_weights_once(config, corpus):
    machine = prepare_machine(dataclasses.replace(config, device="cpu", amp="bf16"))
    model, casts = new_model(config), []

    class Casts(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten._to_copy.default and args[0].shape == model.wte.weight.shape:
                casts.append(func)
            return func(*args, **(kwargs or {}))

    with Casts():
        look(model, corpus.tokens, config, machine, 7, lambda: None)
    assert len(casts) == 1 < windows_of_a_look(len(corpus.tokens), config)


def test_the_next_look_is_where_a_steady_fall_meets_the_target(config):
    config = dataclasses.replace(config, target_loss=0.1, batch_size=64)  # a look reads the windows of 4 steps
    p = Progress(epoch_steps=400)
    assert not is_look_due(p)  # before the text was read once
    p.step = 400
    assert is_look_due(p)
    note_look(p, config, 51_200, math.inf)  # too far away to look
    assert p.next_look == 450 and p.looked is None
    p.step = 450
    note_look(p, config, 51_200, 0.4)
    assert p.next_look == 500
    p.step = 500
    note_look(p, config, 51_200, 0.2)  # halved in 50 steps: there in 50 more
    assert p.next_look == 550
    p.step = 540
    note_look(p, config, 51_200, 0.13)
    assert p.next_look == 540 + math.ceil(math.log(1.3) * 40 / math.log(2 / 1.3))
    p.step = 550
    note_look(p, config, 51_200, 0.11)  # there in 6 steps, in which as many looks would cost more than the steps
    assert p.next_look == 550 + 4 * 4
    p.step = 570
    note_look(p, config, 51_200, 0.12)  # no fall
    assert p.next_look == 620


def test_looks_at_a_short_text_read_no_more_windows_than_training(config):
    config = dataclasses.replace(config, batch_size=1, grad_accum=1, seq_len=32, target_loss=0.1)
    p = Progress(epoch_steps=8, step=20)
    note_look(p, config, 8 * 32, 0.8)
    assert p.next_look == 24  # 4 windows were read
    p.step = 24
    note_look(p, config, 8 * 32, 0.2)
    assert p.next_look == 26  # a quarter in 4 steps: half in 2
