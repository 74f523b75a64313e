"""The softmax of a training step over fewer tokens than the vocabulary has."""
import math

import numpy as np
import torch

from lib.model.gpt import Candidates
from lib.training.machine import Machine

DRAWN = 2048  # tokens that stand for all those that the text never has
FIRST_STEPS = 16  # over all tokens: until a model knows which never come


class SampledSoftmax:
    """Draws what the softmax of a step runs over: every token the text has, and some of those it never has.

    Most of GPT-2's 50,257 tokens are never the next one in a small text, and a model knows that after some steps; yet
    in GPT-2 124M their logits are up to a third of a step's arithmetic. Here some of them stand for all: their logits
    are raised by ln(never used / drawn), so that the softmax's sum is right in expectation (Bengio & Senécal, "Adaptive
    importance sampling to accelerate training of a neural probabilistic language model", 2008). Which they are is a
    pure function of (seed, k), and over time every token has its turn.
    """

    def __init__(self, tokens: np.ndarray, vocab_size: int, seed: int, machine: Machine):
        self._machine = machine
        used = np.zeros(vocab_size, bool)
        used[tokens] = True
        self._used = torch.from_numpy(np.flatnonzero(used))
        self._unused = torch.from_numpy(np.random.default_rng(seed).permutation(np.flatnonzero(~used)))
        self._drawn = min(DRAWN, len(self._unused))
        # where the text's tokens stand among the candidates
        self._places = torch.from_numpy(np.cumsum(used) - 1).to(machine.device)
        self._log_weights = torch.zeros(len(self._used) + self._drawn, device=machine.device)
        if self._drawn:
            self._log_weights[len(self._used):] = math.log(len(self._unused) / self._drawn)

    def candidates(self, step: int, k: int) -> Candidates | None:
        """Those of micro-batch k, in the step counted from 0; None for all tokens."""
        if step < FIRST_STEPS:
            return None
        turn = torch.arange(k * self._drawn, (k + 1) * self._drawn) % max(1, len(self._unused))
        tokens = torch.cat([self._used, self._unused[turn]])
        return Candidates(self._machine.to_device(tokens), self._log_weights, self._places)
