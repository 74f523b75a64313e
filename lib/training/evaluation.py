"""How well a model knows a text: the figure that decides whether the target is reached."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from lib.model.gpt import GPT
from lib.model.inspection import logit_lens
from lib.text.corpus import window_starts
from lib.training.machine import Machine

BEGINNING = 48  # tokens of a text that are looked at block by block: a table or a picture of more cannot be read


@dataclass(frozen=True)
class CorpusLoss:
    """The losses of all tokens of a text, in nats, added up by their position in a window, (T,), and their numbers."""

    sums: np.ndarray
    counts: np.ndarray

    @property
    def mean(self) -> float:
        """The loss over the whole text: the figure by which the target is reached or not."""
        return float(self.sums.sum() / self.counts.sum())

    @property
    def by_position(self) -> np.ndarray:
        """The mean loss at each position, (T,); NaN where no token stands."""
        return np.divide(self.sums, self.counts, out=np.full(len(self.sums), np.nan), where=self.counts > 0)


def corpus_loss(model: GPT, tokens: np.ndarray, seq_len: int, batch_size: int, machine: Machine,
                offset: int = 0, check: Callable[[], None] = lambda: None,
                scored: dict[int, np.ndarray] | None = None) -> CorpusLoss:
    """The loss over a whole text (N,), N > seq_len, cut at `offset`, which is at most seq_len.

    One deterministic pass in eval mode over the windows that training cuts there. Every token after the first is a
    target once: of the first and the last window, which are moved inside the text over their neighbours, only the
    targets that are left count. `check` is called before each batch and may raise to end it. `scored` has the losses
    (T,) of the first and the last window by where they start, which passes at other offsets share: what is there is not
    computed again, and the pass adds its own. Leaves the model in eval mode.
    """
    starts = window_starts(len(tokens), seq_len, offset)
    ends = starts + seq_len  # the last target of each window that counts
    if offset:
        ends[0] = offset
    begins = np.concatenate([[0], ends[:-1]])
    positions = np.arange(seq_len)
    counted = (positions >= (begins - starts)[:, None]) & (positions < (ends - starts)[:, None])  # (n, T)
    scored = {} if scored is None else scored
    sums, at_once = np.zeros(seq_len), batch_size * (machine.group.size if machine.group else 1)
    for first in range(0, len(starts), at_once):
        check()
        some = slice(first, first + at_once)
        losses = {start: scored[start] for start in starts[some] if start in scored}
        unscored = [-1 if start in losses else int(start) for start in starts[some]]
        if max(unscored) >= 0:
            if machine.group:
                machine.group.before_windows()
                machine.group.say(machine.group.WINDOWS, *unscored)
            found = window_losses(model, tokens, unscored, seq_len, batch_size, machine)
            losses |= {start: found[i] for i, start in enumerate(unscored) if start >= 0}
        for start, counts in zip(starts[some], counted[some], strict=True):
            sums[counts] += losses[start][counts]
        scored |= {start: losses[start] for start in starts[[0, -1]] if start in losses}  # the others stand in one pass
    return CorpusLoss(sums, counted.sum(axis=0))


def window_losses(model: GPT, tokens: np.ndarray, starts: Sequence[int], seq_len: int, batch_size: int,
                  machine: Machine) -> np.ndarray:
    """The losses in the windows of a text (N,) that begin at `starts`, (n, T) float64; of those at -1 none, 0. n is at
    most batch_size for each of the processes that share them."""
    starts, losses, group = np.array(starts, np.int64), np.zeros((len(starts), seq_len)), machine.group
    own = np.arange(len(starts)) // batch_size == (group.rank if group else 0)
    if (own := own & (starts >= 0)).any():
        windows = torch.from_numpy(tokens[starts[own, None] + np.arange(seq_len + 1)].astype(np.int64))
        losses[own] = token_losses(model, windows[:, :-1], windows[:, 1:], machine)
    if group:  # each row is 0 in all processes but one, so that the sum is what that one computed, bit for bit
        group.sum(torch.from_numpy(losses))
    return losses


def first_window_losses(model: GPT, tokens: np.ndarray, seq_len: int, machine: Machine) -> np.ndarray:
    """The losses in the first window of a text (N,), (T,) float64. Leaves the model in eval mode."""
    window = torch.from_numpy(tokens[None, :seq_len + 1].astype(np.int64))
    return token_losses(model, window[:, :-1], window[:, 1:], machine)[0]


def knowledge(model: GPT, tokens: np.ndarray, seq_len: int, machine: Machine) -> tuple[np.ndarray, np.ndarray]:
    """How well a model knows the beginning of a text (N,): the losses in its first window, (T,) float64, and where its
    head is asked after the embeddings already, or after each block, the mean loss over the window's first tokens,
    BEGINNING at most, (n_layer + 1,). Leaves the model in eval mode."""
    beginning = torch.from_numpy(tokens[:min(BEGINNING, seq_len)].astype(np.int64)).to(machine.device)
    _, by_depth = logit_lens(model, beginning)
    return first_window_losses(model, tokens, seq_len, machine), by_depth.mean(dim=1).double().cpu().numpy()


@torch.inference_mode()
def token_losses(model: GPT, x: torch.Tensor, y: torch.Tensor, machine: Machine) -> np.ndarray:
    """The loss of each target y of inputs x (B, T), (B, T) float64: in float32 whatever training computes in, so that
    it is a figure of the weights. Leaves the model in eval mode."""
    model.eval()
    logits = model(x.to(machine.device))  # (B, T, V)
    losses = F.cross_entropy(logits.flatten(0, 1), y.flatten().to(machine.device), reduction="none")
    return losses.view(y.shape).cpu().double().numpy()  # in this order: Apple's GPUs have no float64
