"""A sweep whose driver is killed half-way and started again: what was done is not touched, the rest goes on.

    python tests/slow/sweep.py EXECUTOR [begin | go_on]     local or submitit-local; about 8 minutes on one core

Without a second word, both parts. The folder is /tmp/sweep-EXECUTOR, and goes away at the end.
"""
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import psutil

from lib.config import ROOT, relative_to_root
from lib.launch.sweep import Sweep, read_sweep

FILE = """preset: tiny
amp: off
steps: 60
save_every: 10
target_loss: 3.8
grid:
  lr: [3e-3, 6e-3]
  seed: [1, 2, 3]
list:
  - {optimizer: adamw}
  - {optimizer: muon}
"""
DONE_FIRST = 5  # points, before the driver is killed


def start(sweep: Sweep, file: Path, executor: str) -> subprocess.Popen:
    """The driver, as a person starts it."""
    return subprocess.Popen([sys.executable, ROOT / "run_training.py", "--sweep", file, "--executor", executor,
                             "--parallel", "2", "--out_dir", sweep.folder], cwd=ROOT, start_new_session=True)


def times(sweep: Sweep) -> dict[Path, int]:
    """When each file of the points that are done was written, their locks aside."""
    return {path: path.stat().st_mtime_ns for point in sweep.points if point.is_done()
            for path in point.run.path.rglob("*") if path.is_file() and not path.name.endswith(".lock")}


def processes_of(sweep: Sweep) -> list[psutil.Process]:
    """Those with its folder in their command."""
    return [process for process in psutil.process_iter(["cmdline"])
            if str(sweep.folder) in " ".join(process.info["cmdline"] or ())]


def is_half_way(point) -> bool:
    """Whether a point trains, has saved, and has some way to go."""
    if not point.run.checkpoints():
        return False
    summary = point.run.read_summary()
    return summary["state"] == "running" and summary["step"] < 40


def begin(sweep: Sweep, file: Path, executor: str) -> None:
    """Run until some points are done and another one has saved; then kill the driver."""
    driver = start(sweep, file, executor)
    try:
        while driver.poll() is None:
            done = sum(point.is_done() for point in sweep.points)
            if done >= DONE_FIRST and any(map(is_half_way, sweep.points)):
                break
            time.sleep(0.2)
    finally:
        driver.kill()
        driver.wait()
    print(f"killed the driver after {done} points", flush=True)
    if executor != "local":  # whose points are asked to stop; submitit's jobs would go on
        for process in processes_of(sweep):
            process.kill()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and any(point.run.claim.is_held() for point in sweep.points):
        time.sleep(0.5)
    print(f"a minute later at most: {len(processes_of(sweep))} processes of it left, states "
          f"{[point.state() for point in sweep.points if point.state()]}", flush=True)


def go_on(sweep: Sweep, file: Path, executor: str) -> list[str]:
    """Start the driver again, to the end; returns what is wrong then."""
    before = times(sweep)
    under_way = [point for point in sweep.points if point.state() and not point.is_done()]
    driver = start(sweep, file, executor)
    try:
        code = driver.wait()
    finally:
        driver.terminate()
    text = (sweep.folder / "compare_runs.html").read_text("utf-8")
    executed = nbformat.read(sweep.folder / "compare_runs.ipynb", as_version=4)
    compared = next(output.text for cell in executed.cells for output in cell.get("outputs", ())
                    if output.get("name") == "stdout")
    restarts = {point.name: point.run.read_summary()["restarts"] for point in under_way}
    touched = [path for path, when in before.items() if path.stat().st_mtime_ns != when]
    print(f"exit code {code}; {compared.splitlines()[0]} compared; {len(before)} files of points that were done, "
          f"touched: {touched}; gone on with, from steps: {restarts}", flush=True)
    wrong = [f"exit code {code}"] if code not in (0, 3) else []
    wrong += [f"{point.name} is {point.state()}" for point in sweep.points if not point.is_done()]
    wrong += [f"{point.name} is not compared" for point in sweep.points if point.name not in text]
    wrong += [f"{path} was touched" for path in touched]
    return wrong + [f"{name} began anew" for name, steps in restarts.items() if not steps]


def bad_point(folder: Path) -> list[str]:
    """What is wrong with how a sweep with one bad point among good ones is refused."""
    file = folder / "bad.yaml"
    file.write_text(FILE.replace("seed: [1, 2, 3]", "target_loss: [4, 1e-4]").replace("target_loss: 3.8\n", ""))
    begin = time.monotonic()
    done = subprocess.run([sys.executable, ROOT / "run_training.py", "--sweep", file, "--out_dir", folder / "bad"],
                          capture_output=True, text=True)
    seconds = time.monotonic() - begin
    print(f"a bad point: exit code {done.returncode} after {seconds:.1f} s: {done.stderr.strip()}", flush=True)
    return ["a bad point"] if done.returncode != 2 or seconds > 5 or (folder / "bad").exists() else []


def main(executor: str, part: str = "") -> int:
    place = Path(tempfile.gettempdir()) / f"sweep-{executor}"
    place.mkdir(exist_ok=True)
    file = place / "twelve.yaml"
    file.write_text(FILE)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sweep, wrong = read_sweep(file, relative_to_root(place / "runs")), []
    if part != "go_on":
        wrong += bad_point(place)
        begin(sweep, file, executor)
    if part != "begin":
        wrong += go_on(sweep, file, executor)
        shutil.rmtree(place)
    print("wrong:", wrong or 0)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
