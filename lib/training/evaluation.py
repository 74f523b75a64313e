"""How well a model knows a text: the figure that decides whether the target is reached."""
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from lib.model.gpt import GPT
from lib.training.machine import Machine


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
                offset: int = 0, check: Callable[[], None] = lambda: None) -> CorpusLoss:
    """The loss over a whole text (N,).

    One deterministic pass in eval mode over the windows that training cuts at `offset`. Every token after the first is
    a target once: of the last window, which is moved inside the text over its neighbour, only the targets that are
    left count. `check` is called before each batch and may raise to end it. Leaves the model in eval mode.
    """
    text = tokens[offset:]
    whole = (len(text) - 1) // seq_len  # windows
    sums, counts = np.zeros(seq_len), np.full(seq_len, whole)
    for first in range(0, whole, batch_size):
        check()
        end = min(first + batch_size, whole) * seq_len
        part = torch.from_numpy(text[first * seq_len:end + 1].astype(np.int64))
        losses = token_losses(model, part[:-1].view(-1, seq_len), part[1:].view(-1, seq_len), machine)
        sums += losses.sum(axis=0)
    if left := len(text) - 1 - whole * seq_len:
        check()
        part = torch.from_numpy(text[-(seq_len + 1):].astype(np.int64))
        places = slice(len(part) - 1 - left, len(part) - 1)
        sums[places] += token_losses(model, part[None, :-1], part[None, 1:], machine)[0, places]
        counts[places] += 1
    return CorpusLoss(sums, counts)


def first_window_losses(model: GPT, tokens: np.ndarray, seq_len: int, machine: Machine) -> np.ndarray:
    """The losses in the first window of a text (N,), (T,) float64. Leaves the model in eval mode."""
    window = torch.from_numpy(tokens[None, :seq_len + 1].astype(np.int64))
    return token_losses(model, window[:, :-1], window[:, 1:], machine)[0]


@torch.inference_mode()
def token_losses(model: GPT, x: torch.Tensor, y: torch.Tensor, machine: Machine) -> np.ndarray:
    """The loss of each target y of inputs x (B, T), (B, T) float64. Leaves the model in eval mode."""
    model.eval()
    with machine.autocast():
        logits = model(x.to(machine.device))  # (B, T, V)
        losses = F.cross_entropy(logits.flatten(0, 1), y.flatten().to(machine.device), reduction="none")
    return losses.view(y.shape).cpu().double().numpy()  # in this order: Apple's GPUs have no float64
