"""One update of the weights by several processes, each of which computes the gradients of some of its windows."""
import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from lib.config import RunConfig
from lib.model.gpt import GPT
from lib.text.corpus import Corpus
from lib.training.evaluation import window_losses
from lib.training.group import with_the_others
from lib.training.machine import Machine
from lib.training.step import TrainingStep


class SplitStep(TrainingStep):
    """A step whose windows, batch_size x grad_accum of them, are shared among the processes of a group. Each holds all
    weights and all moments, and the gradients that all have are summed while they are computed."""

    def __init__(self, model: GPT, corpus: Corpus, config: RunConfig, machine: Machine):
        super().__init__(model, corpus, config, machine)
        self.group = machine.group
        with with_the_others():
            self.forward = DistributedDataParallel(self.forward, gradient_as_bucket_view=True)

    def __call__(self, step: int) -> None:
        if self.group.rank == 0:
            self.group.say(self.group.STEP, step)
        if self.config.dropout:  # other numbers in each process, the same again when the run is resumed
            seeds = np.random.SeedSequence((self.config.seed, step, self.group.rank))
            torch.manual_seed(int(seeds.generate_state(1)[0]))
        with with_the_others():
            super().__call__(step)
        if self.group.rank:
            self._unread.clear()  # the leader reads

    def gradients(self, step: int) -> torch.Tensor:
        """Compute the gradients of a step, and return its loss, ()."""
        loss = torch.zeros((), device=self.machine.device)
        pieces = list(self.pieces(step))
        for piece, (k, rows) in enumerate(pieces):
            windows, candidates = self.fetch(k)
            windows = windows[rows.start:rows.stop]
            last = piece == len(pieces) - 1
            with self.summed(last):
                with self.machine.autocast():
                    share = len(rows) / (self.config.batch_size * self.config.grad_accum)
                    piece_loss = self.forward(windows[:, :-1], windows[:, 1:], candidates=candidates) * share
                # what is summed is divided by the number of processes
                self.scaler.scale(piece_loss * self.group.size).backward()
            loss += piece_loss.detach()
        return self.group.sum(loss)

    def summed(self, last: bool) -> AbstractContextManager:
        """Where the gradients of a piece are computed: those of all processes are summed with the last one."""
        return contextlib.nullcontext() if last else self.forward.no_sync()

    def pieces(self, step: int) -> Iterator[tuple[int, range]]:
        """This process's share of a step, cut where micro-batches end: their numbers, and rows of each."""
        B, A = self.config.batch_size, self.config.grad_accum
        mine = self.group.share(B * A)
        for k in range(mine.start // B, (mine.stop - 1) // B + 1):
            yield step * A + k, range(max(0, mine.start - k * B), min(B, mine.stop - k * B))


def follow(step: SplitStep, tokens: np.ndarray) -> None:
    """Do what the leader says, until it says that this is the end."""
    c = step.config
    for what, numbers in step.group.told():
        if what == step.group.STEP:
            step(*numbers)
        elif what == step.group.GATHER:
            step.gather()
        elif what == step.group.STATE:
            step.state_dict()
        else:
            window_losses(step.model, tokens, numbers, c.seq_len, c.windows_at_once, step.machine)
