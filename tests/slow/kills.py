"""kill -9 of the kernel, of run_training.py and of both, at random moments, each followed by --resume until it is done.

    python tests/slow/kills.py [kills]          default 100; about 30 minutes on two cores
"""
import random
import sys
import tempfile
from pathlib import Path

import psutil

from lib.runs.folder import RunFolder
from runs import begin_or_resume, differences, kernels, outlived, printed, random_moment, undisturbed, unreadable


def main(wanted: int) -> int:
    rng = random.Random(1337)
    with tempfile.TemporaryDirectory() as place:
        reference = Path(place, "reference")
        training_sec = undisturbed(reference)
        kills = {"kernel": 0, "run_training.py": 0, "both": 0}
        states, steps, broken, orphans, ended, unequal = {}, set(), [], 0, 0, []
        folder = Path(place, "run-1")
        while sum(kills.values()) < wanted or folder.exists():
            process = begin_or_resume(folder)
            if sum(kills.values()) < wanted:
                random_moment(process, rng, 1.2 * training_sec)
            else:
                process.wait()
            if process.poll() is not None:  # it got to its end
                if process.returncode != 3:
                    print(f"exit {process.returncode}:\n{printed(process)}")
                    return 1
                ended += 1
                unequal += differences(reference, folder)
                broken += list(folder.rglob("*.lab-part"))
                if sum(kills.values()) >= wanted:
                    break
                folder = Path(place, f"run-{ended + 1}")
                continue
            victim, running = rng.choice(list(kills)), kernels(process)
            if victim != "run_training.py" and not running:
                victim = "run_training.py"
            if victim != "run_training.py":
                for kernel in running:
                    kernel.kill()
            if victim != "kernel":
                process.kill()
            kills[victim] += 1
            process.wait()
            orphans += len(outlived(running))
            broken += unreadable(folder) if folder.exists() else []
            run = RunFolder(folder)
            if run.summary_file.exists():
                state = run.read_summary()["state"]
                states[state] = states.get(state, 0) + 1
                steps.add(run.read_summary()["step"])
        print(f"kills: {kills}, seen as {states}, at {len(steps)} different steps")
        print(f"runs brought to their end by --resume: {ended}, files or values that differ from the undisturbed run: "
              f"{len(unequal)} {unequal}")
        print(f"unreadable or temporary files: {len(broken)} {broken}, processes that outlived: {orphans}")
        mine = [p for p in psutil.process_iter(["cmdline"]) if place in " ".join(p.info["cmdline"] or [])]
        return int(bool(unequal or broken or orphans or mine))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100))
