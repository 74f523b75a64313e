"""What the benchmarks say of a run is right."""
import dataclasses

import pytest
import torch

from benchmarks.flops import step_flops
from lib.training.muon import ITERATIONS


@pytest.mark.parametrize(("rows", "blocks"), [
    (0, [(1, 64, 192), (1, 64, 64), (1, 64, 256), (1, 64, 256)]),
    (16, [(12, 16, 64), (4, 16, 64), (16, 16, 64), (16, 16, 64)]),
    (8, [(24, 8, 64), (8, 8, 64), (32, 8, 64), (32, 8, 64)]),
])
@pytest.mark.parametrize("amp", [None, torch.bfloat16])
def test_muon_is_counted_in_the_form_that_runs(config, corpus, rows, blocks, amp):
    """two for a multiplication and an addition: on x in bf16, where blocks are not too narrow, else on its square"""
    config = dataclasses.replace(config, optimizer="muon", muon_rows=rows)
    products = 0
    for n, r, length in config.n_layer * blocks:
        if amp is None or length > 4 * r:
            # x @ x.T and back; five polynomials, their four products, and four times two for the next square
            products += n * (2 * r * r * length + (5 + 4 + 8) * r ** 3)
        else:
            products += ITERATIONS * n * (2 * r * r * length + r ** 3)
    first, later, optimizer = step_flops(config, corpus, amp)
    assert optimizer == 2 * products
    assert first > later > optimizer
