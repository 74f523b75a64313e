"""Muon: momentum whose update of every matrix is made orthogonal, so that all its directions are learned at one speed.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024). torch's own Muon works in bfloat16,
which processors without such instructions emulate at a hundredth of their speed, and whose rounding takes the place of
small directions. This one is in float32 on every machine, whatever training computes in, and makes up for it: all but
two of its products are of small Gram matrices.
"""
import itertools
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from lib.training.group import Group

# a x + b x^3 + c x^5 moves singular values between 0 and 1 towards 1, small ones fast; coefficients of Jordan et al.
A, B, C = 3.4445, -4.7750, 2.0315
ITERATIONS = 5


def orthogonalized(x: torch.Tensor) -> torch.Tensor:
    """Matrices x (n, rows, columns), rows <= columns, with their rows made orthonormal, roughly: singular values that
    were above a hundredth of the matrix's norm end up between 0.6 and 1.3, which is enough for an update.

    Newton-Schulz's iteration, no decomposition. Every iterate is a polynomial in x @ x.mT times x, so only these small
    square matrices are multiplied until the end. They hold squares: rounded to TF32 or bfloat16 the small ones of their
    eigenvalues turn negative and grow twelvefold an iteration. So the products must be float32's own.
    """
    gram = x @ x.mT
    squared_norm = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None] + 1e-14
    gram = gram / squared_norm
    product = None
    for left in reversed(range(ITERATIONS)):
        factor = torch.baddbmm(gram, gram, gram, beta=B, alpha=C)
        factor.diagonal(dim1=-2, dim2=-1).add_(A)
        product = factor if product is None else factor @ product
        if left:
            gram = factor @ gram @ factor
    return product / squared_norm.sqrt() @ x


class Muon(torch.optim.Optimizer):
    """Muon for weight matrices (out, in), `rows` of their rows at a time, 0 for all; Nesterov momentum, decoupled
    weight decay. Of the processes of a group, which all have the same gradients, each updates some of the matrices, and
    hands them to the others.

    Groups with `by_columns` are cut along their columns instead: in a projection back into the residual stream, a
    head's or a hidden unit's own weights stand there. One step changes a weight by about lr / sqrt(in).
    """

    def __init__(self, params: Iterable, lr: float, rows: int, momentum: float = 0.95, weight_decay: float = 0.0,
                 group: "Group | None" = None):
        super().__init__(params, dict(lr=lr, rows=rows, momentum=momentum, weight_decay=weight_decay,
                                      by_columns=False))
        self.group = group
        self.owners = owners([p for some in self.param_groups for p in some["params"]], group.size if group else 1)
        self.batched = any(p.device.type != "cpu" for group in self.param_groups for p in group["params"])

    @torch.no_grad()
    def step(self) -> None:
        """Update every matrix from its gradient, which is used up."""
        for some in self._together():
            blocks = []
            for p, settings in some:
                if not self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
                momentum = self.state[p]["momentum"]
                momentum.lerp_(p.grad, 1 - settings["momentum"])
                blocks.append(blocks_of(self.whole(p.grad.lerp_(momentum, settings["momentum"])), settings))
            if self.group:  # momentum is everybody's, so that a checkpoint has all of it
                own = [self.owners[p] == self.group.rank for p, _ in some]
                some, blocks = list(itertools.compress(some, own)), list(itertools.compress(blocks, own))
                if not some:
                    continue
            updates = orthogonalized(torch.cat(blocks) if self.batched else blocks[0].contiguous())
            for (p, settings), update in zip(some, updates.split([x.size(0) for x in blocks]), strict=True):
                scale = (update.size(2) / p.size(1)) ** 0.5
                p.mul_(1 - settings["lr"] * settings["weight_decay"])
                self.subtract(settings["lr"] * scale, update, p, settings)
        if self.group:
            self.group.hand_round(self.owners)

    def whole(self, matrix: torch.Tensor) -> torch.Tensor:
        """All of a matrix, of which this process may have a part."""
        return matrix

    def subtract(self, rate: float, update: torch.Tensor, p: torch.Tensor, settings: dict[str, Any]) -> None:
        """Move a matrix, or this process's part of it, against the update (n, block, length) of its blocks."""
        if self.batched:  # an Apple GPU would compile a graph for each alpha it meets
            update, rate = update * rate, 1
        blocks_of(p, settings).sub_(update, alpha=rate)

    def _together(self) -> Iterable[list[tuple[torch.Tensor, dict[str, Any]]]]:
        """Parameters and their settings, as they are updated together: on a processor one at a time, all that is done
        to it while its cache has it; elsewhere those with blocks of one shape: a GPU would wait for Python otherwise.
        """
        alike = defaultdict(list)
        for settings in self.param_groups:
            for p in settings["params"]:
                shape = blocks_of(torch.empty(p.shape, device="meta"), settings).shape[1:] if self.batched else p
                alike[shape].append((p, settings))
        return alike.values()


def owners(matrices: list[torch.Tensor], processes: int) -> dict[torch.Tensor, int]:
    """Which of several processes updates which matrix: each some that follow each other, with about as many weights."""
    befores = itertools.accumulate((p.numel() for p in matrices), initial=0)
    total = sum(p.numel() for p in matrices)
    return {p: int((before + p.numel() / 2) * processes / total) for p, before in zip(matrices, befores, strict=False)}


def blocks_of(matrix: torch.Tensor, settings: dict[str, Any]) -> torch.Tensor:
    """A view of a matrix as blocks (n, block, length), cut along its rows or its columns; whole, and the long way."""
    if not settings["rows"]:
        return (matrix if matrix.size(0) <= matrix.size(1) else matrix.T)[None]
    if settings["by_columns"]:
        return matrix.view(matrix.size(0), -1, settings["rows"]).permute(1, 2, 0)
    return matrix.view(-1, settings["rows"], matrix.size(1))
