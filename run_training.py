"""Train a GPT-2 from nothing and leave the run behind as executed notebooks and one page, report.html.

    python run_training.py                         the default run for this machine
    python run_training.py --preset full           the whole text
    python run_training.py --input_file my.txt --preset excerpt
    python run_training.py --resume runs/NAME      go on with a run that was stopped
    python run_training.py --reproduce runs/NAME   do a run again, and compare
    python run_training.py --sweep lr.yaml         the runs that a file asks for, and a comparison of them

The exit code says how it ended: 0 target reached, 1 a notebook failed, 2 bad arguments, 3 stopped by a limit,
4 a run was not reproduced, 130 stopped by the user, 138 the notebook's kernel died. That of a sweep is 0 where all
points reached their target, 1 where one did not come to its end, 3 where one met its limit, 130 where it was stopped.

The defaults below are those of the preset excerpt; other presets have others, a run that goes on or is reproduced its
own.
"""
import argparse
import dataclasses
import itertools
import sys
import time
from pathlib import Path
from typing import Literal

import tyro

from lib.config import ROOT, CountOrZero, InputError, RunConfig, relative_to_root
from lib.files import remove_unfinished
from lib.presets import PRESETS, default_preset, preset_config
from lib.runs.folder import RunFolder
from lib.runs.locate import open_run, recorded_amp, resumed_run
from lib.show.terminal import Screen, prepare_streams
from lib.training.stopping import interrupts_become

INTRODUCTION, TRAINING, RESULTS = ("1_data", "2_model"), "3_training", "4_results"
README = ROOT / "README.md"
EXIT_CODES = {"reached": 0, "failed": 1, "limit": 3, "not reproduced": 4, "stopped": 130, "died": 138}


@dataclasses.dataclass(frozen=True)
class Arguments(RunConfig):
    """The parameters of a run, and the preset that those not given come from."""

    # values to start from; auto: excerpt without a GPU, full with one, plain for an --input_file of yours
    preset: Literal["auto", *PRESETS] = "auto"
    reproduce: str = ""  # do this run again in a folder of its own, and say whether the losses agree
    update_readme: bool = False  # fill the marked blocks of README.md from this run, unless it is stopped or fails
    sweep: str = ""  # run all points of this file, which docs/cluster.md explains, in --out_dir or runs/<its name>
    parallel: CountOrZero = 0  # points of a sweep at a time; 0: one, or as many as there are GPUs for; with slurm, all
    # where the points of a sweep run; submitit-local: as jobs on this machine, to try what is meant for slurm
    executor: Literal["local", "slurm", "submitit-local"] = "local"


