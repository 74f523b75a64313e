"""Files that are whole or not there at all: whoever looks, at any moment, finds the old content or the new one."""
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


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
            _replace(path, predecessor)
        _replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _replace(path: Path, target: Path) -> None:
    """os.replace, which on Windows has to wait for whoever is just reading the target."""
    for _ in range(40 if os.name == "nt" else 0):
        try:
            return os.replace(path, target)
        except PermissionError:
            time.sleep(0.05)
    return os.replace(path, target)


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write a file of JSON through `whole_file`."""
    write_whole(json.dumps(content, indent=2) + "\n", path)


def write_whole(text: str, path: Path) -> None:
    """Write a text file through `whole_file`."""
    with whole_file(path) as file:
        file.write(text.encode("utf-8"))


def sweep(folder: Path) -> None:
    """Remove what writers that were killed left unfinished; for a moment when nobody writes below this folder."""
    for part in folder.rglob("*.part"):
        part.unlink()
