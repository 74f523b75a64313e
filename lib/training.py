"""The loop: optimiser, schedule, one step, and the decision that the target is reached."""
import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from lib.checkpoint import load_checkpoint, require_space, save_checkpoint
from lib.config import InputError, RunConfig, relative_to_root
from lib.corpus import Batches, Corpus
from lib.machine import Machine
from lib.model import GPT, GPTConfig
from lib.optimizer import make_optimizers, rate_factor
from lib.run_folder import RunFolder
from lib.sampling import sample_texts
from lib.stopping import Stopped, StopRequest
from lib.whole_file import sweep

NOT_COUNTED = -100  # a target that torch's cross-entropy leaves out


@dataclass
class Progress:
    """What training has counted and measured so far; it travels in the checkpoint."""

    step: int = 0
    tokens: int = 0  # trained on, repetitions included
    elapsed_sec: float = 0.0  # all of training: steps, samples, checkpoints, passes over the text
    step_sec: float = 0.0  # of that, in steps
    logged_tokens: int = 0  # tokens at the last row of the metrics
    logged_sec: float = 0.0  # step_sec at that row
    due: tuple[float, float, float] | None = None  # what the last step gave, while its measurement and sample are due
    recent: list[float] = field(default_factory=list)  # losses of the steps of the last epoch of windows
    best_mean: float = math.inf  # lowest running mean of which best.pt holds the weights
    next_pass: int = 0  # no pass over the whole text before this many tokens
    corpus_loss: float | None = None  # by the last such pass
    shifted_loss: float | None = None  # the same with windows moved by half their length
    restarts: list[int] = field(default_factory=list)  # steps from which the run was gone on with

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
                offset: int = 0, check: Callable[[], None] = lambda: None) -> float:
    """The loss over a whole text, in nats per token: the figure by which the target is reached or not.

    One deterministic pass in eval mode over the windows that training cuts at `offset`. Every token after the first is
    a target once: of the last window, which is moved inside the text over its neighbour, only the targets that are
    left count. `check` is called before each batch and may raise to end it. Leaves the model in eval mode.
    """
    model.eval()
    text = torch.from_numpy(tokens[offset:].astype(np.int64))
    whole = (len(text) - 1) // seq_len * seq_len
    inputs, targets = text[:whole].view(-1, seq_len), text[1:whole + 1].view(-1, seq_len)
    batches = list(zip(inputs.split(batch_size), targets.split(batch_size), strict=True))
    if left := len(text) - 1 - whole:
        last = text[-(seq_len + 1):]
        batches.append((last[None, :-1], last[None, 1:].clone()))
        batches[-1][1][:, :-left] = NOT_COUNTED
    total = 0.0
    for x, y in batches:
        check()
        with machine.autocast():
            total += model(x.to(machine.device), y.to(machine.device)).item() * (y != NOT_COUNTED).sum().item()
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
        self._printed = -math.inf  # when the last line went to the screen
        if run.checkpoints():
            self._load()

    def train(self) -> dict[str, Any]:
        """Train, and return the run's summary as it was written to its folder.

        Raises FloatingPointError where the loss or the gradient is no longer finite, OSError where the disk takes
        nothing more; the last checkpoint stays. InputError where another process trains in this folder.
        """
        with self.run.lock(), StopRequest(self.run.stop_file) as stop:
            try:
                summary = self._train(stop)
            except BaseException as error:
                with contextlib.suppress(OSError):
                    self.run.write_summary(self._summary("failed", f"{type(error).__name__}: {error}"))
                raise
        if summary["state"] == "stopped":
            self.run.stop_file.unlink(missing_ok=True)
        return summary

    def _train(self, stop: StopRequest) -> dict[str, Any]:
        p, c = self.progress, self.config
        sweep(self.run.last_checkpoint.parent)
        self._require_space()
        self.run.forget_after(p.step - bool(p.due))
        self.say(f"{self.model.num_parameters():,} parameters, {len(self.corpus.tokens):,} tokens of text, "
                 f"{c.tokens_per_step:,} tokens a step, {self.machine.name()}, {self.machine.precision}")
        if self.machine.notice:
            self.say(self.machine.notice)
        self._called = time.perf_counter()
        self._began = self._called - p.elapsed_sec
        self.run.write_summary(self._summary("running"))
        state = self._ended()
        while not state:
            state = self._advance(stop)
        summary = self._summary(state)
        self.run.write_summary(summary)
        self.say(summary["verdict"])
        return summary

    def _require_space(self) -> None:
        """Raise OSError where the disk has no room for what this run keeps: best.pt, last.pt, the one before, and the
        next one in the making. Each of the three is the weights and at most two moments of them."""
        folder = self.run.last_checkpoint.parent
        folder.mkdir(parents=True, exist_ok=True)
        weights = sum(parameter.nbytes for parameter in self.model.parameters())
        there = sum(path.stat().st_size for path in (*self.run.checkpoints(), self.run.best_checkpoint)
                    if path.exists())
        require_space(folder, 10 * weights - there)

    def _advance(self, stop: StopRequest) -> str:
        """One step, and whatever is due after it; returns the state the run is then in, empty while it goes on.

        A stop asked for during a measurement or a sample does not wait for its end: it is due again on resuming.
        """
        p = self.progress
        if p.due is None:
            begin = time.perf_counter()
            p.due = self._step()
            p.step_sec += time.perf_counter() - begin
            p.recent.append(p.due[0])
            del p.recent[:-self.epoch_steps]
        try:
            return self._conclude(stop)
        except Stopped:
            self._tick()
            self._save_last()
            return "stopped"

    def _conclude(self, stop: StopRequest) -> str:
        """What is due after a step: measure and sample, which may be interrupted, and then write, which may not.

        A stopped run goes on later as if nothing had happened, so nothing but last.pt is written for the stop.
        """
        p, c = self.progress, self.config
        ended = p.step >= c.steps or 0 < c.max_hours <= (time.perf_counter() - self._called) / 3600
        whole, shifted = self._measure(ended, stop)
        reached = whole is not None and whole < c.target_loss
        ended = ended or reached
        texts = sample_texts(self.model, c, p.step, stop.check) if ended or p.step % c.sample_every == 0 else []

        (loss, grad_norm, lr), p.due = p.due, None
        p.corpus_loss, p.shifted_loss = whole, shifted
        if whole is not None:
            p.next_pass = p.tokens + len(self.corpus.tokens) // 2
        self._tick()
        if shifted is not None:
            self.say(f"windows moved by half their length: loss {shifted:.6f}")
        if ended or whole is not None or p.step == 1 or p.step % c.log_every == 0:
            self._log(loss, grad_norm, lr, always=ended or whole is not None)
        self.run.append_samples(p.step, c.prompt, texts)
        if ended or p.step % c.save_every == 0:
            self._save_best(reached)
        state = "reached" if reached else "limit" if ended else "stopped" if stop.requested else ""
        if state or p.step % c.save_every == 0:
            self._save_last()
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

    def _measure(self, last: bool, stop: StopRequest) -> tuple[float | None, float | None]:
        """The loss over the whole text and with shifted windows, if the running mean promises the target or at the end
        of the run; None for what is not measured. Raises Stopped.

        At the end of a run of less than an epoch both stay unmeasured: the pass would cost more than the training told.
        """
        p, c, text = self.progress, self.config, self.corpus.tokens
        promising = len(p.recent) == self.epoch_steps and p.mean_loss < c.target_loss and p.tokens >= p.next_pass
        if not promising and not (last and p.tokens >= len(text)):
            return None, None
        whole = corpus_loss(self.model, text, c.seq_len, c.batch_size, self.machine, check=stop.check)
        shifted = None
        if last or whole < c.target_loss:
            shifted = corpus_loss(self.model, text, c.seq_len, c.batch_size, self.machine, c.seq_len // 2, stop.check)
        return whole, shifted

    def _ended(self) -> str:
        """The state of a run that has nothing left to do; empty where there is."""
        p, c = self.progress, self.config
        if p.corpus_loss is not None and p.corpus_loss < c.target_loss:
            return "reached"
        return "limit" if p.step >= c.steps and not p.due else ""

    def say(self, line: str) -> None:
        """A line for people: into the log and onto the screen."""
        self.run.log(line)
        print(line, flush=True)

    def _log(self, loss: float, grad_norm: float, lr: float, always: bool) -> None:
        """Record a row; on the screen at most once a second, later every 1 % of the time passed, so that a run of ten
        hours leaves a notebook of a thousand lines."""
        p = self.progress
        row = dict(step=p.step, tokens=p.tokens, loss=loss, mean_loss=p.mean_loss, lr=lr, grad_norm=grad_norm,
                   tokens_per_sec=(p.tokens - p.logged_tokens) / (p.step_sec - p.logged_sec),
                   elapsed_sec=p.elapsed_sec, corpus_loss=p.corpus_loss)
        p.logged_tokens, p.logged_sec = p.tokens, p.step_sec
        self.run.append_metrics(row)
        line = (f"step {p.step:5d} | loss {loss:.6f} | mean {p.mean_loss:.6f} | lr {lr:.2e} | "
                f"{row['tokens_per_sec']:,.0f} tok/s"
                + ("" if p.corpus_loss is None else f" | all tokens {p.corpus_loss:.6f}"))
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
            "failed": f"Failed at step {p.step}: {reason}; {self.run.advice()}",
        }[state]
        return dict(state=state, verdict=f"{verdict} (step {p.step:,}, {p.tokens:,} tokens, {p.elapsed_sec:,.0f} s)",
                    target_loss=c.target_loss, corpus_loss=p.corpus_loss, shifted_loss=p.shifted_loss,
                    loss=p.recent[-1] if p.recent else None, mean_loss=p.mean_loss if p.recent else None,
                    step=p.step, tokens=p.tokens, epochs=p.tokens / len(self.corpus.tokens),
                    elapsed_sec=p.elapsed_sec, step_sec=p.step_sec, restarts=p.restarts,
                    parameters=self.model.num_parameters())

    def _save_best(self, reached: bool) -> None:
        """best.pt, weights only, where the target is reached or the running mean is the lowest so far."""
        p = self.progress
        if reached or p.mean_loss < p.best_mean:
            p.best_mean = p.mean_loss
            save_checkpoint({"model": self.model.state_dict()}, self.run.best_checkpoint)

    def _save_last(self) -> None:
        """last.pt, which has everything that is needed to go on as if nothing had happened."""
        self._tick()
        save_checkpoint({
            "model": self.model.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.scaler.state_dict(), "progress": asdict(self.progress),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if self.machine.device.type == "cuda" else None,
        }, self.run.last_checkpoint, self.run.previous_checkpoint)

    def _load(self) -> None:
        """Go on from last.pt, or from its predecessor where that is damaged. Raises InputError where both are."""
        for path in self.run.checkpoints():
            try:
                state = load_checkpoint(path)
                break
            except InputError as error:
                self.say(str(error))
        else:
            raise InputError(f"{self.run.path} has no checkpoint that can be read: start a new run")
        self.model.load_state_dict(state["model"])
        for optimizer, moments in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(moments)
        if state["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self.progress = p = Progress(**state["progress"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.machine.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"])
        p.restarts.append(p.step)
        self.say(f"resumed at step {p.step:,} after {p.tokens:,} tokens, from {path.name}")
