"""Presets, which are sets of values for a run's parameters, and what names them: a command line, a notebook's cell."""
import dataclasses
import difflib
import shlex
import shutil
from collections.abc import Callable
from typing import Any

from lib.config import NOT_BEHAVIOUR, InputError, RunConfig

PRESETS: dict[str, dict[str, Any]] = {
    # 124M on the first pages of the text, until they are known from any place, in minutes on a processor: heads that
    # look back from the start save most of the epochs, long windows have few beginnings to guess at
    "excerpt": dict(max_tokens=4096, init="look_back", batch_size=1, seq_len=512, sampled_softmax=True,
                    optimizer="muon", muon_lr=1e-3, embedding_lr=5e-3, lr_schedule="linear", steps=54, log_every=1,
                    save_every=27, sample_every=9),
    # any text, whole, at a constant rate: what the command lines of the course project, from which this one grew, mean
    "plain": {},
    # 124M on the whole text, from any place: feed-forward layers that begin as empty memories take each window at once,
    # by plain gradient steps, and again until after some five readings a text of 340,000 tokens is known
    "full": dict(init="key_value", batch_size=1, seq_len=1024, sampled_softmax=True, optimizer="sgd", lr=1.0,
                 warmup_steps=16, lr_schedule="wsd", clip_grad=0.0, steps=1840, log_every=5, save_every=100,
                 sample_every=100),
    # the course project's check that everything works
    "sanity": dict(batch_size=4, seq_len=128, steps=200, save_every=100, sample_every=100),
    # what the course project's logged run really was
    "seed": dict(order="sequential", batch_size=48, seq_len=128, grad_accum=3, weight_decay=0.1, amp="fp16",
                 steps=200_000, log_every=50, save_every=2000, sample_every=2000, prompt="BIANCA:\n"),
    # what the notebooks show: a small model that learns the same pages in a minute or two
    "notebook": dict(max_tokens=4096, init="look_back", n_layer=4, n_head=8, n_embd=256, block_size=256, batch_size=2,
                     seq_len=256, sampled_softmax=True, optimizer="muon", muon_lr=4e-3, embedding_lr=1e-2, lr=1e-3,
                     lr_schedule="linear", steps=200, log_every=5, save_every=100, sample_every=25),
    # a toy for tests: seconds
    "tiny": dict(max_tokens=512, n_layer=2, n_head=2, n_embd=64, block_size=64, batch_size=4, seq_len=32,
                 sampled_softmax=True, lr=3e-3, steps=80, log_every=5, save_every=20, sample_every=30,
                 max_new_tokens=20, target_loss=4.0),
}


def preset_config(preset: str, **changes: Any) -> RunConfig:
    """A preset with some values changed; InputError for a preset or a parameter that does not exist."""
    _known("preset", preset, PRESETS)
    for name in changes:
        _known("parameter", name, RunConfig.__dataclass_fields__)
    return RunConfig(**PRESETS[preset] | changes)


def nearest_preset(config: RunConfig) -> tuple[str, dict[str, Any]]:
    """The preset that a configuration differs from in the fewest parameters, and their values in the configuration."""
    changes = {}
    for preset in PRESETS:
        usual = preset_config(preset)
        changes[preset] = {name: value for name, value in dataclasses.asdict(config).items()
                           if name not in NOT_BEHAVIOUR and value != getattr(usual, name)}
    nearest = min(changes, key=lambda preset: len(changes[preset]))
    return nearest, changes[nearest]


def as_arguments(config: RunConfig, quote: Callable[[str], str] = str) -> list[str]:
    """The shortest arguments of run_training.py that ask for a configuration: the nearest preset, and what differs
    from it, with values quoted as wanted."""
    nearest, changes = nearest_preset(config)
    options = [("--" if value else "--no_") + name if isinstance(value, bool) else f"--{name}={quote(str(value))}"
               for name, value in changes.items()]
    return ["--preset", nearest, *options]


def command_line(config: RunConfig) -> str:
    """The shortest command that asks for a configuration, as it is typed into a shell."""
    return " ".join(["python run_training.py", *as_arguments(config, shlex.quote)])


def notebook_config(cell: dict[str, Any]) -> RunConfig:
    """The configuration that a notebook's parameters cell asks for; `cell` is the notebook's globals().

    The cell shows the values of the preset `notebook`. Where its variable `preset` names another one, edited values win
    and those left as they stand follow that preset, which is printed. Where it is `given`, all are taken as they stand.
    """
    shown = dataclasses.asdict(preset_config("notebook"))
    given = {name: cell[name] for name in shown if name in cell["__annotations__"]}  # not those of a start-up file
    if cell["preset"] == "given":
        return RunConfig(**given)
    config = preset_config(cell["preset"], **{name: value for name, value in given.items() if value != shown[name]})
    taken = ", ".join(f"{name} = {getattr(config, name)!r}" for name in given if getattr(config, name) != given[name])
    if taken:
        print(f"preset {cell['preset']}, in place of what the cell shows: {taken}")
    return config


def default_preset(input_file: str, device: str = "auto") -> str:
    """`plain` for a text of one's own; otherwise `full` on a CUDA device and `excerpt` elsewhere."""
    if input_file:
        return "plain"
    return "full" if device in ("auto", "cuda") and _has_gpu() else "excerpt"


def _has_gpu() -> bool:
    """Whether torch can use a CUDA device; torch is imported only where a driver makes that likely."""
    if not (shutil.which("nvidia-smi") or shutil.which("rocm-smi")):
        return False
    import torch
    return torch.cuda.is_available()


def _known(kind: str, name: str, names) -> None:
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(names)}"
        raise InputError(f"there is no {kind} {name!r}: {hint}")
