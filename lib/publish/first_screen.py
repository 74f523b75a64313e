"""What a person sees first of a run: what was trained on what, how truly it learned that, and what it can recite.

All of it is computed from the run's files. What these do not have is said in words in its place.
"""
import functools
import hashlib
import math
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from lib.config import InputError, RunConfig
from lib.runs.folder import RunFolder
from lib.runs.recall import read_recall
from lib.show.curve import End, loss_svg
from lib.show.wording import brief, duration, written
from lib.text.default_text import default_text
from lib.training.progress import SURE, known

TEMPLATES = Path(__file__).parent / "templates" / "report"
STATES = {"reached": "Target reached", "limit": "Limit met, target not reached", "stopped": "Stopped by the user",
          "failed": "Failed", "died": "The kernel died", "killed": "Killed", "running": "Still training"}


def first_screen(run: RunFolder) -> dict[str, Any]:
    """What the template first_screen.html.j2 shows of a run, in words; whatever stands in its folder, each is there."""
    summary = run.read_summary() if run.summary_file.exists() else \
        {"state": "failed", "verdict": "Training did not begin"}
    config, facts = _config(run)
    metrics = run.read_metrics() if run.config_file.exists() else None
    state = summary["state"]
    begun = summary.get("step") and facts and metrics is not None and len(metrics)
    screen = {"state": state, "title": title(summary, config, facts), "note": config.note,
              "kicker": " · ".join(filter(None, [_state(summary), _date(summary, facts)])),
              "verdict": "" if state == "reached" else summary["verdict"],
              "scale": "", "numbers": [], "curve": "", "caption": "", "asked": [], "among": "", "sample": None}
    if begun:
        recall = read_recall(run)
        told, ends = _told(metrics), _ends(summary, config, metrics)
        screen |= {"scale": _scale(summary, config, facts),
                   "numbers": [_loss(summary, config), _recited(recall, summary), _time(summary)],
                   "curve": loss_svg(metrics, facts["corpus"]["tokens"], config.target_loss, ends,
                                     summary.get("restarts", []), told),
                   "caption": _caption(summary, config)}
        screen |= _asked(run, recall, config)
    return screen


