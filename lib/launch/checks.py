"""What is checked of a run before anything of it is written."""
from collections.abc import Iterable

from lib.config import InputError, RunConfig
from lib.launch.point import Point
from lib.runs.locate import require_same_shape
from lib.text.corpus import Corpus, load_corpus
from lib.text.floor import reachable_floor


def check(config: RunConfig, here: bool = True) -> Corpus:
    """The text of a run, found fit for it. Raises InputError for devices that are not there, where it is to run `here`,
    a text that cannot be learned, and a target that no model can reach on it."""
    if here and (config.device not in ("auto", "cpu") or config.nproc_per_node > 1):
        from lib.training.machine import prepare_machine  # imports torch, so only where there is something to check
        prepare_machine(config)
    corpus = load_corpus(config)
    reachable_floor(corpus.tokens, config)
    return corpus


def check_points(points: Iterable[Point], here: bool = True) -> None:
    """The same for all points of a sweep, and that the weights they begin with fit. Raises InputError that names the
    point. Points that do not differ in what is checked are checked once."""
    names = ("device", "nproc_per_node", "input_file", "max_tokens", "order", "seq_len", "block_size", "target_loss",
             "prompt")
    seen = set()
    for point in points:
        what = tuple(getattr(point.config, name) for name in names)
        begins = point.config.init_from, tuple(point.config.model_shape.items())
        try:
            if what not in seen:
                check(point.config, here)
            if point.config.init_from and begins not in seen:
                require_same_shape(point.config)
        except (InputError, OSError) as error:
            raise InputError(f"point {point.name}: {error}") from None
        seen |= {what, begins}
