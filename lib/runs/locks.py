"""Locks that a process holds in a folder, and that the system lets go however the process ends."""
import errno
import os
import secrets
import socket
import time
from contextlib import suppress
from pathlib import Path

import psutil
from filelock import FileLock, SoftFileLease, Timeout

from lib.config import InputError

LEASE_SEC = 60  # without a renewal, after which whoever held a lease counts as gone


class ProcessLock:
    """One lock, a file; `holder` says in words who may hold it.

    On a disk without locks, as clusters have some, it is a lease: a file beside it that its holder renews three times a
    minute, by which machines that share the disk tell a process that is gone from one at work. So their clocks have to
    agree within that minute, and a process that is suspended for longer counts as gone.
    """

    def __init__(self, path: Path, holder: str):
        self.path, self.holder = path, holder
        self._lock = FileLock(path, fallback_to_soft=False)
        self._lease = SoftFileLease(path.with_name(f"{path.name}.lease"), lease_duration=LEASE_SEC)

    def take(self, patience: float = 0) -> None:
        """Take the lock, which this object may hold already. Raises InputError where another one still has it after so
        many seconds, and where the folder cannot be written to."""
        folder = self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            self._acquire(patience)
        except Timeout:
            raise InputError(f"{self.holder} in {folder}: stop it, or wait for its end") from None
        except OSError as error:
            raise InputError(f"{folder} cannot be written to ({error.strerror}): begin a new run elsewhere") from None

    def let_go(self) -> None:
        """Give the lock back, however often it was taken."""
        self._lock.release(force=True)
        self._lease.release(force=True)

    def is_held(self) -> bool:
        """Whether a process holds it now; also where one who may only read the folder cannot tell."""
        if not self.path.exists():
            return False
        try:
            with FileLock(self.path, timeout=0, fallback_to_soft=False):
                return False
        except OSError as error:  # a Timeout is one too
            return error.errno != errno.ENOSYS or (self._lease_file.exists() and not self._left_behind())

    @property
    def _lease_file(self) -> Path:
        return Path(self._lease.lock_file)

    def _acquire(self, patience: float) -> None:
        try:
            self._lock.acquire(timeout=patience)
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            if left := self._left_behind():
                self._remove(left)
            self._lease.acquire(timeout=patience)

    def _left_behind(self) -> os.stat_result | None:
        """What the system says of the file of a lease whose holder is gone; None where there is none, or it is at work.
        """
        with suppress(FileNotFoundError):
            file, owner = self._lease_file.stat(), self._lease.owner
            here = owner and owner.hostname == socket.gethostname()
            if time.time() - file.st_mtime > LEASE_SEC or (here and not psutil.pid_exists(owner.pid)):
                return file
        return None

    def _remove(self, left: os.stat_result) -> None:
        """Remove a lease that was left behind, which filelock can only where a disk exchanges two names at once; put it
        back where another process has taken it meanwhile."""
        aside = self._lease_file.with_name(f"{self._lease_file.name}.{secrets.token_hex(4)}")
        with suppress(FileNotFoundError):
            self._lease_file.rename(aside)
            found = aside.stat()
            if (found.st_ino, found.st_mtime_ns) == (left.st_ino, left.st_mtime_ns):
                aside.unlink()
            else:
                aside.rename(self._lease_file)
