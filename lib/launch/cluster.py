"""Points as jobs of a cluster, through submitit, which the extra `cluster` installs."""
import functools
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib.config import ROOT, InputError
from lib.launch.driver import Job, Start
from lib.launch.point import Point
from lib.launch.sweep import Sweep

DAY = 24 * 60  # minutes: how long a job may take unless the sweep's file says otherwise; submitit's own 5 are few
REQUEUES = 1000  # a run whose time is up goes on in the same job: it has limits of its own


@dataclass(frozen=True)
class PointJob:
    """What submitit pickles and calls on a machine of the cluster."""

    point: Point
    output: Path

    def __call__(self) -> int:
        """Run the point to its end, and return its exit code."""
        while self.point.run.claim.is_held():  # by the job of a driver that was killed
            time.sleep(5)
        return 0 if self.point.is_done() else self.point.start(self.output, {}).wait()

    def checkpoint(self):
        """When the job's time is nearly up, submitit calls this: let the run save, and be called again in another."""
        from submitit.helpers import DelayedSubmission
        while self.point.run.is_locked():  # until it has saved; what is left of its chapters is for the next job
            self.point.ask_to_stop()
            time.sleep(1)
        return DelayedSubmission(self)


@dataclass
class Submitted:
    """A job that submitit knows."""

    job: Any
    withdrawn: bool = field(default=False, init=False)

    def has_ended(self) -> bool:
        return self.withdrawn or self.job.done()

    def withdraw(self) -> None:
        self.job.cancel(check=False)
        self.withdrawn = True


def jobs(sweep: Sweep, executor: str) -> Start:
    """What submits a point of a sweep: to Slurm, or for `submitit-local` to this machine.

    Raises InputError where submitit or Slurm is not there, and where it knows no such setting.
    """
    try:
        import submitit
        from submitit.core.utils import FailedJobError
    except ImportError:
        raise InputError(f"--executor {executor} takes submitit: install the extra by pip install -e \".[cluster]\"") \
            from None
    if executor == "slurm" and not shutil.which("sbatch"):
        raise InputError("there is no Slurm here, that is no sbatch: start the sweep where there is, or leave "
                         "--executor out")
    options = {"slurm_max_num_timeout": REQUEUES} if executor == "slurm" else {}

    @functools.cache
    def machine(place: Path) -> submitit.AutoExecutor:
        made = submitit.AutoExecutor(place, cluster=executor.removeprefix("submitit-"), **options)
        made.update_parameters(name="sweep", **{"timeout_min": DAY} | sweep.cluster)
        return made

    try:
        with tempfile.TemporaryDirectory() as trial:  # it makes its folder at once
            machine(Path(trial))
    except (NameError, AssertionError, ValueError, TypeError) as error:
        raise InputError(f"slurm: {error}") from None
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # of the jobs

    def start(point: Point, slot: str) -> Job:
        try:
            return Submitted(machine(sweep.folder / "jobs").submit(PointJob(point, sweep.output(point))))
        except FailedJobError as error:
            raise InputError(f"Slurm took no job: {error}") from None

    return start
