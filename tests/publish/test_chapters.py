"""What the chapters say is computed, and true of the run or the parameters that they are given."""
import ast
import dataclasses
import re

import nbformat
import pytest

from lib.model.gpt import new_model
from lib.publish.notebooks import SOURCES, run_notebook
from lib.publish.report import CHAPTERS
from lib.runs.folder import RunFolder
from lib.text.corpus import load_corpus
from lib.text.floor import reachable_floor
from lib.training.provenance import provenance
from lib.training.trainer import Trainer


def said(path) -> str:
    """All that the cells of an executed notebook printed, showed as a table or raised."""
    outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    return "\n".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") + output.get("evalue", "")
                     for output in outputs)


@pytest.mark.parametrize("changes, true, false", [
    ({"init": "look_back", "target_loss": 0.45, "steps": 900},
     ["known from any place", "more was learned than", "there are no cuts to compare with"],
     ["known only where it was cut", "recites from its cuts"]),
    ({"order": "fixed", "target_loss": 0.5, "steps": 400},
     ["known only where it was cut", "what it knows, it knows at its cuts", "behind the cut that they cross",
      "what it recites, it recites from its cuts"],
     ["known from any place", "no cuts to compare with"]),
    ({"steps": 8},
     ["not reached within the limits", "such a table does better", "0% came back whole", "recites hardly anything"],
     ["Target reached", "more was learned than", "known from any place"]),
], ids=["known from any place", "known at its cuts", "not reached"])
def test_the_results_answer_their_questions_for_this_run(config, machine, tmp_path, changes, true, false):
    config = dataclasses.replace(config, **changes)
    run, corpus = RunFolder(config.out_dir), load_corpus(config)
    run.write_config(config, provenance(corpus, machine, reachable_floor(corpus.tokens, config)))
    summary = Trainer(new_model(config), corpus, config, run, machine).train()
    assert run_notebook("4_results", tmp_path / "out.ipynb", {"out_dir": config.out_dir}) == "completed", summary
    told = said(tmp_path / "out.ipynb")
    assert not [words for words in true if words not in told], told
    assert not [words for words in false if words in told], told


def exercises(name: str) -> list[tuple[str, object, str]]:
    """The exercises at the end of a notebook: a parameter, its value, the words of the solution."""
    cell = nbformat.read(SOURCES / f"{name}.ipynb", as_version=4).cells[-1]
    found = re.findall(r"^\d\. `(\w+)(?: = (.+?))?`.*?Solution</summary>(.*?)</details>", cell.source,
                       re.MULTILINE | re.DOTALL)
    return [(parameter, ast.literal_eval(value) if value else None, " ".join(words.split()))
            for parameter, value, words in found]


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_ends_with_three_exercises_and_where_to_go_on(name):
    notebook = nbformat.read(SOURCES / f"{name}.ipynb", as_version=4)
    parameters = {parameter.split(":")[0] for cell in notebook.cells if cell.metadata.get("tags")
                  for parameter in cell.source.splitlines()}
    assert len(exercises(name)) == 3 and {parameter for parameter, _, _ in exercises(name)} <= parameters
    assert notebook.cells[-1].source.count("](https://") >= 3


@pytest.mark.parametrize("name, parameter, value, solution",
                         [(name, *exercise) for name in ("1_data", "2_model") for exercise in exercises(name)])
def test_what_a_solution_prints_bold_is_what_the_notebook_says(tmp_path, name, parameter, value, solution):
    run_notebook(name, tmp_path / "out.ipynb", {parameter: value})  # which may be refused, and say why
    found, told = re.findall("<b>(.+?)</b>", solution), said(tmp_path / "out.ipynb")
    assert found and not [words for words in found if words not in told], told
