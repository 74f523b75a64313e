"""A run's figures -> the marked blocks of a README. What stands there is what ran, and nothing else is touched.

    python -m lib.publish.readme --out_dir runs/NAME --readme README.md

A block stands between <!--AUTO:NAME:START--> and <!--AUTO:NAME:END-->, where NAME is PLOT, SUMMARY, LOGS, METRICS or
SAMPLES. A README has those that it wants.
"""
import argparse
import html
import os
import re
import sys
from pathlib import Path
from urllib.parse import quote

from lib.config import InputError
from lib.files import write_whole
from lib.presets import command_line
from lib.runs.folder import RunFolder
from lib.show import plots
from lib.show.drawing import png
from lib.show.terminal import prepare_streams
from lib.show.wording import shown, written

NAMES = ("PLOT", "SUMMARY", "LOGS", "METRICS", "SAMPLES")
MARKER = re.compile(r"<!--AUTO:(\w+):(START|END)-->")
UNSEEN = re.compile(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]")  # control characters: a terminal would obey them


def update_readme(run: RunFolder, readme: Path) -> None:
    """Write a run's blocks between the markers of a README, and its curve to logs/loss_curve.png of the run.

    Raises InputError, and leaves the README as it is, where that or the run is missing, where it has no block, where a
    marker is alone, doubled or out of order, and where the run has logged nothing.
    """
    text = read_marked(readme)
    if not len(run.read_metrics()):
        raise InputError(f"{run.path} has logged no step yet")
    line_end = "\r\n" if 2 * text.count("\r\n") > text.count("\n") else "\n"  # what most lines have
    for name, block in blocks(run, readme.resolve().parent).items():
        start, end = (f"<!--AUTO:{name}:{side}-->" for side in ("START", "END"))
        before, marker, rest = text.partition(start)
        if marker:
            text = before + f"{start}\n{block}\n{end}".replace("\n", line_end) + rest.partition(end)[2]
    try:
        write_whole(text, readme.resolve())  # the file itself, where README is a link to it
    except OSError as error:
        raise InputError(f"{readme} cannot be written: {error}") from None


def read_marked(readme: Path) -> str:
    """The text of a README; InputError where it cannot be read, has no block, or a marker is alone, doubled or out of
    order."""
    try:
        text = readme.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{readme} cannot be read: {error}") from None
    found = [match.groups() for match in MARKER.finditer(text) if match[1] in NAMES]
    if not found:
        raise InputError(f"{readme} has none of the blocks {', '.join(NAMES)}: nothing was changed. Give it a line "
                         "<!--AUTO:PLOT:START--> and a line <!--AUTO:PLOT:END-->, for instance")
    for name in dict(found):
        sides = [side for block, side in found if block == name]
        if sides != ["START", "END"]:
            raise InputError(f"{readme} must have <!--AUTO:{name}:START--> and, after it, <!--AUTO:{name}:END--> once "
                             f"each, and has {', '.join(sides)}: nothing was changed")
    if any(start[0] != end[0] for start, end in zip(found[::2], found[1::2], strict=True)):
        raise InputError(f"{readme} has one block inside another: nothing was changed")
    return text


def blocks(run: RunFolder, base: Path) -> dict[str, str]:
    """The Markdown of each block by its name; saves the curve, which the block PLOT links relative to `base`."""
    config, facts = run.read_config()
    summary, metrics = run.read_summary(), run.read_metrics()
    samples = run.read_samples()
    curve = plots.loss_curve(metrics, config.target_loss, facts["corpus"]["loss_floor"], restarts=summary["restarts"])
    run.loss_curve.write_bytes(png(curve))
    lowest = metrics.loc[metrics["loss"].idxmin()]
    figures = shown({name: summary[name] for name in ("corpus_loss", "shifted_loss", "tokens", "elapsed_sec",
                                                      "parameters")} | {"lowest_loss": lowest["loss"]})
    figures |= {"step of the lowest loss": written("step", lowest["step"]),
                "last logged loss": written("loss", metrics["loss"].iloc[-1]),
                "total logged steps": written("step", len(metrics))}
    log = run.log_file.read_text("utf-8").splitlines()
    machine = facts["machine"]
    link = quote(Path(os.path.relpath(run.loss_curve, base)).as_posix())
    return {
        "PLOT": f"![Loss from {metrics['loss'].iloc[0]:.2f} at step {metrics['step'].iloc[0]:,} to "
                f"{metrics['loss'].iloc[-1]:.4f} at step {metrics['step'].iloc[-1]:,}]({link})",
        "SUMMARY": f"{html.escape(summary['verdict'])}.\n\n"
                   f"{facts['started'][:10]}, {html.escape(machine['device'])}, {machine['precision']}, "
                   f"torch {facts['versions']['torch']}. The command:\n\n{fenced(command_line(config), 'bash')}",
        "LOGS": fenced("\n".join(log if len(log) <= 20 else [*log[:8], "...", *log[-12:]])),
        "METRICS": "\n".join(["| Metric | Value |", "|---|---|", *(f"| {name.capitalize()} | {value} |"
                                                                  for name, value in figures.items())]),
        "SAMPLES": fenced("\n\n".join(f"step {step}\n{'-' * 40}\n{output}" for step, _, output in
                                       (samples if len(samples) < 2 else (samples[0], samples[-1])))),
    }


def fenced(text: str, language: str = "text") -> str:
    """A text as a block of code that it cannot break out of: no fence of its own is as long, no marker is whole."""
    text = UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text).replace("<!--AUTO:", "<!-- AUTO:")
    fence = "`" * max([3, *(1 + len(run) for run in re.findall("`{3,}", text))])
    return f"{fence}{language}\n{text}\n{fence}"


def main(arguments: list[str]) -> int:
    prepare_streams()
    parser = argparse.ArgumentParser(prog="python -m lib.publish.readme", description=__doc__.partition("\n")[0])
    parser.add_argument("--out_dir", required=True, help="folder of the run")
    parser.add_argument("--readme", default="README.md", help="file to write the blocks into")
    args = parser.parse_args(arguments)
    try:
        update_readme(RunFolder(Path.cwd() / args.out_dir), Path(args.readme))
    except (InputError, OSError) as error:
        print(f"lib.publish.readme: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
