"""A run computes where and in what it says: the precision is decided once, told, and kept."""
import dataclasses
import os
import subprocess
import sys
import types

import pytest
import torch

from lib.config import ROOT
from lib.model.gpt import new_model
from lib.presets import command_line
from lib.runs.folder import RunFolder
from lib.training import machine as machines
from lib.training.machine import Machine, prepare_machine
from lib.training.provenance import provenance
from lib.training.trainer import Trainer
from run_training import parse


@pytest.fixture
def hardware(monkeypatch):
    """A function that makes this processor one with or without instructions for bfloat16."""
    return lambda has_bf16: monkeypatch.setattr(machines, "_has_bf16", lambda device: has_bf16)


@pytest.fixture
def auto(config):
    return dataclasses.replace(config, device="cpu", steps=8, log_every=1, save_every=4, optimizer="muon", muon_rows=0)


def begun(config, corpus, stop: int = 0) -> Trainer:
    """As the notebook begins a run or goes on with one, up to step `stop` or to its end."""
    machine, run = prepare_machine(config), RunFolder(config.out_dir)
    run.path.mkdir(exist_ok=True)
    run.write_config(config, provenance(corpus, machine, floor=0.0))
    t = Trainer(new_model(config, machine.device), corpus, config, run, machine)
    t.on_log = lambda row: run.stop_file.touch() if row["step"] == stop else None
    t.train()
    return t


@pytest.mark.parametrize("has_bf16", [False, True])
def test_a_run_goes_on_in_its_precision_on_a_machine_made_for_another_one(auto, corpus, tmp_path, hardware, has_bf16):
    hardware(has_bf16)
    whole = begun(dataclasses.replace(auto, out_dir=str(tmp_path / "whole")), corpus)
    begun(auto, corpus, stop=3)
    hardware(not has_bf16)
    resumed = begun(dataclasses.replace(auto, resume=auto.out_dir), corpus)
    assert resumed.machine.precision == whole.machine.precision == ("bf16" if has_bf16 else "fp32")
    assert resumed.progress.restarts == [3]
    for name, weights in whole.model.state_dict().items():
        assert torch.equal(weights, resumed.model.state_dict()[name])
    config, facts = resumed.run.read_config()
    assert config.amp == "auto" and facts["machine"]["precision"] == resumed.machine.precision
    assert ("no instructions for bf16" in resumed.run.log_file.read_text()) == has_bf16


def test_a_run_begun_in_fp32_by_name_goes_on_in_it_where_another_is_usual(auto, corpus, tmp_path, hardware):
    hardware(False)
    whole = begun(dataclasses.replace(auto, amp="off", out_dir=str(tmp_path / "whole")), corpus)
    begun(dataclasses.replace(auto, amp="off"), corpus, stop=3)
    hardware(True)
    resumed = begun(dataclasses.replace(auto, resume=auto.out_dir), corpus)
    assert resumed.machine.precision == "fp32" and resumed.progress.restarts == [3]
    for name, weights in whole.model.state_dict().items():
        assert torch.equal(weights, resumed.model.state_dict()[name])


def test_another_precision_is_taken_where_it_is_asked_for_and_kept_from_then_on(auto, corpus, hardware):
    hardware(False)
    begun(auto, corpus, stop=2)
    resumed = begun(dataclasses.replace(auto, resume=auto.out_dir, amp="bf16"), corpus, stop=4)
    assert resumed.machine.precision == "bf16" and ", bf16\n" in resumed.run.log_file.read_text()
    assert begun(dataclasses.replace(auto, resume=auto.out_dir), corpus).machine.precision == "bf16"


def test_a_run_is_reproduced_in_the_precision_it_had(auto, corpus, hardware):
    hardware(True)
    run = begun(auto, corpus, stop=2).run
    hardware(False)
    config, _, _ = parse(["--reproduce", str(run.path)])
    machine = prepare_machine(config)
    assert config.amp == machine.precision == "bf16" and "no instructions for bf16" in machine.notice
    assert "--amp=bf16" in command_line(config)
    config, _, _ = parse(["--reproduce", str(run.path), "--amp", "off"])
    assert prepare_machine(config).precision == "fp32"


