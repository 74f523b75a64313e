"""A disk that fills up, at each kind of write: what was saved stays, one message says so, and --resume goes on.

    sudo python tests/slow/full_disk.py         mounts small tmpfs; about 6 minutes on two cores
"""
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lib.runs.folder import RunFolder
from runs import RECIPE, begin_or_resume, differences, printed, start, undisturbed, unreadable

# what the run has printed, or written, when the disk fills up, and which writes come next
MOMENTS = {
    "run folder": "the executed notebook 1_data",
    "1_data: ": "the executed notebook 2_model, config.json, the first row",
    "step     1 ": "metrics, log, samples, checkpoints",
    "previous.pt": "the same with checkpoints already there",
    "3_training: ": "the executed notebook 4_results and the report",
}


def fill(disk: Path) -> Path:
    """Take all room there is, to the last byte."""
    ballast = disk / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        block = bytes(4096)
        try:
            while True:
                file.write(block)
        except OSError:
            pass
    return ballast


def main() -> int:
    wrong = []
    with tempfile.TemporaryDirectory() as place:
        reference = Path(place, "reference")
        undisturbed(reference)
        disk = Path(place, "disk")
        disk.mkdir()
        for size, moment in [(60, ""), *((300, moment) for moment in MOMENTS)]:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", disk], check=True)
            try:
                folder = disk / "run"
                process = start(*RECIPE, "--out_dir", str(folder))
                if moment:
                    while process.poll() is None and moment not in printed(process) and not (
                            moment == "previous.pt" and RunFolder(folder).previous_checkpoint.exists()):
                        time.sleep(0.01)
                    ballast = fill(disk)
                code = process.wait()
                said = [line for line in printed(process).splitlines() if "space" in line]
                print(f"{moment or 'too small from the start'!r}: exit {code}, {len(said)} lines about it, "
                      f"checkpoints {[path.name for path in RunFolder(folder).checkpoints()]}", *said, sep="\n    ",
                      flush=True)
                if (code != 1 and moment != "3_training: ") or not 1 <= len(said) <= 5 or unreadable(folder):
                    wrong.append(f"{moment}: exit {code}, {unreadable(folder)}:\n{printed(process)}")
                if not moment:
                    continue
                ballast.unlink()
                resumed = begin_or_resume(folder)
                if resumed.wait() != 3 or differences(reference, folder):
                    wrong.append(f"{moment}: goes on differently:\n{printed(resumed)}")
            finally:
                subprocess.run(["umount", disk], check=True)
    print(f"wrong: {len(wrong)}", *wrong, sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    if not shutil.which("mount"):
        sys.exit("this needs mount")
    sys.exit(main())
