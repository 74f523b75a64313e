"""Where the files of a run are, and their formats. Nothing else in the project knows a file name or a column."""
import csv
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lib.config import FIXED_ON_RESUME, ROOT, InputError, RunConfig, relative_to_root
from lib.seal import is_intact
from lib.whole_file import write_whole

METRICS = ("step", "tokens", "loss", "mean_loss", "lr", "grad_norm", "tokens_per_sec", "elapsed_sec", "corpus_loss")
SEPARATOR = "=" * 80
PATIENCE_SEC = 5  # to wait for a process that is about to end


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

    Raises InputError where the folder holds a run already or cannot be written to, where there is none to go on with,
    and where that one learns another text or depends on a parameter that is now different.
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
    try:
        run = RunFolder(config.out_dir or new_run_path(preset))
        if run.config_file.exists():
            raise InputError(f"{run.path} holds a run already: go on with it by --resume, or choose another --out_dir")
        run.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"a run cannot be written there: {error}. Choose another --out_dir") from None
    if not os.access(run.path, os.W_OK):
        raise InputError(f"{run.path} cannot be written to: choose another --out_dir")
    return run


def resumed_run(resume: str) -> "RunFolder":
    """The run that `resume` names, by its folder or by its last.pt.

    Raises InputError where it cannot be gone on with: no run, one that another process trains, no intact checkpoint.
    """
    path = Path(os.path.normpath(ROOT / resume))
    run = RunFolder(path.parent.parent if path.suffix == ".pt" else path)
    if path.suffix == ".pt" and path != run.last_checkpoint:
        raise InputError(f"a run goes on from its last.pt, not from {path}: name that, or the run's folder")
    if not run.config_file.exists():
        raise InputError(f"{run.path} holds no run that has begun to train: start a new one")
    with run.lock():
        damaged = [checkpoint for checkpoint in run.checkpoints() if not is_intact(checkpoint)]
    if damaged and damaged == run.checkpoints():
        raise InputError(f"{' and '.join(map(str, damaged))} cannot be gone on from: the digest does not fit, so it is "
                         "damaged or not a checkpoint of this project. Start a new run")
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
        self.previous_checkpoint = self.path / "checkpoints" / "previous.pt"  # what last.pt was before
        self.best_checkpoint = self.path / "checkpoints" / "best.pt"
        self.report = self.path / "report.html"
        self.loss_curve = self.path / "logs" / "loss_curve.png"
        self.stop_file = self.path / "STOP"  # while it is there, training stops after the step it is at

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

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held while a process trains here, and let go by the system however that ends.

        Raises InputError where another process holds it, after giving it a few seconds to end.
        """
        try:
            with FileLock(self.path / ".lock", timeout=PATIENCE_SEC):
                yield
        except Timeout:
            raise InputError(f"another process is training in {self.path}: stop it, or wait for its end") from None

    def is_locked(self) -> bool:
        """Whether a process trains here now."""
        try:
            with FileLock(self.path / ".lock", timeout=0):
                return False
        except Timeout:
            return True

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
            earlier = self._read_json(self.config_file)
            before = {"before": [earlier, *earlier.pop("before", [])]}
        _write_json(self.config_file, {"parameters": asdict(config), **facts, **before})

    def read_config(self) -> tuple[RunConfig, dict[str, Any]]:
        """The parameters and the other facts; InputError where this is not a run."""
        facts = self._read_json(self.config_file)
        return RunConfig(**facts.pop("parameters")), facts

    # summary.json: how it stands, or ended

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Record how the run stands; `heartbeat` in it tells when that was."""
        _write_json(self.summary_file, summary | {"heartbeat": utc_now()})

    def record_end(self, outcome: str) -> None:
        """Correct the summary where the process that trained could not: its notebook "failed", its kernel "died", or
        it was "stopped" before it began."""
        summary = self._read_json(self.summary_file) if self.summary_file.exists() else {}
        if summary.get("state") == outcome == "failed" or self.is_locked():
            return
        where = f" after step {summary['step']:,}" if "step" in summary else " before its first step"
        what = {"died": f"The kernel died{where}, killed for its memory perhaps", "failed": f"Training failed{where}",
                "stopped": f"Stopped by the user{where}"}
        self.write_summary(summary | {"state": outcome, "verdict": f"{what[outcome]}; {self.advice()}"})

    def read_summary(self) -> dict[str, Any]:
        """The summary. Where it says `running` and nobody trains here, the process was killed: that is the state."""
        summary = self._read_json(self.summary_file)
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

    def sketch_losses(self, points: int = 40) -> list[tuple[int, float]]:
        """(step, mean loss) of the first row, the last one and some between, read in the same time from any length."""
        if not self.metrics_file.exists():
            return []
        rows = {}
        with open(self.metrics_file, "rb") as file:
            header, begin = file.readline().decode().strip().split(","), file.tell()
            size = self.metrics_file.stat().st_size
            for place in sorted({begin, max(begin, size - 300), *range(begin, size, max(1, (size - begin) // points))}):
                file.seek(max(0, place - 1))
                file.readline()  # the rest of the row that this place is in
                for line in file if place + 300 >= size else [file.readline()]:
                    row = dict(zip(header, line.decode().strip().split(","), strict=False))
                    if line.endswith(b"\n"):
                        rows[int(row["step"])] = float(row["mean_loss"])
        return sorted(rows.items())

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
        for entry in self.samples_file.read_bytes().decode("utf-8", "replace").split(f"\n{SEPARATOR}\n")[:-1]:
            step, prompt, _, output = entry.split("\n", 3)
            samples.append((int(step.removeprefix("STEP: ")), json.loads(prompt.removeprefix("PROMPT: ")), output))
        return samples

    def forget_after(self, step: int) -> None:
        """Drop metrics and samples of later steps: a run resumed from `step` will write them again."""
        if self.metrics_file.exists():
            lines = self.metrics_file.read_bytes().decode("utf-8").splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]  # a full disk may have cut the last one
            kept = [line for line in whole[1:] if int(line.partition(",")[0]) <= step]
            write_whole("".join(whole[:1] + kept), self.metrics_file)
        if self.samples_file.exists():
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
