"""Which code is here, by git."""
import os
import subprocess
from typing import Any

from lib.config import ROOT

LONGEST_DIFF = 1_000_000
OF_A_HOOK = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")


def git_state() -> dict[str, Any]:
    """The commit that is checked out, whether files differ from it, and how those it knows do, as `git apply` takes it,
    but for notebooks, which may hold outputs and are in the run's folder as they ran. None for all three where this
    project is no git checkout, and for a difference of more than LONGEST_DIFF characters."""
    plain = {name: value for name, value in os.environ.items() if name not in OF_A_HOOK}

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, check=True, env=plain)
            return done.stdout.decode("utf-8", "replace")
        except (OSError, subprocess.CalledProcessError):
            return None
    # ROOT may lie in a checkout of something else, whose commit is not this code's
    top, commit = git("rev-parse", "--show-toplevel"), git("rev-parse", "HEAD")
    if not top or not commit or not os.path.samefile(top.rstrip("\r\n"), ROOT):
        return dict.fromkeys(("commit", "dirty", "diff"))
    diff = git("diff", "--no-ext-diff", "--no-color", "--binary", "HEAD", "--", ".", ":(exclude)notebooks") or ""
    return {"commit": commit.strip(), "dirty": bool(git("status", "--porcelain")),
            "diff": diff if len(diff) <= LONGEST_DIFF else None}
