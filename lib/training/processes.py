"""Train a run in several processes: start them, show what they print, and begin again where one is lost."""
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from lib.config import ROOT, RunConfig
from lib.runs.folder import RunFolder
from lib.runs.formats import last_row
from lib.training.stopping import StopRequest, end_with_parent

ATTEMPTS = 4  # the first, and three after a process was lost
FIRST_SEC, AGAIN_SEC = 600, 120  # to wait for other machines, which by then try again by themselves
POLL_SEC = 0.2


def train_in_processes(run: RunFolder, config: RunConfig,
                       on_log: Callable[[dict[str, Any]], None] = lambda row: None) -> dict[str, Any]:
    """Train a run whose config.json is written in config.nproc_per_node processes, and return its summary.

    `on_log` gets the last row of the metrics, at most once a second. An interrupt is passed on as the run's stop file;
    a second one raises KeyboardInterrupt, and ends the processes. Raises RuntimeError where training failed, and where
    a process was lost ATTEMPTS times, or before training began.
    """
    def summary_bytes() -> bytes:
        return run.summary_file.read_bytes() if run.summary_file.exists() else b""

    run.training.let_go()  # the first of them takes it
    before = summary_bytes()
    with StopRequest(run.stop_file) as stop:
        for attempt in range(1, ATTEMPTS + 1):
            command = launch_command(run, config, FIRST_SEC if attempt == 1 else AGAIN_SEC)
            code = _attempt(command, run, config, stop, on_log)
            if code == 0:
                run.stop_file.unlink(missing_ok=True)
                return run.read_summary()
            if summary_bytes() == before:
                raise RuntimeError("the processes did not begin to train: what they printed says why")
            summary = run.read_summary()
            if summary["state"] == "failed":
                break
            if attempt < ATTEMPTS:
                print("a process was lost, so all begin again from the last checkpoint", flush=True)
    raise RuntimeError(f"the processes of the run ended: {summary['verdict']}")


def launch_command(run: RunFolder, config: RunConfig, patience: int) -> list[str]:
    """What starts the processes of a run on this machine: torch's launcher, which waits so many seconds for that of
    each other machine, and never starts processes again."""
    together = ["--standalone"]
    if config.nnodes > 1:
        host = config.rdzv_endpoint.rpartition(":")[0]
        together = [f"--nnodes={config.nnodes}", "--rdzv_backend=c10d", f"--rdzv_endpoint={config.rdzv_endpoint}",
                    f"--rdzv_conf=is_host=1,join_timeout={patience}", f"--local_addr={host}"]
    return [sys.executable, "-m", "torch.distributed.run", *together, f"--nproc_per_node={config.nproc_per_node}",
            "--max_restarts=0", "-m", "lib.training.worker", str(run.path)]


def environment(config: RunConfig) -> dict[str, str]:
    """What the processes find there: their share of the cores, and the kernel with which they end."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = {"OMP_NUM_THREADS": str(max(1, cores // config.nproc_per_node))}
    return share | os.environ | {"LAB_KERNEL": str(os.getpid()), "PYTHONIOENCODING": "utf-8"}  # as it is read here


def _attempt(command: list[str], run: RunFolder, config: RunConfig, stop: StopRequest,
             on_log: Callable[[dict[str, Any]], None]) -> int:
    """Start the processes once, and wait for their end; returns the exit code of torch's launcher."""
    launcher = subprocess.Popen(
        command, cwd=ROOT, env=environment(config), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
        errors="replace", start_new_session=True,  # signals to the notebook's kernel are the kernel's to pass on
        preexec_fn=end_with_parent if sys.platform == "linux" else None)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=lambda: [lines.put(line) for line in launcher.stdout], daemon=True)
    reader.start()
    view, asked = View(run, on_log), False
    try:
        while reader.is_alive() or not lines.empty():
            if stop.requested and not asked:
                asked = True
                run.stop_file.touch()
            while not lines.empty():
                print(lines.get(), end="", flush=True)
            view.renew()
            time.sleep(POLL_SEC)
        return launcher.wait()
    finally:
        launcher.kill()  # after an interrupt: the others notice within a second


class View:
    """Hands the last row of a run's metrics to `on_log` when there is a new one, at most once a second; what it raises
    is told once."""

    def __init__(self, run: RunFolder, on_log: Callable[[dict[str, Any]], None]):
        self.run, self.on_log = run, on_log
        self._shown, self._looked, self._failed = {}, time.monotonic(), False

    def renew(self) -> None:
        if time.monotonic() - self._looked < 1:
            return
        self._looked = time.monotonic()
        try:
            if (row := last_row(self.run.metrics_file)) != self._shown:
                self._shown = row
                self.on_log(row)
        except Exception as error:  # what only shows ends nothing
            if not self._failed:
                print(f"the view of the run failed, and training goes on: {type(error).__name__}: {error}", flush=True)
            self._failed = True
