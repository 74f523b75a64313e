"""Every parameter has one optimiser, rates follow their schedule, and Muon's updates are orthogonal."""
import dataclasses
import math

import pytest
import torch

from lib.config import preset_config
from lib.model.gpt import new_model
from lib.training.muon import ITERATIONS, A, B, C, Muon, equalizer
from lib.training.optimizer import make_optimizers, rate_factor


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_parameter_is_updated_by_one_group_with_its_rate_and_decay(config, machine, optimizer):
    config = dataclasses.replace(config, optimizer=optimizer, weight_decay=0.1, lr=1e-3, embedding_lr=5e-3,
                                 muon_lr=0.02)
    model = new_model(config, machine.device)
    groups = [(type(o), group) for o in make_optimizers(model, config) for group in o.param_groups]
    of = {id(p): (kind, group) for kind, group in groups for p in group["params"]}
    assert sum(len(group["params"]) for _, group in groups) == len(of) == len(list(model.parameters()))
    for name, p in model.named_parameters():
        kind, group = of[id(p)]
        by_muon = optimizer == "muon" and name.startswith("h.") and p.dim() == 2
        assert kind is (Muon if by_muon else torch.optim.AdamW), name
        assert group["weight_decay"] == (0.1 if p.dim() >= 2 else 0.0), name
        assert group["peak_lr"] == (0.02 if by_muon else 5e-3 if name == "wte.weight" else 1e-3), name


@pytest.mark.parametrize(("schedule", "factors"), [
    ("constant", [0.5, 1, 1, 1, 1, 1]), ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25]),
    ("cosine", [0.5, 1, 1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
])
def test_rates_rise_and_follow_their_schedule(schedule, factors):
    config = preset_config("tiny", warmup_steps=2, steps=6, lr_schedule=schedule)
    assert [rate_factor(step, config) for step in range(6)] == pytest.approx(factors)


@pytest.mark.parametrize("shape", [(1, 64, 768), (3, 32, 64), (2, 5, 9)])
def test_the_equalizer_keeps_directions_and_evens_out_their_sizes(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    even = equalizer(x @ x.mT) @ x
    sizes = torch.linalg.svdvals(even)
    assert sizes.min() > 0.6 and sizes.max() < 1.3
    assert torch.nn.functional.cosine_similarity(even.flatten(1), (u @ v).flatten(1)).min() > 0.97


def test_the_equalizer_is_newton_schulz_also_for_matrices_that_are_nearly_singular():
    generator = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(4, 64, 768, generator=generator), full_matrices=False)
    x = u * torch.logspace(0, -6, 64) @ v
    expected = x.double() / x.double().norm(dim=(1, 2), keepdim=True)
    for _ in range(ITERATIONS):
        gram = expected @ expected.mT
        expected = A * expected + (B * gram + C * gram @ gram) @ expected
    even = (equalizer(x @ x.mT) @ x).double()
    assert ((even - expected).norm() / expected.norm()).item() < 1e-3
    assert equalizer(torch.zeros(1, 4, 4)).isfinite().all()


@pytest.mark.parametrize(("shape", "block"), [((32, 128), 32), ((32, 128), 0), ((128, 32), 0)])
def test_muon_agrees_with_torchs_where_a_block_is_the_whole_matrix(shape, block):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    ours, theirs = torch.nn.Parameter(weight.clone()), torch.nn.Parameter(weight.clone())
    optimizers = (Muon([ours], lr=0.02, rows=block, weight_decay=0.1),
                  torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.95))
    for step in range(5):
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(step + 1))
        for p, optimizer in zip((ours, theirs), optimizers, strict=True):
            p.grad = gradient.clone()
            optimizer.step()
    moved, expected = ours.detach() - weight, theirs.detach() - weight
    assert torch.nn.functional.cosine_similarity(moved.flatten(), expected.flatten(), dim=0) > 0.99
    assert (moved.norm() / expected.norm()).item() == pytest.approx(1, abs=0.01)  # it computes in bfloat16


def test_muon_cuts_rows_into_heads_and_projections_along_columns():
    torch.manual_seed(0)
    p, q = torch.nn.Parameter(torch.zeros(12, 4)), torch.nn.Parameter(torch.zeros(4, 12))
    optimizer = Muon([{"params": [p]}, {"params": [q], "by_columns": True}], lr=1.0, rows=2)
    p.grad = torch.randn(12, 4)
    q.grad = p.grad.t().clone()
    optimizer.step()
    blocks = p.detach().view(6, 2, 4)
    assert torch.allclose(blocks @ blocks.mT, torch.eye(2).expand(6, 2, 2), atol=0.5)
    assert torch.allclose(q, p.t() * math.sqrt(4 / 12), atol=1e-6)  # lr / sqrt(in) per weight, for each
