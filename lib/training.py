"""The loop: optimiser, schedule, one step, and the decision that the target is reached."""
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from lib.checkpoint import load_checkpoint, save_checkpoint
from lib.config import RunConfig, relative_to_root
from lib.corpus import Batches, Corpus
from lib.machine import Machine
from lib.model import GPT, GPTConfig
from lib.optimizer import make_optimizers, rate_factor
from lib.run_folder import RunFolder, utc_now
from lib.sampling import sample_texts
from lib.stopping import StopRequest


@dataclass
class Progress:
    """What training has counted and measured so far; it travels in the checkpoint."""

    step: int = 0
    tokens: int = 0  # trained on, repetitions included
    elapsed_sec: float = 0.0  # all of training: steps, samples, checkpoints, passes over the text
    step_sec: float = 0.0  # of that, in steps
    recent: list[float] = field(default_factory=list)  # losses of the steps of the last epoch of windows
    best_mean: float = math.inf  # lowest running mean of which best.pt holds the weights
    next_pass: int = 0  # no pass over the whole text before this many tokens
    corpus_loss: float | None = None  # by the last such pass
    shifted_loss: float | None = None  # the same with windows moved by half their length

    @property
    def mean_loss(self) -> float:
        return sum(self.recent) / len(self.recent) if self.recent else math.inf


def new_model(config: RunConfig, machine: Machine) -> GPT:
    """A model with random weights, drawn from config.seed."""
    torch.manual_seed(config.seed)
    return GPT(GPTConfig(config.n_layer, config.n_head, config.n_embd, config.block_size,
                         dropout=config.dropout)).to(machine.device)


@torch.inference_mode()
def corpus_loss(model: GPT, tokens: np.ndarray, seq_len: int, batch_size: int, machine: Machine,
                offset: int = 0) -> float:
    """The loss over a whole text, in nats per token: the figure by which the target is reached or not.

    One deterministic pass in eval mode over windows of seq_len tokens cut at `offset`. Every token after the first is
    a target once, and windows weigh by their targets. Leaves the model in the mode it was in.
    """
    was_training = model.training
    model.eval()
    text = torch.from_numpy(tokens[offset:].astype(np.int64))
    whole = (len(text) - 1) // seq_len * seq_len
    inputs, targets = text[:whole].view(-1, seq_len), text[1:whole + 1].view(-1, seq_len)
    batches = list(zip(inputs.split(batch_size), targets.split(batch_size), strict=True))
    if whole < len(text) - 1:
        batches.append((text[None, whole:-1], text[None, whole + 1:]))  # what is left is a shorter window
    total = 0.0
    for x, y in batches:
        with machine.autocast():
            total += model(x.to(machine.device), y.to(machine.device)).item() * y.numel()
    model.train(was_training)
    return total / (len(text) - 1)


