"""How far a run has come, and that in words."""
import math
from dataclasses import asdict, dataclass, field
from typing import Any

from lib.config import RunConfig

SURE = 0.5  # nats: a token of a lower loss was given a probability of 0.61 or more


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
    looked: tuple[int, float] | None = None  # at which step some windows were scored last, and their loss
    next_look: int = 0  # not again before this step
    corpus_loss: float | None = None  # over the whole text: the figure that decides
    shifted_loss: float | None = None  # the same with windows moved by half their length
    cut_losses: dict[str, float] = field(default_factory=dict)  # by where the text was cut: all that were measured then
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
    def _fall(self) -> float:
        """The factor by which the running mean fell in the last epoch; 1 before the end of the second one."""
        before = self.recent[:-self.epoch_steps]
        return self.mean_loss / _mean(before) if len(before) == self.epoch_steps else 1.0

    def row(self, result: StepResult) -> dict[str, Any]:
        """The metrics of the step that gave this result; counts the speed from the row before."""
        row = dict(step=self.step, tokens=self.tokens, mean_loss=self.mean_loss, **asdict(result),
                   tokens_per_sec=(self.tokens - self.logged_tokens) / (self.step_sec - self.logged_sec),
                   elapsed_sec=self.elapsed_sec, corpus_loss=self.corpus_loss)
        self.logged_tokens, self.logged_sec = self.tokens, self.step_sec
        return row

    def steps_to(self, target: float) -> int | None:
        """Steps after which the running mean would be at the target if it went on falling by the same factor in each
        epoch; None where it does not fall, or nobody can tell yet."""
        if target <= 0 or self._fall >= 1:
            return None
        return max(0, round(self.epoch_steps * math.log(target / self.mean_loss) / math.log(self._fall)))

    def summary(self, config: RunConfig, text_tokens: int, state: str, what_next: str = "") -> dict[str, Any]:
        """What summary.json holds of this: the state and its verdict in words, unrounded losses, counts, seconds."""
        verdict = {
            "running": "Training has not ended",
            "reached": f"Target reached: {self._told(config, text_tokens)}",
            "limit": (f"Target {config.target_loss:g} not reached within the limits: " if config.target_loss
                      else "Trained to the limits, without a target: ") + self._told(config, text_tokens),
            "stopped": f"Stopped by the user at step {self.step}: {what_next}",
            "failed": f"Failed at step {self.step}: {what_next}",
        }[state]
        return dict(state=state,
                    verdict=f"{verdict} (step {self.step:,}, {self.tokens:,} tokens, {self.elapsed_sec:,.0f} s)",
                    target_loss=config.target_loss, corpus_loss=self.corpus_loss, shifted_loss=self.shifted_loss,
                    cut_losses=self.cut_losses, known=self._known(config),
                    loss=self.recent[-1] if self.recent else None, mean_loss=self.mean_loss if self.recent else None,
                    steps_to_target=self.steps_to(config.target_loss) if state == "running" else None,
                    step=self.step, tokens=self.tokens, epochs=self.tokens / text_tokens,
                    elapsed_sec=self.elapsed_sec, step_sec=self.step_sec, restarts=self.restarts)

    def _told(self, config: RunConfig, text_tokens: int) -> str:
        """What was measured of the whole text, in words."""
        if self.corpus_loss is None:
            return f"loss over all {text_tokens:,} tokens unmeasured"
        if config.cut_at_0:
            told = f"loss over all {text_tokens:,} tokens, cut where training cut them"
        else:
            *others, last = sorted(self.cut_losses, key=int)
            cuts = f"{', '.join(others)} or {last}" if others else last
            told = f"largest loss over all {text_tokens:,} tokens, cut at {cuts}"
        below = f" < {config.target_loss:g}" if self.corpus_loss < config.target_loss else ""
        moved = "" if self.shifted_loss is None else f", in windows moved by half {self.shifted_loss:.4f}"
        meaning = self._known(config) and f": {self._known(config)}"
        return f"{told}: {self.corpus_loss:.8f}{below}{moved}{meaning}"

    def _known(self, config: RunConfig) -> str:
        return known({"corpus_loss": self.corpus_loss, "shifted_loss": self.shifted_loss,
                      "target_loss": config.target_loss})


def known(summary: dict[str, Any]) -> str:
    """From where a text is known, in words, by its losses cut as in training and moved by half; empty where it is not,
    nobody has measured it, or there was no target. A target that leaves a model unsure does not do: it is SURE then.
    """
    loss, moved = summary.get("corpus_loss"), summary.get("shifted_loss")
    most = min(summary.get("target_loss") or 0, SURE)
    if loss is None or moved is None or loss >= most:
        return ""
    return "known from any place" if moved < most else "known only where it was cut"


def minutes_to_target(summary: dict[str, Any]) -> float | None:
    """The time that a run, of which this is the summary, may still need to its target; None where nobody can tell."""
    steps = summary.get("steps_to_target")  # runs of earlier versions have none
    return None if steps is None else steps * summary["step_sec"] / summary["step"] / 60


def _mean(losses: list[float]) -> float:
    return sum(losses) / len(losses) if losses else math.inf
