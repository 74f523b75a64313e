"""What the project promises on paper agrees with what is in it."""
import re
import tomllib

from lib.config import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_dependencies_are_pinned_and_those_asked_for():
    pinned = {re.fullmatch(r"([\w-]+)==[\d.]+", line)[1] for line in PROJECT["dependencies"]}
    assert pinned >= {"torch", "tiktoken", "papermill", "jupyterlab", "nbconvert", "matplotlib", "pandas"}
    for line in PROJECT["optional-dependencies"]["test"]:
        assert re.fullmatch(r"[\w-]+==[\d.]+", line), line


def test_environment_yml_installs_what_pyproject_pins():
    text = (ROOT / "environment.yml").read_text()
    entries = re.findall(r"^\s+- ([^#\n]+?)(?:\s+#.*)?$", text, re.MULTILINE)
    assert entries == ["conda-forge", "python=3.11", "pip", "pip:", "-e .[test]"]
    assert PROJECT["requires-python"] == ">=3.11"


def test_the_readme_has_the_two_lines():
    lines = (ROOT / "README.md").read_text().splitlines()
    run = "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/python run_training.py"
    test = 'python3 -m venv .venv && .venv/bin/pip install -e ".[test]" && .venv/bin/python -m pytest'
    assert lines.count(run) == lines.count(test) == 1
    for target in re.findall(r"\]\(([^)#]+)\)", "\n".join(lines)):
        assert (ROOT / target).exists(), target


def test_texts_and_runs_are_never_committed():
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"/runs/*", "/data/*", ".venv/"} <= set(ignored) and "lib/" not in ignored
