"""Every parameter of a run, once: name, type, bounds, default, meaning.

The comment behind each parameter is its help: the command line and the notebooks' parameter cells show the same words.
"""
import dataclasses
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

ROOT = Path(__file__).resolve().parent.parent  # the project folder: relative paths of a configuration start here
CUT_AT_0 = ("fixed", "sequential")  # orders whose windows are always the same, one behind the other from the start


class InputError(ValueError):
    """What a person asked for cannot be done; the message says why and what to do instead."""


@dataclass(frozen=True)
class Bounds:
    """The closed interval a number must lie in; `above` excludes its lower end, `below` its upper one."""

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and self.above < value < self.below

    def __str__(self) -> str:
        words = {"at least": self.low, "at most": self.high, "above": self.above, "below": self.below}
        return " and ".join(f"{word} {limit:g}" for word, limit in words.items() if math.isfinite(limit))


Count = Annotated[int, Bounds(low=1)]
CountOrZero = Annotated[int, Bounds(low=0)]
Positive = Annotated[float, Bounds(above=0, below=math.inf)]
PositiveOrZero = Annotated[float, Bounds(low=0, below=math.inf)]
Fraction = Annotated[float, Bounds(low=0, below=1)]
Order = Literal["epoch", "fixed", "sequential", "random"]
Schedule = Literal["constant", "cosine", "linear", "wsd"]


