"""Where the files of a run are, and their formats. Nothing else in the project knows a file name or a column."""
import csv
import io
import json
import os
import re
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lib.config import FIXED_ON_RESUME, ROOT, InputError, RunConfig, relative_to_root
from lib.whole_file import write_whole

METRICS = ("step", "tokens", "loss", "mean_loss", "lr", "grad_norm", "tokens_per_sec", "elapsed_sec", "corpus_loss")
SEPARATOR = "=" * 80


def new_run_path(preset: str) -> Path:
    """Make and return the folder of a new run, runs/<UTC time>-<preset>; of several at once each gets its own."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    for count in range(1, 1000):
        path = ROOT / "runs" / (f"{stamp}-{preset}" + (f"-{count}" if count > 1 else ""))
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            continue
    raise InputError(f"there are a thousand runs named {stamp}-{preset}: name the folder with --out_dir")


def newest_run() -> "RunFolder":
    """The run in runs/ that was started last; InputError where there is none."""
    configs = sorted((ROOT / "runs").glob("*/config.json"), key=os.path.getmtime)
    if not configs:
        raise InputError("there is no run in runs/ yet: run the notebook 3_training, or run_training.py")
    return RunFolder(configs[-1].parent)


def open_run(config: RunConfig, preset: str, corpus_sha256: str) -> "RunFolder":
    """The folder a configuration asks for: that of the run to go on with, or a new one.

    Raises InputError where the folder holds a run already, where there is none to go on with, and where that one
    learns another text or depends on a parameter that is now different.
    """
    if config.resume:
        run = resumed_run(config.resume)
        before, facts = run.read_config()
        if facts["corpus"]["sha256"] != corpus_sha256:
            raise InputError(f"{config.input_file} is not the text that {run.path.name} learns: name that one with "
                             "--input_file, or start a new run")
        for name in FIXED_ON_RESUME:
            if getattr(config, name) != getattr(before, name):
                raise InputError(f"{name} was {getattr(before, name)} in {run.path.name} and cannot become "
                                 f"{getattr(config, name)} there: leave it out, or start a new run")
        return run
    run = RunFolder(config.out_dir or new_run_path(preset))
    if run.config_file.exists():
        raise InputError(f"{run.path} holds a run already: go on with it by --resume, or choose another --out_dir")
    run.path.mkdir(parents=True, exist_ok=True)
    return run


def resumed_run(resume: str) -> "RunFolder":
    """The run that `resume` names, by its folder or by a checkpoint in it; InputError if it cannot be gone on with."""
    path = Path(os.path.normpath(ROOT / resume))
    if path.name == "best.pt":
        raise InputError(f"{path} holds weights only: resume from the last.pt beside it")
    run = RunFolder(path.parent.parent if path.suffix == ".pt" else path)
    if not run.last_checkpoint.exists():
        raise InputError(f"there is no checkpoint {run.last_checkpoint} to go on from: start a new run")
    return run


class RunFolder:
    """The files of one run."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(os.path.normpath(ROOT / path))
        self.config_file = self.path / "config.json"
        self.summary_file = self.path / "summary.json"
        self.log_file = self.path / "logs" / "train.log"
        self.metrics_file = self.path / "logs" / "train_metrics.csv"
        self.samples_file = self.path / "samples" / "samples.txt"
        self.last_checkpoint = self.path / "checkpoints" / "last.pt"
        self.best_checkpoint = self.path / "checkpoints" / "best.pt"
        self.report = self.path / "report.html"
        self.stop_file = self.path / "STOP"  # while it is there, training stops after the step it is at

    def notebook(self, name: str) -> Path:
        """Where the executed copy of notebooks/<name>.ipynb is."""
        return self.path / f"{name}.ipynb"

    # config.json: {"parameters": {…}, and what else determined the run}

    def write_config(self, config: RunConfig, facts: dict[str, Any]) -> None:
        """Record the parameters and `facts`: corpus, versions, machine, commit. What a resumed run had before is kept,
        the latest first, under `before`."""
        before = {}
        if self.config_file.exists():
            earlier = self._read_json(self.config_file)
            before = {"before": [earlier, *earlier.pop("before", [])]}
        _write_json(self.config_file, {"parameters": asdict(config), **facts, **before})

    def read_config(self) -> tuple[RunConfig, dict[str, Any]]:
        """The parameters and the other facts; InputError where this is not a run."""
        facts = self._read_json(self.config_file)
        return RunConfig(**facts.pop("parameters")), facts

    # summary.json: how it stands, or ended

    def write_summary(self, summary: dict[str, Any]) -> None:
        _write_json(self.summary_file, summary)

    def record_failure(self, outcome: str) -> None:
        """Correct the summary of a run whose notebook "failed" or whose kernel "died", in case it could not itself."""
        summary = self.read_summary() if self.summary_file.exists() else {}
        if outcome == "failed" == summary.get("state"):
            return
        where = f" after step {summary['step']:,}" if "step" in summary else ""
        what = {"died": f"The kernel died{where}, killed for its memory perhaps", "failed": f"Training failed{where}"}
        self.write_summary(summary | {"state": outcome, "verdict": f"{what[outcome]}; the report shows where. Go on "
                                      f"from the last checkpoint with --resume {relative_to_root(self.path)}"})

    def read_summary(self) -> dict[str, Any]:
        return self._read_json(self.summary_file)

    # logs/train.log: lines for people; logs/train_metrics.csv: figures, in full precision

    def log(self, line: str) -> None:
        """Append a line to the log."""
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log_file, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Append a row with the columns METRICS; what was not measured is None and stays empty."""
        self.metrics_file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.metrics_file, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, METRICS)
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)

    def read_metrics(self):
        """The metrics as a pandas DataFrame, one row per logged step; empty before the first."""
        import pandas as pd  # half a second that run_training.py need not wait for
        if not self.metrics_file.exists():
            return pd.DataFrame(columns=list(METRICS), dtype=float)
        return pd.read_csv(self.metrics_file)

    # samples/samples.txt: STEP, PROMPT, OUTPUT, separator

    def append_samples(self, step: int, prompt: str, outputs: list[str]) -> None:
        """Append the continuations (prompt included) drawn at a step."""
        self.samples_file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.samples_file, "a", encoding="utf-8", newline="") as file:
            file.writelines(_entry(step, prompt, output) for output in outputs)

    def read_samples(self) -> list[tuple[int, str, str]]:
        """All samples as (step, prompt, output)."""
        if not self.samples_file.exists():
            return []
        samples = []
        for entry in self.samples_file.read_bytes().decode("utf-8").split(f"\n{SEPARATOR}\n")[:-1]:
            step, prompt, _, output = entry.split("\n", 3)
            samples.append((int(step.removeprefix("STEP: ")), json.loads(prompt.removeprefix("PROMPT: ")), output))
        return samples

    def forget_after(self, step: int) -> None:
        """Drop metrics and samples of later steps: a run resumed from `step` will write them again."""
        if self.metrics_file.exists():
            with open(self.metrics_file, newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, METRICS)
            writer.writeheader()
            writer.writerows(rows)
            write_whole(text.getvalue(), self.metrics_file)
        kept = [_entry(*sample) for sample in self.read_samples() if sample[0] <= step]
        write_whole("".join(kept), self.samples_file)

    def _read_json(self, path: Path) -> dict[str, Any]:
        try:
            return json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise InputError(f"{self.path} is not a run: it holds no {path.name}") from None


def _entry(step: int, prompt: str, output: str) -> str:
    """One sample as it stands in samples.txt. A model may say anything: a line like the separator is cut."""
    output = re.sub(rf"^{SEPARATOR}+$", SEPARATOR[1:], output, flags=re.MULTILINE)
    return f"STEP: {step}\nPROMPT: {json.dumps(prompt)}\nOUTPUT:\n{output}\n{SEPARATOR}\n"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_whole(json.dumps(content, indent=2) + "\n", path)


def utc_now() -> str:
    """The time as it stands in the files of a run, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
