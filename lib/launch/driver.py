"""Run the points of a sweep, so many at a time, here or wherever `start` sends them."""
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from lib.config import InputError, relative_to_root
from lib.launch.point import Point
from lib.launch.sweep import Sweep

POLL_SEC = 0.5


class Job(Protocol):
    """A point that was started."""

    def has_ended(self) -> bool: ...

    def withdraw(self) -> None:
        """Give it up, where it has not begun."""


Start = Callable[[Point, str], Job]  # of a point, in a slot


def run_points(sweep: Sweep, slots: Sequence[str], start: Start, say: Callable[[str], None]) -> None:
    """Run all points to their ends, one in each of the slots at a time; those that are done are left alone.

    A point that another process is at work on, started by a driver that was killed, is waited for and takes a slot.
    Once the sweep has a stop file no point is started, and those that run are asked to stop.
    """
    waiting, free = [point for point in sweep.points if not point.is_done()], list(slots)
    running: list[tuple[Point, Job, str]] = []
    refused = math.inf  # points that were at work when a cluster took no more
    say(f"{len(sweep.points):,} points, {len(sweep.points) - len(waiting):,} of them done, {len(slots):,} at a time")
    while running or (waiting and not sweep.stop_file.exists()):
        elsewhere = [point for point in waiting if point.run.claim.is_held()]
        ready = [point for point in waiting if point not in elsewhere][:max(0, len(free) - len(elsewhere))]
        at_work = len(running) + len(elsewhere)
        refused = math.inf if at_work < refused else refused
        for point in () if sweep.stop_file.exists() or refused < math.inf else ready:
            if not point.is_done():
                try:
                    job = start(point, free[0])
                except InputError as error:
                    if not running and not elsewhere:
                        raise
                    refused = len(running) + len(elsewhere)
                    say(f"{point.name}: waits until another one has ended, {error}")
                    break
                say(f"{point.name}: {'goes on' if point.run.config_file.exists() else 'begins'}")
                running.append((point, job, free.pop(0)))
            waiting.remove(point)
        time.sleep(POLL_SEC)
        for point, job, slot in tuple(running):
            if job.has_ended():
                running.remove((point, job, slot))
                free.append(slot)
                point.run.stop_file.unlink(missing_ok=True)  # it may have ended by itself before it saw that
                say(f"{point.name}: {_verdict(sweep, point)}")
            elif sweep.stop_file.exists():
                if not point.run.claim.is_held():
                    job.withdraw()
                _ask_to_stop(point)
    for point in waiting:  # those that a driver which was killed had started
        if point.run.claim.is_held():
            _ask_to_stop(point)


def _ask_to_stop(point: Point) -> None:
    with suppress(OSError):  # that of a run which has just ended
        point.ask_to_stop()


def _verdict(sweep: Sweep, point: Point) -> str:
    with suppress(OSError, InputError):
        return point.run.read_summary()["verdict"]
    return f"it did not begin to train, {relative_to_root(sweep.output(point))} says why"


def outcome(sweep: Sweep) -> str:
    """How a sweep ended, in the words of a run: "reached" and "limit" where all points did, one or more at a limit."""
    if sweep.stop_file.exists():
        return "stopped"
    states = {point.state() for point in sweep.points}
    if not states <= {"reached", "limit"}:
        return "failed"
    return "limit" if "limit" in states else "reached"
