"""Where the points of a sweep run: in slots of this machine, or as jobs of a cluster."""
import os
import shutil
import subprocess
from dataclasses import dataclass

from lib.launch.driver import Job, Start
from lib.launch.point import Point
from lib.launch.sweep import Sweep


def choose_executor(sweep: Sweep, executor: str, parallel: int) -> tuple[list[str], Start]:
    """The slots of an executor, `local`, `slurm` or `submitit-local`, and what starts a point in one of them.

    There are `parallel` slots; 0: for slurm one for each point, here one for the GPUs that a point takes, or one.
    Raises InputError where what an executor takes is not there.
    """
    if executor == "local":
        return here(sweep, parallel)
    from lib.launch.cluster import jobs
    count = parallel or (len(sweep.points) if executor == "slurm" else 1)
    return [""] * count, jobs(sweep, executor)


@dataclass(frozen=True)
class Process:
    """A point that runs on this machine."""

    process: subprocess.Popen

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def withdraw(self) -> None:
        """It has begun."""


def here(sweep: Sweep, parallel: int) -> tuple[list[str], Start]:
    """The slots of this machine and what starts a point in one of them. A point sees the GPUs of its slot alone, as
    many as the point with most processes takes, and computes with its share of the cores unless OMP_NUM_THREADS is set.
    """
    wide = max((point.config.nproc_per_node for point in sweep.points if point.config.device != "cpu"), default=1)
    found = visible_gpus()
    gpus = [",".join(found[i:i + wide]) for i in range(0, len(found) - wide + 1, wide)]
    count = parallel or len(gpus) or 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def start(point: Point, gpu: str) -> Job:
        environment = {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}
        if count > 1 and "OMP_NUM_THREADS" not in os.environ:
            environment["OMP_NUM_THREADS"] = str(max(1, cores // (count * point.config.nproc_per_node)))
        return Process(point.start(sweep.output(point), environment))

    return [gpus[i % len(gpus)] if gpus else "" for i in range(count)], start


def visible_gpus() -> list[str]:
    """The GPUs that CUDA_VISIBLE_DEVICES names, or all that the driver lists, by their numbers."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [gpu for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True).stdout
    return [str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]
