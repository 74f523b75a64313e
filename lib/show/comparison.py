"""Several runs side by side."""
from dataclasses import asdict
from typing import Any

import pandas as pd

from lib.config import NOT_BEHAVIOUR, RunConfig, relative_to_root
from lib.runs.folder import RunFolder
from lib.runs.formats import in_todays_words
from lib.show.wording import label, shown, written
from lib.training.progress import known

# What the course project (ERA V4) that this one grew from published of its run: GPT-2 124M, tiny Shakespeare, stopped
# on one minibatch
COURSE_RUN = {"run": "the course project's run", "state": "one minibatch < 0.1", "loss": 0.0899, "tokens": 39_400_000,
              "elapsed_sec": 41 * 60.0, "epochs": 117.0, "text_tokens": 338_025, "device": "RTX 4060 Ti"}
OVER_SEEDS = ("corpus_loss", "shifted_loss", "step", "tokens", "elapsed_sec")
LEADERBOARD = ("corpus_loss", "shifted_loss", "known", "loss", "tokens", "epochs", "elapsed_sec")


def leaderboard(runs: list[RunFolder]) -> pd.DataFrame:
    """A row of words for each run and for the course project's, those with the lowest loss over all tokens first."""
    rows = []
    for run in runs:
        _, facts = run.read_config()
        summary = run.read_summary()
        rows.append({"run": relative_to_root(run.path), "state": summary["state"],
                     **{name: known(summary) if name == "known" else summary[name] for name in LEADERBOARD},
                     "text_tokens": facts["corpus"]["tokens"], "device": facts["machine"]["device"]})
    table = pd.DataFrame([*rows, COURSE_RUN], columns=list(rows[0])).sort_values("corpus_loss", kind="stable")
    return pd.DataFrame([shown(row) for row in table.to_dict("records")]).set_index("run")


def agreement(run: RunFolder, original: RunFolder) -> tuple[bool, str]:
    """Whether a run repeats another, and that in words: by every figure of the logged losses, or else, as on another
    machine, where sums are rounded in another order, by mean losses within 1 %."""
    both = run.read_metrics().merge(original.read_metrics(), on="step", suffixes=("", "_before"))
    name = original.path.name
    if not len(both):
        return False, f"Not reproduced: no logged step in common with {name}"
    if (both["loss"] == both["loss_before"]).all():
        return True, f"Reproduced: the losses of {len(both):,} steps that both logged are those of {name}, bit for bit"
    difference = (both["mean_loss"] / both["mean_loss_before"] - 1).abs()
    worst = both["step"][difference.idxmax()]
    words = f"the mean losses are within {difference.max():.2%} of those of {name}, at step {worst:,}"
    return bool(difference.max() <= 0.01), ("Reproduced: " if difference.max() <= 0.01 else "Not reproduced: ") + words


def differing_parameters(runs: list[RunFolder]) -> pd.DataFrame:
    """The parameters that are not the same in all runs, a row for each, a column for each run."""
    table = pd.DataFrame({relative_to_root(run.path): asdict(run.read_config()[0]) for run in runs})
    table = table.drop(index=list(NOT_BEHAVIOUR))
    return table[table.map(repr).nunique(axis=1) > 1]


def over_seeds(runs: list[RunFolder]) -> pd.DataFrame:
    """The figures of runs that differ in nothing but their seeds, a row of words for each such group: mean ± sample
    standard deviation, of how many where not all were measured. The lowest mean loss over all tokens comes first."""
    configs = [{name: value for name, value in asdict(run.read_config()[0]).items() if name not in NOT_BEHAVIOUR}
               for run in runs]
    differing = [name for name in (configs[0] if configs else ())
                 if name != "seed" and len({repr(config[name]) for config in configs}) > 1]
    groups: dict[str, list[dict[str, Any]]] = {}
    for run, config in zip(runs, configs, strict=True):
        what = ", ".join(f"{name} {config[name]}" for name in differing) or "all"
        groups.setdefault(what, []).append(run.read_summary())
    rows = []
    for what, summaries in groups.items():
        table = pd.DataFrame(summaries, columns=[*OVER_SEEDS, "state"])
        rows.append({"parameters": what, "runs": len(table), "reached": int((table["state"] == "reached").sum()),
                     "order": table["corpus_loss"].astype(float).mean(),
                     **{label(name): _mean_and_spread(name, table[name]) for name in OVER_SEEDS}})
    return pd.DataFrame(rows).sort_values("order", kind="stable").drop(columns="order").set_index("parameters")


def _mean_and_spread(name: str, values: pd.Series) -> str:
    """A figure of several runs as it is written; of one run, there is no spread."""
    known = values.dropna().astype(float)
    spread = f" ± {written(name, known.std())}" if len(known) > 1 else ""
    return written(name, known.mean()) + spread + (f" ({len(known)})" if 0 < len(known) < len(values) else "")


def changed_parameters(config: RunConfig) -> pd.DataFrame:
    """The parameters of a run that are not those of the preset `plain`, with both values."""
    rows = {name: (value, getattr(RunConfig(), name)) for name, value in asdict(config).items()
            if name not in NOT_BEHAVIOUR and value != getattr(RunConfig(), name)}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["this run", "preset plain"])


def changed_before_resuming(config: RunConfig, facts: dict[str, Any]) -> list[str]:
    """The parameters of a run that had another value before it was resumed, from what config.json has."""
    earlier = [in_todays_words(before["parameters"]) for before in facts.get("before", [])]
    return sorted({name for parameters in earlier for name, value in parameters.items()
                   if name not in NOT_BEHAVIOUR and value != getattr(config, name)})
