"""Which run: a new one, one to go on with, the newest, or those that a pattern finds."""
import glob
import os
from datetime import UTC, datetime
from pathlib import Path

from lib.config import FIXED_ON_RESUME, ROOT, InputError, RunConfig
from lib.files import is_intact
from lib.runs.folder import RunFolder


def new_run_path(preset: str) -> Path:
    """Make and return the folder of a new run, runs/<UTC time>-<preset>; of several at once each gets its own."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    for count in range(1, 1000):
        path = ROOT / "runs" / (f"{stamp}-{preset}" + (f"-{count}" if count > 1 else ""))
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            continue
    raise InputError(f"there are a thousand runs named {stamp}-{preset}: name the folder with --out_dir")


def newest_run() -> RunFolder:
    """The run in runs/ that was started last; InputError where there is none."""
    configs = sorted((ROOT / "runs").glob("*/config.json"), key=os.path.getmtime)
    if not configs:
        raise InputError("there is no run in runs/ yet: run the notebook 3_training, or run_training.py")
    return RunFolder(configs[-1].parent)


def open_run(config: RunConfig, preset: str, corpus_sha256: str) -> RunFolder:
    """The folder a configuration asks for: that of the run to go on with, or a new one. `preset` names it, and is
    `given` in the notebooks of run_training.py, which has made the folder already and sees to it.

    Raises InputError where the folder holds a run already, or anything else, or cannot be written to, where there is no
    run to go on with or another process is at work on it, where that one learns another text or depends on a parameter
    that is now different, and where the weights to begin with are not there or of another shape.
    """
    run = _asked_for(config, preset, corpus_sha256)
    if preset != "given" and run.claim.is_held():
        raise InputError(f"another run_training.py is at work in {run.path}: stop it, or wait for its end")
    return run


def _asked_for(config: RunConfig, preset: str, corpus_sha256: str) -> RunFolder:
    if config.resume:
        run = resumed_run(config.resume)
        before = run.read_config()[0]
        if config.out_dir and RunFolder(config.out_dir).path != run.path:
            raise InputError(f"--resume goes on in {run.path}: leave --out_dir out, or start a new run there")
        # a notebook keeps a path as it was typed
        config, before = config.relative_to_project(ROOT), before.relative_to_project(ROOT)
        if run.text_sha256() != corpus_sha256:
            raise InputError(f"{config.input_file} is not the text that {run.path.name} learns: name that one with "
                             "--input_file, or start a new run")
        for name in FIXED_ON_RESUME:
            if getattr(config, name) != getattr(before, name):
                raise InputError(f"{name} was {getattr(before, name)} in {run.path.name} and cannot become "
                                 f"{getattr(config, name)} there: leave it out, or start a new run")
        return run
    if config.init_from:
        require_same_shape(config)
    try:
        run = RunFolder(config.out_dir or new_run_path(preset))
        if run.config_file.exists():
            raise InputError(f"{run.path} holds a run already: go on with it by --resume, or choose another --out_dir")
        if preset != "given" and not _is_free(run):
            raise InputError(f"{run.path} is not empty and holds no run, so it is left alone: choose another --out_dir")
        run.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"a run cannot be written there: {error}. Choose another --out_dir") from None
    if not os.access(run.path, os.W_OK):
        raise InputError(f"{run.path} cannot be written to: choose another --out_dir")
    return run


def require_same_shape(config: RunConfig) -> None:
    """Raise InputError where the weights that a configuration begins with are not there or of another shape."""
    from lib.runs.trained import open_model  # imports torch, so only where there is something to check
    shape = open_model(ROOT / config.init_from).config.model_shape
    if shape != config.model_shape:
        options = " ".join(f"--{name} {value}" for name, value in shape.items())
        raise InputError(f"the model of {config.init_from} has another shape: begin with it by {options}")


def _is_free(run: RunFolder) -> bool:
    """Whether a run may begin in a folder: a new one, an empty one, or one where a run began and did not come to train.
    Anything else is somebody's, or a sweep's."""
    begun = run.claim.path.exists() and not (run.path / "sweep.yaml").exists()
    return (not run.path.exists() or begun
            or all(path == run.training.path for path in run.path.iterdir()))


def resumed_run(resume: str) -> RunFolder:
    """The run that `resume` names, by its folder or by its last.pt.

    Raises InputError where it cannot be gone on with: no run, one that another process trains, no intact checkpoint.
    """
    path, run = Path(os.path.normpath(ROOT / resume)), run_of(resume)
    if path.suffix == ".pt" and path != run.last_checkpoint:
        raise InputError(f"a run goes on from its last.pt, not from {path}: name that, or the run's folder")
    if list(run.path.glob("*.safetensors")):
        raise InputError(f"{run.path} is an exported model, without the state of its optimiser that to go on takes: "
                         "begin a new run with its weights by --init_from")
    if not run.config_file.exists():
        raise InputError(f"{run.path} holds no run that has begun to train: start a new one")
    with run.lock():
        damaged = [checkpoint for checkpoint in run.checkpoints() if not is_intact(checkpoint)]
    if damaged and damaged == run.checkpoints():
        raise InputError(f"{' and '.join(map(str, damaged))} cannot be gone on from: the digest does not fit, so it is "
                         "damaged or not a checkpoint of this project. Start a new run")
    return run


def run_of(resume: str) -> RunFolder:
    """The run that `resume` names, by its folder or by a checkpoint in it."""
    path = Path(os.path.normpath(ROOT / resume))
    return RunFolder(path.parent.parent if path.suffix == ".pt" else path)


def recorded_amp(run: RunFolder) -> str:
    """The --amp that asks for the precision a run computed in last, however that was chosen; InputError where it is not
    recorded."""
    try:
        precision = run.read_config()[1]["machine"]["precision"]
    except (KeyError, TypeError):
        raise InputError(f"{run.config_file} does not say in which precision it computed: begin a new run") from None
    return "off" if precision == "fp32" else precision


def find_runs(patterns: str) -> tuple[list[RunFolder], dict[str, str]]:
    """The runs that globs, separated by spaces and relative to the project folder, find, in order, each once; and of
    those that cannot be read, by name, why not.

    Raises InputError where there is none that has logged a step.
    """
    folders = {os.path.realpath(path) for pattern in patterns.split()
               for path in glob.glob(os.path.join(glob.escape(str(ROOT)), pattern))}
    runs, unread = [], {}
    for run in map(RunFolder, sorted(folders)):
        if run.config_file.exists() and run.metrics_file.exists():
            if why := unreadable(run):
                unread[run.path.name] = why
            elif run.sampled_losses():
                runs.append(run)
    if not runs:
        raise InputError("; ".join([f"{patterns!r} finds no run that has logged a step: name others, runs/*full* for "
                                    "instance", *(f"{name} cannot be read: {why}" for name, why in unread.items())]))
    return runs, unread


def unreadable(run: RunFolder) -> str:
    """Why what stands in the folder of a run, whoever made it, cannot be read; empty where it can."""
    try:
        _, facts = run.read_config()
        _ = facts["corpus"]["tokens"], facts["machine"]["device"], run.read_summary()["step"]
        _ = run.sampled_losses(), run.read_metrics()["corpus_loss"]
    except (OSError, InputError) as error:
        return str(error)
    except (ValueError, LookupError, TypeError) as error:
        return f"its files are not as this program writes them ({error})"
    return ""
