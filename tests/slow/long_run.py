"""A simulated run of ten hours, 200,000 logged steps, through papermill: what it leaves, and what it costs the parent.

    python tests/slow/long_run.py [steps]       default 200,000; about 6 minutes on two cores

The loop, the files, the live view and the notebook are the real ones; only the step is made up, and the clock, which
says that each took 0.18 s.
"""
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbformat
import psutil

from lib.config import ROOT
from lib.publish import notebooks
from lib.publish.engine import CarefulManager
from lib.publish.notebooks import run_notebook
from lib.runs.folder import RunFolder

SIMULATION = """
import lib.training.trainer, lib.show.live, random, time
from lib.training.progress import StepResult
class Clock:
    now = 0.0
    def perf_counter(self):
        return self.now
    monotonic = perf_counter
clock = lib.training.trainer.time = lib.show.live.time = Clock()

def step(self, number):
    clock.now += 0.18
lib.training.trainer.TrainingStep.__call__ = step
lib.training.trainer.TrainingStep.read = lambda self: [StepResult(5 + random.random(), 1.0, 3e-4)]
"""


def main(steps: int) -> int:
    source = nbformat.read(ROOT / "notebooks" / "3_training.ipynb", as_version=4)
    source.cells.insert(2, nbformat.v4.new_code_cell(SIMULATION))
    saves, memory, done = [], [], threading.Event()
    save = CarefulManager.save

    def timed(self, **kwargs):
        begin = time.perf_counter()
        save(self, **kwargs)
        saves.append(time.perf_counter() - begin)

    def watch():
        while not done.wait(5):
            memory.append(psutil.Process(os.getpid()).memory_info().rss / 1e6)

    CarefulManager.save = timed
    with tempfile.TemporaryDirectory() as place:
        notebooks.SOURCES = Path(place)
        nbformat.write(source, Path(place, "3_training.ipynb"))
        os.environ["PYTHONPATH"] = str(ROOT)
        threading.Thread(target=watch, daemon=True).start()
        begin = time.monotonic()
        out = Path(place, "out.ipynb")
        parameters = dict(preset="tiny", steps=steps, log_every=1, save_every=10 ** 9, sample_every=10 ** 9,
                          target_loss=1.0, out_dir=str(Path(place, "run")))
        outcome = run_notebook("3_training", out, parameters)
        done.set()
        rows = len(RunFolder(Path(place, "run")).read_metrics())
        size = out.stat().st_size / 1e6
    half = len(memory) // 2
    print(f"{outcome}: {rows:,} rows in {time.monotonic() - begin:.0f} s; notebook {size:.2f} MB; {len(saves)} saves, "
          f"{max(saves):.3f} s at most; memory of the parent {max(memory[:half]):.0f} MB in the first half, "
          f"{max(memory[half:]):.0f} MB in the second")
    flat = max(memory[half:]) <= 1.1 * max(memory[:half])
    return int(outcome != "completed" or rows != steps or size >= 2 or max(saves) >= 0.2 or not flat)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000))
