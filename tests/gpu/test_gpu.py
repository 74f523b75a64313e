"""What only a GPU can show: its numbers beside those of an independent model and of the processor, its memory, and that
nothing waits for it."""
import dataclasses
import math
import shutil

import pytest
import torch

from lib.model.gpt import GPT, GPTConfig, new_model
from lib.model.sampling import sample_texts
from lib.presets import preset_config
from lib.runs.folder import RunFolder
from lib.runs.trained import open_model
from lib.text.corpus import load_corpus
from lib.training.evaluation import corpus_loss
from lib.training.machine import Machine, memory_needed, prepare_machine
from lib.training.muon import orthogonalized
from lib.training.step import TrainingStep
from lib.training.trainer import Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
CPU = Machine(torch.device("cpu"), None)


@pytest.fixture
def on_gpu(config):
    """The preset `tiny` on the GPU, in float32."""
    return dataclasses.replace(config, device="cuda", amp="off")


def trainer(config, corpus, **changes) -> Trainer:
    config = dataclasses.replace(config, **changes)
    machine = prepare_machine(config)
    return Trainer(new_model(config, machine.device), corpus, config, RunFolder(config.out_dir), machine)


def weights_of(t: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in t.model.named_parameters()}


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours.cpu() - theirs.cpu()).norm() / theirs.cpu().norm()).item()


def test_logits_are_those_of_transformers_on_the_gpu_and_of_this_project_on_the_processor(on_gpu):
    from transformers import GPT2Config, GPT2LMHeadModel
    prepare_machine(on_gpu)
    torch.manual_seed(0)
    model = GPT(GPTConfig(n_layer=4)).eval()
    idx = torch.randint(50257, (2, 64))
    with torch.no_grad():
        on_processor = model(idx)
        ours = model.to("cuda")(idx.to("cuda"))
        twin = GPT2LMHeadModel(GPT2Config(n_layer=4)).eval().to("cuda")
        theirs = twin.transformer.state_dict()
        for name, p in model.state_dict().items():
            theirs[name].copy_(p.t() if theirs[name].shape != p.shape or name.endswith("attn.c_proj.weight") else p)
        logits = twin(idx.to("cuda")).logits
    assert torch.allclose(ours, logits, atol=1e-4, rtol=0)
    assert torch.allclose(ours.cpu(), on_processor, atol=1e-4, rtol=0)


@pytest.mark.parametrize("sampled_softmax", [False, True])
def test_a_steps_gradients_are_those_of_the_processor(on_gpu, corpus, sampled_softmax):
    gradients = []
    for device in ("cpu", "cuda"):
        t = trainer(on_gpu, corpus, device=device, sampled_softmax=sampled_softmax, optimizer="adamw")
        t.model.zero_grad = lambda set_to_none: None  # keep them to look at
        t.update(20)  # in the first ones the softmax is over all tokens
        gradients.append(torch.cat([p.grad.flatten().cpu() for p in t.model.parameters()]))
    assert relative(gradients[1], gradients[0]) < 1e-4


def test_fp32_on_the_gpu_is_fp32_and_muon_is_the_processors(on_gpu):
    torch.set_float32_matmul_precision("high")
    prepare_machine(on_gpu)
    torch.manual_seed(0)
    a, b = torch.randn(2, 512, 768).unbind()
    assert relative((a.cuda() @ b.cuda().T).double(), a.double() @ b.double().T) < 2e-6  # TF32: 3e-4
    nearly_rank_one = torch.randn(1, 256, 1) @ torch.randn(1, 1, 768) + 1e-2 * torch.randn(1, 256, 768)
    for x in (torch.randn(3, 256, 768), nearly_rank_one):
        update = orthogonalized(x.cuda())
        assert relative(update.double(), orthogonalized(x.double())) < 2e-3
        assert torch.linalg.matrix_norm(update, 2).max() < 1.3


