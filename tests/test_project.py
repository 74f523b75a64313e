"""What the project promises on paper agrees with what is in it."""
import re
import shlex
import shutil
import tomllib

import pytest
import tree_sitter_powershell
from tree_sitter import Language, Node, Parser

from lib.config import ROOT
from lib.publish.readme import update_readme
from lib.runs.folder import RunFolder
from run_training import EXIT_CODES, parse

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_dependencies_are_pinned_and_those_asked_for():
    pinned = {re.fullmatch(r"([\w-]+)==[\d.]+", line)[1] for line in PROJECT["dependencies"]}
    assert pinned >= {"torch", "tiktoken", "papermill", "jupyterlab", "nbconvert", "matplotlib", "pandas"}
    for line in PROJECT["optional-dependencies"]["test"]:
        assert re.fullmatch(r"[\w-]+(==[\d.]+|\[space,cluster\])", line), line


def test_environment_yml_installs_what_pyproject_pins():
    text = (ROOT / "environment.yml").read_text()
    entries = re.findall(r"^\s+- ([^#\n]+?)(?:\s+#.*)?$", text, re.MULTILINE)
    assert entries == ["conda-forge", "python=3.11", "pip", "pip:", "-e .[test]"]
    assert PROJECT["requires-python"] == ">=3.11,<3.14"


def test_the_readme_has_the_two_lines():
    lines = (ROOT / "README.md").read_text().splitlines()
    run = "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/python run_training.py"
    test = 'python3 -m venv .venv && .venv/bin/pip install -e ".[test]" && .venv/bin/python -m pytest'
    assert lines.count(run) == lines.count(test) == 1


def test_the_readme_is_read_in_some_minutes():
    readme = (ROOT / "README.md").read_text("utf-8")
    text = re.sub(r"<!--AUTO.*?END-->|```.*?```|\]\([^)]*\)", "]", readme, flags=re.DOTALL)  # what a person wrote
    assert len([word for word in text.split() if re.search(r"\w", word)]) <= 800


DOCUMENTS = sorted(path for place in (".", "benchmarks/records", "docs", "docs/default_run", "docs/whole_run", "space",
                                      "tests/slow")
                   for path in (ROOT / place).glob("*.md"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_of_a_document_lead_to_files_and_headings_there_are(document):
    for target, heading in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", document.read_text("utf-8")):
        there = document.parent / target if target else document
        assert there.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", there.read_text("utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}, heading


def test_every_record_has_its_question_and_answer_in_the_index():
    folder = ROOT / "benchmarks" / "records"
    answers = dict(re.findall(r"^\| \[.+?\?\]\((.+?\.md)\) \| (.+) \|$", (folder / "README.md").read_text("utf-8"),
                              re.MULTILINE))
    assert set(answers) == {path.name for path in folder.glob("*.md")} - {"README.md"}
    assert all(re.match(r"\d{4}-\d{2}-\d{2}-", name) for name in answers)


def test_texts_and_runs_are_never_committed():
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"/runs/*", "/data/*", ".venv/"} <= set(ignored) and "lib/" not in ignored


def powershell(script: bytes) -> Node:
    return Parser(Language(tree_sitter_powershell.language())).parse(script).root_node


def assigned(node: Node) -> dict[str, list[str]]:
    """The quoted words in the value of each variable a script sets, the last time it does."""
    if node.type == "assignment_expression":
        name, _, words = node.text.decode().partition("=")
        return {name.strip(): shlex.split(" ".join(re.findall(r"'[^']*'", words)))}
    return {name: words for child in node.children for name, words in assigned(child).items()}


def test_the_powershell_script_can_be_read_and_asks_for_parameters_there_are():
    script = (ROOT / "training.ps1").read_bytes()
    assert script.isascii()  # Windows PowerShell 5 takes anything else for another encoding
    assert not powershell(script).has_error and powershell(script.replace(b"@(", b"@@(", 1)).has_error
    told = re.search(r"The exit code is.*?\.\n\n", script.decode(), re.DOTALL)[0]
    assert {int(code) for code in re.findall(r"\b\d+\b", told)} == {2, *EXIT_CODES.values()}
    words = assigned(powershell(script))
    config, preset, _ = parse(["--out_dir", *words["$outDir"], *words["$recipe"], *words["$limits"]])
    assert preset == "full" and config.max_hours == 9 and config.out_dir == "runs/overnight"
    assert script.rstrip().endswith(b"& $python run_training.py @trainArgs\nexit $LASTEXITCODE")


@pytest.mark.parametrize("name, readme", [("default_run", "README.md"), ("default_run", "docs/default_run/README.md"),
                                          ("whole_run", "docs/whole_run/README.md")])
def test_a_readme_shows_what_the_files_of_its_run_say(tmp_path, name, readme):
    shutil.copytree(ROOT / "docs" / name, tmp_path / "docs" / name)
    shutil.copy(ROOT / readme, tmp_path / readme)
    run = RunFolder(tmp_path / "docs" / name)
    assert run.read_summary()["state"] == "reached"
    update_readme(run, tmp_path / readme)
    assert (tmp_path / readme).read_text() == (ROOT / readme).read_text()


@pytest.mark.parametrize("name, recipe, text", [("default_run", "excerpt", "the first {:,} tokens"),
                                                ("whole_run", "full", "tiny Shakespeare, {:,} tokens")])
def test_the_readme_compares_runs_by_what_their_files_say(name, recipe, text):
    run = RunFolder(ROOT / "docs" / name)
    told, (config, facts) = run.read_summary(), run.read_config()
    windows = "always cut alike" if config.cut_at_0 else "cut anew each time"
    row = (f"| this, `{recipe}` | {text.format(facts['corpus']['tokens'])} | {windows} | {told['tokens']:,} | "
           f"{told['epochs']:.2f} | all tokens below {config.target_loss:g} | {told['corpus_loss']:.4f} | "
           f"{told['shifted_loss']:.4f} |")
    assert row in (ROOT / "README.md").read_text()
