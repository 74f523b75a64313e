"""How the files of a run are written and read: rows, samples, and what earlier versions wrote."""
import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib.config import InputError
from lib.files import again_if_stale, write_whole

SEPARATOR = "=" * 80  # behind a sample


def append_row(path: Path, columns: Sequence, row: dict[Any, Any]) -> None:
    """Append a row to a table of comma-separated values, which begins with the names of its columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)


@again_if_stale
def read_rows(path: Path, columns: Sequence[str]):
    """Such a table as a pandas DataFrame; without rows where there is none."""
    import pandas as pd  # half a second that run_training.py need not wait for
    if not path.exists():
        return pd.DataFrame(columns=list(columns), dtype=float)
    return pd.read_csv(path)


def version_of(facts: dict[str, Any]) -> str:
    """What of this project wrote a config.json, in words."""
    commit = facts.get("code", {}).get("commit")
    return f"commit {commit[:7]} of this project" if commit else "another version of this project"


def in_todays_words(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a run as they are called now; until 2026-11 there were `tag`, and `muon_blocks` in words."""
    now = {name: value for name, value in parameters.items() if name not in ("tag", "muon_blocks")}
    if "muon_blocks" in parameters:
        whole = parameters["muon_blocks"] == "whole"
        now["muon_rows"] = 0 if whole else parameters["n_embd"] // parameters["n_head"]
    return now


def in_todays_columns(metrics, peak_lr: float):
    """The metrics of a run, a DataFrame, with the columns they have now; until 2026-11 `lr` stood where `rate` does."""
    return metrics.assign(lr=metrics["lr"] / peak_lr).rename(columns={"lr": "rate"})


def sample_entry(step: int, prompt: str, output: str) -> str:
    """One sample as it stands in samples.txt. A model may say anything: a line like the separator is cut."""
    output = re.sub(rf"^{SEPARATOR}+$", SEPARATOR[1:], output, flags=re.MULTILINE)
    return f"STEP: {step}\nPROMPT: {json.dumps(prompt)}\nOUTPUT:\n{output}\n{SEPARATOR}\n"


def parse_samples(text: str) -> list[tuple[int, str, str]]:
    """All samples in what `sample_entry` made, as (step, prompt, output); one whose beginning is not there is none."""
    samples = []
    for entry in text.split(f"\n{SEPARATOR}\n")[:-1]:
        if not entry.startswith("STEP: "):
            continue
        step, prompt, _, output = entry.split("\n", 3)
        samples.append((int(step.removeprefix("STEP: ")), json.loads(prompt.removeprefix("PROMPT: ")), output))
    return samples


@again_if_stale
def end_of(path: Path, length: int) -> str:
    """The last so many bytes of a file as text, 0 for all of it."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - length) if length else 0)
        return file.read().decode("utf-8", "replace")


@again_if_stale
def sampled_rows(path: Path, points: int) -> list[dict[str, str]]:
    """The first row of a table, the last one and some between, in order, read in the same time from any length."""
    rows = {}
    with open(path, "rb") as file:
        header, begin = file.readline().decode().strip().split(","), file.tell()
        size = path.stat().st_size
        for place in sorted({begin, max(begin, size - 300), *range(begin, size, max(1, (size - begin) // points))}):
            file.seek(max(0, place - 1))
            file.readline()  # the rest of the row that this place is in
            for line in file if place + 300 >= size else [file.readline()]:
                if line.endswith(b"\n"):
                    row = dict(zip(header, line.decode().strip().split(","), strict=False))
                    rows[int(row["step"])] = row
    return [rows[step] for step in sorted(rows)]


def last_row(path: Path) -> dict[str, float | None]:
    """The numbers in the last row of a table, None where nothing was measured; empty before the first one."""
    rows = sampled_rows(path, 1) if path.exists() else []
    return {name: json.loads(value or "null") for name, value in rows[-1].items()} if rows else {}


def drop_rows_after(path: Path, step: int) -> None:
    """Take the rows of later steps out of a table, and one that a full disk cut."""
    whole = [line for line in path.read_bytes().decode("utf-8").splitlines(keepends=True) if line.endswith("\n")]
    kept = [line for line in whole[1:] if int(line.partition(",")[0]) <= step]
    write_whole("".join(whole[:1] + kept), path)


def read_json(path: Path) -> dict[str, Any]:
    """The dictionary in a file of a run's folder; InputError where there is none that can be read."""
    try:
        content = json.loads(again_if_stale(path.read_text)("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path.parent} is not a run: it holds no {path.name}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:  # not JSON, or not UTF-8
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path} is empty, cut or of something else, so the run cannot be read: begin a new one")
    return content
