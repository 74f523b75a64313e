"""The loop: steps, what is due after them, and the decision that the target is reached."""
import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

from lib.config import ROOT, InputError, RunConfig
from lib.files import remove_unfinished
from lib.model.gpt import GPT
from lib.model.sampling import sample_texts
from lib.model.start import origin
from lib.runs.checkpoint import CheckpointWriter, load_first, require_space_for_run
from lib.runs.folder import RunFolder
from lib.runs.formats import version_of
from lib.runs.knowledge import append_knowledge
from lib.runs.trained import open_model
from lib.text.corpus import Corpus, opening
from lib.training.evaluation import knowledge
from lib.training.machine import Machine, memory_notice
from lib.training.progress import Progress, StepResult
from lib.training.resources import UsageSampler
from lib.training.step import TrainingStep
from lib.training.stopping import Stopped, StopRequest
from lib.training.verdict import deciding_loss, ending_sec, is_look_due, is_reached, measure_if_due, note_look


class Trainer:
    """One run of training: the model, what updates it, and how far it has come.

    `train()` goes on until the target is reached, a limit is met or someone asks it to stop, and may be called again
    after a stop. A trainer whose run folder holds a checkpoint starts from there, another one from the model it is
    given, with the weights that config.init_from names. `on_log` gets each logged row; an exception of it is logged.
    """

    def __init__(self, model: GPT, corpus: Corpus, config: RunConfig, run: RunFolder, machine: Machine,
                 on_log: Callable[[dict[str, Any]], None] = lambda row: None, step: type[TrainingStep] = TrainingStep):
        self.model, self.corpus, self.config, self.run, self.machine = model, corpus, config, run, machine
        self.on_log = on_log
        if config.init_from and not run.checkpoints():  # before the optimisers look at the weights
            trained = open_model(ROOT / config.init_from)
            model.load_state_dict(trained.model.state_dict())
            self.say(f"the weights of {config.init_from} have the SHA-256 {trained.digest()}")
        self.update = step(model, corpus, config, machine)
        self.prompt = config.prompt or opening(corpus.tokens, config.seq_len)
        self.writer = CheckpointWriter()
        self.progress = Progress(self.update.epoch_steps)
        self._printed, self._view_failed = -math.inf, False  # when the last line went to the screen; `on_log` raised
        if run.checkpoints():
            self._load()

    def train(self) -> dict[str, Any]:
        """Train, and return the run's summary as it was written to its folder.

        Raises FloatingPointError where the loss or the gradient is no longer finite, OSError where the disk takes
        nothing more; the last checkpoint stays. InputError where another process trains in this folder.
        """
        with self.run.lock(), StopRequest(self.run.stop_file, self.machine.group) as stop:
            try:
                summary = self._train(stop)
            except BaseException as error:
                with contextlib.suppress(Exception):  # the first error is the one to tell
                    self.writer.settle()
                with contextlib.suppress(OSError):
                    self._report("failed", f"{type(error).__name__}: {error}; {self.run.advice()}")
                raise
        if summary["state"] == "stopped":
            self.run.stop_file.unlink(missing_ok=True)
        return summary

    def _train(self, stop: StopRequest) -> dict[str, Any]:
        p, c = self.progress, self.config
        remove_unfinished(self.run.last_checkpoint.parent)
        require_space_for_run(self.run, 4 * self.model.num_parameters(), 0 if c.optimizer == "sgd" else 2)
        self.run.forget_after(p.step - (p.pending is not None))
        self.say(f"{self.model.num_parameters():,} parameters, {len(self.corpus.tokens):,} tokens of text, "
                 f"{c.tokens_per_step:,} tokens a step, {self.machine.name()}, {self.machine.precision}")
        if self.machine.notice:
            self.say(self.machine.notice)
        if p.step == 0:
            self.say(f"begins with {origin(c)}")
            self.say(memory_notice(c, self.model.num_parameters(), self.machine))
        self._called = time.perf_counter()
        self._began = self._called - p.elapsed_sec
        self._report("running")
        state = self._end()
        with UsageSampler(self.run, self.machine.device, lambda: (p.step, time.perf_counter() - self._began)):
            while not state:
                state = self._advance(stop)
        summary = self._report(state, self.run.advice())
        self.say(summary["verdict"])
        return summary

    def _advance(self, stop: StopRequest) -> str:
        """One step, and whatever is due after it; returns the state the run is then in, empty while it goes on.

        A stop asked for during a measurement or a sample does not wait for its end: it is due again on resuming.
        """
        p = self.progress
        self.writer.settle(wait=False)
        if p.pending is None:
            begin = time.perf_counter()
            self.update(p.step)
            p.step += 1
            p.tokens += self.config.tokens_per_step
            is_read = self.update.is_read_after(p.step) or is_look_due(p) or stop.requested
            results = self.update.read() if is_read else []
            p.step_sec += time.perf_counter() - begin
            if not results:
                return ""
            for result in results:
                p.add_loss(result.loss)
            p.pending = results[-1]
        try:
            return self._conclude(stop)
        except Stopped:
            p.corpus_loss, p.shifted_loss, p.cut_losses = None, None, {}  # what was measured is of an earlier step
            self._save(best=False)
            self.writer.settle()
            return "stopped"

    def _conclude(self, stop: StopRequest) -> str:
        """What is due after a step: measure and sample, which may be interrupted, and then write, which may not.

        A stopped run goes on later as if nothing had happened, so nothing but last.pt is written for the stop.
        """
        p, c = self.progress, self.config
        spent = time.perf_counter() - self._called
        ended = p.step >= c.steps or 0 < 3600 * c.max_hours <= spent + ending_sec(p, c, len(self.corpus.tokens))
        measured = measure_if_due(self.model, self.corpus.tokens, c, self.machine, p, ended, stop.check)
        passes = measured.passes
        deciding = deciding_loss(passes, c, len(self.corpus.tokens)) if passes else None
        ended = (reached := is_reached(deciding, c)) or ended
        sampled = ended or p.step % c.sample_every == 0
        texts = sample_texts(self.model, self.prompt, c, p.step, stop.check) if sampled else []

        result, p.pending = p.pending, None
        if measured.looked is not None:
            note_look(p, c, len(self.corpus.tokens), measured.looked)
        p.corpus_loss, p.cut_losses = deciding, {str(cut): loss.mean for cut, loss in passes.items()}
        p.shifted_loss = p.cut_losses.get(str(c.seq_len // 2))
        p.elapsed_sec = time.perf_counter() - self._began
        if ended and passes:
            self.run.write_position_losses(passes[0].by_position, passes[c.seq_len // 2].by_position)
        if passes:
            self.say("all tokens: " + ", ".join(f"{loss:.6f} cut at {cut}" for cut, loss in p.cut_losses.items()))
        if ended or passes or p.step == 1 or p.step % c.log_every == 0:
            self._log(result, always=ended or bool(passes))
        if sampled:
            self.run.append_samples(p.step, self.prompt, texts)
            append_knowledge(self.run, p.step, *knowledge(self.model, self.corpus.tokens, c.seq_len, self.machine))
        state = "reached" if reached else "limit" if ended else "stopped" if stop.requested else ""
        due = ended or p.step % c.save_every == 0
        if due or state:
            self._save(best=due and (reached or p.mean_loss < p.best_mean))
        if state:
            self.writer.settle()
        return state

    def _end(self) -> str:
        """The state of a run that has nothing left to do; empty where there is."""
        p, c = self.progress, self.config
        if is_reached(p.corpus_loss, c):
            return "reached"
        return "limit" if p.step >= c.steps and p.pending is None else ""

    def _report(self, state: str, what_next: str = "") -> dict[str, Any]:
        """Write the run's summary, and return it."""
        summary = self.progress.summary(self.config, len(self.corpus.tokens), state, what_next)
        summary["parameters"] = self.model.num_parameters()
        self.run.write_summary(summary)
        return summary

    def say(self, line: str) -> None:
        """A line for people: into the log and onto the screen."""
        self.run.log(line)
        print(line, flush=True)

    def _log(self, result: StepResult, always: bool) -> None:
        """Record a row; on the screen at most once a second, later every 1 % of the time passed, so that a run of ten
        hours leaves a notebook of a thousand lines."""
        p = self.progress
        self.run.append_metrics(row := p.row(result))
        line = (f"step {p.step:5d} | loss {result.loss:.6f} | mean {p.mean_loss:.6f} | rate {result.rate:.3f} | "
                f"{row['tokens_per_sec']:,.0f} tok/s"
                + ("" if p.corpus_loss is None else f" | all tokens {p.corpus_loss:.6f}"))
        if always or p.elapsed_sec - self._printed >= min(30, max(1, p.elapsed_sec / 100)):
            self._printed = p.elapsed_sec
            self.say(line)
            self._report("running")
        else:
            self.run.log(line)
        try:
            self.on_log(row)
        except Exception as error:  # what only shows ends nothing
            if not self._view_failed:
                self.say(f"the view of the run failed, and training goes on: {type(error).__name__}: {error}")
            self._view_failed = True

    def _save(self, best: bool) -> None:
        """Begin to write last.pt, which has everything that is needed to go on as if nothing had happened, and where
        these are the best weights so far, or those that reached the target, best.pt, which has little else."""
        p = self.progress
        p.elapsed_sec = time.perf_counter() - self._began
        state, checkpoints = self.update.state_dict(), []
        if best:
            p.best_mean = p.mean_loss
            best_weights = {"model": state["model"], "step": p.step, "mean_loss": p.mean_loss}
            checkpoints.append((best_weights, self.run.best_checkpoint, None))
        checkpoints.append((state | {"progress": p.state_dict()}, self.run.last_checkpoint,
                            self.run.previous_checkpoint))
        self.writer.write(checkpoints)

    def _load(self) -> None:
        """Go on from last.pt, or from its predecessor where that is damaged. Raises InputError where both are."""
        state, path = load_first(self.run.checkpoints(), self.say)
        try:
            self.progress = p = Progress.from_state_dict(state["progress"])
        except (KeyError, TypeError):
            wrote = version_of(self.run.read_config()[1])
            raise InputError(f"{path} was written by {wrote}, which keeps other things in it: go on with that one, or "
                             "begin a new run with its weights by --init_from") from None
        self.update.load_state_dict(state)
        p.restarts.append(p.step)
        self.say(f"resumed at step {p.step:,} after {p.tokens:,} tokens, from {path.name}")
