"""One update of the weights, and everything that it depends on besides the text."""
import math
import time
from typing import Any

import torch

from lib.config import RunConfig
from lib.model.gpt import GPT, Candidates
from lib.text.corpus import Batches, Corpus
from lib.training.alerts import leading_rate
from lib.training.machine import Machine
from lib.training.muon import Muon
from lib.training.optimizer import make_optimizers, rate_factor
from lib.training.progress import StepResult
from lib.training.sampled_softmax import SampledSoftmax

READ_EVERY_SEC = 1


class TrainingStep:
    """Forward, backward, clip, update: call it with a step's number, from 0, and `read` what came of it. Its state
    travels in the checkpoint.

    On a GPU a step is queued in a fraction of the time that it takes there. As long as nobody reads, the next one is
    queued before it has ended, and what it reads is fetched behind the step before it: the GPU never waits for Python.
    """

    muon = Muon

    def __init__(self, model: GPT, corpus: Corpus, config: RunConfig, machine: Machine):
        self.model, self.config, self.machine = model, config, machine
        self.batches = Batches(corpus.tokens, config)
        self.sampled_softmax = SampledSoftmax(corpus.tokens, model.config.vocab_size, config.seed,
                                              machine) if config.sampled_softmax else None
        self.optimizers = make_optimizers(model, config, machine.group, self.muon)
        self.scaler = torch.amp.GradScaler(machine.device.type, enabled=machine.amp is torch.float16)
        self.forward = torch.compile(model) if config.compile else model
        self._fetched = -1, None  # a micro-batch's number, and what it reads
        self._read_at = time.perf_counter()
        self._unread: list[tuple[int, torch.Tensor, float]] = []  # step, its loss and gradient norm, rate

    @property
    def epoch_steps(self) -> int:
        """Steps in which the text is read once."""
        return math.ceil(self.batches.windows_per_epoch / (self.config.batch_size * self.config.grad_accum))

    def __call__(self, step: int) -> None:
        """Update the weights once."""
        c = self.config
        factor = rate_factor(step, c)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = factor * group["peak_lr"]
        self.model.train()
        self.model.zero_grad(set_to_none=True)  # a step that was interrupted may have left some
        loss = self.gradients(step)
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        grad_norm = self.clip()
        # fp16 gradients may overflow: then there is no update, and the scaler lowers its scale. It looks at one
        # optimiser's gradients, and clipping has mixed them all
        if not self.scaler.is_enabled() or math.isfinite(grad_norm):
            for optimizer in self.optimizers:
                self.scaler.step(optimizer)
        self.scaler.update()
        self.model.zero_grad(set_to_none=True)  # their memory is for what comes between two steps
        self._unread.append((step, torch.stack([loss, grad_norm]), factor))

    def gradients(self, step: int) -> torch.Tensor:
        """Compute the gradients of a step, and return its loss, ()."""
        A = self.config.grad_accum
        loss = torch.zeros((), device=self.machine.device)
        for k in range(step * A, (step + 1) * A):
            windows, candidates = self._fetched[1] if self._fetched[0] == k else self.fetch(k)
            with self.machine.autocast():
                micro_loss = self.forward(windows[:, :-1], windows[:, 1:], candidates=candidates) / A
            self.scaler.scale(micro_loss).backward()
            self._fetched = k + 1, self.fetch(k + 1)
            loss += micro_loss.detach()
        return loss

    def clip(self) -> torch.Tensor:
        """Shorten the gradients to the norm that is let through, and return theirs before that, ()."""
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad or math.inf)

    def is_read_after(self, steps: int) -> bool:
        """Whether to wait for what so many steps gave: always where that costs nothing, otherwise where a row, a sample
        or a checkpoint is due, and at least every READ_EVERY_SEC, so that a limit in hours is seen in time."""
        c = self.config
        return (not self.machine.is_asynchronous or steps in (1, c.steps)
                or time.perf_counter() - self._read_at >= READ_EVERY_SEC
                or any(steps % every == 0 for every in (c.log_every, c.sample_every, c.save_every)))

    def fetch(self, k: int) -> tuple[torch.Tensor, Candidates | None]:
        """The windows of micro-batch k, (B, T + 1), and the candidates of its softmax, on the device."""
        step = k // self.config.grad_accum
        return (self.machine.to_device(torch.from_numpy(self.batches.windows(k))),
                self.sampled_softmax.candidates(step, k) if self.sampled_softmax else None)

    def read(self) -> list[StepResult]:
        """Wait for the steps since the last call, and return what each of them gave.

        Raises FloatingPointError where a loss or a gradient was not finite; the weights are of no use then.
        """
        steps, numbers, rates = zip(*self._unread, strict=True)
        self._unread = []
        results = torch.stack(numbers).tolist()
        self._read_at = time.perf_counter()
        for step, (loss, grad_norm) in zip(steps, results, strict=True):
            if not math.isfinite(loss) or not (self.scaler.is_enabled() or math.isfinite(grad_norm)):
                raise FloatingPointError(f"step {step + 1}: loss {loss}, gradient norm {grad_norm}. What usually "
                                         f"helps: a run with a lower --{leading_rate(self.config)}, more "
                                         "--warmup_steps or --amp off")
        return [StepResult(*numbers, rate) for numbers, rate in zip(results, rates, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """The weights and all else that the next step depends on, the state of torch's random generators included."""
        return {"model": self.model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "scaler": self.scaler.state_dict(), "rng": torch.get_rng_state(),
                "device_rng": self.machine.rng_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as the step did that this state is of."""
        self.model.load_state_dict(state["model"])
        for optimizer, moments in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(moments)
        if state["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        self.machine.set_rng_state(state["device_rng"])
