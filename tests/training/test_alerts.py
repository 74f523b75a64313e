"""A run that no longer gets anywhere is not passed over in silence."""
import numpy as np
import pandas as pd
import pytest
import torch

from lib.model.gpt import new_model
from lib.presets import preset_config
from lib.training.alerts import alerts, leading_rate
from lib.training.optimizer import make_optimizers

STEPS = np.arange(30)


@pytest.mark.parametrize(("mean_loss", "word"), [
    (10 * 0.8 ** STEPS, None),  # falls
    (np.maximum(5.0, 10 - STEPS), "Plateau"),
    (np.where(STEPS < 20, 10 - 0.4 * STEPS, 2.5 + 0.1 * (STEPS - 20)), "Divergence"),
    (np.maximum(0.05, 10 * 0.5 ** STEPS), None),  # flat below the target
    ([5.0] * 5, None),  # too early to say
])
def test_alerts(mean_loss, word):
    metrics = pd.DataFrame({"step": range(1, len(mean_loss) + 1), "mean_loss": mean_loss})
    config = preset_config("tiny", target_loss=0.1)
    found = alerts(metrics, {"state": "running"}, config)
    assert [line.partition(":")[0] for line in found] == ([word] if word else [])
    assert all("lower --lr" in line for line in found)
    assert alerts(metrics, {"state": "reached"}, config) == []


def test_a_plateau_without_a_target_is_told_of_none():
    metrics = pd.DataFrame({"step": STEPS + 1, "mean_loss": np.maximum(5.0, 10 - STEPS)})
    line, = alerts(metrics, {"state": "running"}, preset_config("tiny", target_loss=0))
    assert line.startswith("Plateau") and "target" not in line


@pytest.mark.parametrize(("preset", "rate", "changes"), [
    ("excerpt", "muon_lr", {}), ("full", "lr", {}), ("plain", "lr", {}), ("notebook", "embedding_lr", {}),
    ("tiny", "lr", {}), ("tiny", "embedding_lr", {"embedding_lr": 5e-3}), ("tiny", "lr", {"optimizer": "muon"}),
])
def test_the_advice_names_the_rate_of_most_weights(preset, rate, changes):
    config = preset_config(preset, **changes)
    assert leading_rate(config) == rate
    distinct = {"lr": 1e-3, "muon_lr": 2e-3} | ({"embedding_lr": 3e-3} if config.embedding_lr else {})
    config = preset_config(preset, **changes | distinct)
    weights = dict.fromkeys([*distinct.values(), 0.0], 0)  # a table that is not trained has none
    for optimizer in make_optimizers(new_model(config, torch.device("cpu")), config):
        for group in optimizer.param_groups:
            weights[group["peak_lr"]] += sum(p.numel() for p in group["params"])
    assert max(weights, key=weights.get) == distinct[rate]
