"""A checkpoint is what was written, or it is refused."""
import os
import pickle
import zipfile
from collections import namedtuple

import numpy as np
import pytest
import torch

from lib.config import InputError
from lib.files import Sealing, is_intact
from lib.runs import checkpoint
from lib.runs.checkpoint import CheckpointWriter, best_weights, load_checkpoint, save_checkpoint
from lib.runs.folder import RunFolder

CONTENT = {"weights": torch.arange(5000, dtype=torch.float32), "moments": [{"step": 3, "mean": torch.ones(70, 7)}]}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(CONTENT, path)
    return path


def test_what_was_saved_comes_back_and_torch_reads_it_too(saved):
    for content in (load_checkpoint(saved), torch.load(saved, weights_only=True)):
        assert torch.equal(content["weights"], CONTENT["weights"]) and content["moments"][0]["step"] == 3
    with zipfile.ZipFile(saved) as archive:
        assert archive.testzip() is None and archive.comment.startswith(b"sha256:")


def test_one_flipped_bit_at_200_places_is_refused(saved):
    whole = saved.read_bytes()
    places = np.random.default_rng(0).choice(len(whole), 180, replace=False)
    for place in [*places, *range(10), *range(len(whole) - 10, len(whole))]:
        bits = bytearray(whole)
        bits[place] ^= 1 << int(place) % 8
        saved.write_bytes(bits)
        with pytest.raises(InputError, match="damaged"):
            load_checkpoint(saved)


def test_a_file_cut_at_50_lengths_is_refused(saved):
    whole = saved.read_bytes()
    for length in [*np.linspace(0, len(whole) - 1, 40).astype(int), *range(len(whole) - 10, len(whole))]:
        saved.write_bytes(whole[:length])
        with pytest.raises(InputError, match="damaged"):
            load_checkpoint(saved)
    saved.write_bytes(whole + b"\n")
    assert not is_intact(saved)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_a_pickle_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil()))
    torch.save({"model": Evil()}, tmp_path / "torch.pt")
    with open(tmp_path / "sealed.pt", "wb") as file:
        sealing = Sealing(file)
        torch.save({"model": Evil()}, sealing)
        sealing.seal()
    assert is_intact(tmp_path / "sealed.pt")
    for name in ("plain.pt", "torch.pt", "sealed.pt"):
        with pytest.raises(InputError):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_the_predecessor_is_kept(saved):
    previous = saved.with_name("previous.pt")
    save_checkpoint({"weights": torch.zeros(3)}, saved, previous)
    assert torch.equal(load_checkpoint(saved)["weights"], torch.zeros(3))
    assert torch.equal(load_checkpoint(previous)["weights"], CONTENT["weights"])


def test_a_disk_without_room_is_noticed_before_anything_is_written(saved, monkeypatch):
    usage = namedtuple("usage", "total used free")(10 ** 9, 10 ** 9 - 1000, 1000)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda folder: usage)
    before = saved.read_bytes()
    with pytest.raises(OSError, match=r"No space left on device: 0.02 MB are needed and 0.00 MB free"):
        save_checkpoint(CONTENT, saved)
    assert saved.read_bytes() == before and [path.name for path in saved.parent.iterdir()] == ["last.pt"]


def test_a_write_that_fails_leaves_the_old_checkpoint(saved, monkeypatch):
    def full(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")
    before = saved.read_bytes()
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(CONTENT, saved, saved.with_name("previous.pt"))
    assert saved.read_bytes() == before and [path.name for path in saved.parent.iterdir()] == ["last.pt"]


def test_a_checkpoint_written_behind_training_has_what_was_there_when_it_was_asked_for(tmp_path):
    writer, weights = CheckpointWriter(), torch.nn.Linear(300, 300).state_dict()
    before = {name: tensor.clone() for name, tensor in weights.items()}
    best, last, previous = (tmp_path / name for name in ("best.pt", "last.pt", "previous.pt"))
    for step in (1, 2):
        writer.write([({"model": weights}, best, None), ({"model": weights, "step": step}, last, previous)])
        for tensor in weights.values():
            tensor.zero_()
    writer.settle()
    assert [load_checkpoint(path)["step"] for path in (last, previous)] == [2, 1]
    for name, tensor in load_checkpoint(previous)["model"].items():
        assert torch.equal(tensor, before[name]) and not load_checkpoint(best)["model"][name].any()


def test_a_write_that_fails_behind_training_is_told_at_the_next_look(tmp_path, monkeypatch):
    written = []

    def full(self, data):  # in the middle of torch's archive, which torch cannot end then
        written.append(len(data))
        if len(written) > 3:
            raise OSError(28, "No space left on device")
        return len(data)
    monkeypatch.setattr(Sealing, "write", full)
    writer = CheckpointWriter()
    writer.write([(CONTENT, tmp_path / "last.pt", None)])
    with pytest.raises(OSError, match="No space"):
        writer.settle()
    writer.settle()  # told once
    assert not list(tmp_path.iterdir())


def test_damaged_best_weights_are_passed_over_for_the_last_ones(tmp_path, capsys):
    run = RunFolder(tmp_path / "run")
    paths = run.best_checkpoint, run.last_checkpoint, run.previous_checkpoint
    for step, path in zip((5, 8, 7), paths, strict=True):
        place = {"step": step, "mean_loss": 1.5} if path == run.best_checkpoint else {"progress": {"step": step}}
        save_checkpoint({"model": {"w": torch.full((3,), float(step))}, **place}, path)
    for step, words in ((5, ""), (8, "best.pt of run cannot be read: these are the weights of last.pt\n"),
                        (7, "best.pt of run cannot be read: these are the weights of previous.pt\n")):
        state = best_weights(run)
        assert state["step"] == step and state["model"]["w"].tolist() == [step] * 3
        assert capsys.readouterr().out == words
        paths[(5, 8, 7).index(step)].write_bytes(b"damaged")
    with pytest.raises(InputError, match="no checkpoint that can be read"):
        best_weights(run)
