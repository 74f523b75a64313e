"""Every parameter has bounds, every preset is valid, and a bad value is refused in words."""
import dataclasses
import math
import typing

import pytest

from lib.config import ROOT, Bounds, InputError, RunConfig, relative_to_root
from lib.presets import PRESETS, default_preset, notebook_config, preset_config

HINTS = typing.get_type_hints(RunConfig, include_extras=True)
NUMBERS = {name: hint for name, hint in HINTS.items() if typing.get_origin(hint) is typing.Annotated}
CHOICES = {name: hint for name, hint in HINTS.items() if typing.get_origin(hint) is typing.Literal}


def test_every_number_has_bounds():
    assert {name for name, hint in HINTS.items() if hint in (int, float)} == set()
    assert len(NUMBERS) + len(CHOICES) + sum(hint in (str, bool) for hint in HINTS.values()) == len(HINTS)


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_outside_their_bounds_are_refused(name):
    kind, bounds = typing.get_args(NUMBERS[name])
    below = {bounds.low - 1, bounds.above} if kind is int else {bounds.low - 1e-9, bounds.above, math.nan, math.inf}
    above = {bounds.high + 1, bounds.below}
    outside = [kind(value) for value in below | above if math.isfinite(value) or (kind is float and value != -math.inf)]
    assert outside
    for value in outside:
        with pytest.raises(InputError, match=f"{name} must be "):
            preset_config("tiny", **{name: value})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["3", None, True, [1], 2.5])
def test_values_of_another_type_are_refused(name, value):
    if value == 2.5 and typing.get_args(NUMBERS[name])[0] is float:
        return
    with pytest.raises(InputError, match=f"{name} must be a"):
        preset_config("tiny", **{name: value})


@pytest.mark.parametrize("name", CHOICES)
def test_unknown_choices_are_refused(name):
    with pytest.raises(InputError, match=f"{name} 'nonsense' is not known: choose one of "):
        preset_config("tiny", **{name: "nonsense"})


@pytest.mark.parametrize(("changes", "message"), [
    ({"seq_len": 2048}, "seq_len 2048 is longer than block_size 64: lower --seq_len"),
    ({"n_embd": 65}, "n_embd 65 is not a multiple of n_head 2"),
    ({"warmup_steps": 80}, "warmup_steps 80 leaves nothing of steps 80"),
    ({"compile": "false"}, "compile must be True or False, not 'false'"),
    ({"input_file": 3}, "input_file must be text"),
    ({"batchsize": 3}, "there is no parameter 'batchsize': did you mean batch_size?"),
])
def test_impossible_combinations_are_refused(changes, message):
    with pytest.raises(InputError) as error:
        preset_config("tiny", **changes)
    assert message in str(error.value)


def test_presets_are_valid_and_unknown_ones_are_refused():
    for preset in PRESETS:
        preset_config(preset)
    with pytest.raises(InputError, match="did you mean excerpt"):
        preset_config("exerpt")


@pytest.mark.parametrize("preset", ["excerpt", "full", "plain", "seed", "sanity"])
def test_the_presets_for_the_target_are_gpt2_124m_with_the_target_of_the_task(preset):
    config = preset_config(preset)
    assert (config.n_layer, config.n_head, config.n_embd, config.block_size) == (12, 12, 768, 1024)
    assert config.target_loss == 0.099999


def test_a_whole_number_may_stand_for_a_float_and_random_batches_for_an_order():
    config = preset_config("tiny", lr=1, randomize_batches=True)
    assert type(config.lr) is float and config.order == "random"
    assert dataclasses.replace(config, order="fixed").order == "fixed"


def test_a_text_of_ones_own_is_meant_as_a_whole(monkeypatch):
    monkeypatch.setattr("lib.presets._has_gpu", lambda: False)
    assert (default_preset(""), default_preset("my.txt")) == ("excerpt", "plain")
    monkeypatch.setattr("lib.presets._has_gpu", lambda: True)
    assert (default_preset(""), default_preset("", "cpu")) == ("full", "excerpt")


def test_paths_are_kept_relative_to_the_project_and_name_no_home_folder(tmp_path):
    config = preset_config("tiny", input_file="my.txt", out_dir=str(ROOT / "runs" / "x"))
    located = config.relative_to_project(ROOT.parent)
    assert (located.input_file, located.out_dir, located.resume) == ("../my.txt", "runs/x", "")
    assert not relative_to_root(tmp_path).startswith("/")


def test_a_notebooks_cell_follows_its_preset_but_for_what_was_edited():
    cell = dataclasses.asdict(preset_config("notebook")) | {"preset": "notebook", "unrelated": 1}
    cell["__annotations__"] = dict.fromkeys(cell)
    assert notebook_config(cell) == preset_config("notebook")
    assert notebook_config(cell | {"steps": 3}) == preset_config("notebook", steps=3)
    assert notebook_config(cell | {"preset": "excerpt", "steps": 3}) == preset_config("excerpt", steps=3)
    assert notebook_config(cell | {"preset": "given", "n_layer": 12}) == preset_config("notebook", n_layer=12)
    with pytest.raises(InputError, match="there is no preset"):
        notebook_config(cell | {"preset": "fulll"})


def test_a_notebook_prints_the_values_that_its_preset_puts_in_place_of_those_shown(capsys):
    cell = dataclasses.asdict(preset_config("notebook"))
    cell["__annotations__"] = dict.fromkeys(cell)
    for preset in ("notebook", "given"):
        notebook_config(cell | {"preset": preset, "steps": 7})
    assert capsys.readouterr().out == ""
    notebook_config(cell | {"preset": "full", "n_layer": 4, "steps": 99})  # 4 is what the cell shows: not an edit
    line = capsys.readouterr().out
    assert line.startswith("preset full, in place of what the cell shows: ") and line.count("\n") == 1
    assert "n_layer = 12" in line and "optimizer = 'sgd'" in line and ", steps" not in line and "seed" not in line


def test_bounds_say_what_they_allow():
    assert str(Bounds(low=0, below=1)) == "at least 0 and below 1"
    assert 1 not in Bounds(above=1) and 1 in Bounds(low=1) and math.nan not in Bounds()