class Trainer:
    """One run of training: the model, what updates it, and how far it has come.

    `train()` goes on until the target is reached, a limit is met or someone asks it to stop, and may be called again
    after a stop. A trainer whose run folder holds a checkpoint starts from there.
    """

    def __init__(self, model: GPT, corpus: Corpus, config: RunConfig, run: RunFolder, machine: Machine,
                 on_log: Callable[[dict[str, Any]], None] = lambda row: None):
        self.model, self.corpus, self.config, self.run, self.machine = model, corpus, config, run, machine
        self.on_log = on_log
        self.batches = Batches(corpus.tokens, config)
        self.optimizers = make_optimizers(model, config)
        self.scaler = torch.amp.GradScaler(machine.device.type, enabled=machine.amp is torch.float16)
        self.forward = torch.compile(model) if config.compile else model
        self.progress = Progress()
        self.epoch_steps = math.ceil(self.batches.windows_per_epoch / (config.batch_size * config.grad_accum))
        if run.last_checkpoint.exists():
            self._load()
        self._logged = (self.progress.tokens, self.progress.step_sec)  # at the last row
        self._printed = -math.inf  # when the last line went to the screen

    def train(self) -> dict[str, Any]:
        """Train, and return the run's summary as it was written to its folder.

        Raises FloatingPointError where the loss or the gradient is no longer finite; the last checkpoint stays.
        """
        p, c = self.progress, self.config
        self.say(f"{self.model.num_parameters():,} parameters, {len(self.corpus.tokens):,} tokens of text, "
                 f"{c.tokens_per_step:,} tokens a step, {self.machine.name()}, {self.machine.precision}")
        if self.machine.notice:
            self.say(self.machine.notice)
        self._called = time.perf_counter()
        self._began = self._called - p.elapsed_sec
        state = self._ended()
        with StopRequest(self.run.stop_file) as stop:
            try:
                while not state:
                    state = self._advance(stop)
            except BaseException as error:
                self.run.write_summary(self._summary("failed", f"{type(error).__name__}: {error}"))
                raise
        if state == "stopped":
            self.run.stop_file.unlink(missing_ok=True)
        summary = self._summary(state)
        self.run.write_summary(summary)
        self.say(summary["verdict"])
        return summary

    def _advance(self, stop: StopRequest) -> str:
        """One step, and whatever is due after it; returns the state the run is then in, empty while it goes on."""
        p, c = self.progress, self.config
        begin = time.perf_counter()
        loss, grad_norm, lr = self._step()
        p.step_sec += time.perf_counter() - begin
        p.recent.append(loss)
        del p.recent[:-self.epoch_steps]
        self._tick()

        state = "limit" if p.step >= c.steps or 0 < c.max_hours <= (time.perf_counter() - self._called) / 3600 else ""
        measured = self._measure(last=bool(state))
        if measured and p.corpus_loss < c.target_loss:
            state = "reached"
        ended = bool(state)  # a run that is stopped goes on later, as if nothing had happened: nothing extra is written
        if ended or measured or p.step == 1 or p.step % c.log_every == 0:
            self._tick()
            self._log(loss, grad_norm, lr, measured, always=ended or measured)
        if ended or p.step % c.sample_every == 0:
            self.run.append_samples(p.step, c.prompt, sample_texts(self.model, c, p.step))
        if not ended and stop.requested:
            state = "stopped"
        if state or p.step % c.save_every == 0:
            self._tick()
            self._save(reached=state == "reached")
        self._tick()
        return state

    def _tick(self) -> None:
        self.progress.elapsed_sec = time.perf_counter() - self._began

    def _step(self) -> tuple[float, float, float]:
        """One update of the weights; its loss, gradient norm before clipping, and learning rate."""
        p, c = self.progress, self.config
        factor = rate_factor(p.step, c)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = factor * group["peak_lr"]
        self.model.train()
        loss = torch.zeros((), device=self.machine.device)
        for k in range(p.step * c.grad_accum, (p.step + 1) * c.grad_accum):
            x, y = (torch.from_numpy(part).to(self.machine.device) for part in self.batches.batch(k))
            with self.machine.autocast():
                micro_loss = self.forward(x, y) / c.grad_accum
            self.scaler.scale(micro_loss).backward()
            loss += micro_loss.detach()
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), c.clip_grad or math.inf)
        # fp16 gradients may overflow: the scaler then skips the update and lowers its scale
        if not math.isfinite(loss) or not (self.scaler.is_enabled() or math.isfinite(grad_norm)):
            raise FloatingPointError(f"step {p.step + 1}: loss {loss.item()}, gradient norm {grad_norm.item()}. "
                                     "What usually helps: a run with a lower --lr, more --warmup_steps or --amp off")
        if math.isfinite(grad_norm):  # the scaler looks at one optimiser's gradients; clipping has mixed them all
            for optimizer in self.optimizers:
                self.scaler.step(optimizer)
        self.scaler.update()
        self.model.zero_grad(set_to_none=True)
        p.step += 1
        p.tokens += c.tokens_per_step
        return loss.item(), grad_norm.item(), factor * c.lr

    def _measure(self, last: bool) -> bool:
        """Measure the loss over the whole text if the running mean promises the target, or at the end of the run.

        At the end of a run of less than an epoch it stays unmeasured: the pass would cost more than the training told.
        """
        p, c = self.progress, self.config
        text = len(self.corpus.tokens)
        promising = len(p.recent) == self.epoch_steps and p.mean_loss < c.target_loss and p.tokens >= p.next_pass
        p.corpus_loss = p.shifted_loss = None  # what was measured before was of other weights
        if not promising and not (last and p.tokens >= text):
            return False
        p.corpus_loss = corpus_loss(self.model, self.corpus.tokens, c.seq_len, c.batch_size, self.machine)
        p.next_pass = p.tokens + text // 2
        if last or p.corpus_loss < c.target_loss:
            p.shifted_loss = corpus_loss(self.model, self.corpus.tokens, c.seq_len, c.batch_size, self.machine,
                                         offset=c.seq_len // 2)
            self.say(f"windows moved by half their length: loss {p.shifted_loss:.6f}")
        return True

    def _ended(self) -> str:
        """The state of a run that has nothing left to do; empty where there is."""
        p, c = self.progress, self.config
        if p.corpus_loss is not None and p.corpus_loss < c.target_loss:
            return "reached"
        return "limit" if p.step >= c.steps else ""

    def say(self, line: str) -> None:
        """A line for people: into the log and onto the screen."""
        self.run.log(line)
        print(line, flush=True)

    def _log(self, loss: float, grad_norm: float, lr: float, measured: bool, always: bool) -> None:
        """Record a row; on the screen at most once a second, later every 1 % of the time passed, so that a run of ten
        hours leaves a notebook of a thousand lines."""
        p = self.progress
        tokens, step_sec = self._logged
        self._logged = (p.tokens, p.step_sec)
        row = dict(step=p.step, tokens=p.tokens, loss=loss, mean_loss=p.mean_loss, lr=lr, grad_norm=grad_norm,
                   tokens_per_sec=(p.tokens - tokens) / (p.step_sec - step_sec), elapsed_sec=p.elapsed_sec,
                   corpus_loss=p.corpus_loss if measured else None)
        self.run.append_metrics(row)
        line = (f"step {p.step:5d} | loss {loss:.6f} | mean {p.mean_loss:.6f} | lr {lr:.2e} | "
                f"{row['tokens_per_sec']:,.0f} tok/s" + (f" | all tokens {p.corpus_loss:.6f}" if measured else ""))
        if always or p.elapsed_sec - self._printed >= min(30, max(1, p.elapsed_sec / 100)):
            self._printed = p.elapsed_sec
            self.say(line)
            self.run.write_summary(self._summary("running"))
        else:
            self.run.log(line)
        self.on_log(row)

    def _summary(self, state: str, reason: str = "") -> dict[str, Any]:
        """What summary.json holds: the state and its verdict in words, unrounded losses, counts, seconds."""
        p, c = self.progress, self.config
        whole = (f"loss over all {len(self.corpus.tokens):,} tokens "
                 + ("unmeasured" if p.corpus_loss is None else f"{p.corpus_loss:.8f}"))
        verdict = {
            "running": "Training has not ended",
            "reached": f"Target reached: {whole} < {c.target_loss:g}",
            "limit": f"Target {c.target_loss:g} not reached within the limits: {whole}",
            "stopped": f"Stopped by the user at step {p.step}: go on with --resume {relative_to_root(self.run.path)}",
            "failed": f"Failed: {reason}",
        }[state]
        return dict(state=state, verdict=f"{verdict} (step {p.step:,}, {p.tokens:,} tokens, {p.elapsed_sec:,.0f} s)",
                    target_loss=c.target_loss, corpus_loss=p.corpus_loss, shifted_loss=p.shifted_loss,
                    loss=p.recent[-1] if p.recent else None, mean_loss=p.mean_loss if p.recent else None,
                    step=p.step, tokens=p.tokens, epochs=p.tokens / len(self.corpus.tokens),
                    elapsed_sec=p.elapsed_sec, step_sec=p.step_sec, parameters=self.model.num_parameters(),
                    time=utc_now())

    def _save(self, reached: bool) -> None:
        """last.pt to go on from; best.pt, weights only, where the running mean is the lowest so far."""
        p = self.progress
        best = reached or p.mean_loss < p.best_mean
        if best:
            p.best_mean = p.mean_loss
            save_checkpoint({"model": self.model.state_dict()}, self.run.best_checkpoint)
        save_checkpoint({
            "model": self.model.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.scaler.state_dict(), "progress": asdict(p),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if self.machine.device.type == "cuda" else None,
        }, self.run.last_checkpoint)

    def _load(self) -> None:
        state = load_checkpoint(self.run.last_checkpoint)
        self.model.load_state_dict(state["model"])
        for optimizer, moments in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(moments)
        if state["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.machine.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"])
        self.run.forget_after(self.progress.step)
        self.say(f"resumed at step {self.progress.step:,} after {self.progress.tokens:,} tokens")
