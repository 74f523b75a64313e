"""The house has rooms, each imports only those above it, and a reader finds the way."""
import ast
import graphlib
import re
from pathlib import Path

import pytest

from lib.config import ROOT

ROOMS = ("lib.config", "lib.presets", "lib.files", "lib.text", "lib.model", "lib.runs", "lib.training", "lib.launch",
         "lib.show", "lib.publish")
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
           for path in sorted((ROOT / "lib").rglob("*.py"))}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imported(node: ast.AST) -> set[str]:
    """The modules that an import statement names, whole; `from lib.show import plots` names lib.show.plots."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: say where from, `from lib.text.corpus import ...`"
        inner = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
        return inner or {node.module}
    return set()


def imports(path: Path) -> set[str]:
    """All modules that a file imports, those that a function imports when it is called among them."""
    return {name for node in ast.walk(tree(path)) for name in imported(node)}


def room(module: str) -> str:
    """The folder of lib that a module is in; of those beside the folders, itself."""
    return ".".join(module.split(".")[:2])


IMPORTS = {module: imports(path) for module, path in MODULES.items()}


def test_every_module_is_in_a_room():
    assert {room(module) for module in MODULES} == {"lib", *ROOMS}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_its_own_room_and_those_above(module):
    above = () if module == "lib" else ROOMS[:ROOMS.index(room(module)) + 1]
    up = {name for name in IMPORTS[module] if name.split(".")[0] == "lib" and room(name) not in above}
    assert not up, f"{module} imports {', '.join(sorted(up))}, which stand below it"


def test_no_module_imports_itself_by_way_of_others():
    ours = {module: names & MODULES.keys() for module, names in IMPORTS.items()}
    tuple(graphlib.TopologicalSorter(ours).static_order())  # CycleError names the circle


def test_lib_knows_nothing_of_those_who_use_it():
    users = {"run_training", "space", "tests", "benchmarks"}
    assert not {module for module, names in IMPORTS.items() if {name.split(".")[0] for name in names} & users}


def test_only_figures_import_matplotlib():
    found = {module for module, path in MODULES.items() for node in tree(path).body for name in imported(node)
             if name.split(".")[0] == "matplotlib"}
    assert found == {"lib.show.plots", "lib.show.drawing", "lib.show.fonts"}
    assert [module for module, names in IMPORTS.items() if "lib.show.fonts" in names] == ["lib.show.plots"]


def test_a_file_is_one_thing():
    lengths = {module: len(path.read_text("utf-8").splitlines()) for module, path in MODULES.items()}
    assert not {module: length for module, length in lengths.items() if length > 250}


def test_a_class_fits_in_a_head():
    lengths = {f"{module}.{node.name}": node.end_lineno - node.lineno + 1 for module, path in MODULES.items()
               for node in tree(path).body if isinstance(node, ast.ClassDef)}
    assert not {name: length for name, length in lengths.items() if length >= 200}


def test_from_the_readme_a_reader_is_there_in_two_steps():
    readme, changing = (path.read_text("utf-8") for path in (ROOT / "README.md", ROOT / "docs" / "changing.md"))
    walk = re.findall(r"^\| .+? \| `(lib/\w+/)` \| `([\w./]+)`(?:, `(?:\w+\.)?(\w+)`)?", changing, re.MULTILINE)
    assert len(walk) == 5 and "](docs/changing.md)" in readme
    for folder, file, name in walk:
        assert f"\n| `{folder}` | " in readme
        assert name in (ROOT / folder / file).read_text("utf-8")
