"""A run that no longer gets anywhere is not passed over in silence."""
import numpy as np
import pandas as pd
import pytest

from lib.training.alerts import alerts

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
    found = alerts(metrics, {"state": "running", "target_loss": 0.1})
    assert [line.partition(":")[0] for line in found] == ([word] if word else [])
    assert alerts(metrics, {"state": "reached", "target_loss": 0.1}) == []
