"""How far a run has come, and that in words."""
import math
from dataclasses import asdict, dataclass, field
from typing import Any

from lib.config import RunConfig


@dataclass(frozen=True)
class StepResult:
    """What one update of the weights gave."""

    loss: float
    grad_norm: float  # before clipping
    rate: float  # learning rates, as the share of their peaks


@dataclass
class Progress:
    """What training has counted and measured so far; it travels in the checkpoint."""

    epoch_steps: int  # steps in which the text is read once
    step: int = 0
    tokens: int = 0  # trained on, repetitions included
    elapsed_sec: float = 0.0  # all of training: steps, samples, checkpoints, passes over the text
    step_sec: float = 0.0  # of that, in steps
    logged_tokens: int = 0  # tokens at the last row of the metrics
    logged_sec: float = 0.0  # step_sec at that row
    pending: StepResult | None = None  # of the last step, while its measurement and sample are due
    recent: list[float] = field(default_factory=list)  # losses of the steps of the last two epochs
    best_mean: float = math.inf  # lowest running mean of which best.pt holds the weights
    next_pass: int = 0  # no pass over the whole text before this many tokens
    corpus_loss: float | None = None  # by the last such pass
    shifted_loss: float | None = None  # the same with windows moved by half their length
    restarts: list[int] = field(default_factory=list)  # steps from which the run was gone on with

    def state_dict(self) -> dict[str, Any]:
        """All of it as plain numbers, strings and lists."""
        return asdict(self)

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "Progress":
        """The progress that `state_dict` gave this of; TypeError where another version of this project did."""
        return cls(**state | {"pending": state["pending"] and StepResult(**state["pending"])})

    def add_loss(self, loss: float) -> None:
        self.recent = [*self.recent, loss][-2 * self.epoch_steps:]

    @property
    def mean_loss(self) -> float:
        """The running mean: over the last epoch, or over all steps of a run that is younger."""
        return _mean(self.recent[-self.epoch_steps:])

    @property
    def expected_loss(self) -> float:
        """Where the loss over the whole text may stand; infinite before the end of the first epoch.

        The running mean lags, for it is of weights up to an epoch old. So it is taken to fall in one epoch more by the
        factor it fell by in the last one.
        """
        return self.mean_loss * min(1.0, self._fall) if len(self.recent) >= self.epoch_steps else math.inf

    @property
    def _fall(self) -> float:
        """The factor by which the running mean fell in the last epoch; 1 before the end of the second one."""
        before = self.recent[:-self.epoch_steps]
        return self.mean_loss / _mean(before) if len(before) == self.epoch_steps else 1.0

    def steps_to(self, target: float) -> int | None:
        """Steps after which the running mean would be at the target if it went on falling by the same factor in each
        epoch; None where it does not fall, or nobody can tell yet."""
        if target <= 0 or self._fall >= 1:
            return None
        return max(0, round(self.epoch_steps * math.log(target / self.mean_loss) / math.log(self._fall)))

    @property
    def ending_sec(self) -> float:
        """Seconds that one more step and the measurements at a run's end may take.

        These are two passes over the text, at no more than half of a step's time for each token (a forward is a third
        of it), so at most an epoch of steps; a run of less than an epoch has none.
        """
        steps = 1 + (self.epoch_steps if self.step >= self.epoch_steps else 0)
        return steps * self.step_sec / self.step

    def summary(self, config: RunConfig, text_tokens: int, state: str, what_next: str = "") -> dict[str, Any]:
        """What summary.json holds of this: the state and its verdict in words, unrounded losses, counts, seconds."""
        whole = (f"loss over all {text_tokens:,} tokens "
                 + ("unmeasured" if self.corpus_loss is None else f"{self.corpus_loss:.8f}"))
        verdict = {
            "running": "Training has not ended",
            "reached": f"Target reached: {whole} < {config.target_loss:g}",
            "limit": (f"Target {config.target_loss:g} not reached within the limits: {whole}" if config.target_loss
                      else f"Trained to the limits, without a target: {whole}"),
            "stopped": f"Stopped by the user at step {self.step}: {what_next}",
            "failed": f"Failed at step {self.step}: {what_next}",
        }[state]
        return dict(state=state,
                    verdict=f"{verdict} (step {self.step:,}, {self.tokens:,} tokens, {self.elapsed_sec:,.0f} s)",
                    target_loss=config.target_loss, corpus_loss=self.corpus_loss, shifted_loss=self.shifted_loss,
                    loss=self.recent[-1] if self.recent else None, mean_loss=self.mean_loss if self.recent else None,
                    steps_to_target=self.steps_to(config.target_loss) if state == "running" else None,
                    step=self.step, tokens=self.tokens, epochs=self.tokens / text_tokens,
                    elapsed_sec=self.elapsed_sec, step_sec=self.step_sec, restarts=self.restarts)


def minutes_to_target(summary: dict[str, Any]) -> float | None:
    """The time that a run, of which this is the summary, may still need to its target; None where nobody can tell."""
    steps = summary.get("steps_to_target")  # runs of earlier versions have none
    return None if steps is None else steps * summary["step_sec"] / summary["step"] / 60


def _mean(losses: list[float]) -> float:
    return sum(losses) / len(losses) if losses else math.inf
