"""Files that can tell whether they are as they were written: the SHA-256 of a zip archive, kept as its comment.

torch.save writes a zip archive, and a zip archive may end in a comment. There the digest is part of the file and goes
wherever that goes, and torch.load reads it as before.
"""
import hashlib
import os
from pathlib import Path
from typing import BinaryIO

MARK = b"sha256:"
LENGTH = (len(MARK) + 64).to_bytes(2, "little")  # of the comment; the two bytes stand before it
TAIL = len(LENGTH) + len(MARK) + 64
CHUNK = 1 << 22


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