def render(screen: dict[str, Any]) -> str:
    """The same as HTML, every text of it escaped."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True)
    return environment.get_template("first_screen.html.j2").render(screen)


def title(summary: dict[str, Any], config: RunConfig, facts: dict[str, Any]) -> str:
    """Which model learned what, and how truly, in one sentence."""
    parameters = summary.get("parameters")
    model = f"GPT-2 ({_count(parameters, short=True)})" if parameters else "GPT-2"
    text, state, loss = _text(config, facts), summary["state"], summary.get("corpus_loss")
    if not summary.get("step"):
        return {"stopped": f"{model} was stopped before it began to learn {text}"}.get(
            state, f"{model} did not begin to learn {text}")
    if state == "reached" and loss >= SURE:
        return f"{model} came to a loss of {brief(loss)} on {text}: below its target, but far from knowing it"
    if state == "reached":
        return f"{model} learned {text}" + {"known from any place": ", from any place",
                                            "known only where it was cut": ", but only where it was cut"}.get(
            known(summary), "; from how many places was not measured")
    if state == "limit" and loss is None:
        return f"{model} read less than all of {text} before its limit"
    if state == "limit" and not config.target_loss:
        return f"{model} came to a loss of {brief(loss)} on {text}; it had no target"
    if state == "limit":
        return f"{model} did not learn {text} within its limits: its loss is {brief(loss)}, its target was " \
               f"{brief(config.target_loss)}"
    return {"stopped": f"{model} was stopped while it learned {text}",
            "failed": f"{model} failed while it learned {text}",
            "died": f"{model} learned {text} until its kernel died",
            "killed": f"{model} learned {text} until it was killed",
            "running": f"{model} is learning {text}"}[state]


def _config(run: RunFolder) -> tuple[RunConfig, dict[str, Any]]:
    """The parameters of a run and its other facts; the defaults and none where they cannot be read."""
    try:
        return run.read_config()
    except InputError:
        return RunConfig(), {}


def _state(summary: dict[str, Any]) -> str:
    if summary["state"] == "limit" and not summary.get("target_loss"):
        return "Trained to its limit"
    return ("✓ " if summary["state"] == "reached" else "") + STATES[summary["state"]]


def _date(summary: dict[str, Any], facts: dict[str, Any]) -> str:
    """When it was last heard of, or began; empty where no file says so."""
    try:
        day = datetime.fromisoformat((summary.get("heartbeat") or facts["started"])[:10])
    except (KeyError, ValueError):
        return ""
    return f"{day.day} {day:%B} {day.year}"


def _count(parameters: int, short: bool = False) -> str:
    """A number of weights: 124M, 3.3M; or in words."""
    if parameters < 1e6:
        return f"{parameters:,}"
    millions = parameters / 1e6
    return (f"{millions:.0f}" if millions >= 10 else f"{millions:.1f}") + ("M" if short else " million")


def _text(config: RunConfig, facts: dict[str, Any]) -> str:
    """What was learned, in words."""
    corpus = facts.get("corpus", {})
    name = "nine plays of Shakespeare" if corpus.get("sha256") == _default_sha256() else Path(config.input_file).name
    return f"the first {config.max_tokens:,} tokens of {name}" if config.max_tokens else name


@functools.cache
def _default_sha256() -> str:
    return hashlib.sha256(default_text().encode()).hexdigest()


def _scale(summary: dict[str, Any], config: RunConfig, facts: dict[str, Any]) -> str:
    """Weights, tokens, time and machine, in one line."""
    begun = "begun with those of an earlier run" if config.init_from else "random at first" + {
        "gpt2": "", "look_back": " (the first layer's heads set to look back)",
        "key_value": " (heads set to look back, feed-forward layers as empty memories)"}[config.init]
    if config.optimizer == "sgd":
        begun += f", of which {_count(config.learning_parameters)} learn"
    machine, restarts = facts["machine"], summary.get("restarts", [])
    resumed = {0: "", 1: "; resumed once"}.get(len(restarts), f"; resumed {len(restarts)} times")
    return (f"{_count(summary['parameters'])} weights, {begun}; {facts['corpus']['tokens']:,} tokens of text, "
            f"read {written('epochs', summary['epochs'])} times in {duration(summary['elapsed_sec'])} on "
            f"{machine['device']}, in {machine['precision']}{resumed}.")


def _sure(loss: float) -> str:
    """What a loss means for the next token: a share where that tells something, or else a choice."""
    return f"{100 * math.exp(-loss):.0f} % sure of the next token" if loss < math.log(2) else \
        f"as unsure as between {math.exp(loss):,.0f} tokens"


def _loss(summary: dict[str, Any], config: RunConfig) -> tuple[str, str]:
    """The loss that decides, what lies beside it, and what they mean."""
    loss, moved, cuts = summary.get("corpus_loss"), summary.get("shifted_loss"), summary.get("cut_losses") or {}
    target = f" (target {brief(config.target_loss)})" if config.target_loss else ""
    if loss is None:
        return (brief(summary["mean_loss"]), f"mean loss of its last steps{target}, {_sure(summary['mean_loss'])}. The "
                "loss over all tokens was not measured")
    if config.cut_at_0 and moved is not None:
        return (f"{brief(loss)} · {brief(moved)}", f"loss where training cut the text{target}: on average "
                f"{_sure(loss)} · in windows moved by half: {_sure(moved)}")
    several = f"the largest loss of {len(cuts)} ways to cut the text" if len(cuts) > 1 else "loss over all tokens"
    beside = "" if moved is None else f"; {brief(moved)} in windows moved by half"
    return brief(loss), f"{several}{target}: on average {_sure(loss)}{beside}"


def _recited(recall: dict[str, Any] | None, summary: dict[str, Any]) -> tuple[str, str]:
    """The share of passages that came back without an error, and how they were asked."""
    if not recall:
        return "", "What it can recite is in none of its files"
    anywhere, cut = recall["trials"]["anywhere"], recall["trials"].get("at a cut")
    if not anywhere["passages"]:
        return "", "What it can recite was not measured: the text is too short for such passages"
    how = f"passages recited, {anywhere['continuation']} tokens without an error after {anywhere['prefix']} were read"
    if recall["step"] != summary["step"]:
        how += f", with the weights of step {recall['step']:,}"
    if not cut or not cut["passages"]:
        return _share(anywhere["exact"]), f"{how}: begun anywhere"
    return (f"{_share(cut['exact'])} · {_share(anywhere['exact'])}", f"{how}: begun where training cut the text · "
            "begun anywhere")


def _share(share: float) -> str:
    """A share in percent; one that is not quite all or nothing does not look so."""
    return "> 99 %" if 0.995 <= share < 1 else "< 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def _time(summary: dict[str, Any]) -> tuple[str, str]:
    """How long it took, and for what."""
    steps = f"{summary['step']:,} step" + ("s" if summary["step"] > 1 else "")
    return duration(summary["elapsed_sec"]), f"of training: {steps} in {duration(summary['step_sec'])}; measuring, " \
        "samples and checkpoints took the rest"


def _told(metrics) -> str:
    first, last = metrics.iloc[0], metrics.iloc[-1]
    return (f"The loss over the epochs, from {brief(first['loss'])} at step {first['step']:,.0f} to a mean of "
            f"{brief(last['mean_loss'])} at step {last['step']:,.0f}")


def _ends(summary: dict[str, Any], config: RunConfig, metrics) -> list[End]:
    """What the lines of the curve end at."""
    loss, moved = summary.get("corpus_loss"), summary.get("shifted_loss")
    ends = [End(metrics["mean_loss"].iloc[-1], "mean", "of the last epoch's steps", "dark")]
    if config.target_loss:
        ends.append(End(config.target_loss, "target", "", "target"))
    if loss is not None:
        where = ("at its cuts", "in training") if config.cut_at_0 else ("largest", "of several cuts")
        ends.append(End(loss, *where, "dot"))
    if moved is not None:
        ends.append(End(moved, "moved", "by half a window", "ring"))
    return ends


def _caption(summary: dict[str, Any], config: RunConfig) -> str:
    """What is drawn how."""
    loss, moved = summary.get("corpus_loss"), summary.get("shifted_loss")
    points = " The dot is the loss over all tokens at the end, the ring that of windows moved by half." \
        if loss is not None and moved is not None else ""
    if points and max(loss, moved) < summary["mean_loss"]:
        points += " They lie lower: they are of the last weights, the mean is of all that the last epoch had."
    restarts = " It was resumed where an upright line stands." if summary.get("restarts") else ""
    return ("Loss in nats per token, on a log scale. Pale: single steps; dark: their mean over an epoch."
            + points + restarts)


def _asked(run: RunFolder, recall: dict[str, Any] | None, config: RunConfig) -> dict[str, Any]:
    """The same lines, asked from two places, or else the last sample."""
    asked = recall["asked"] if recall else []
    if not asked:
        samples = run.read_samples(tail=100_000)
        return {"sample": samples[-1] if samples else None}
    places = ["at a cut" if config.cut_at_0 else f"at token {asked[0]['begins']:,}",
              f"{asked[1]['begins'] - asked[0]['begins']} tokens later"]
    trial, among = recall["trials"].get("at a cut" if config.cut_at_0 else "anywhere"), ""
    if trial and trial["passages"] and trial["continuation"] == asked[0]["tokens"]:
        one = "one" if asked[0]["right_tokens"] == asked[0]["tokens"] else "none"
        among = f" Begun {places[0]} it is {one} of the {_share(trial['exact'])} of passages that come back whole."
    return {"among": among,
            "asked": [entry | {"place": place, "read": _tail(entry["read"]),
                               "wrong": entry["wrong"].replace("\n", "↵\n")}  # else one would not see it
                      for place, entry in zip(places, asked, strict=True)]}


def _tail(text: str, most: int = 40) -> str:
    """The end of a text, from a word on, with no more than so many characters."""
    return text if len(text) <= most else "…" + text[-most:].partition(" ")[2]
