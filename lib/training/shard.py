"""One update of the weights by several processes, each of which keeps a part of them only.

By torch's `fully_shard`: Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel" (2023).
"""
import contextlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from lib.config import RunConfig
from lib.model.gpt import GPT
from lib.text.corpus import Corpus
from lib.training.group import Group, with_the_others
from lib.training.machine import Machine
from lib.training.muon import Muon, blocks_of
from lib.training.split import SplitStep
from lib.training.step import TrainingStep

MATRICES = 4  # of a block


class ShardedMuon(Muon):
    """Muon for matrices of which each process has a part: all compute the update of the whole, and take theirs."""

    def __init__(self, params: Iterable, *args: Any, group: Group, **settings: Any):
        super().__init__(params, *args, **settings)

    def _together(self) -> Iterable[list[tuple[torch.Tensor, dict[str, Any]]]]:
        for some in super()._together():  # no more of them whole at a time than a block has
            yield from (some[i:i + MATRICES] for i in range(0, len(some), MATRICES))

    def whole(self, matrix: torch.Tensor) -> torch.Tensor:
        return matrix.full_tensor()

    def subtract(self, rate: float, update: torch.Tensor, p: torch.Tensor, settings: dict[str, Any]) -> None:
        whole = update.new_empty(p.shape)
        blocks_of(whole, settings).copy_(update)
        p.sub_(_part(whole, p), alpha=rate)


class ShardedStep(SplitStep):
    """A step in which each process keeps its part of the weights, of their gradients and of the moments. The weights of
    a block are gathered when they are wanted, and let go again.

    Between steps the leader samples and measures by itself, and the others may have no part in it: for the first of
    what it asks, all gather all weights, and have them until the next step.
    """

    muon = ShardedMuon

    def __init__(self, model: GPT, corpus: Corpus, config: RunConfig, machine: Machine):
        self.group, self._gathered = machine.group, False
        mesh = init_device_mesh(machine.device.type, (self.group.size,))
        with with_the_others():
            for block in model.h:
                fully_shard(block, mesh=mesh)
            fully_shard(model, mesh=mesh)
        if self.group.rank == 0:
            model.register_forward_pre_hook(lambda *_: None if model.training else self._call_to_gather(), prepend=True)
            self.group.before_windows = self._call_to_gather
        TrainingStep.__init__(self, model, corpus, config, machine)

    def __call__(self, step: int) -> None:
        self._let_go()
        super().__call__(step)

    def pieces(self, step: int) -> Iterator[tuple[int, range]]:
        """This process's share of each micro-batch, for all processes gather weights at the same time."""
        B, A = self.config.batch_size, self.config.grad_accum
        for k in range(step * A, (step + 1) * A):
            yield k, self.group.share(B)

    def summed(self, last: bool) -> AbstractContextManager:
        """Where the gradients of a piece are computed: they are summed at once, so that nobody keeps all of them."""
        return contextlib.nullcontext()

    def clip(self) -> torch.Tensor:
        """Shorten the gradients as configured, and return their norm before that, ()."""
        return super().clip().full_tensor()

    def gather(self) -> None:
        """Have all weights, as all processes do now, until the next step or checkpoint."""
        with torch.inference_mode(False), torch.no_grad(), with_the_others():
            for part in (self.model, *self.model.h):
                part.unshard()
                part.set_reshard_after_forward(False, recurse=False)
        self._gathered = True

    def _call_to_gather(self) -> None:
        if not self._gathered:
            self.group.say(self.group.GATHER)
            self.gather()

    def _let_go(self) -> None:
        if self._gathered:
            for part in (self.model, *self.model.h):
                part.reshard()
                part.set_reshard_after_forward(part is not self.model, recurse=False)
        self._gathered = False

    def state_dict(self) -> dict[str, Any]:
        """What one process alone would keep, from all processes' parts; the others get none of it."""
        if self.group.rank == 0:
            self.group.say(self.group.STATE)
        self._let_go()
        with with_the_others():
            return _whole(super().state_dict(), self.group.rank == 0)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take this process's part of what one process alone would go on from."""
        self._let_go()
        weights = self.model.state_dict()
        optimizers = []
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            kept = {i: {name: _part(x, parameters[i]) for name, x in moments.items()}
                    for i, moments in saved["state"].items()}
            optimizers.append(saved | {"state": kept})
        super().load_state_dict(state | {"model": {name: _part(x, weights[name]) for name, x in state["model"].items()},
                                         "optimizers": optimizers})


def _part(whole: torch.Tensor, like: DTensor) -> torch.Tensor:
    """This process's part of a tensor that is as large as `like`; a single number as it is."""
    if whole.dim() == 0:
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def _whole(content: Any, kept: bool) -> Any:
    """The same nested dictionaries and lists with whole tensors, in main memory, in place of parts, or with none: all
    processes have to ask for them, in the same order."""
    if isinstance(content, DTensor):
        whole = content.full_tensor()
        return whole.cpu() if kept else None
    if isinstance(content, dict):
        return {name: _whole(part, kept) for name, part in content.items()}
    if isinstance(content, list):
        return [_whole(part, kept) for part in content]
    return content
