"""How a run is asked to stop without anything being cut in half."""
import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lib.training.group import Group


class Stopped(Exception):
    """Someone asked for a stop in the middle of something that can be done again."""


class StopRequest:
    """While it is entered, an interrupt is noted rather than raised: the loop looks at `requested` after each step.

    An interrupt is the stop button of JupyterLab (SIGINT), a SIGTERM, or a file `stop_file`, which is how another
    process asks. A second signal raises KeyboardInterrupt at once. Handlers are put back on leaving. A signal that was
    ignored before, as under nohup, stays ignored.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, stop_file: Path, group: "Group | None" = None):
        self.stop_file, self.group = stop_file, group
        self._signalled = False
        self._before = {}

    @property
    def requested(self) -> bool:
        return self._signalled or self.stop_file.exists()

    def check(self) -> None:
        """Raise Stopped if a stop was asked for; called now and then in what takes long, so the other processes of a
        group hear that there is no need to worry."""
        if self.requested:
            raise Stopped
        if self.group:
            self.group.have_wait()

    def _note(self, signum, frame) -> None:
        if self._signalled:
            raise KeyboardInterrupt
        self._signalled = True

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread set a handler
            self._before = _set(self.SIGNALS, self._note)
        return self

    def __exit__(self, *exc) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)


def _set(signals: Iterable[int], handler: Callable) -> dict[int, Any]:
    """Let a handler take those of some signals that are not ignored; returns what each had before."""
    return {signum: signal.signal(signum, handler) for signum in signals if signal.getsignal(signum) != signal.SIG_IGN}


@contextlib.contextmanager
def interrupts_become(stop_file: Path) -> Iterator[None]:
    """Turn the first Ctrl-C, SIGTERM or hang-up into `stop_file`, which training looks for.

    A second one ends this process at once with exit code 130, and its kernel within a second, as a kill would: what
    was saved stays. A stop file that was there before, or is left, is removed. A signal that whoever started this
    process had it ignore, as nohup does with a hang-up, stays ignored.
    """
    asked = False

    def ask(signum, frame):
        nonlocal asked
        if asked:
            stop_file.unlink(missing_ok=True)
            os._exit(130)
        asked = True
        stop_file.touch()

    stop_file.unlink(missing_ok=True)
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # a hang-up is a closed terminal; the last is Windows'
    before = _set([getattr(signal, name) for name in names if hasattr(signal, name)], ask)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        stop_file.unlink(missing_ok=True)


def end_with_parent() -> None:
    """Under Linux, called in a process that was just forked: have the system ask it to stop (SIGTERM) when the one that
    started it is killed; and leave to that one the signal by which a cluster announces the end of a job's time, which
    is sent to all processes of a job."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
