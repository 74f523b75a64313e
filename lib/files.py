"""Files that are whole or not there at all, and archives that can tell whether they are as they were written.

Whoever looks, at any moment, finds the old content of a file or the new one. torch.save writes a zip archive, and a zip
archive may end in a comment: there its SHA-256 is part of the file and goes wherever that goes, and torch.load reads it
as before.
"""
import errno
import functools
import hashlib
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

MARK = b"sha256:"
LENGTH = (len(MARK) + 64).to_bytes(2, "little")  # of the comment; the two bytes stand before it
TAIL = len(LENGTH) + len(MARK) + 64
CHUNK = 1 << 22
UNFINISHED = ".lab-part"  # ends the name of a file that is being written; no other program makes such names


@contextmanager
def whole_file(path: Path, predecessor: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write bytes into, which takes the place of `path` at the end, once the disk has it; OSError passes.

    What was at `path` before becomes `predecessor`, if one is named; the new file has its mode and owner. While it is
    written its name tells which process of which machine does that.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    part = path.with_name(f".{path.name}.{writer}{UNFINISHED}")
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            _take_after(part, path)
        if predecessor and path.exists():
            _replace(path, predecessor)
        _replace(part, path)
        _settle(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _take_after(new: Path, old: Path) -> None:
    """Give a file the mode of another and, where that is allowed, its owner and group."""
    with suppress(OSError, AttributeError):  # Windows has no owner to give
        os.chown(new, old.stat().st_uid, old.stat().st_gid)
    with suppress(OSError):  # a disk of another system may keep no mode
        shutil.copymode(old, new)


def _replace(path: Path, target: Path) -> None:
    """os.replace, which on Windows has to wait for whoever is just reading the target."""
    for _ in range(40 if os.name == "nt" else 0):
        try:
            return os.replace(path, target)
        except PermissionError:
            time.sleep(0.05)
    return os.replace(path, target)


def _settle(folder: Path) -> None:
    """Wait until the disk has the names in a folder too, where its system has a call for that."""
    with suppress(OSError):  # Windows opens no folder, and some network disks refuse the call
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def again_if_stale(read: Callable) -> Callable:
    """A reader that begins once more where another machine took the file away under it (ESTALE), as `whole_file` does
    on a disk that both share."""
    @functools.wraps(read)
    def reader(*args: Any) -> Any:
        try:
            return read(*args)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            return read(*args)
    return reader


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write a file of JSON through `whole_file`."""
    write_whole(json.dumps(content, indent=2) + "\n", path)


def write_whole(text: str, path: Path) -> None:
    """Write a text file through `whole_file`."""
    with whole_file(path) as file:
        file.write(text.encode("utf-8"))


def remove_unfinished(folder: Path) -> None:
    """Remove what writers that were killed left unfinished; for a moment when nobody writes below this folder."""
    for part in folder.rglob(f".*{UNFINISHED}"):
        part.unlink()


class Sealing:
    """A file that one zip archive without a comment is being written into; `seal` adds its digest."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def seal(self) -> None:
        """Write the comment over the two zero bytes that say there is none."""
        self._file.seek(-len(LENGTH), os.SEEK_END)
        self._file.write(_tail(self._digest))


def is_intact(path: Path) -> bool:
    """Whether a file was sealed and has not changed since."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        left = os.path.getsize(path) - TAIL
        while left > 0 and (chunk := file.read(min(CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
        digest.update(bytes(len(LENGTH)))
        return left == 0 and file.read() == _tail(digest)


def _tail(digest) -> bytes:
    return LENGTH + MARK + digest.hexdigest().encode()
