"""What a person should know about a run without looking for it."""
from typing import Any

import pandas as pd

from lib.config import RunConfig


def alerts(metrics: pd.DataFrame, summary: dict[str, Any], config: RunConfig) -> list[str]:
    """Sentences about a loss that grows or no longer falls, from a run's metrics and summary; none if all is well."""
    if summary["state"] == "reached" or len(metrics) < 12:  # too few rows to call anything a trend
        return []
    mean, rate = metrics["mean_loss"], leading_rate(config)
    before, since = mean.iloc[:2 * len(mean) // 3].min(), mean.iloc[2 * len(mean) // 3:]
    steps = f"over the steps {metrics['step'].iloc[-len(since)]:,} to {metrics['step'].iloc[-1]:,}"
    target = f", and the target is {config.target_loss:g}" if config.target_loss else ""
    if since.iloc[-1] > 1.1 * mean.min():
        return [f"Divergence: the mean loss is {since.iloc[-1]:.4f} and was {mean.min():.4f} before: lower --{rate}"]
    if since.min() > max(config.target_loss, 0.98 * before):
        return [f"Plateau: {steps} the mean loss fell by less than 2 %, from {before:.4f} to {since.min():.4f}"
                f"{target}: a lower --{rate}, a schedule that decays, or a larger model may help"]
    return []


def leading_rate(config: RunConfig) -> str:
    """The parameter that is the learning rate of most of a run's weights."""
    if config.optimizer == "sgd":
        return "lr"
    weights = {"lr": config.block_size * config.n_embd, "muon_lr": 0, "embedding_lr": 0}
    weights["muon_lr" if config.optimizer == "muon" else "lr"] += 12 * config.n_layer * config.n_embd ** 2
    weights["embedding_lr" if config.embedding_lr else "lr"] += 50257 * config.n_embd
    return max(weights, key=weights.get)
