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
    text = torch.from_numpy(tokens[offset:].astype(np.int64))
    whole = (len(text) - 1) // seq_len * seq_len
    inputs, targets = text[:whole].view(-1, seq_len), text[1:whole + 1].view(-1, seq_len)
    batches = list(zip(inputs.split(batch_size), targets.split(batch_size), strict=True))
    if left := len(text) - 1 - whole:
        last = text[-(seq_len + 1):]
        batches.append((last[None, :-1], last[None, 1:].clone()))
        batches[-1][1][:, :-left] = NOT_COUNTED
    total = 0.0
    for x, y in batches:
        check()
        with machine.autocast():
            total += model(x.to(machine.device), y.to(machine.device)).item() * (y != NOT_COUNTED).sum().item()
    return total / (len(text) - 1)
