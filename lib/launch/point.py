"""One point of a sweep: a run in a folder of its own, which begins, goes on, or is left alone as it stands."""
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lib.config import ROOT, RunConfig
from lib.presets import as_arguments
from lib.runs.folder import RunFolder
from lib.training.stopping import end_with_parent


@dataclass(frozen=True)
class Point:
    """A run by its name in the sweep, <number>-<axes>, and its configuration, whose out_dir is its folder."""

    name: str
    config: RunConfig

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.config.out_dir)

    def state(self) -> str:
        """How the run stands, in the words of its summary; empty before it has begun to train."""
        return self.run.read_summary()["state"] if self.run.summary_file.exists() else ""

    def is_done(self) -> bool:
        """Whether it has reached its target or a limit, and its report is written: then it is left alone."""
        return self.state() in ("reached", "limit") and self.run.report.exists()

    def command(self) -> list[str]:
        """What begins the run, or goes on with one that has begun."""
        program = [sys.executable, str(ROOT / "run_training.py")]
        if self.run.config_file.exists():
            return [*program, "--resume", self.config.out_dir]
        return [*program, *as_arguments(self.config), f"--out_dir={self.config.out_dir}", f"--note={self.config.note}"]

    def start(self, output: Path, environment: dict[str, str]) -> subprocess.Popen:
        """Start that command, with additions to this process's environment; what it prints is appended to `output`."""
        output.parent.mkdir(parents=True, exist_ok=True)
        with open(output, "ab") as file:
            return subprocess.Popen(self.command(), cwd=ROOT, env=os.environ | environment, stdin=subprocess.DEVNULL,
                                    stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                                    preexec_fn=end_with_parent if sys.platform == "linux" else None)

    def ask_to_stop(self) -> None:
        """Have the run stop after the step it is at; one that has no folder yet must be asked again."""
        if self.run.path.exists():
            self.run.stop_file.touch()
