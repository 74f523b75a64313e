"""The processes of one run. The first, rank 0, leads: it trains as one process alone does, decides and writes all there
is, and before each piece of work that is shared it says which one. The others follow: they know of no limit, no target
and no stop, so nothing has to be agreed on."""
import datetime
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import torch
import torch.distributed as dist

TIMEOUT = datetime.timedelta(minutes=2)  # for the others to take part in a sum
PATIENCE = datetime.timedelta(minutes=10)  # for the leader to say something: it may wait for a disk


class Group:
    """The processes that torchrun started together, as its environment variables say."""

    STEP, WINDOWS, GATHER, STATE, WAIT, END = range(6)  # what the leader may say

    def __init__(self, device: torch.device):
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.size_here = int(os.environ["LOCAL_WORLD_SIZE"])  # those on this machine
        self._words = dist.new_group(backend="gloo", timeout=PATIENCE)
        self._spoke = time.monotonic()
        self.before_windows: Callable[[], None] = lambda: None  # what the leader does before it shares windows

    def say(self, what: int, *numbers: int) -> None:
        """Tell the others what to do next, and with which numbers; only the leader speaks."""
        self._spoke = time.monotonic()
        self._broadcast(torch.tensor([what, len(numbers)]))
        if numbers:
            self._broadcast(torch.tensor(numbers))

    def have_wait(self) -> None:
        """Tell the others, once a minute, that the leader is still at work: called in what it does by itself."""
        if time.monotonic() - self._spoke > 60:
            self.say(self.WAIT)

    def told(self) -> Iterator[tuple[int, list[int]]]:
        """What the leader says, with its numbers, until it says that this is the end."""
        while True:
            what, count = self._broadcast(torch.zeros(2, dtype=torch.int64)).tolist()
            if what == self.END:
                return
            if what != self.WAIT:
                yield what, self._broadcast(torch.zeros(count, dtype=torch.int64)).tolist() if count else []

    def share(self, n: int) -> range:
        """Which of n things are for this process: r n // W to (r + 1) n // W."""
        return range(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def sum(self, numbers: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in place."""
        with with_the_others():
            dist.all_reduce(numbers)
        return numbers

    def all(self, number: int) -> list[int]:
        """This number of each process, by rank."""
        numbers = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with with_the_others():
            dist.all_gather(numbers, torch.tensor([number]), group=self._words)
        return [int(each) for each in numbers]

    def hand_round(self, tensors: dict[torch.Tensor, int]) -> None:
        """Give all processes each tensor as it is in the one of this rank."""
        with with_the_others():
            for work in [dist.broadcast(x.detach(), src=rank, async_op=True) for x, rank in tensors.items()]:
                work.wait()

    def _broadcast(self, numbers: torch.Tensor) -> torch.Tensor:
        with with_the_others():
            dist.broadcast(numbers, src=0, group=self._words)
        return numbers


@contextmanager
def with_the_others() -> Iterator[None]:
    """End this process where torch says of another one that it is gone, in gloo's case by a plain RuntimeError. The run
    has not failed: it goes on with new processes from its last checkpoint."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            reason = str(error).partition("\n")[0]
            print(f"process {dist.get_rank()} lost another one: {reason}", flush=True)
            os._exit(1)  # what still waits for the lost one would keep this one
        raise


def end_with_ancestors() -> None:
    """From now on end this process, whatever it waits for, within a second or two of the launcher that started it, and
    of the notebook's kernel that started the launcher, if one did."""
    kernel = os.environ.get("LAB_KERNEL")
    ancestors = psutil.Process(os.getppid()), *([psutil.Process(int(kernel))] if kernel else [])
    threading.Thread(target=_end_with, args=ancestors, daemon=True).start()


def _end_with(*ancestors: psutil.Process) -> None:
    while all(_is_alive(process) for process in ancestors):
        time.sleep(1)
    os._exit(1)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
