"""Muon's updates are orthogonal, those of other implementations, and right in every arithmetic a machine may have."""
import dataclasses
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lib.model.gpt import new_model
from lib.training import muon
from lib.training.machine import Machine, prepare_machine
from lib.training.muon import ITERATIONS, A, B, C, Muon, orthogonalized, owners
from lib.training.step import TrainingStep


@pytest.mark.parametrize("shape", [(1, 64, 768), (3, 32, 64), (2, 5, 9)])
def test_directions_are_kept_and_their_sizes_made_even(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    even = orthogonalized(x)
    sizes = torch.linalg.svdvals(even)
    assert sizes.min() > 0.6 and sizes.max() < 1.3
    assert torch.nn.functional.cosine_similarity(even.flatten(1), (u @ v).flatten(1)).min() > 0.97


def test_it_is_newton_schulz_also_for_matrices_that_are_nearly_singular():
    generator = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(4, 64, 768, generator=generator), full_matrices=False)
    x = u * torch.logspace(0, -6, 64) @ v
    expected = x.double() / x.double().norm(dim=(1, 2), keepdim=True)
    for _ in range(ITERATIONS):
        gram = expected @ expected.mT
        expected = A * expected + (B * gram + C * gram @ gram) @ expected
    even = orthogonalized(x).double()
    assert ((even - expected).norm() / expected.norm()).item() < 1e-3
    assert orthogonalized(torch.zeros(1, 4, 4)).isfinite().all()


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


def rounded(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Numbers with the mantissa that a format of so many bits keeps: 10 in TF32, 7 in bfloat16."""
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp((mantissa * 2 ** (bits + 1)).round() / 2 ** (bits + 1), exponent)


class Rounding(TorchDispatchMode):
    """Rounds what goes into matrix products, as tensor cores do, whose sums are exact beside that, and notes types."""

    def __init__(self, bits: int):
        super().__init__()
        self.bits, self.dtypes = bits, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.bmm.default, torch.ops.aten.baddbmm.default):
            self.dtypes += [x.dtype for x in args]
            args = (*args[:-2], *(rounded(x, self.bits) for x in args[-2:]))
        return func(*args, **kwargs or {})


@pytest.fixture(scope="module")
def momenta(text_file) -> list[torch.Tensor]:
    """Of the matrices of a toy after 40 steps, (1, rows, columns) each."""
    from lib.presets import preset_config
    from lib.text.corpus import load_corpus
    config = preset_config("tiny", input_file=str(text_file), optimizer="muon", muon_lr=2e-3, embedding_lr=5e-3)
    step = TrainingStep(new_model(config), load_corpus(config), config, Machine(torch.device("cpu"), None))
    for k in range(40):
        step(k)
    matrices = [state["momentum"] for state in step.optimizers[0].state.values()]
    return [(x if x.size(0) <= x.size(1) else x.T)[None].clone() for x in matrices]


class Alphas(TorchDispatchMode):
    """Notes by what numbers are multiplied that are subtracted in place."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.sub_.Tensor:
            self.seen.append((kwargs or {}).get("alpha", 1))
        return func(*args, **kwargs or {})


def nearly_rank_one(noise: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    u, v = torch.randn(1, 64, 1, generator=generator), torch.randn(1, 1, 192, generator=generator)
    return u @ v + noise * torch.randn(1, 64, 192, generator=generator)


def distance(update: torch.Tensor, expected: torch.Tensor) -> float:
    """Between two updates, as a share of the length of the second."""
    return ((update - expected).norm() / expected.norm()).item()


def test_an_update_is_right_within_3_percent_where_small_directions_are_a_thousandth_of_the_largest(momenta):
    for x in [*momenta, nearly_rank_one(1e-2), nearly_rank_one(1e-3)]:
        assert distance(orthogonalized(x).double(), orthogonalized(x.double())) < 0.03
        assert torch.linalg.matrix_norm(orthogonalized(x), 2).max() < 1.3


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_whatever_training_computes_in_its_products_are_of_fp32(config, corpus, amp):
    torch.set_float32_matmul_precision("high")  # as a notebook may have it, or a container for GPUs
    config = dataclasses.replace(config, device="cpu", amp=amp, optimizer="muon", sampled_softmax=False)
    step = TrainingStep(new_model(config), corpus, config, prepare_machine(config))
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.mkldnn.matmul.fp32_precision != "tf32"
    for p in step.model.parameters():
        p.grad = torch.ones_like(p)
    with Rounding(23) as products:  # which leaves a float32 as it is
        step.optimizers[0].step()
    assert set(products.dtypes) == {torch.float32}


def test_the_gram_matrix_does_not_stand_less():
    for bits, noise in ((10, 1e-3), (7, 1e-2)):
        x = nearly_rank_one(noise)
        with Rounding(bits):
            update = orthogonalized(x)
        assert not distance(update.double(), orthogonalized(x.double())) < 0.03


@pytest.mark.parametrize(("rows", "kinds"), [(0, 3), (16, 1)])
def test_matrices_of_one_shape_are_updated_together_as_they_are_one_by_one(rows, kinds, monkeypatch):
    torch.manual_seed(0)
    shapes = [((48, 16), False), ((64, 16), False), ((16, 16), True), ((16, 64), True)] * 2
    weights = [torch.randn(shape) for shape, _ in shapes]
    together, alone = ([torch.nn.Parameter(weight.clone()) for weight in weights] for _ in range(2))
    groups = [{"params": [p], "by_columns": by_columns} for p, (_, by_columns) in zip(together, shapes, strict=True)]
    optimizers = [Muon(groups, lr=0.1, rows=rows, weight_decay=0.1),
                  *(Muon([group | {"params": [p]}], lr=0.1, rows=rows, weight_decay=0.1)
                    for group, p in zip(groups, alone, strict=True))]
    assert not any(optimizer.batched for optimizer in optimizers)
    optimizers[0].batched = True  # as on a GPU
    assert Muon([torch.nn.Parameter(torch.empty(4, 4, device="meta"))], lr=0.1, rows=0).batched
    calls = []
    monkeypatch.setattr(muon, "orthogonalized", lambda x: calls.append(len(x)) or orthogonalized(x))
    for p, other in zip(together, alone, strict=True):
        p.grad = torch.randn_like(p)
        other.grad = p.grad.clone()
    with Alphas() as rates:
        optimizers[0].step()
    assert set(rates.seen) == {1}  # for each other one an Apple GPU compiles a graph
    for optimizer in optimizers[1:]:
        optimizer.step()
    assert len(calls) == kinds + 8 and sum(calls[:kinds]) == sum(calls[kinds:])
    for p, other, weight in zip(together, alone, weights, strict=True):
        torch.testing.assert_close(p, other)
        assert not torch.equal(p, weight)


def test_several_processes_have_about_as_much_to_update():
    blocks = 12 * [(2304, 768), (3072, 768)] + 12 * [(768, 768), (768, 3072)]  # of GPT-2, as an optimiser has them
    matrices = [torch.empty(shape, device="meta") for shape in blocks]
    for processes in (1, 2, 3, 8):
        loads = [0] * processes
        for matrix, owner in owners(matrices, processes).items():
            loads[owner] += matrix.numel()
        assert max(loads) < 1.25 * sum(loads) / processes
