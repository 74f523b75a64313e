"""What a person at the terminal sees while a run goes on."""
import contextlib
import io
import os
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

from lib.config import RunConfig
from lib.runs.folder import RunFolder
from lib.training.progress import minutes_to_target


def prepare_streams() -> None:
    """Make standard output and error take whatever is written: what their encoding lacks is replaced, and one that is
    closed, or was never there as under pythonw, swallows it. No file opened later takes the number of a closed one."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (for as long as the process)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


class Screen:
    """Standard output that nobody may be looking at any more: writing to a closed terminal is no error."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stdout

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self.stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()

    @property
    def encoding(self) -> str:
        """What the bar may be drawn with."""
        return self.stream.encoding


@contextlib.contextmanager
def progress_bar(run: RunFolder, config: RunConfig) -> Iterator[Screen]:
    """Show how far a run is, from its files, twice a second below what is printed meanwhile to the screen that this
    yields. Where output is no terminal there is no bar."""
    if not sys.stdout.isatty():
        yield Screen()
        return
    from rich.console import Console  # a fifth of a second that --help need not wait for
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress("step", MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(),
                   console=Console(file=Screen()), refresh_per_second=2, transient=True)
    task, done = bar.add_task("getting ready", total=config.steps), threading.Event()

    def follow() -> None:
        while not done.wait(0.5):
            with contextlib.suppress(OSError, ValueError):  # there is no summary yet
                summary = run.read_summary()
                if summary["state"] == "running" and summary["step"]:
                    bar.update(task, completed=summary["step"], description=standing(summary))

    follower = threading.Thread(target=follow, daemon=True)
    with bar:  # which also puts what is printed above itself
        follower.start()
        try:
            yield Screen()
        finally:
            done.set()
            follower.join()


def standing(summary: dict) -> str:
    """A running run's loss, target and the time left to it, from its summary, in a few words."""
    minutes = minutes_to_target(summary)
    return (f"mean loss {summary['mean_loss']:.4f}"
            + (f", target {summary['target_loss']:g}" if summary["target_loss"] else "")
            + ("" if minutes is None else f" in some {minutes:,.0f} min"))
