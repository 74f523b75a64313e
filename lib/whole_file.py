"""Files that are whole or not there at all: whoever looks, at any moment, finds the old content or the new one."""
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(path: Path, predecessor: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write bytes into, which takes the place of `path` at the end, once the disk has it; OSError passes.

    What was at `path` before becomes `predecessor`, if one is named.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if predecessor and path.exists():
            os.replace(path, predecessor)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(text: str, path: Path) -> None:
    """Write a text file through `whole_file`."""
    with whole_file(path) as file:
        file.write(text.encode("utf-8"))


def sweep(folder: Path) -> None:
    """Remove what writers that were killed left unfinished; for a moment when nobody writes below this folder."""
    for part in folder.rglob("*.part"):
        part.unlink()