def parse(arguments: list[str]) -> tuple[RunConfig, str, Arguments]:
    """The configuration a command line asks for, its paths relative to the project, the name of its preset, and all
    that was given.

    What is not given comes from the preset, or from the run to be resumed or reproduced. Raises InputError; SystemExit
    for --help and for arguments that cannot be read.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="")
    first.add_argument("--input_file", "--input-file", default="")
    first.add_argument("--device", default="auto")
    first.add_argument("--resume", default="")
    first.add_argument("--reproduce", default="")
    first.add_argument("--sweep", default="")
    early, _ = first.parse_known_args(arguments)
    refuse_values_of_switches(arguments)
    if early.resume and early.reproduce:
        raise InputError("--resume goes on with a run and --reproduce does it again: choose one")
    if early.preset and (early.resume or early.reproduce):
        raise InputError(f"the parameters of the run itself hold for --{'resume' if early.resume else 'reproduce'}: "
                         "leave --preset out, or start a new run with it")
    if early.sweep and (early.resume or early.reproduce):
        raise InputError("--sweep goes on with its own runs by itself: leave --resume and --reproduce out")
    if early.resume:
        run = resumed_run(str(Path.cwd() / early.resume))
        preset, base = "resumed", dataclasses.replace(run.read_config()[0], out_dir=str(run.path))
    elif early.reproduce:
        original = RunFolder(Path.cwd() / early.reproduce)
        before = original.read_config()[0]
        preset, base = "reproduced", dataclasses.replace(before, out_dir="", resume="", amp=recorded_amp(original))
    elif {"-h", "--help"} & set(arguments):
        preset, base = "auto", preset_config("excerpt")
    else:
        preset = early.preset if early.preset not in ("", "auto") else default_preset(early.input_file, early.device)
        base = preset_config(preset)
    base = dataclasses.replace(base, **{name: str(ROOT / getattr(base, name)) for name in ("input_file", "init_from")
                                        if getattr(base, name)})
    default = Arguments(**dataclasses.asdict(base))
    given = tyro.cli(Arguments, default=default, args=arguments, use_underscores=True, prog="run_training.py",
                     description=__doc__)
    refuse_what_a_sweep_has(given, default)
    config = RunConfig(**{field.name: getattr(given, field.name) for field in dataclasses.fields(RunConfig)})
    return config.relative_to_project(Path.cwd()), preset, given


def refuse_values_of_switches(arguments: list[str]) -> None:
    """Raise InputError for --compile False, which tyro would take for an option of its own."""
    switches = {field.name for field in dataclasses.fields(Arguments) if field.type is bool}
    for option, value in itertools.pairwise([*arguments, "--"]):
        option, _, joined = option.replace("-", "_").removeprefix("__").partition("=")
        name = option.removeprefix("no_")
        if name in switches and (joined or not value.startswith("-")):
            raise InputError(f"--{option} takes no value: say --{name} for True, --no_{name} for False")


def refuse_what_a_sweep_has(given: Arguments, default: Arguments) -> None:
    """Raise InputError for parameters beside --sweep, whose file has them, and for what only a sweep knows."""
    of_sweeps = ("sweep", "parallel", "executor")
    beside = [f"--{name}" for name, value in vars(given).items()
              if name not in (*of_sweeps, "out_dir") and value != getattr(default, name)]
    if given.sweep and beside:
        raise InputError(f"what the points of a sweep are stands in its file: write {', '.join(beside)} into it")
    if not given.sweep and (given.parallel or given.executor != default.executor):
        raise InputError("--parallel and --executor are for the points of a sweep: name its file with --sweep")
    if given.parallel < 0:
        raise InputError(f"parallel must be at least 0, not {given.parallel}")


def run_sweep(given: Arguments, folder: str) -> int:
    """Run the points of a sweep in a folder, relative to the project, and compare them; returns the exit code. Raises
    InputError or OSError, before any of them begins, for what cannot be done."""
    from lib.launch.checks import check_points
    from lib.launch.driver import outcome, run_points
    from lib.launch.executors import choose_executor
    from lib.launch.sweep import read_sweep

    sweep, screen = read_sweep(Path.cwd() / given.sweep, folder), Screen()
    check_points(sweep.points, here=given.executor != "slurm")
    slots, start = choose_executor(sweep, given.executor, given.parallel)
    sweep.claim()
    state = "failed"
    try:
        with interrupts_become(sweep.stop_file):
            print(f"sweep folder: {relative_to_root(sweep.folder)}", flush=True)
            run_points(sweep, slots, start, lambda line: print(line, file=screen, flush=True))
            state = outcome(sweep)
            from lib.publish.comparison import write_comparison  # which imports papermill
            words, is_whole = write_comparison(sweep.folder)
            print(words, file=screen, flush=True)
    except (OSError, InputError) as error:  # no room for the comparison, or nothing to compare
        print(f"run_training.py: {error}; the same command goes on with the sweep", file=sys.stderr)
        is_whole = False
    return EXIT_CODES[state if is_whole or state == "stopped" else "failed"]


def execute(config: RunConfig, run: RunFolder) -> int:
    """Run the notebooks and write the report, whatever becomes of them; returns the exit code."""
    # papermill and nbconvert take two seconds to import, which --help and a mistyped argument need not wait for
    from lib.publish.index import write_index
    from lib.publish.notebooks import is_current, run_notebook
    from lib.publish.report import CHAPTERS, write_report
    from lib.show.terminal import progress_bar

    screen = Screen()
    parameters = dataclasses.asdict(config) | {"preset": "given", "out_dir": relative_to_root(run.path)}
    outcomes = {}
    remove_unfinished(run.path)
    for name in CHAPTERS:
        if name in INTRODUCTION and config.resume and is_current(name, run.notebook(name)):
            continue  # it would say the same again
        if name == RESULTS and not run.metrics_file.exists():
            continue
        if name != RESULTS and run.stop_file.exists():
            outcomes[name] = "stopped"
        else:
            started = time.monotonic()
            if name == TRAINING:
                run.keep_notebook(name)
                with progress_bar(run, config) as training_screen:
                    outcomes[name] = run_notebook(name, run.notebook(name), parameters, training_screen)
            else:
                outcomes[name] = run_notebook(name, run.notebook(name), parameters)
            print(f"{name}: {outcomes[name]} after {time.monotonic() - started:.1f} s", file=screen, flush=True)
        if name == TRAINING and outcomes[name] != "completed":
            run.record_end(outcomes[name])
            print(run.read_summary()["verdict"], file=screen, flush=True)
    print(f"report: {relative_to_root(write_report(run))}", file=screen, flush=True)
    if run.path.parent == ROOT / "runs":
        try:
            print(f"all runs: {relative_to_root(write_index(run.path.parent))}", file=screen, flush=True)
        except (OSError, ValueError) as error:  # this run is done all the same
            print(f"the list of all runs could not be written: {error}", file=screen, flush=True)
    ends = [outcome for outcome in ("died", "failed") if outcome in outcomes.values()]
    return EXIT_CODES[ends[0] if ends else run.read_summary()["state"]]


def main(arguments: list[str]) -> int:
    try:
        config, preset, given = parse(arguments)
        if given.sweep:
            return run_sweep(given, config.out_dir)
        from lib.launch.checks import check
        corpus = check(config)
        if given.update_readme:
            from lib.publish.readme import read_marked  # imports matplotlib
            read_marked(README)
        original = RunFolder(Path.cwd() / given.reproduce) if given.reproduce else None
        if original and original.text_sha256() != corpus.sha256:
            raise InputError(f"{config.input_file} is not the text that {original.path.name} learned: name that one "
                             "with --input_file")
        if original and not original.sampled_losses():
            raise InputError(f"{original.path.name} has logged no step to compare with: reproduce another run")
        run = open_run(config, preset, corpus.sha256)
        run.claim.take()
    except (InputError, OSError) as error:  # what is asked for, or what may be read and written
        print(f"run_training.py: {error}", file=sys.stderr)
        return 2
    try:
        with interrupts_become(run.stop_file):
            print(f"run folder: {relative_to_root(run.path)}", flush=True)
            code = execute(config, run)
            if code not in (EXIT_CODES["reached"], EXIT_CODES["limit"]):
                return code
            if given.update_readme:
                from lib.publish.readme import update_readme
                update_readme(run, README)
                print(f"filled the blocks of {relative_to_root(README)}", file=Screen())
            if not original:
                return code
            from lib.show.comparison import agreement
            agrees, words = agreement(run, original)
            print(words, file=Screen())
            return code if agrees else EXIT_CODES["not reproduced"]
    except (OSError, InputError) as error:  # no room for the summary or the report
        print(f"run_training.py: {error}; {run.advice()}", file=sys.stderr)
        return EXIT_CODES["failed"]


if __name__ == "__main__":
    prepare_streams()
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # before there was a run
        sys.exit(EXIT_CODES["stopped"])
