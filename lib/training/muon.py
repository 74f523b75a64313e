"""Muon: momentum whose update of every matrix is made orthogonal, so that all its directions are learned at one speed.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024). torch's own Muon works in bfloat16,
which processors without such instructions emulate at a hundredth of their speed; this one works in the precision of the
weights, and on blocks of the matrices, which costs a fraction of the whole.
"""
from collections.abc import Iterable
from typing import Any

import torch

# a x + b x^3 + c x^5 moves singular values between 0 and 1 towards 1, small ones fast; coefficients of Jordan et al.
A, B, C = 3.4445, -4.7750, 2.0315
ITERATIONS = 5


def equalizer(gram: torch.Tensor) -> torch.Tensor:
    """What to multiply matrices x (n, rows, columns) by so that their rows become orthonormal, roughly, from x @ x.mT.

    Singular values that were above a hundredth of the matrix's norm end up between 0.6 and 1.3, which is enough for an
    update; no decomposition is computed. The iteration is Newton-Schulz's on x. But every iterate is a polynomial in
    x @ x.mT times x, so only small square matrices are multiplied until the end.
    """
    squared_norm = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None] + 1e-14
    gram = gram / squared_norm
    product = None
    for left in reversed(range(ITERATIONS)):
        factor = torch.baddbmm(gram, gram, gram, beta=B, alpha=C)
        factor.diagonal(dim1=-2, dim2=-1).add_(A)
        product = factor if product is None else factor @ product
        if left:
            gram = factor @ gram @ factor
    return product / squared_norm.sqrt()


class Muon(torch.optim.Optimizer):
    """Muon for weight matrices (out, in), `rows` of their rows at a time, 0 for all; Nesterov momentum, decoupled
    weight decay.

    Groups with `by_columns` are cut along their columns instead: in a projection back into the residual stream, a
    head's or a hidden unit's own weights stand there. One step changes a weight by about lr / sqrt(in).
    """

    def __init__(self, params: Iterable, lr: float, rows: int, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, dict(lr=lr, rows=rows, momentum=momentum, weight_decay=weight_decay,
                                      by_columns=False))

    @torch.no_grad()
    def step(self) -> None:
        """Update every matrix from its gradient, which is used up: afterwards it holds what was made orthogonal."""
        for group in self.param_groups:
            for p in group["params"]:
                if not self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
                momentum = self.state[p]["momentum"]
                momentum.lerp_(p.grad, 1 - group["momentum"])
                x = _blocks(p.grad.lerp_(momentum, group["momentum"]), group)
                scale = (x.size(2) / p.size(1)) ** 0.5
                _blocks(p, group).baddbmm_(equalizer(x @ x.mT), x, beta=1 - group["lr"] * group["weight_decay"],
                                           alpha=-group["lr"] * scale)


def _blocks(matrix: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
    """A view of a matrix as blocks (n, block, length), cut along its rows or its columns; whole, and the long way."""
    if not group["rows"]:
        return (matrix if matrix.size(0) <= matrix.size(1) else matrix.T)[None]
    if group["by_columns"]:
        return matrix.view(matrix.size(0), -1, group["rows"]).permute(1, 2, 0)
    return matrix.view(-1, group["rows"], matrix.size(1))
