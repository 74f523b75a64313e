"""What the weights of a run can recite, kept in samples/recall.json: a page of the run is made of its files alone."""
import hashlib
import json
from typing import Any

from lib.config import InputError
from lib.files import write_json
from lib.runs.folder import RunFolder
from lib.runs.formats import read_json


def write_recall(run: RunFolder, step: int, trials: dict[str, dict[str, Any]], asked: list[dict[str, Any]]) -> None:
    """Record how many passages came back with the weights of a step, by where they began, and what was said of one,
    asked from two places. Where the folder may only be read, that it is not kept is printed."""
    try:
        write_json(_sealed({"step": step, "trials": trials, "asked": asked}), run.recall_file)
    except OSError as error:
        print(f"not kept for the report: {error.strerror}")


def read_recall(run: RunFolder) -> dict[str, Any] | None:
    """These by their names; None where nobody asked, or the file is not as it was written."""
    try:
        content = read_json(run.recall_file)
    except InputError:
        return None
    unsealed = {name: value for name, value in content.items() if name != "sha256"}
    return unsealed if _sealed(unsealed) == content else None


def _sealed(content: dict[str, Any]) -> dict[str, Any]:
    """A dictionary with its own SHA-256 in it."""
    return content | {"sha256": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}
