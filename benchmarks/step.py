"""The training step of GPT-2 124M: this project's against those of transformers and litgpt, in turns, beside the
machine's peak.

    pip install litgpt              (optional)
    python benchmarks/step.py [--batch_size 4 --seq_len 128 --amp auto --rounds 7]      about 4 minutes on two cores

litgpt's GPT has this shape but rotary positions and a head of its own, 163M parameters. Each contender lives in a
process of its own, and only one computes at a time: a round is one step of each. All compute the same: forward,
cross-entropy, backward, gradients clipped to norm 1, AdamW, on one device in one precision; the two last are steps as
the preset `excerpt` takes them, with Muon and the softmax over the text's tokens and a sample of the others, plain and
by torch.compile, which needs a C++ compiler and takes a minute before it begins. FLOPs of a step are 6 x
parameters per token and 12 x n_layer x n_embd x seq_len for attention (PaLM, appendix B); rows of the head that a
softmax leaves out and what an optimiser multiplies are not among them.
"""
import argparse
import functools
import importlib.util
import multiprocessing
import resource
import shutil
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from lib.model.gpt import new_model
from lib.presets import preset_config
from lib.training.machine import Machine, prepare_machine

PARAMETERS, N_LAYER, N_EMBD, VOCABULARY = 124_439_808, 12, 768, 50_257


def ours(machine: Machine, batch_size: int, seq_len: int, **changes) -> Callable[[], None]:
    """A step of this project's on the preset's text."""
    from lib.text.corpus import load_corpus
    from lib.training.sampled_softmax import FIRST_STEPS
    from lib.training.step import TrainingStep
    config = preset_config("excerpt", batch_size=batch_size, seq_len=seq_len, **changes)
    step = TrainingStep(new_model(config, machine.device), load_corpus(config), config, machine)

    def step_and_read() -> None:
        step(FIRST_STEPS)  # those before it are over all tokens
        step.read()
    return step_and_read


def rows_of_the_head(name: str) -> int:
    """Tokens that a contender's softmax runs over."""
    from lib.text.corpus import load_corpus
    from lib.training.sampled_softmax import DRAWN
    if name not in (SAMPLED, COMPILED):
        return VOCABULARY
    return len(np.unique(load_corpus(preset_config("excerpt")).tokens)) + DRAWN


def transformers(machine: Machine, batch_size: int, seq_len: int) -> Callable[[], None]:
    """The same step with transformers' GPT2LMHeadModel, as their examples write it."""
    from transformers import GPT2Config, GPT2LMHeadModel
    model = GPT2LMHeadModel(GPT2Config(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, use_cache=False))
    return plain_step(machine, model, lambda tokens: model(input_ids=tokens, labels=tokens).loss, batch_size, seq_len)


def litgpt(machine: Machine, batch_size: int, seq_len: int) -> Callable[[], None]:
    """The same step with litgpt's GPT and its cross-entropy."""
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy
    model = GPT(Config(n_layer=N_LAYER, n_head=12, n_embd=N_EMBD, block_size=1024, vocab_size=50257,
                       padded_vocab_size=50257, parallel_residual=False, gelu_approximate="tanh"))
    return plain_step(machine, model, lambda tokens: chunked_cross_entropy(model(tokens), tokens), batch_size, seq_len)


