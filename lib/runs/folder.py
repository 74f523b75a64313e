"""Where the files of a run are, and their formats. Nothing else in the project knows a file name or a column."""
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lib.config import ROOT, InputError, RunConfig, impersonal, relative_to_root
from lib.files import write_json, write_whole
from lib.runs.formats import (
    append_row,
    drop_rows_after,
    end_of,
    in_todays_columns,
    in_todays_words,
    parse_samples,
    read_json,
    read_rows,
    sample_entry,
    sampled_rows,
    version_of,
)
from lib.runs.locks import ProcessLock

METRICS = ("step", "tokens", "loss", "mean_loss", "rate", "grad_norm", "tokens_per_sec", "elapsed_sec", "corpus_loss")
USAGE = ("step", "elapsed_sec", "memory_gb", "processor_percent", "gpu_memory_gb")
PATIENCE_SEC = 5  # to wait for a process that is about to end


class RunFolder:
    """The files of one run."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(os.path.normpath(ROOT / path))
        self.config_file = self.path / "config.json"
        self.summary_file = self.path / "summary.json"
        self.log_file = self.path / "logs" / "train.log"
        self.metrics_file = self.path / "logs" / "train_metrics.csv"
        self.usage_file = self.path / "logs" / "usage.csv"
        self.position_losses_file = self.path / "logs" / "position_losses.csv"
        self.token_losses_file = self.path / "samples" / "token_losses.csv"  # lib.runs.knowledge
        self.depth_losses_file = self.path / "samples" / "depth_losses.csv"
        self.samples_file = self.path / "samples" / "samples.txt"
        self.recall_file = self.path / "samples" / "recall.json"  # lib.runs.recall
        self.last_checkpoint = self.path / "checkpoints" / "last.pt"
        self.previous_checkpoint = self.path / "checkpoints" / "previous.pt"  # what last.pt was before
        self.best_checkpoint = self.path / "checkpoints" / "best.pt"
        self.report = self.path / "report.html"
        self.loss_curve = self.path / "logs" / "loss_curve.png"
        self.stop_file = self.path / "STOP"  # while it is there, training stops after the step it is at
        self.training = ProcessLock(self.path / ".lock", "another process is training")
        self.claim = ProcessLock(self.path / ".run_training.lock", "another run_training.py is at work")

    def notebook(self, name: str) -> Path:
        """Where the executed copy of notebooks/<name>.ipynb is."""
        return self.path / f"{name}.ipynb"

    def keep_notebook(self, name: str) -> None:
        """Move an executed notebook out of the way of the next one: <name>.1.ipynb, .2 and so on."""
        if self.notebook(name).exists():
            count = 1 + len(list(self.path.glob(f"{name}.*.ipynb")))
            self.notebook(name).rename(self.notebook(f"{name}.{count}"))

    def checkpoints(self) -> list[Path]:
        """The checkpoints to go on from that are there, the newest first."""
        return [path for path in (self.last_checkpoint, self.previous_checkpoint) if path.exists()]

    def hold(self) -> None:
        """Take the lock of the process that trains here, before it writes its first file; `lock` lets go of it.

        Raises InputError where another process holds it, after giving it a few seconds to end, and where this folder
        cannot be written to.
        """
        self.training.take(PATIENCE_SEC)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """The same lock, let go at the end."""
        self.hold()
        try:
            yield
        finally:
            self.training.let_go()

    def is_locked(self) -> bool:
        """Whether a process trains here now."""
        return self.training.is_held()

    def advice(self) -> str:
        """How to go on after a run was cut short."""
        if not self.config_file.exists():
            return "it had not begun to train: start it again"
        where = "go on from the last checkpoint" if self.checkpoints() else "nothing was saved yet: begin again"
        return f"{where} with --resume {relative_to_root(self.path)}"

    # config.json: {"parameters": {…}, and what else determined the run}

    def write_config(self, config: RunConfig, facts: dict[str, Any]) -> None:
        """Record the parameters and `facts`: corpus, versions, machine, commit. What a resumed run had before is kept,
        the latest first, under `before`."""
        before = {}
        if self.config_file.exists():
            earlier = read_json(self.config_file)
            before = {"before": [earlier, *earlier.pop("before", [])]}
        write_json({"parameters": asdict(config), **facts, **before}, self.config_file)

    def read_config(self) -> tuple[RunConfig, dict[str, Any]]:
        """The parameters and the other facts; InputError where this is not a run."""
        facts = read_json(self.config_file)
        if not isinstance(facts.get("parameters"), dict):  # that of an exported model is what transformers reads
            raise InputError(f"{self.path} is not a run: its {self.config_file.name} is of something else")
        try:
            return RunConfig(**in_todays_words(facts.pop("parameters"))), facts
        except (KeyError, TypeError, InputError) as error:
            raise InputError(f"{self.path} was written by {version_of(facts)}, whose parameters this one does not "
                             f"know: {error}") from None

    def text_sha256(self) -> str:
        """Of the text it learns; InputError where that is not recorded."""
        try:
            return self.read_config()[1]["corpus"]["sha256"]
        except (KeyError, TypeError):
            raise InputError(f"{self.config_file} does not say which text was learned: begin a new run") from None

    # summary.json: how it stands, or ended

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Record how the run stands; `heartbeat` in it tells when that was."""
        told = {"verdict": impersonal(summary["verdict"])} if "verdict" in summary else {}  # it may quote an error
        write_json(summary | told | {"heartbeat": utc_now()}, self.summary_file)

    def record_end(self, outcome: str) -> None:
        """Correct the summary where the process that trained could not: its notebook "failed", its kernel "died", or
        it was "stopped" before it began."""
        summary = read_json(self.summary_file) if self.summary_file.exists() else {}
        ended = summary.get("state") in ("reached", "limit", "stopped", "failed")  # and a cell after training raised
        if (ended and outcome == "failed") or self.is_locked():
            return
        where = f" after step {summary['step']:,}" if "step" in summary else " before its first step"
        what = {"died": f"The kernel died{where}, killed for its memory perhaps", "failed": f"Training failed{where}",
                "stopped": f"Stopped by the user{where}"}
        self.write_summary(summary | {"state": outcome, "verdict": f"{what[outcome]}; {self.advice()}"})

    def read_summary(self) -> dict[str, Any]:
        """The summary. Where it says `running` and nobody trains here, the process was killed: that is the state."""
        summary = read_json(self.summary_file)
        if "state" not in summary:
            raise InputError(f"{self.summary_file} does not say how the run stands: it is of something else")
        if summary["state"] == "running" and not self.is_locked():
            verdict = (f"Killed after step {summary['step']:,}, last heard of at {summary['heartbeat']}; "
                       f"{self.advice()}")
            summary |= {"state": "killed", "verdict": verdict}
        return summary

    # logs/train.log: lines for people; logs/train_metrics.csv: figures, in full precision

    def log(self, line: str) -> None:
        """Append a line to the log."""
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log_file, "a", encoding="utf-8") as file:
            file.write(impersonal(line) + "\n")

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Append a row with the columns METRICS; what was not measured is None and stays empty."""
        append_row(self.metrics_file, METRICS, row)

    def read_metrics(self):
        """The metrics as a pandas DataFrame, one row per logged step; empty before the first."""
        metrics = read_rows(self.metrics_file, METRICS)
        return in_todays_columns(metrics, self.read_config()[0].lr) if "lr" in metrics else metrics

    # logs/usage.csv: memory and processor; logs/position_losses.csv: by the last pass over the text

    def append_usage(self, row: dict[str, Any]) -> None:
        """Append a row with the columns USAGE."""
        append_row(self.usage_file, USAGE, row)

    def read_usage(self):
        """A pandas DataFrame of memory (GB) and processor time (percent of one core); empty before the first row."""
        return read_rows(self.usage_file, USAGE)

    def write_position_losses(self, at_cuts: Sequence[float], moved: Sequence[float]) -> None:
        """Record the mean loss at each position of windows cut from the start, and of those moved by half."""
        rows = [f"{position},{float(a)!r},{float(b)!r}\n"
                for position, (a, b) in enumerate(zip(at_cuts, moved, strict=True), 1)]
        write_whole("position,loss,moved\n" + "".join(rows), self.position_losses_file)

    def read_position_losses(self):
        """These as a pandas DataFrame with the columns position (from 1), loss and moved; empty if not measured."""
        return read_rows(self.position_losses_file, ("position", "loss", "moved"))

    def sampled_losses(self, points: int = 40) -> list[tuple[int, float]]:
        """(step, mean loss) of the first row, the last one and some between, read in the same time from any length."""
        if not self.metrics_file.exists():
            return []
        return [(int(row["step"]), float(row["mean_loss"])) for row in sampled_rows(self.metrics_file, points)]

    # samples/samples.txt: STEP, PROMPT, OUTPUT, separator

    def append_samples(self, step: int, prompt: str, outputs: list[str]) -> None:
        """Append the continuations (prompt included) drawn at a step."""
        self.samples_file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.samples_file, "a", encoding="utf-8", newline="") as file:
            file.writelines(sample_entry(step, prompt, output) for output in outputs)

    def read_samples(self, tail: int = 0) -> list[tuple[int, str, str]]:
        """All samples as (step, prompt, output); with a `tail`, those that are whole in its last so many bytes."""
        return parse_samples(end_of(self.samples_file, tail)) if self.samples_file.exists() else []

    def forget_after(self, step: int) -> None:
        """Drop rows and samples of later steps: a run resumed from `step` will write them again."""
        for table in (self.metrics_file, self.usage_file, self.token_losses_file, self.depth_losses_file):
            if table.exists():
                drop_rows_after(table, step)
        if self.samples_file.exists():
            kept = [sample_entry(*sample) for sample in self.read_samples() if sample[0] <= step]
            write_whole("".join(kept), self.samples_file)


def utc_now() -> str:
    """The time as it stands in the files of a run, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
