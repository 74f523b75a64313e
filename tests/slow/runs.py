"""What the slow checks share: a run of the preset tiny that saves often, its processes, and how to compare two ends."""
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from lib.config import ROOT
from lib.files import is_intact
from lib.runs.checkpoint import load_checkpoint
from lib.runs.folder import RunFolder

RECIPE = ["--preset", "tiny", "--steps", "48", "--target_loss", "0.1", "--optimizer", "muon", "--dropout", "0.1",
          "--log_every", "1", "--save_every", "2", "--sample_every", "5", "--max_new_tokens", "20"]

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores in what it starts in the background


def start(*arguments: str, cwd: Path = ROOT) -> subprocess.Popen:
    """run_training.py as a person starts it, its output kept in a file `output` of the process."""
    output = tempfile.NamedTemporaryFile("w+", suffix=".txt")  # noqa: SIM115 (lives as long as the process)
    process = subprocess.Popen([sys.executable, ROOT / "run_training.py", *arguments], stdout=output,
                               stderr=subprocess.STDOUT, cwd=cwd, start_new_session=True)
    process.output = output
    return process


def begin_or_resume(folder: Path) -> subprocess.Popen:
    """Go on with the run in a folder, or begin it where nothing has been trained yet."""
    if RunFolder(folder).config_file.exists():
        return start("--resume", str(folder))
    return start(*RECIPE, "--out_dir", str(folder))


def printed(process: subprocess.Popen) -> str:
    return Path(process.output.name).read_text()


def wait_for(process: subprocess.Popen, words: str) -> None:
    """Until a run has printed these words, or has ended."""
    while words not in printed(process) and process.poll() is None:
        time.sleep(0.01)


def random_moment(process: subprocess.Popen, rng: random.Random, longest: float) -> None:
    """Wait for a moment at random: four of five in the `longest` seconds from the start of training, others before."""
    if rng.random() < 0.8:
        wait_for(process, "tokens a step")
        time.sleep(rng.uniform(0, longest))
    else:
        wait_for(process, "run folder")
        time.sleep(rng.uniform(0, 12 + longest / 2))


def kernels(process: subprocess.Popen) -> list[psutil.Process]:
    """The notebook kernels that a run_training.py has started and that are alive."""
    try:
        return [child for child in psutil.Process(process.pid).children(recursive=True)
                if "ipykernel_launcher" in " ".join(child.cmdline())]
    except psutil.Error:
        return []


def outlived(processes: list[psutil.Process], seconds: float = 15) -> list[psutil.Process]:
    """Which of these are still alive after so long."""
    return psutil.wait_procs(processes, timeout=seconds)[1]


def unreadable(folder: Path) -> list[Path]:
    """Checkpoints that are not intact, notebooks and JSON files that are empty."""
    bad = [path for path in folder.rglob("*.pt") if not is_intact(path)]
    return bad + [path for pattern in ("*.ipynb", "*.json") for path in folder.rglob(pattern)
                  if path.stat().st_size == 0]


def differences(one: Path, other: Path) -> list[str]:
    """In what the ends of two runs differ, apart from the clock."""
    found = []
    for name in ("best_checkpoint", "last_checkpoint"):
        ours, theirs = (load_checkpoint(getattr(RunFolder(path), name)) for path in (one, other))
        found += [f"{name} {where}" for where in _unequal(ours, theirs)]
    clock = ["tokens_per_sec", "elapsed_sec"]
    ours, theirs = (RunFolder(path).read_metrics().drop(columns=clock) for path in (one, other))
    if not ours.equals(theirs):
        found.append("metrics")
    if RunFolder(one).read_samples() != RunFolder(other).read_samples():
        found.append("samples")
    return found


def _unequal(ours, theirs, where: str = "") -> list[str]:
    if where.rpartition("/")[2] in ("elapsed_sec", "step_sec", "logged_sec", "restarts"):
        return []
    if isinstance(ours, dict):
        return [place for key in ours.keys() | theirs.keys()
                for place in _unequal(ours.get(key), theirs.get(key), f"{where}/{key}")]
    if isinstance(ours, (list, tuple)):
        return [] if len(ours) == len(theirs) and not any(
            _unequal(*pair) for pair in zip(ours, theirs, strict=True)) else [where]
    if hasattr(ours, "equal"):
        return [] if ours.equal(theirs) else [where]
    return [] if ours == theirs else [where]


def undisturbed(folder: Path) -> float:
    """Make the run that the others are compared with; returns the seconds of its training."""
    begin = time.monotonic()
    process = start(*RECIPE, "--out_dir", str(folder))
    code = process.wait()
    if code != 3:
        raise SystemExit(f"the undisturbed run ended with {code}:\n{printed(process)}")
    training_sec = RunFolder(folder).read_summary()["elapsed_sec"]
    print(f"undisturbed run: {time.monotonic() - begin:.1f} s, of these {training_sec:.1f} s of training", flush=True)
    return training_sec
