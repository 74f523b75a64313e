"""SIGINT and SIGTERM at random moments: the run ends with 130, says so, and goes on as if nothing had happened.

    python tests/slow/signals.py [signals]      default 40; about 30 minutes on two cores
"""
import itertools
import random
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from lib.runs.folder import RunFolder
from runs import (
    RECIPE,
    begin_or_resume,
    differences,
    kernels,
    outlived,
    printed,
    random_moment,
    start,
    undisturbed,
    unreadable,
)


def main(wanted: int) -> int:
    rng = random.Random(wanted)
    with tempfile.TemporaryDirectory() as place:
        reference = Path(place, "reference")
        training_sec = undisturbed(reference)
        seconds, wrong, moments, late = [], [], {}, 0
        for count in itertools.count():
            if sum(moments.values()) == wanted:
                break
            folder = Path(place, f"run-{count}")
            process = start(*RECIPE, "--out_dir", str(folder))
            random_moment(process, rng, 0.6 * training_sec)
            before = printed(process)
            moment = ("training" if "step " in before else "start of training" if "2_model: " in before
                      else "before training")
            running = kernels(process)
            begin = time.monotonic()
            process.send_signal(rng.choice([signal.SIGINT, signal.SIGTERM]))
            code = process.wait()
            seconds.append(time.monotonic() - begin)
            run = RunFolder(folder)
            summary = run.read_summary()
            if code == 3 and summary["state"] == "limit" and summary["step"] == 48:  # there was nothing left to stop
                late += 1
                continue
            moments[moment] = moments.get(moment, 0) + 1
            if code != 130 or summary["state"] != "stopped" or "Stopped by the user" not in run.report.read_text():
                wrong.append(f"{moment}: exit {code}, {summary['verdict']}\n{printed(process)}")
            saved = run.last_checkpoint.exists() or "before its first step" in summary["verdict"]
            if not saved or list(folder.rglob("*.lab-part")) or unreadable(folder) or outlived(running):
                wrong.append(f"{moment}: files or processes")
            resumed = begin_or_resume(folder)
            if resumed.wait() != 3 or differences(reference, folder):
                wrong.append(f"{moment}: goes on differently: {printed(resumed)} {differences(reference, folder)}")
            elif summary.get("step") and f"resumed at step {summary['step']}" not in printed(resumed):
                wrong.append(f"{moment}: steps were lost")
        print(f"signals: {wanted}, {moments}, and {late} that came after the last step; to the exit "
              f"{statistics.median(seconds):.1f} s in the median, {max(seconds):.1f} s at most (chapter 4 and the "
              "report included)")
        print(f"wrong: {len(wrong)}", *wrong, sep="\n")
        return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 40))