def test_an_overflow_in_fp16_leaves_the_weights_and_halves_the_scale_and_training_goes_on(on_gpu, corpus):
    t = trainer(on_gpu, corpus, amp="fp16", optimizer="muon", steps=60)
    assert t.machine.precision == "fp16" and t.update.scaler.is_enabled()
    t.update.scaler = torch.amp.GradScaler("cuda", init_scale=2.0 ** 60)
    before = weights_of(t)
    t.update(0)
    assert t.update.scaler.get_scale() == 2.0 ** 59
    assert all(torch.equal(p, before[name]) for name, p in t.model.named_parameters())
    t.update.read()
    t.update.scaler = torch.amp.GradScaler("cuda")
    for step in range(60):
        t.update(step)
    results = t.update.read()
    assert all(math.isfinite(result.loss) for result in results) and results[-1].loss < results[0].loss - 2


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_a_resumed_run_equals_an_uninterrupted_one_where_that_was_asked_of_torch(on_gpu, corpus, tmp_path, amp):
    """dropout draws from the GPU's generator, so its state is part of what must come back"""
    settings = dict(steps=20, dropout=0.1, optimizer="muon", amp=amp, deterministic=True, log_every=4, save_every=7)
    whole = trainer(on_gpu, corpus, **settings, out_dir=str(tmp_path / "whole"))
    whole.train()
    parted = trainer(on_gpu, corpus, **settings, out_dir=str(tmp_path / "parted"))
    parted.on_log = lambda row: parted.run.stop_file.touch() if row["step"] == 8 else None
    assert parted.train()["state"] == "stopped"
    torch.cuda.manual_seed(99)
    resumed = trainer(on_gpu, corpus, **settings, out_dir=str(tmp_path / "parted"))
    assert 8 <= resumed.progress.step < 20
    resumed.train()
    assert all(torch.equal(p, resumed.model.state_dict()[name]) for name, p in whole.model.state_dict().items())
    assert whole.run.read_metrics()["loss"].tolist() == resumed.run.read_metrics()["loss"].tolist()


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_nothing_waits_for_the_gpu_between_the_steps_that_are_read(on_gpu, corpus, optimizer, amp):
    t = trainer(on_gpu, corpus, optimizer=optimizer, amp=amp, grad_accum=2, sampled_softmax=True,
                init="key_value" if optimizer == "sgd" else "gpt2")
    for step in (0, 20):  # what is made once: workspaces, moments, both softmaxes
        t.update(step)
    t.update.read()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(10, 30):
            t.update(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(t.update.read()) == 20


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_the_memory_told_before_a_run_is_what_it_takes(amp):
    config = preset_config("excerpt", device="cuda", amp=amp)
    machine = prepare_machine(config)
    model = new_model(config, machine.device)
    step = TrainingStep(model, load_corpus(config), config, machine)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step(0)
    step(1)
    step.read()
    taken = torch.cuda.max_memory_allocated() - before
    told = memory_needed(config, model.num_parameters(), machine)
    print(f"{amp}: told {told / 1e9:.2f} GB, taken {taken / 1e9:.2f} GB")
    assert 0.5 < taken / told < 1.1


def test_a_run_reaches_its_target_by_a_figure_that_the_processor_finds_too(on_gpu, corpus):
    t = trainer(on_gpu, corpus, amp="auto", max_tokens=0, order="fixed", target_loss=2.5, steps=400)
    summary = t.train()
    assert summary["state"] == "reached" and t.machine.precision != "fp32"
    t.run.write_config(t.config, {})
    measured = corpus_loss(open_model(t.run.path).model, corpus.tokens, 32, 4, CPU).mean
    assert measured == pytest.approx(summary["corpus_loss"], abs=1e-4)
    assert (t.run.read_usage()["gpu_memory_gb"] > 0).all()


def test_samples_are_drawn_alike_each_time_and_the_likeliest_as_on_the_processor(on_gpu, corpus):
    t = trainer(on_gpu, corpus, steps=60)
    t.train()
    assert sample_texts(t.model, t.prompt, t.config, 5) == sample_texts(t.model, t.prompt, t.config, 5)
    greedy = dataclasses.replace(t.config, temperature=0.0)
    ours = sample_texts(t.model, t.prompt, greedy)
    assert ours == sample_texts(t.model.cpu(), t.prompt, greedy)


def test_products_are_faster_in_bf16_and_their_rate_is_a_gpus():
    from benchmarks.step import peak
    rates = [peak(Machine(torch.device("cuda"), amp)) for amp in (None, torch.bfloat16)]
    print(f"products: {rates[0] / 1e12:.0f} TFLOP/s in fp32, {rates[1] / 1e12:.0f} in bf16")
    assert 1e12 < rates[0] < rates[1]


@pytest.mark.skipif(not shutil.which("gcc") and not shutil.which("cc"), reason="no C compiler, which triton wants")
def test_a_compiled_step_has_the_loss_of_a_plain_one(on_gpu, corpus):
    losses = []
    for compiled in (False, True):
        t = trainer(on_gpu, corpus, compile=compiled, optimizer="adamw")
        for step in range(14, 20):  # across the change of the softmax
            t.update(step)
        losses.append([result.loss for result in t.update.read()])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
