"""What a person should know about a run without looking for it."""
from typing import Any

import pandas as pd


def alerts(metrics: pd.DataFrame, summary: dict[str, Any]) -> list[str]:
    """Sentences about a loss that grows or no longer falls, from a run's metrics and summary; none if all is well."""
    if summary["state"] == "reached" or len(metrics) < 12:  # too few rows to call anything a trend
        return []
    mean, target = metrics["mean_loss"], summary["target_loss"]
    before, since = mean.iloc[:2 * len(mean) // 3].min(), mean.iloc[2 * len(mean) // 3:]
    steps = f"over the steps {metrics['step'].iloc[-len(since)]:,} to {metrics['step'].iloc[-1]:,}"
    if since.iloc[-1] > 1.1 * mean.min():
        return [f"Divergence: the mean loss is {since.iloc[-1]:.4f} and was {mean.min():.4f} before: lower --lr"]
    if since.min() > max(target, 0.98 * before):
        return [f"Plateau: {steps} the mean loss fell by less than 2 %, from {before:.4f} to {since.min():.4f}, "
                f"and the target is {target:g}: a lower --lr, a schedule that decays, or a larger model may help"]
    return []
