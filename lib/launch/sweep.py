"""A sweep: a file that says which runs, each of them a point with a folder of its own.

    preset: tiny             # what all points start from; without it, what run_training.py would take
    steps: 200               # any parameter, the same in all points
    grid:                    # every combination of these values
      lr: [1e-3, 3e-3]
      seed: [1, 2, 3]
    list:                    # and that for each of these
      - {optimizer: adamw}
      - {optimizer: muon, muon_lr: 2e-3}
    slurm:                   # for --executor slurm, what submitit is told
      timeout_min: 600
"""
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from lib.config import ROOT, InputError, RunConfig, relative_to_root
from lib.files import write_whole
from lib.launch.point import Point
from lib.presets import default_preset, preset_config
from lib.runs.locks import ProcessLock

NOT_PARAMETERS = ("preset", "grid", "list", "slurm")
MOST = 1000  # points: more are a slip of the hand
LONGEST = 100  # characters of a folder's name


class _Words(yaml.BaseLoader):
    """YAML's safest loader, for which every value is a word: what `off` and 1e-3 mean is for their parameter to say.
    Refuses a mapping that has a name twice, of which others take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        names = [key.value for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"{name} stands twice in one mapping, the last time in line "
                                 f"{node.value[-1][0].start_mark.line + 1} or before: leave one of them out")
        return super().construct_mapping(node, deep)


@dataclass(frozen=True)
class Sweep:
    """The points of a file, the folder they are in, and what the file tells a cluster."""

    folder: Path
    content: str
    points: tuple[Point, ...]
    cluster: dict[str, str | int]
    lock: ProcessLock

    @property
    def copy(self) -> Path:
        """The file as it was when the sweep began."""
        return self.folder / "sweep.yaml"

    @property
    def stop_file(self) -> Path:
        """While it is there, no point is started, and those that run are asked to stop."""
        return self.folder / "STOP"

    def output(self, point: Point) -> Path:
        """Where what a point's run_training.py prints is kept."""
        return self.folder / "output" / f"{point.name}.txt"

    def claim(self) -> None:
        """Take the folder for this process. Raises InputError where it holds anything else, or the points of another
        file, where another process runs the sweep, and where it cannot be written to."""
        if self.copy.exists():
            if _words(self.copy.read_text("utf-8")) != _words(self.content):
                raise InputError(f"{self.folder} holds the points of another file, kept there as {self.copy.name}: "
                                 "choose another --out_dir, or go on with that file")
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise InputError(f"{self.folder} is not empty and holds no sweep, so it is left alone: choose another "
                             "--out_dir")
        self.lock.take()
        if not self.copy.exists():
            write_whole(self.content, self.copy)


def read_sweep(path: Path, folder: str = "") -> Sweep:
    """The sweep that a file asks for, in `folder`, relative to the project; empty: runs/<the file's name>.

    Raises InputError for a file that is missing, is not YAML or does not say what it should, and for points that
    cannot be, or are the same. Writes nothing, and does not look at texts.
    """
    try:
        content = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({getattr(error, 'strerror', 'not UTF-8')}): name a file of points "
                         "with --sweep") from None
    try:
        words = _words(content)
        folder = ROOT / (folder or f"runs/{path.stem}")
        axes = list(_axes(words))
        fixed = {name: value for name, value in words.items() if name not in NOT_PARAMETERS}
        points = tuple(_point(number, len(axes), words.get("preset", "auto"), fixed, values, folder)
                       for number, values in enumerate(axes, 1))
        for one, other in itertools.combinations(points, 2):
            if _behaviour(one) == _behaviour(other):
                raise InputError(f"points {one.name} and {other.name} are the same: leave one of them out")
        lock = ProcessLock(folder / ".run_training.lock", "another run_training.py is at work")
        return Sweep(folder, content, points, _cluster(words.get("slurm", {})), lock)
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from None


def _words(content: str) -> dict[str, Any]:
    """What stands in a file, nested, every value as it is written."""
    try:
        words = yaml.load(content, _Words)  # a loader that can make nothing but words, lists and mappings
    except yaml.YAMLError as error:
        raise InputError(f"this is not YAML: {error}") from None
    if not isinstance(words, dict):
        raise InputError(f"a sweep is a mapping such as `preset: tiny`, not {words!r}")
    return words


def _axes(words: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The values of each point's own: every combination of `grid` for each entry of `list`."""
    rows, grid = words.get("list", [{}]), words.get("grid", {})
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows) or not rows:
        raise InputError("list is a list of mappings such as `- {lr: 1e-3, seed: 2}`")
    if not isinstance(grid, dict) or not all(isinstance(values, list) and values for values in grid.values()):
        raise InputError("grid is a mapping of parameters to lists of values such as `lr: [1e-3, 3e-3]`")
    for row in rows:
        for name in row:
            if name in grid:
                raise InputError(f"{name} stands both in grid and in list: leave it out of one of them")
        for name in (*row, *grid):
            if name in words:
                raise InputError(f"{name} stands for all points, and again for some: leave it out of one of them")
    count = len(rows) * math.prod(map(len, grid.values()))
    if count > MOST:
        raise InputError(f"that is {count:,} points, more than {MOST:,}: split it into several sweeps")
    for row in rows:
        for values in itertools.product(*grid.values()):
            yield row | dict(zip(grid, values, strict=True))


def _point(number: int, count: int, preset: str, fixed: dict[str, Any], axes: dict[str, Any], folder: Path) -> Point:
    words = "-".join(f"{name}={value}" for name, value in axes.items())
    name = "-".join(filter(None, [f"{number:0{len(str(count))}d}", re.sub(r"[^\w.+=-]+", "_", words, flags=re.ASCII)]))
    name = name[:LONGEST].rstrip(".")
    try:
        values = {key: _converted(key, value) for key, value in (fixed | axes).items()}
        if preset == "auto":
            preset = default_preset(values.get("input_file", ""), values.get("device", "auto"))
        return Point(name, preset_config(preset, **values, out_dir=relative_to_root(folder / name)))
    except InputError as error:
        raise InputError(f"point {name}: {error}") from None


def _converted(name: str, word: Any) -> Any:
    """A word as a value of this parameter's type; one that cannot be so stays, for RunConfig to refuse."""
    if not isinstance(word, str):
        raise InputError(f"{name} is one value here: several stand under grid")
    if name in ("out_dir", "resume"):
        raise InputError(f"{name} is the sweep's to choose: leave it out")
    if name in ("nnodes", "rdzv_endpoint"):
        raise InputError(f"{name}: a point runs on one machine, leave it out")
    kind = get_type_hints(RunConfig).get(name, str)
    if kind is bool:
        return {"true": True, "false": False}.get(word.lower(), word)
    if kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            return word
    return word


def _behaviour(point: Point) -> dict[str, Any]:
    return vars(point.config) | {"out_dir": ""}


def _cluster(settings: Any) -> dict[str, str | int]:
    """What the file tells a cluster; whole numbers are meant as such."""
    if not isinstance(settings, dict) or not all(isinstance(value, str) for value in settings.values()):
        raise InputError("slurm is a mapping of submitit's names to values such as `slurm_partition: gpu`")
    return {name: int(value) if value.isdecimal() else value for name, value in settings.items()}