def plain_step(machine: Machine, model: torch.nn.Module, loss_of: Callable, batch_size: int,
               seq_len: int) -> Callable[[], None]:
    """A step as examples write it, with torch's AdamW."""
    model.to(machine.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.0)
    tokens = torch.randint(50257, (batch_size, seq_len), device=machine.device)

    def step() -> None:
        with machine.autocast():
            loss = loss_of(tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
    return step


def peak(machine: Machine) -> float:
    """FLOP/s of the fastest of several products, of the sizes that GPT-2 multiplies, in the precision of a machine."""
    best = 0.0
    sizes = [(512, 768, 3072), (2048, 768, 3072), (2048, 2048, 2048)]
    if machine.device.type == "cuda":
        sizes.append((8192, 8192, 8192))
    for rows, inner, columns in sizes:
        a, b = (torch.randn(shape, device=machine.device).to(machine.amp or torch.float32)
                for shape in ((rows, inner), (inner, columns)))
        for _ in range(20):
            begin = time.perf_counter()
            c = a @ b
            if machine.device.type == "cuda":
                torch.cuda.synchronize()
            best = max(best, 2 * rows * inner * columns / (time.perf_counter() - begin))
            del c
    return best


SAMPLED, COMPILED = "this project, excerpt", "the same, compiled"
CONTENDERS = {"transformers": transformers, "litgpt": litgpt,
              "this project": functools.partial(ours, optimizer="adamw", sampled_softmax=False),
              SAMPLED: ours, COMPILED: functools.partial(ours, compile=True)}


def is_here(name: str) -> bool:
    """Whether this machine has what a contender needs."""
    if name == COMPILED:
        return any(map(shutil.which, ("c++", "g++", "clang++", "cl")))
    return name != "litgpt" or importlib.util.find_spec(name) is not None


def contender(name: str, amp: str, batch_size: int, seq_len: int, pipe) -> None:
    """A process: prepare, then do one step for each message and answer with its seconds; at last with its memory."""
    machine = prepare_machine(preset_config("excerpt", amp=amp))
    step = CONTENDERS[name](machine, batch_size, seq_len)
    pipe.send(None)
    while pipe.recv():
        begin = time.perf_counter()
        step()
        pipe.send(time.perf_counter() - begin)
    pipe.send(torch.cuda.max_memory_allocated() / 1e9 if machine.device.type == "cuda"
              else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)  # kB -> GB


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--seq_len", type=int, default=128)
    parser.add_argument("--amp", default="auto")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    machine = prepare_machine(preset_config("excerpt", amp=args.amp))
    spawn = multiprocessing.get_context("spawn")
    pipes = {}
    for name in CONTENDERS:
        if not is_here(name):
            print(f"without {name}: what it needs is not installed")
            continue
        pipes[name], end = spawn.Pipe()
        arguments = (name, args.amp, args.batch_size, args.seq_len, end)
        spawn.Process(target=contender, args=arguments, daemon=True).start()
    for pipe in pipes.values():  # to begin takes longer than the steps
        pipe.recv()
    seconds, peaks = {name: [] for name in pipes}, []
    for counted in [False] * 2 + [True] * args.rounds:
        peaks.append(peak(machine))
        for name, pipe in pipes.items():
            pipe.send(True)
            took = pipe.recv()
            if counted:
                seconds[name].append(took)
    tokens = args.batch_size * args.seq_len
    print(f"{args.batch_size} x {args.seq_len} tokens, {args.rounds} rounds, torch {torch.__version__}, "
          f"{machine.name()}, {machine.precision}, peak of products {max(peaks) / 1e9:,.0f} GFLOP/s "
          f"({statistics.median(peaks) / 1e9:,.0f} in the median of the rounds)")
    for name, pipe in pipes.items():
        pipe.send(False)
        median = statistics.median(seconds[name])
        multiplied = PARAMETERS - (VOCABULARY - rows_of_the_head(name)) * N_EMBD
        flops = tokens * (6 * multiplied + 12 * N_LAYER * N_EMBD * args.seq_len)
        pairs = zip(seconds["transformers"], seconds[name], strict=True)
        ratio = statistics.median(other / mine for other, mine in pairs)
        print(f"{name:20} {median:6.3f} s ({min(seconds[name]):.3f} to {max(seconds[name]):.3f}) "
              f"{tokens / median:6.1f} tokens/s  {ratio:4.2f} x transformers  "
              f"{flops / median / statistics.median(peaks):4.0%} of the peak  {pipe.recv():.2f} GB")


if __name__ == "__main__":
    main()
