"""A sweep's file becomes the points it asks for, or is refused by one sentence before anything is written."""
import dataclasses
import os
from pathlib import Path

import pytest

import run_training
from lib.config import ROOT, InputError, relative_to_root
from lib.launch.checks import check_points
from lib.launch.sweep import read_sweep
from lib.presets import preset_config


def read(tmp_path, content: str, name: str = "some.yaml"):
    path = tmp_path / name
    path.write_text(content, "utf-8")
    return read_sweep(path, relative_to_root(tmp_path / "runs"))


def test_every_combination_is_a_point_in_a_folder_of_its_own(tmp_path):
    sweep = read(tmp_path, "preset: tiny\nsteps: 30\ngrid: {lr: [1e-3, 3e-3], seed: [1, 2, 3]}\n"
                           "list: [{optimizer: adamw}, {optimizer: muon, muon_lr: 2e-3}]")
    assert len(sweep.points) == 12
    assert [point.name for point in sweep.points][::11] == ["01-optimizer=adamw-lr=1e-3-seed=1",
                                                            "12-optimizer=muon-muon_lr=2e-3-lr=3e-3-seed=3"]
    assert {point.run.path for point in sweep.points} == {tmp_path / "runs" / point.name for point in sweep.points}
    last = preset_config("tiny", steps=30, optimizer="muon", muon_lr=2e-3, lr=3e-3, seed=3)
    assert dataclasses.replace(sweep.points[-1].config, out_dir="") == last
    assert not sweep.folder.exists()


def test_without_a_name_a_sweep_is_called_like_its_file(tmp_path):
    (tmp_path / "rates.yaml").write_text("grid: {seed: [1, 2]}")
    assert read_sweep(tmp_path / "rates.yaml").folder == ROOT / "runs" / "rates"


def test_a_word_means_what_its_parameter_takes(tmp_path):
    config = read(tmp_path, 'preset: tiny\namp: off\nlr: 1e-3\nlr_schedule: linear\nbeta1: 0\nsteps: 1_000\n'
                            'compile: true\nnote: 010\nprompt: "yes\\n"').points[0].config
    assert config == preset_config("tiny", amp="off", lr=1e-3, lr_schedule="linear", beta1=0.0, steps=1000,
                                   compile=True, note="010", prompt="yes\n", out_dir=config.out_dir)


@pytest.mark.parametrize(("content", "message"), [
    ("steps: 3\nsteps: 4", "steps stands twice in one mapping"),
    ("grid: {lr: [1e-3], lr: [2e-3]}", "lr stands twice in one mapping"),
    ("steps: 3\ngrid: {steps: [3, 4]}", "steps stands for all points, and again for some"),
    ("grid: {lr: [1e-3]}\nlist: [{lr: 2e-3}]", "lr stands both in grid and in list"),
    ("grid: {seed: [1, 2, 1]}", "points 1-seed=1 and 3-seed=1 are the same"),
    ("grid: {seed: [1, 01]}", "are the same"),
    ("stepps: 3", "there is no parameter 'stepps': did you mean steps?"),
    ("preset: tinny", "there is no preset 'tinny': did you mean tiny?"),
    ("grid: {lr: 1e-3}", "grid is a mapping of parameters to lists"),
    ("grid: {lr: []}", "grid is a mapping of parameters to lists"),
    ("list: {lr: 1e-3}", "list is a list of mappings"),
    ("lr: [1e-3, 3e-3]", "lr is one value here: several stand under grid"),
    ("grid: {steps: [10, 1e3]}", "point 2-steps=1e3: steps must be a whole number, not '1e3'"),
    ("compile: on", "compile must be True or False, not 'on'"),
    ("grid: {batch_size: [1, 0]}", "point 2-batch_size=0: batch_size must be at least 1, not 0"),
    ("lr: .nan", "lr must be a number, not '.nan'"),
    ("out_dir: here", "out_dir is the sweep's to choose"),
    ("nnodes: 2", "nnodes: a point runs on one machine"),
    ("grid: {seed: [1]}\nslurm: [gpu]", "slurm is a mapping of submitit's names"),
    ("- 1", "a sweep is a mapping"),
    ("", "a sweep is a mapping"),
    ("{steps: 3", "this is not YAML"),
    ("&a [*a]", "this is not YAML"),
    ("note: !!python/object/apply:os.system ['false']", "note is one value here"),
    ("grid: {seed: &a [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], steps: *a, log_every: *a, save_every: *a}", "that is 10,000"),
])
def test_what_a_file_cannot_mean_is_refused_by_its_name(tmp_path, content, message):
    with pytest.raises(InputError) as told:
        read(tmp_path, content)
    assert message in str(told.value) and str(told.value).startswith("some.yaml: ")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read .*: name a file of points with --sweep"):
        read_sweep(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(("content", "message"), [
    ("preset: tiny\ngrid: {target_loss: [4, 1e-3]}", "point 2-target_loss=1e-3: no model can reach a loss of 0.001"),
    ("preset: tiny\nlist: [{seed: 1}, {input_file: nowhere.txt}]", "point 2-input_file=nowhere.txt: there is no text"),
    ("preset: tiny\ninit_from: nowhere", "point 1: .*nowhere"),
])
def test_text_floor_and_start_of_every_point_are_looked_at(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        check_points(read(tmp_path, content).points)


def test_the_devices_of_a_cluster_are_not_looked_for_here(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    points = read(tmp_path, "preset: tiny\ndevice: cuda").points
    check_points(points, here=False)
    with pytest.raises(InputError, match="finds no device 'cuda' here"):
        check_points(points)


def test_a_point_asks_for_its_own_configuration(tmp_path):
    sweep = read(tmp_path, 'preset: tiny\nnote: "--of one\'s own"\ngrid: {prompt: ["-x", "A b\\n", "=", "é$(ls)"], '
                           'compile: [true, false]}')
    for point in sweep.points:
        _, program, *arguments = point.command()
        config = run_training.parse(arguments)[0]
        assert Path(program) == ROOT / "run_training.py" and config == point.config


def test_a_point_that_has_begun_is_gone_on_with(tmp_path):
    point = read(tmp_path, "preset: tiny").points[0]
    point.run.write_config(point.config, {})
    assert point.command()[2:] == ["--resume", point.config.out_dir] and not point.is_done()
    for state, done in (("running", False), ("stopped", False), ("reached", False), ("limit", False)):
        point.run.write_summary({"state": state, "step": 1})
        assert point.is_done() == done
    point.run.report.write_text("")
    assert point.is_done()


def test_a_folder_takes_the_points_of_one_file(tmp_path):
    sweep = read(tmp_path, "preset: tiny\ngrid: {seed: [1, 2]}")
    sweep.claim()
    with pytest.raises(InputError, match=r"another run_training\.py is at work"):
        read(tmp_path, "preset: tiny # the same\ngrid: {seed: [1, 2]}").claim()
    sweep.lock.let_go()
    with pytest.raises(InputError, match="holds the points of another file"):
        read(tmp_path, "preset: tiny\ngrid: {seed: [1, 2, 3]}").claim()
    read(tmp_path, "preset: tiny # the same\ngrid: {seed: [1, 2]}").claim()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "theirs.txt").write_text("")
    with pytest.raises(InputError, match="holds no sweep, so it is left alone"):
        read(tmp_path, "preset: tiny").claim()
    assert os.listdir(tmp_path / "runs") == ["theirs.txt"]
