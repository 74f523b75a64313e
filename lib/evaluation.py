"""How well a model knows a text: the figure that decides whether the target is reached."""
from collections.abc import Callable

import numpy as np
import torch

from lib.machine import Machine
from lib.model import GPT

NOT_COUNTED = -100  # a target that torch's cross-entropy leaves out


@torch.inference_mode()
def corpus_loss(model: GPT, tokens: np.ndarray, seq_len: int, batch_size: int, machine: Machine,
                offset: int = 0, check: Callable[[], None] = lambda: None) -> float:
    """The loss over a whole text, in nats per token: the figure by which the target is reached or not.

    One deterministic pass in eval mode over the windows that training cuts at `offset`. Every token after the first is
    a target once: of the last window, which is moved inside the text over its neighbour, only the targets that are
    left count. `check` is called before each batch and may raise to end it. Leaves the model in eval mode.
    """
    model.eval()
    text = tokens[offset:]
    whole = (len(text) - 1) // seq_len  # windows
    total = 0.0
    for first in range(0, whole, batch_size):
        check()
        end = min(first + batch_size, whole) * seq_len
        part = torch.from_numpy(text[first * seq_len:end + 1].astype(np.int64))
        total += _loss_sum(model, part[:-1].view(-1, seq_len), part[1:].view(-1, seq_len), machine)
    if left := len(text) - 1 - whole * seq_len:
        check()
        part = torch.from_numpy(text[-(seq_len + 1):].astype(np.int64))
        targets = part[1:].clone()
        targets[:-left] = NOT_COUNTED
        total += _loss_sum(model, part[None, :-1], targets[None], machine)
    return total / (len(text) - 1)


def _loss_sum(model: GPT, x: torch.Tensor, y: torch.Tensor, machine: Machine) -> float:
    """The loss of inputs x and targets y (B, T), summed over the targets that count."""
    with machine.autocast():
        return model(x.to(machine.device), y.to(machine.device)).item() * (y != NOT_COUNTED).sum().item()
