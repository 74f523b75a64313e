"""What a notebook shows while training goes on: one status line and one curve, both renewed in place."""
import time
from typing import Any

from IPython.display import display

from lib.config import RunConfig
from lib.runs.folder import RunFolder
from lib.show import plots
from lib.show.drawing import LIVE, show
from lib.training.progress import minutes_to_target


class LiveView:
    """Called with each logged row of a run. Redraws the status once a second, and the curve every 15 seconds, later
    every 1 % of the time passed: a long run has a long curve."""

    def __init__(self, run: RunFolder, config: RunConfig, floor: float):
        self.run, self.config, self.floor = run, config, floor
        self.status = display({"text/plain": "starting"}, raw=True, display_id=True)
        self.curve = display({"text/plain": "the curve comes with the first logged step"}, raw=True, display_id=True)
        self._told = self._drawn = float("-inf")

    def __call__(self, row: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._told >= 1:
            self._told = now
            self.tell(row)
        if now - self._drawn >= max(15, row["elapsed_sec"] / 100):
            self._drawn = now
            self.draw()

    def tell(self, row: dict[str, Any]) -> None:
        """Renew the status line from a row of the metrics; once the run has ended, it is the verdict."""
        c, summary = self.config, self.run.read_summary()
        if summary["state"] != "running":
            self.status.update({"text/plain": summary["verdict"]}, raw=True, metadata=LIVE)
            return
        minutes_a_step = c.tokens_per_step / row["tokens_per_sec"] / 60
        to_target = minutes_to_target(summary)
        line = (f"step {row['step']:,} of at most {c.steps:,} | loss {row['loss']:.4f} | mean over the last epoch "
                f"{row['mean_loss']:.4f}" + (f" | target {c.target_loss:g}" if c.target_loss else "")
                + ("" if to_target is None else f" in some {to_target:,.0f} min")
                + f" | {row['tokens_per_sec']:,.0f} tokens/s | at most {(c.steps - row['step']) * minutes_a_step:,.0f} "
                "min left")
        self.status.update({"text/plain": line}, raw=True, metadata=LIVE)

    def draw(self) -> None:
        """Renew the status line and the curve from the run's files."""
        metrics = self.run.read_metrics()
        self.tell(metrics.iloc[-1:].to_dict("records")[0])
        alt = f"Training loss up to step {metrics['step'].iloc[-1]:,}: {metrics['loss'].iloc[-1]:.4f}"
        try:
            show(plots.loss_curve(metrics, self.config.target_loss, self.floor), alt, self.curve)
        except Exception as error:  # a picture ends nothing, not the notebook that trained either
            self.curve.update({"text/plain": f"the curve cannot be drawn: {type(error).__name__}: {error}"},
                              raw=True, metadata=LIVE)


def follow(run: RunFolder) -> None:
    """Show a run from its files, renewed every 15 seconds for as long as another process trains it."""
    config, facts = run.read_config()
    view = LiveView(run, config, facts["corpus"]["loss_floor"])
    while True:
        ended = run.read_summary()["state"] != "running"
        metrics = run.read_metrics()
        if len(metrics):
            view.draw()
        if ended:
            return
        time.sleep(15)
