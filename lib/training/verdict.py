"""When the loss over the whole text is measured, and what it decides.

A text is known when it is known wherever one begins to read. So for orders that cut it anew (`epoch`, `random`) it is
measured cut at several places, and the largest loss decides. `fixed` and `sequential` cut it at 0 alone; what they
learn is known there, and seldom anywhere else, which the loss of windows moved by half their length tells.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from lib.config import RunConfig
from lib.model.gpt import GPT
from lib.text.corpus import window_starts
from lib.training.evaluation import CorpusLoss, corpus_loss
from lib.training.machine import Machine
from lib.training.progress import Progress

SMALL = 100_000  # tokens of text up to which four passes decide; beyond it two, for each of them takes minutes
LOOK = 8192  # tokens that a look reads, or half of a short text
SURELY = 4  # times as many in a long text, before a pass


def deciding_cuts(config: RunConfig, text_tokens: int) -> tuple[int, ...]:
    """Where the text is cut in the passes that decide."""
    T = config.seq_len
    if config.cut_at_0:
        return (0,)
    return (0, T // 2, T // 4, 3 * T // 4)[:4 if text_tokens <= SMALL else 2]


@dataclass(frozen=True)
class Measurement:
    """What was found after a step: passes over the whole text by where it was cut, and the loss that tells when to look
    again, infinite where it is far from the target. Empty and None where nothing was due."""

    passes: dict[int, CorpusLoss] = field(default_factory=dict)
    looked: float | None = None


def measure_if_due(model: GPT, tokens: np.ndarray, config: RunConfig, machine: Machine, progress: Progress, last: bool,
                   check: Callable[[], None]) -> Measurement:
    """Measure the loss over the whole text (N,) after the `last` step, and where a look at some windows says that the
    target may be reached.

    Not at the end of a run of less than an epoch: the passes would cost more than the training told. `check` is called
    before each batch and may raise.
    """
    if last and progress.tokens >= len(tokens):
        return Measurement(measure(model, tokens, config, machine, last, check))
    if not is_look_due(progress):
        return Measurement()
    if np.mean(progress.recent[-math.ceil(progress.epoch_steps / 4):]) >= 10 * config.target_loss:
        return Measurement(looked=math.inf)
    loss, error = look(model, tokens, config, machine, progress.step, check)
    if loss + error >= config.target_loss:
        return Measurement(looked=loss)
    passes = measure(model, tokens, config, machine, last, check)
    return Measurement(passes, deciding_loss(passes, config, len(tokens)))


def measure(model: GPT, tokens: np.ndarray, config: RunConfig, machine: Machine, last: bool,
            check: Callable[[], None]) -> dict[int, CorpusLoss]:
    """Passes over the whole text (N,), by where it is cut: those that decide, and the one that is moved by half.

    Unless it is the `last` measurement of a run, they end with the first loss that is not below the target. `check` is
    called before each batch and may raise.
    """
    passes, scored = {}, {}
    for cut in (*deciding_cuts(config, len(tokens)), config.seq_len // 2):
        if cut not in passes:
            passes[cut] = corpus_loss(model, tokens, config.seq_len, config.windows_at_once, machine, cut, check,
                                      scored)
        if not last and not is_reached(passes[cut].mean, config) and cut in deciding_cuts(config, len(tokens)):
            break
    return passes


def ending_sec(progress: Progress, config: RunConfig, text_tokens: int) -> float:
    """Seconds that one more step and the measurements at a run's end may take.

    A forward is a third of a step's arithmetic, and in fp32 may take twice as long as in the training's precision: so a
    pass is reckoned as two thirds of an epoch of steps. A run of less than an epoch has none.
    """
    passes = len({*deciding_cuts(config, text_tokens), config.seq_len // 2}) if progress.tokens >= text_tokens else 0
    return (1 + 2 / 3 * passes * progress.epoch_steps) * progress.step_sec / progress.step


def deciding_loss(passes: dict[int, CorpusLoss], config: RunConfig, text_tokens: int) -> float:
    """The largest of the losses that decide."""
    return max(passes[cut].mean for cut in deciding_cuts(config, text_tokens) if cut in passes)


def is_reached(loss: float | None, config: RunConfig) -> bool:
    """Whether a loss over the whole text, None where it was not measured, is below the target."""
    return loss is not None and loss < config.target_loss


def is_look_due(progress: Progress) -> bool:
    """Whether to look how far the target is: after the first epoch, now and then."""
    return progress.step >= max(progress.epoch_steps, progress.next_look)


def windows_of_a_look(text_tokens: int, config: RunConfig) -> int:
    """How many windows a look reads, at least 4."""
    return max(4, min(LOOK, text_tokens // 2) // config.seq_len)


@torch.no_grad()  # in inference mode autocast casts the weights at each use
def look(model: GPT, tokens: np.ndarray, config: RunConfig, machine: Machine, step: int,
         check: Callable[[], None]) -> tuple[float, float]:
    """The mean loss of some windows as training may cut them, and its standard error: what a pass over the whole text
    may find, for a small part of its time.

    Which windows is a pure function of (seed, step), and the precision is that of training. It ends with the first of
    them after which their mean can no longer be below the target. In a long text, where a pass takes as long as
    hundreds of windows, one that promises to be reads up to SURELY times as many, until that is seen not to be so.
    """
    rng = np.random.default_rng((config.seed, step))
    starts = np.arange(len(tokens) - config.seq_len)
    if config.cut_at_0:
        starts = window_starts(len(tokens), config.seq_len)
    usual = windows_of_a_look(len(tokens), config)
    most = min(usual * (SURELY if len(tokens) > SMALL else 1), len(starts))
    model.eval()
    losses = []
    with machine.autocast():  # one for all windows: it casts the weights once
        for start in rng.choice(starts, most, replace=False):
            check()
            window = torch.from_numpy(tokens[start:start + config.seq_len + 1].astype(np.int64)).to(machine.device)
            losses.append(model(window[None, :-1], window[None, 1:]).item())
            mean, error = float(np.mean(losses)), float(np.std(losses)) / len(losses) ** 0.5
            # losses are not negative: before the usual number, enough of them decide what the mean of that can be
            bound = mean + error if len(losses) >= usual else sum(losses) / usual
            if bound >= config.target_loss:
                break
    return mean, error


def note_look(progress: Progress, config: RunConfig, text_tokens: int, loss: float) -> None:
    """Decide when to look again: where this loss and the one before, drawn on in logarithms, meet the target, after an
    eighth of an epoch at the latest; in a short text, whose looks take longer than that, after as many windows of
    training as a look reads. In a long one not before four times as many: looks are noisy, and each may say that the
    target is near."""
    p = progress
    read = math.ceil(windows_of_a_look(text_tokens, config) / (config.batch_size * config.grad_accum))
    steps = longest = max(read, p.epoch_steps // 8)
    if p.looked and loss < p.looked[1]:
        steps = math.log(loss / config.target_loss) * (p.step - p.looked[0]) / math.log(p.looked[1] / loss)
    p.looked = (p.step, loss) if math.isfinite(loss) else None
    shortest = 4 * read if 4 * read < longest else 1
    p.next_look = p.step + min(longest, max(shortest, math.ceil(steps)))
