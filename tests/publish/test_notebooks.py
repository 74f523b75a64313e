"""The notebooks keep the house's rules, and running them leaves the truth on disk whatever happens."""
import ast
import dataclasses
import inspect
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import nbformat
import papermill
import psutil
import pytest

import run_training
from lib.config import ROOT, RunConfig
from lib.presets import preset_config
from lib.publish import engine, notebooks
from lib.publish.notebooks import SOURCES, is_complete, is_current, run_notebook
from lib.publish.report import CHAPTERS
from lib.runs.folder import RunFolder
from lib.training.stopping import interrupts_become

NOTEBOOKS = sorted(SOURCES.glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_the_chapters_of_the_report_are_there():
    assert {path.stem for path in NOTEBOOKS} >= set(CHAPTERS)


def test_notebooks_are_committed_as_they_were_written(notebook):
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"} and notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


def test_a_kernel_imports_the_lib_of_its_own_project(tmp_path):
    """also where the environment was set up for another checkout"""
    for folder in ("lib", "notebooks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    call = "from pathlib import Path; from lib.publish.notebooks import run_notebook; " \
           "print(run_notebook('1_data', Path('out.ipynb'), {}))"
    done = subprocess.run([sys.executable, "-c", call], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "completed", done.stdout + done.stderr
    assert (tmp_path / "data" / "input.txt").exists()


def test_cells_are_short_and_explained(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and not cell.metadata.get("tags")]
    lengths = sorted(len(cell.source.splitlines()) for cell in code)
    assert lengths[-1] <= 25 and lengths[len(lengths) // 2] <= 10
    for cell in code:
        assert not any(isinstance(node, ast.ClassDef) for node in ast.walk(ast.parse(cell.source)))
    kinds = [cell.cell_type for cell in notebook.cells]
    assert all(kinds[i - 1] == "markdown" for i, cell in enumerate(notebook.cells) if cell in code[1:])


def test_parameters_cells_show_the_preset_notebook(notebook):
    """names, types, values and meanings, each from lib/config.py"""
    comments = dict(re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(RunConfig), re.MULTILINE))
    assert set(comments) == {field.name for field in dataclasses.fields(RunConfig)}
    cell, = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    shown = dataclasses.asdict(preset_config("notebook"))
    names = []
    for line in cell.source.splitlines():
        if line.startswith("# "):
            continue
        name, kind, value, comment = re.fullmatch(r"(\w+): (\w+) = (.*)  # (.*)", line).groups()
        value = ast.literal_eval(value)
        names.append(name)
        assert type(value).__name__ == kind
        if name == "preset":
            assert value == "notebook"
        elif name == "runs":
            assert value == "runs/*"
        else:
            own = {"out_dir": "folder of the run; empty: the newest one", "seed": "of the drawing"}
            assert value == shown[name]
            assert comment == comments[name] or ("preset" not in names and comment == own[name])
    if "preset" in names and "steps" in names:
        assert names == ["preset", *shown]
        groups = re.findall(r"^ *(?:# (.+)|(\w+): )", inspect.getsource(RunConfig).partition("def ")[0], re.MULTILINE)
        assert groups == re.findall(r"^(?:# (.+)|(\w+): )", cell.source.partition("\n")[2], re.MULTILINE)


def test_papermill_reads_every_parameter(notebook):
    found = papermill.inspect_notebook(notebook)
    cell, = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    lines = [line for line in cell.source.splitlines() if not line.startswith("# ")]
    assert len(found) == len(lines) and all(entry["help"] for entry in found.values())


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A function that writes a notebook of code cells where run_notebook finds it, and runs it."""
    monkeypatch.setattr(notebooks, "SOURCES", tmp_path)

    def run(*sources, screen=None):
        cells = [nbformat.v4.new_code_cell("value: int = 1  # a parameter", metadata={"tags": ["parameters"]})]
        cells += [nbformat.v4.new_code_cell(source) for source in sources]
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
                    "language_info": {"name": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), tmp_path / "n.ipynb")
        outcome = run_notebook("n", tmp_path / "out.ipynb", {"value": 7, "other": 3}, screen)
        executed = nbformat.read(tmp_path / "out.ipynb", as_version=4)
        return outcome, [cell for cell in executed.cells if cell.cell_type == "code"][2:]
    return run


def test_parameters_arrive_and_those_a_notebook_does_not_have_stay_away(written):
    outcome, cells = written("print(value, 'other' in globals())")
    assert outcome == "completed" and cells[0].outputs[0].text == "7 False\n"


def test_an_encoding_that_does_not_exist_is_an_error_in_the_program_and_in_a_kernel(written):
    """a dependency can change that for every Python of its environment"""
    lookup = "import codecs; codecs.lookup('no-such-encoding')"
    program = subprocess.run([sys.executable, "-c", f"import run_training; {lookup}"], capture_output=True, text=True,
                             cwd=ROOT)
    assert program.stderr.endswith("LookupError: unknown encoding: no-such-encoding\n")
    outcome, cells = written(lookup)
    assert outcome == "failed" and cells[0].outputs[-1].ename == "LookupError"


def test_a_failing_cell_is_marked_and_later_ones_stay_pending(written):
    outcome, cells = written("print(1)", "1 / 0", "print(2)")
    assert outcome == "failed"
    assert [cell.metadata.papermill.status for cell in cells] == ["completed", "failed", "pending"]
    assert cells[1].outputs[-1].ename == "ZeroDivisionError"


def test_a_dead_kernel_is_noticed_and_marked(written):
    suicide = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    outcome, cells = written("print(1)", suicide, "print(2)")
    assert outcome == "died"
    assert [cell.metadata.papermill.status for cell in cells] == ["completed", "failed", "pending"]
    assert cells[1].outputs[-1].ename == "DeadKernelError"


def test_a_notebook_of_other_code_is_not_current(written, tmp_path, monkeypatch):
    outcome, _ = written("print(1)")
    out = tmp_path / "out.ipynb"
    assert outcome == "completed" and is_current("n", out) and not is_current("n", tmp_path / "none.ipynb")
    changed = nbformat.read(tmp_path / "n.ipynb", as_version=4)
    changed.cells[-1].source = "print(2)"
    nbformat.write(changed, tmp_path / "n.ipynb")
    assert is_complete(out) and not is_current("n", out)
    written("print(2)")
    state = notebooks.git_state()
    monkeypatch.setattr(notebooks, "git_state", lambda: state | {"commit": "0" * 40})
    assert is_complete(out) and not is_current("n", out)


def test_output_is_merged_and_overwritten_lines_are_dropped(written, tmp_path):
    loop = "import time\nfor i in range(50):\n    print(i, flush=True); time.sleep(0.002)"
    progress = "for i in range(300):\n    print('\\rat', i, end='', flush=True)\nprint()"
    with open(tmp_path / "screen", "w+") as screen:
        _, cells = written(loop, progress, screen=screen)
        screen.seek(0)
        assert "48\n49\n" in screen.read()
    assert [len(cell.outputs) for cell in cells] == [1, 1]
    assert cells[0].outputs[0].text == "".join(f"{i}\n" for i in range(50))
    assert cells[1].outputs[0].text == "at 299\n"


def test_a_disk_that_is_full_for_a_while_does_not_stop_the_cells(written, tmp_path, monkeypatch):
    really, asked = engine.write_whole, []

    def full(text, path):
        asked.append(path)
        if len(asked) < 4:
            raise OSError(28, "No space left on device")
        really(text, path)
    monkeypatch.setattr(engine, "write_whole", full)
    outcome, cells = written("print(1)", f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert outcome == "completed" and (tmp_path / "ran").exists() and cells[0].outputs[0].text == "1\n"


def test_a_signal_becomes_a_stop_file(tmp_path):
    stop = tmp_path / "STOP"
    before = signal.getsignal(signal.SIGINT)
    stop.touch()  # left by an earlier run that was killed
    with interrupts_become(stop):
        assert not stop.exists()
        signal.raise_signal(signal.SIGTERM)
        assert stop.exists()
    assert not stop.exists() and signal.getsignal(signal.SIGINT) is before


def test_papermill_alone_runs_the_training_notebook(tmp_path):
    out = tmp_path / "out.ipynb"
    done = subprocess.run(
        [sys.executable, "-m", "papermill", SOURCES / "3_training.ipynb", out, "-p", "steps", "3", "-p", "preset",
         "tiny", "-p", "out_dir", tmp_path / "run", "--no-progress-bar"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "summary.json").exists()
    text = "".join(output.get("text", "") for cell in nbformat.read(out, as_version=4).cells
                   for output in cell.get("outputs", []))
    assert "step     3 | loss " in text or "step 3," in text


def test_a_wrong_type_through_papermill_is_refused_in_words(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "papermill", SOURCES / "1_data.ipynb", tmp_path / "out.ipynb", "-p", "seq_len", "long",
         "--no-progress-bar"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0 and "seq_len must be a whole number, not 'long'" in done.stderr


@pytest.fixture
def endless(tmp_path, checkout):
    """A function that starts a run which would go on for hours, and reads what it prints up to some words."""
    started, place = [], checkout("1_data", "2_model")

    def start(words):
        process = subprocess.Popen(
            [sys.executable, place / "run_training.py", "--preset", "tiny", "--steps", "100000", "--target_loss", "0",
             "--log_every", "1", "--out_dir", tmp_path / "run"], stdout=subprocess.PIPE, text=True, cwd=place)
        timer = threading.Timer(120, process.kill)
        timer.daemon = True
        timer.start()
        started.append(process)
        for line in process.stdout:
            if line.startswith(words):
                break
        return process, RunFolder(tmp_path / "run")
    yield start
    for process in started:
        process.kill()


@pytest.mark.skipif(os.name == "nt", reason="signals between processes")
@pytest.mark.parametrize(("moment", "words"), [
    ("run folder", "before its first step"), ("step", "at step ")])
def test_ctrl_c_ends_a_run_after_its_step_with_a_report(endless, moment, words):
    process, run = endless(moment)
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait() == 130 and re.search(f"Stopped by the user {words}", rest), rest
    assert "Stopped by the user" in run.report.read_text()
    assert not list(run.path.rglob("*.lab-part")) and not run.stop_file.exists()


def test_ctrl_c_between_chapters_ends_a_run_before_its_first_step(tmp_path, monkeypatch, capsys):
    executed = []

    def chapter(name, *args):
        executed.append(name)
        if name == "2_model":
            signal.raise_signal(signal.SIGINT)
        return "completed"
    monkeypatch.setattr(notebooks, "run_notebook", chapter)
    run = RunFolder(tmp_path / "run")
    assert run_training.main(["--preset", "tiny", "--out_dir", str(run.path)]) == 130
    assert executed == ["1_data", "2_model"] and not run.stop_file.exists()
    assert "Stopped by the user before its first step" in capsys.readouterr().out
    assert "Stopped by the user" in run.report.read_text()


@pytest.mark.skipif(os.name == "nt", reason="signals between processes")
def test_a_second_ctrl_c_ends_a_run_at_once(endless):
    process, run = endless("step")
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    noticed = time.monotonic() + 1  # a run that ends its step sooner than one can look has taken the file away again
    while not run.stop_file.exists() and time.monotonic() < noticed:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=3) == 130
    assert children and not psutil.wait_procs(children, timeout=10)[1]
    assert not run.stop_file.exists() and run.read_summary()["state"] in ("killed", "stopped")


@pytest.mark.skipif(os.name == "nt", reason="signals between processes")
def test_a_kernel_killed_for_its_memory_leaves_results_and_a_report_that_say_so(endless):
    process, run = endless("step")
    while not run.last_checkpoint.exists():
        time.sleep(0.01)
    kernel, = (child for child in psutil.Process(process.pid).children(recursive=True)
               if "ipykernel_launcher" in " ".join(child.cmdline()))
    kernel.kill()
    rest = process.stdout.read()
    assert process.wait() == 138, rest
    assert re.search(r"The kernel died after step \d+, .*; go on from the last checkpoint with --resume", rest)
    assert run.read_summary()["state"] == "died" and run.read_summary()["verdict"] in run.report.read_text()
    assert is_complete(run.notebook("4_results")) and not is_complete(run.notebook("3_training"))