@dataclass(frozen=True)
class RunConfig:
    """The parameters of one run; presets change some of them. Raises InputError for a value that cannot be."""

    # the text
    input_file: str = "data/input.txt"  # text to learn, UTF-8; the default file is made where it is missing
    max_tokens: CountOrZero = 0  # learn only so many tokens from its beginning; 0: all
    order: Order = "epoch"  # cut anew each epoch; fixed: always alike; sequential: and not shuffled; random: anywhere
    randomize_batches: bool = False  # the same as --order random
    # the model
    n_layer: Count = 12  # blocks
    n_head: Count = 12  # attention heads in a block
    n_embd: Count = 768  # channels of the residual stream
    block_size: Count = 1024  # positions the model has embeddings for
    dropout: Fraction = 0.0  # share of activations dropped in training; 0 memorises fastest
    init: Literal["gpt2", "look_back", "key_value"] = "gpt2"  # gpt2: random; look_back: heads set; key_value: MLPs too
    init_from: str = ""  # begin with the weights of this run or exported folder, and name its --init; empty: by init
    # a step
    batch_size: Count = 8  # sequences in a micro-batch
    seq_len: Annotated[int, Bounds(low=2)] = 256  # tokens in a sequence
    grad_accum: Count = 1  # micro-batches in a step
    sampled_softmax: bool = False  # of tokens the text never has, let 2,048 stand for all; up to a third faster in 124M
    # the optimiser
    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"  # adamw; muon: blocks, AdamW the rest; sgd: MLPs only
    muon_rows: CountOrZero = 64  # rows of a matrix that Muon takes at a time, a head's for instance; 0: all of them
    muon_lr: Positive = 4e-4  # peak learning rate of Muon
    embedding_lr: PositiveOrZero = 0.0  # peak learning rate of the token embeddings; 0: that of the rest
    lr: Positive = 3e-4  # peak learning rate of all that has none of its own
    warmup_steps: CountOrZero = 0  # steps over which the learning rate rises to its peak
    lr_schedule: Schedule = "constant"  # constant; cosine, linear: falls to 0 at --steps; wsd: to 0 in the last fifth
    weight_decay: PositiveOrZero = 0.0  # decoupled, on matrices only
    beta1: Fraction = 0.9  # decay of AdamW's mean of gradients
    beta2: Fraction = 0.95  # decay of AdamW's mean of squared gradients
    clip_grad: PositiveOrZero = 1.0  # longest gradient norm let through; 0: no limit
    # when to stop
    target_loss: PositiveOrZero = 0.099999  # stop when the loss over all tokens learned is below this; 0: no target
    steps: Count = 10_000  # stop after this many updates of the weights
    max_hours: PositiveOrZero = 0.0  # hours of training, last measurement included; --resume counts anew; 0: no limit
    # what to write, and when
    out_dir: str = ""  # folder of the run; empty: runs/<UTC time>-<preset>
    note: str = ""  # words about this run, kept and shown with it, to find it by
    log_every: Count = 10  # steps between two rows of the metrics
    save_every: Count = 500  # steps between two checkpoints
    sample_every: Count = 500  # steps between two samples
    # samples
    prompt: str = ""  # text that the samples continue; empty: how the text begins
    num_prompts: Count = 1  # continuations of the prompt in each sample
    max_new_tokens: Count = 100  # tokens in each continuation
    temperature: PositiveOrZero = 0.9  # below 1 sharpens the choice, above 1 flattens it; 0 takes the likeliest
    top_k: CountOrZero = 50  # choose among this many likeliest tokens; 0: among all
    # the machine
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: cuda or else cpu; CUDA_VISIBLE_DEVICES picks a GPU
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"  # mixed precision; auto: where the hardware is made for it
    compile: bool = False  # compile the model with torch.compile
    nproc_per_node: Count = 1  # processes that share the windows of a step: one for each GPU, or for some cores each
    nnodes: Count = 1  # machines that have so many processes each
    rdzv_endpoint: str = ""  # HOST:PORT of the first of several machines, where the others find it
    shard: bool = False  # each of several processes keeps a part only of weights, gradients and moments
    deterministic: bool = False  # on a GPU too, the same run gives the same bits; slower
    seed: Annotated[int, Bounds(low=0, high=2 ** 63)] = 1337  # of the weights, the order of the windows and the samples
    resume: str = ""  # go on with this run: its folder or its last.pt

    def __post_init__(self):
        for name, hint in get_type_hints(RunConfig, include_extras=True).items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), hint))
        if self.seq_len > self.block_size:
            raise InputError(f"seq_len {self.seq_len} is longer than block_size {self.block_size}: lower --seq_len")
        if self.n_embd % self.n_head:
            raise InputError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}: change one of them")
        if self.init != "gpt2" and (self.n_head < 2 or self.n_embd // self.n_head % 2):
            raise InputError(f"--init {self.init} needs two heads or more, each of an even size: change --n_head")
        if (self.optimizer == "sgd") != (self.init == "key_value"):
            raise InputError("--optimizer sgd writes into memories that --init key_value makes, and nothing else does: "
                             "name both or neither")
        if self.optimizer == "muon" and self.muon_rows and self.n_embd % self.muon_rows:
            raise InputError(f"n_embd {self.n_embd} is not a multiple of muon_rows {self.muon_rows}: change it")
        if self.processes > self.batch_size * self.grad_accum:
            raise InputError(f"{self.processes} processes cannot share the {self.batch_size * self.grad_accum} windows "
                             "of a step: lower --nproc_per_node, or raise --batch_size or --grad_accum")
        if self.shard and self.processes == 1:
            raise InputError("--shard shares the weights among several processes: raise --nproc_per_node, or leave it "
                             "out by --no_shard")
        if self.shard and self.batch_size < self.processes:
            raise InputError(f"with --shard each of {self.processes} processes has windows in every micro-batch, and "
                             f"there are {self.batch_size}: raise --batch_size, or lower --nproc_per_node")
        for name, value in ("optimizer", "sgd"), ("compile", True), ("amp", "fp16"):
            if self.shard and getattr(self, name) == value:
                raise InputError(f"--shard is not built for {name} {value}: change one of them")
        if self.nnodes > 1 and not re.fullmatch(r".+:\d+", self.rdzv_endpoint):
            raise InputError(f"{self.nnodes} machines have to find each other: name the one where the run is started "
                             "with --rdzv_endpoint HOST:PORT")
        if self.warmup_steps >= self.steps:
            raise InputError(f"warmup_steps {self.warmup_steps} leaves nothing of steps {self.steps}: lower it")
        if self.randomize_batches:
            object.__setattr__(self, "order", "random")
            object.__setattr__(self, "randomize_batches", False)  # another order may be asked for on resuming

    @property
    def memory_parameters(self) -> int:
        """Numbers in the matrices of the feed-forward layers, which are what `sgd` updates."""
        return self.n_layer * 8 * self.n_embd ** 2

    @property
    def learning_parameters(self) -> int:
        """Those of them that change: what a hidden unit reads of the code, and what it says to the head
        (lib.model.start.key_value)."""
        return self.n_layer * 4 * self.n_embd * (self.n_embd - self.n_embd // self.n_head)

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.seq_len * self.grad_accum

    @property
    def processes(self) -> int:
        """Processes that train it, on all machines."""
        return self.nproc_per_node * self.nnodes

    @property
    def windows_at_once(self) -> int:
        """Windows that a process computes with at the same time, at most."""
        return -(-self.batch_size // self.processes) if self.shard else self.batch_size

    @property
    def cut_at_0(self) -> bool:
        """Whether the text is always cut into windows at the same places."""
        return self.order in CUT_AT_0

    @property
    def model_shape(self) -> dict[str, int]:
        """What a GPTConfig takes of it."""
        return {"n_layer": self.n_layer, "n_head": self.n_head, "n_embd": self.n_embd, "block_size": self.block_size}

    def relative_to_project(self, base: Path) -> "RunConfig":
        """The same with paths relative to `base` rewritten relative to the project folder."""
        paths = {name: str(base / getattr(self, name)) for name in ("input_file", "init_from", "out_dir", "resume")
                 if getattr(self, name)}
        return dataclasses.replace(self, **{name: relative_to_root(path) for name, path in paths.items()})


def _checked(name: str, value: Any, hint: Any) -> Any:
    """The value, with whole numbers made floats where those are asked for; InputError if it does not fit the hint."""
    hint, bounds = get_args(hint) if get_origin(hint) is Annotated else (hint, None)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise InputError(f"{name} {value!r} is not known: choose one of {', '.join(get_args(hint))}")
        return value
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint:
        kind = {int: "a whole number", float: "a number", bool: "True or False", str: "text (papermill's -r)"}[hint]
        raise InputError(f"{name} must be {kind}, not {value!r}")
    if hint is str and value.encode("utf-8", "ignore").decode("utf-8") != value:
        raise InputError(f"{name} {value!r} holds bytes that are not UTF-8, which no record can keep: rename the file")
    if bounds and value not in bounds:
        raise InputError(f"{name} must be {bounds}, not {value}")
    return value


def relative_to_root(path: str | os.PathLike) -> str:
    """A path as it stands in a configuration: relative to the project folder, the same wherever that is checked out."""
    try:
        return Path(os.path.relpath(path, ROOT)).as_posix()
    except ValueError:  # on another drive of a Windows machine there is no relative path
        return str(path)


# What the weights, the optimiser's moments or the order of the data of a run already depend on
FIXED_ON_RESUME = ("max_tokens", "order", "n_layer", "n_head", "n_embd", "block_size", "init", "init_from",
                   "batch_size", "seq_len", "grad_accum", "sampled_softmax", "optimizer", "muon_rows", "muon_lr",
                   "embedding_lr", "lr", "weight_decay", "beta1", "beta2", "seed")

NOT_BEHAVIOUR = ("out_dir", "note", "resume")  # parameters that say which run it is, not what it does


def impersonal(text: str) -> str:
    """A text that names places in this project by their names there, and those in the home folder by ~."""
    home = os.path.expanduser("~").rstrip(os.sep)  # empty where that is /, as in a container
    for place, name in ((str(ROOT), ""), (home, f"~{os.sep}")):
        if place:
            begins = r"(^|[^\w.~-]|\x1b\[[\d;]*m)"  # of a path; the last is a colour, as in a traceback
            text = re.sub(begins + re.escape(place + os.sep), lambda found, name=name: found[1] + name, text)
    return text
