"""What a default run costs besides training and sampling: kernels, imports, chapters 1, 2 and 4, the report.

    python benchmarks/overhead.py [--rounds 2]          about 6 minutes on two cores

Runs of the preset `excerpt` that are ended after few steps, in turns with some more: what is left of the wall clock
after the seconds of training, and of what chapter 4 lets the model write, must be the same for both.
"""
import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat

from lib.config import ROOT
from lib.runs.folder import RunFolder


def sampling(notebook: Path) -> float:
    """Seconds in the cells of an executed notebook that let a model write."""
    return sum(cell.metadata["papermill"]["duration"] for cell in nbformat.read(notebook, as_version=4).cells
               if "recall(" in cell.source or "sample_texts(" in cell.source)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    rounds = parser.parse_args().rounds
    command = [sys.executable, ROOT / "run_training.py", "--preset", "excerpt"]
    left = {2: [], 12: []}
    for _ in range(rounds):
        for steps, found in left.items():
            with tempfile.TemporaryDirectory(dir=ROOT / "runs") as place:
                begin = time.perf_counter()
                done = subprocess.run([*command, "--steps", str(steps), "--out_dir", Path(place, "run")],
                                      capture_output=True, text=True)
                wall = time.perf_counter() - begin
                training = RunFolder(Path(place, "run")).read_summary()["elapsed_sec"]
                written = sampling(RunFolder(Path(place, "run")).notebook("4_results"))
            found.append(wall - training - written)
            parts = {name: float(seconds)
                     for name, seconds in re.findall(r"(\w+): completed after ([\d.]+)", done.stdout)}
            parts["3_training"] -= training
            parts["4_results"] -= written
            parts["the rest"] = found[-1] - sum(parts.values())
            print(f"{steps:3} steps: {found[-1]:5.1f} s besides training and {written:.1f} s of sampling: "
                  + ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts.items()), flush=True)
    few, more = (statistics.median(found) for found in left.values())
    print(f"median {statistics.median(left[2] + left[12]):.1f} s; {(more - few) / 10:+.2f} s for each step more")


if __name__ == "__main__":
    main()
