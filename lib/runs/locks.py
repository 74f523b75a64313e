"""Locks that a process holds in a folder, and that the system lets go however the process ends."""
import errno
import os
from pathlib import Path

from filelock import FileLock, Timeout

from lib.config import InputError


class ProcessLock:
    """One lock, a file; `holder` says in words who may hold it."""

    def __init__(self, path: Path, holder: str):
        self.path, self.holder = path, holder
        self._lock = FileLock(path)

    def take(self, patience: float = 0) -> None:
        """Take the lock, which this object may hold already. Raises InputError where another one still has it after so
        many seconds, and where the folder cannot be written to."""
        folder = self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            self._lock.acquire(timeout=patience)
        except Timeout:
            raise InputError(f"{self.holder} in {folder}: stop it, or wait for its end") from None
        except OSError as error:
            raise InputError(f"{folder} cannot be written to ({error.strerror}): begin a new run elsewhere") from None

    def let_go(self) -> None:
        """Give the lock back, however often it was taken."""
        self._lock.release(force=True)

    def is_held(self) -> bool:
        """Whether a process holds it now; also where one who may only read the folder cannot tell."""
        if not self.path.exists():
            return False
        try:
            with FileLock(self.path, timeout=0):
                return False
        except (Timeout, OSError):
            return True
