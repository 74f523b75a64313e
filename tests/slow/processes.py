"""Kill and stop processes of runs that two train together, through the notebook. Each run that is killed ends as if
nothing had happened, by itself or, where its kernel was killed, by --resume; and no process is left.

    python tests/slow/processes.py FOLDER [--shard] [what ...]

FOLDER keeps the undisturbed run; with --shard each process has a part of the weights. What: rank0, rank1, launcher,
kernel (kill -9); STOP, button, SIGINT, SIGTERM; without them, five times both ranks and once all others: half an hour
on one core.
"""
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil

from lib.publish.notebooks import is_complete
from lib.runs.folder import RunFolder
from runs import differences, kernels, outlived, printed, start, wait_for

RECIPE = ["--preset", "tiny", "--steps", "150", "--target_loss", "0.1", "--optimizer", "muon", "--amp", "off",
          "--dropout", "0.1", "--log_every", "1", "--save_every", "2", "--sample_every", "20", "--nproc_per_node", "2"]
KILLS, STOPS = ("rank0", "rank1", "launcher", "kernel"), ("STOP", "button", "SIGINT", "SIGTERM")


def processes(run: RunFolder) -> dict[str, psutil.Process]:
    """The workers of a run by the names of their ranks, and the launcher that started them."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or ()
        if str(run.path) in words and "lib.training.worker" in words:
            launcher = "torch.distributed.run" in words
            found["launcher" if launcher else f"rank{process.environ()['RANK']}"] = process
    return found


def train(run: RunFolder, rng: random.Random):
    """A run that has trained for some seconds, and all its processes but that of run_training.py."""
    driver = start(*RECIPE, "--out_dir", str(run.path))
    wait_for(driver, "tokens a step")
    time.sleep(rng.uniform(1, 3))
    return driver, processes(run) | {"kernel": kernels(driver)[0]}


def kill(victim: str, run: RunFolder, whole: Path, rng: random.Random) -> bool:
    """Whether a run ends as it should of which a process is killed."""
    driver, started = train(run, rng)
    step = run.read_summary()["step"]
    started[victim].kill()
    left = outlived([process for name, process in started.items() if name != "kernel" or name == victim])
    code = driver.wait()
    outcome = f"{victim} killed about step {step}: "
    if victim == "kernel":
        outcome += f"exit code {code}, then "
        driver = start("--resume", str(run.path))
        code = driver.wait()
    summary, found = run.read_summary(), differences(run.path, whole)
    print(f"{outcome}exit code {code}, gone on with from step {summary['restarts']}, {len(left)} processes left after "
          f"15 s, differs from the undisturbed run in {found}", flush=True)
    good = code == 3 and not left and not found and (victim == "kernel" or "a process was lost" in printed(driver))
    print("" if good else printed(driver), end="", flush=True)
    return good


def stop(how: str, run: RunFolder, rng: random.Random) -> bool:
    """Whether a run ends as it should that is asked to stop by its STOP file, by JupyterLab's button (an interrupt of
    the kernel's process group), or by a signal to run_training.py."""
    driver, started = train(run, rng)
    begin = time.monotonic()
    if how == "STOP":
        run.stop_file.touch()
    elif how == "button":
        os.killpg(started["kernel"].pid, signal.SIGINT)
    else:
        driver.send_signal(signal.Signals[how])
    workers = [process for name, process in started.items() if name != "kernel"]
    left = outlived(workers)
    seconds, code, state = time.monotonic() - begin, driver.wait(), run.read_summary()["state"]
    left += outlived([started["kernel"]], 1)
    complete = is_complete(run.notebook("3_training"))
    print(f"{how}: {state}, all workers gone after {seconds:.1f} s, exit code {code}, {len(left)} processes left, "
          f"last.pt {run.last_checkpoint.exists()}, a complete notebook {complete}", flush=True)
    good = state == "stopped" and code == 130 and complete and not left and run.last_checkpoint.exists()
    print("" if good else printed(driver), end="", flush=True)
    return good


def main(place: Path, what: list[str]) -> int:
    os.environ["OMP_NUM_THREADS"] = "1"
    rng, wrong, whole = random.Random(), [], place / "whole"
    if what[:1] == ["--shard"]:
        RECIPE.append(what.pop(0))
    if not whole.exists():
        driver = start(*RECIPE, "--out_dir", str(whole))
        if driver.wait() != 3:
            raise SystemExit(f"the undisturbed run did not end at its limit\n{printed(driver)}")
    for each in what or [*["rank0", "rank1"] * 5, "launcher", "kernel", *STOPS]:
        run = RunFolder(place / "run")
        shutil.rmtree(run.path, ignore_errors=True)
        if not (kill(each, run, whole, rng) if each in KILLS else stop(each, run, rng)):
            wrong.append(each)
    print("wrong:", len(wrong), *wrong)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute(), sys.argv[2:]))