@pytest.mark.parametrize(("device", "asked", "has_bf16", "precision", "told"), [
    ("cpu", "auto", False, "fp32", ""), ("cpu", "auto", True, "bf16", ""), ("cpu", "off", True, "fp32", ""),
    ("cpu", "bf16", True, "bf16", ""), ("cpu", "bf16", False, "bf16", "no instructions for bf16"),
    ("cpu", "fp16", True, "fp32", "not for this cpu"), ("mps", "auto", False, "fp32", "Apple GPU"),
    ("mps", "bf16", False, "fp32", "not for this mps"), ("cuda", "auto", True, "bf16", ""),
    ("cuda", "auto", False, "fp16", ""), ("cuda", "bf16", False, "bf16", "no instructions for bf16"),
])
def test_auto_takes_what_the_hardware_is_made_for_and_a_name_what_it_says(
        config, monkeypatch, hardware, device, asked, has_bf16, precision, told):
    hardware(has_bf16)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    machine = prepare_machine(dataclasses.replace(config, device=device, amp=asked))
    assert (machine.precision, machine.device.type) == (precision, device)
    assert told in machine.notice if told else not machine.notice


def test_processes_that_share_the_weights_need_no_scale_that_all_agree_on(monkeypatch):
    monkeypatch.setattr("lib.training.machine._has_bf16", lambda device: False)
    assert [machines._precision("auto", "cuda", shard)[0] for shard in (False, True)] == [torch.float16, None]


def test_auto_is_not_bf16_where_torch_may_not_use_the_instructions_for_it():
    asked = "from lib.training.machine import _precision; print(_precision('auto', 'cpu'))"
    done = subprocess.run([sys.executable, "-c", asked], env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}, cwd=ROOT,
                          capture_output=True, text=True, check=True)
    assert done.stdout == "(None, '')\n"


@pytest.mark.parametrize(("cuda", "mps", "chosen"),
                         [(False, False, "cpu"), (False, True, "cpu"), (True, False, "cuda")])
def test_auto_never_chooses_an_apple_gpu(monkeypatch, cuda, mps, chosen):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)
    assert machines.choose_device("auto") == chosen


def test_the_generator_of_whatever_device_is_used_is_kept(monkeypatch):
    state = torch.arange(3)
    module = types.SimpleNamespace(get_rng_state=lambda: state, set_rng_state=lambda new: taken.append(new))
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    taken = []
    for device, kept in (("cpu", False), ("cuda", True), ("mps", True)):
        machine = Machine(torch.device(device), None)
        assert (machine.rng_state() is not None) == kept
        machine.set_rng_state(state + 1)
        machine.set_rng_state(torch.arange(9))  # of another kind of device
        machine.set_rng_state(None)
    assert [new.tolist() for new in taken] == [[1, 2, 3]] * 2


def test_deterministic_asks_torch_for_it_and_ends_with_the_run_that_asked(config, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    prepare_machine(dataclasses.replace(config, device="cpu", deterministic=True))
    assert torch.are_deterministic_algorithms_enabled() and machines.os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    prepare_machine(dataclasses.replace(config, device="cpu"))
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("threads, words", [(1, " 1 thread"), (3, " 3 threads")])
def test_a_processor_is_named_with_its_threads(threads, words, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert Machine(torch.device("cpu"), None).name().endswith(f",{words}")


def test_products_are_computed_in_the_precision_that_is_said(config, machine):
    model, idx = new_model(config), torch.arange(64).view(2, 32)
    with machine.autocast():
        logits = model(idx)
    exact = model(idx)
    assert logits.dtype is (machine.amp or torch.float32)
    difference = ((logits - exact).norm() / exact.norm()).item()
    assert 1e-3 < difference < 1e-2 if machine.amp else difference == 0


def test_a_product_in_bfloat16_is_that_of_float32_rounded_once():
    generator = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(shape, generator=generator).bfloat16() for shape in ((3, 40, 30), (3, 30, 50), (3, 40, 50)))
    wide = a.float() @ b.float()
    for product, exact in ((a @ b, wide), (a[0] @ b[0], wide[0]),
                           (torch.baddbmm(c, a, b, beta=2, alpha=3), 2 * c.float() + 3 * wide),
                           (torch.addmm(c[0], a[0], b[0], beta=2, alpha=3), 2 * c[0].float() + 3 * wide[0])):
        assert product.dtype is torch.bfloat16
        # half of the last of 8 bits, and as much where a sum of another order falls on the other side
        assert ((product.float() - exact).abs() <= 2 ** -8 * exact.abs() + 1e-4).all()


def test_no_figure_of_the_weights_depends_on_the_precision_of_training(config, corpus):
    from lib.training.evaluation import corpus_loss
    model = new_model(config)
    losses = {corpus_loss(model, corpus.tokens, 32, 4, Machine(torch.device("cpu"), amp)).mean
              for amp in (None, torch.bfloat16)}
    assert len(losses) == 1
