"""Muon: momentum whose update of every matrix is made orthogonal, so that all its directions are learned at one speed.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024). torch's own Muon works in bfloat16,
which processors without such instructions emulate at a hundredth of their speed; this one works in the precision of the
weights, and on blocks of the matrices, which costs a fraction of the whole.
"""
from collections.abc import Iterable

import torch

# a x + b x^3 + c x^5 moves singular values between 0 and 1 towards 1, small ones fast; coefficients of Jordan et al.
A, B, C = 3.4445, -4.7750, 2.0315
ITERATIONS = 5


def orthogonalize(x: torch.Tensor) -> torch.Tensor:
    """The nearest matrix with orthonormal rows to each of (n, rows, columns), rows <= columns, roughly.

    Singular values that were above a hundredth of the matrix's norm end up between 0.6 and 1.3, which is enough for an
    update; no decomposition is computed.
    """
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x


class Muon(torch.optim.Optimizer):
    """Muon for weight matrices (out, in), `block` of their rows at a time; Nesterov momentum, decoupled weight decay.

    Groups with `by_columns` are cut along their columns instead: in a projection back into the residual stream, a
    head's or a hidden unit's own weights stand there. One step changes a weight by about lr / sqrt(in).
    """

    def __init__(self, params: Iterable, lr: float, block: int, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, dict(lr=lr, block=block, momentum=momentum, weight_decay=weight_decay,
                                      by_columns=False))

    @torch.no_grad()
    def step(self) -> None:
        """Update every matrix from its gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if not self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
                momentum = self.state[p]["momentum"]
                momentum.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(momentum, group["momentum"])
                if group["by_columns"]:
                    update = update.t()
                length, width = update.shape
                update = orthogonalize(update.reshape(-1, group["block"], width)).view(length, width)
                if group["by_columns"]:
                    update = update.t()
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * (width / p.size(1)) ** 0.5)
