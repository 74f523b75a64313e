"""What training takes of the machine, recorded while it goes on."""
import contextlib
import threading
from collections.abc import Callable

import psutil
import torch

from lib.runs.folder import RunFolder

EVERY_SEC = 10


class UsageSampler:
    """While it is entered, writes this process's memory and processor time to the run's files: after a second, every
    EVERY_SEC from then on, and at the end. `progress` gives the step and the seconds of training at a moment. Where
    that fails, the log says so, and training goes on."""

    def __init__(self, run: RunFolder, device: torch.device, progress: Callable[[], tuple[int, float]]):
        self.run, self.device, self.progress = run, device, progress
        self._process, self._done = psutil.Process(), threading.Event()
        self._thread = threading.Thread(target=self._sample_until_done, daemon=True)

    def __enter__(self) -> "UsageSampler":
        self._thread.start()
        return self

    def __exit__(self, *exc) -> None:
        self._done.set()
        self._thread.join()

    def _sample_until_done(self) -> None:
        try:
            self._sample()
        except Exception as error:  # what only shows ends nothing, and a full disk a run where its results are written
            with contextlib.suppress(OSError):
                self.run.log(f"memory and processor are recorded no more: {type(error).__name__}: {error}")

    def _sample(self) -> None:
        done, wait = False, 1
        self._process.cpu_percent()  # counts from here
        while not done:
            done, wait = self._done.wait(wait), EVERY_SEC
            step, elapsed = self.progress()
            row = dict(step=step, elapsed_sec=elapsed, memory_gb=self._process.memory_info().rss / 1e9,
                       processor_percent=self._process.cpu_percent(),
                       gpu_memory_gb=torch.cuda.memory_reserved(self.device) / 1e9
                       if self.device.type == "cuda" else None)
            self.run.append_usage(row)
