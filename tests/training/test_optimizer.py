"""Every parameter has one optimiser, and rates follow their schedule."""
import dataclasses
import math

import pytest
import torch

from lib.model.gpt import new_model
from lib.presets import preset_config
from lib.training.muon import Muon
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


def test_wsd_is_constant_but_for_its_last_fifth():
    config = preset_config("tiny", warmup_steps=2, steps=12, lr_schedule="wsd")
    assert [rate_factor(step, config) for step in (0, 1, 10, 11)] == pytest.approx([0.5, 1, 1, 0.5])
    assert {rate_factor(step, config) for step in range(1, 10)} == {1.0}
