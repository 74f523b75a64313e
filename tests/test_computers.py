"""A person's own computer, account and text: nobody gets a wrong number, a traceback or a silent difference for them.

computers.md is the table of what was tried; every row of it names its test here.
"""
import dataclasses
import os
import re
import signal
from pathlib import Path

import pytest

import run_training
from lib.config import InputError
from lib.files import sweep, whole_file
from lib.runs.folder import RunFolder
from lib.runs.locate import open_run
from lib.training.stopping import StopRequest, interrupts_become

TABLE = Path(__file__).with_name("computers.md")


def contents(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Every file below a folder, with when it was written and what it holds; locks are no content."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*")
            if path.is_file() and path.suffix != ".lock" and path.name != ".lock"}


def test_every_row_of_the_table_names_a_test_and_every_test_has_its_row():
    named = re.findall(r"`(test_\w+)` \|$", TABLE.read_text("utf-8"), re.MULTILINE)
    tests = {name for name in globals() if name.startswith("test_")}
    assert set(named) == tests - {"test_every_row_of_the_table_names_a_test_and_every_test_has_its_row"}


def test_a_folder_that_is_not_a_run_is_left_alone(config, corpus, tmp_path, capsys):
    folder = tmp_path / "mine"
    (folder / "films").mkdir(parents=True)
    for name in ("a.iso.part", "films/b.mp4.part", "report.html"):
        (folder / name).write_text("somebody's")
    before = contents(folder)
    assert run_training.main(["--preset", "tiny", "--out_dir", str(folder)]) == 2
    assert "is not empty and holds no run" in capsys.readouterr().err
    with pytest.raises(InputError, match="choose another --out_dir"):  # as a notebook asks for it
        open_run(dataclasses.replace(config, out_dir=str(folder)), "tiny", corpus.sha256)
    assert contents(folder) == before and len(list(folder.iterdir())) == 3


def test_only_what_this_program_left_unfinished_is_swept(tmp_path):
    somebodys = tmp_path / "logs" / "x.part"
    somebodys.parent.mkdir()
    somebodys.write_text("somebody's")
    writer = whole_file(tmp_path / "logs" / "y.csv")
    writer.__enter__()  # and never comes to its end
    left, = (path for path in somebodys.parent.iterdir() if path != somebodys)
    assert left.name.startswith(".y.csv.") and left.suffix == ".lab-part"
    sweep(tmp_path)
    assert list(somebodys.parent.iterdir()) == [somebodys]


@pytest.mark.skipif(os.name == "nt", reason="there is no hang-up")
def test_a_signal_that_was_ignored_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it to what it starts
    try:
        with interrupts_become(tmp_path / "STOP"):
            signal.raise_signal(signal.SIGHUP)
            assert not (tmp_path / "STOP").exists()
            signal.raise_signal(signal.SIGTERM)
            assert (tmp_path / "STOP").exists()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with StopRequest(tmp_path / "STOP") as stop:
            signal.raise_signal(signal.SIGTERM)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def begun(config, corpus, machine):
    """A run of a few steps that was stopped by its limit."""
    from lib.model.gpt import new_model
    from lib.training.provenance import provenance
    from lib.training.trainer import Trainer
    config = dataclasses.replace(config, steps=3, log_every=1)
    run = open_run(config, "tiny", corpus.sha256)
    run.write_config(config, provenance(corpus, machine, 0.0))
    Trainer(new_model(config, machine.device), corpus, config, run, machine).train()
    return run


def test_a_second_resume_is_refused_before_it_writes(begun, monkeypatch, capsys):
    reached = []
    monkeypatch.setattr(run_training, "execute", lambda config, run: reached.append(config) or 0)
    first = RunFolder(begun.path)
    first.claim()
    begun.stop_file.touch()  # what stops the first is not the second's to remove
    before = contents(begun.path)
    arguments = ["--resume", str(begun.path), "--steps", "9"]
    assert run_training.main(arguments) == 2 and "another run_training.py is at work" in capsys.readouterr().err
    assert contents(begun.path) == before and not reached
    del first
    assert run_training.main(arguments) == 0 and reached[0].steps == 9


def test_a_notebook_leaves_the_run_of_a_run_training_alone(begun, config, corpus, monkeypatch):
    monkeypatch.setattr("lib.runs.folder.PATIENCE_SEC", 0.1)
    again = dataclasses.replace(begun.read_config()[0], resume=str(begun.path), out_dir="")
    seen_to = RunFolder(begun.path)
    seen_to.claim()
    with pytest.raises(InputError, match="another run_training.py is at work"):
        open_run(again, "notebook", corpus.sha256)
    assert open_run(again, "given", corpus.sha256).path == begun.path  # its own notebook
    del seen_to
    one = open_run(again, "notebook", corpus.sha256)
    one.hold()
    with pytest.raises(InputError, match="another process is training"):  # from the first file on, not the first step
        open_run(again, "notebook", corpus.sha256)
