"""Many runs at the same time into one runs/: each gets a folder, sockets and files of its own.

    python tests/slow/parallel.py [runs]        default 20; about 8 minutes on two cores
"""
import os
import sys
import time

from lib.config import ROOT
from lib.runs.folder import RunFolder
from runs import printed, start


def main(wanted: int) -> int:
    os.environ["OMP_NUM_THREADS"] = "1"  # so many times all cores would be slow
    begin = time.monotonic()
    processes = [start("--preset", "tiny", "--seed", str(seed)) for seed in range(wanted)]
    codes = [process.wait() for process in processes]
    folders = [printed(process).partition("run folder: ")[2].partition("\n")[0] for process in processes]
    seeds = [RunFolder(ROOT / folder).read_config()[0].seed for folder in folders]
    reports = [RunFolder(ROOT / folder).report.exists() for folder in folders]
    print(f"{wanted} runs in {time.monotonic() - begin:.0f} s: exit codes {sorted(set(codes))}, "
          f"{len(set(folders))} folders, {sum(reports)} reports, seeds as given: {seeds == list(range(wanted))}")
    wrong = [printed(process) for process, code in zip(processes, codes, strict=True) if code not in (0, 3)]
    print(*wrong, sep="\n")
    return int(bool(wrong) or len(set(folders)) != wanted or seeds != list(range(wanted)) or not all(reports))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
