"""What the benchmarks say of a run is right."""
import dataclasses
import os
import re
import shutil
import subprocess

import pytest

from benchmarks.flops import step_flops
from lib.config import ROOT


@pytest.mark.parametrize(("rows", "blocks"), [
    (0, [(1, 64, 192), (1, 64, 64), (1, 64, 256), (1, 64, 256)]),
    (16, [(12, 16, 64), (4, 16, 64), (16, 16, 64), (16, 16, 64)]),
    (8, [(24, 8, 64), (8, 8, 64), (32, 8, 64), (32, 8, 64)]),
])
def test_muon_is_counted_as_it_runs(config, corpus, rows, blocks):
    """two for a multiplication and an addition"""
    config = dataclasses.replace(config, optimizer="muon", muon_rows=rows)
    # x @ x.T and back; five polynomials, their four products, and four times two for the next square
    products = sum(n * (2 * r * r * length + (5 + 4 + 8) * r ** 3) for n, r, length in config.n_layer * blocks)
    first, later, optimizer = step_flops(config, corpus)
    assert optimizer == 2 * products
    assert first > later > optimizer


@pytest.fixture
def gpu_script(tmp_path):
    """A function that runs gpu.sh by an interpreter of a few lines, and returns its exit code and its records."""
    if not shutil.which("bash"):
        pytest.skip("no bash here")

    def run(interpreter: str, folder: str = "records"):
        (tmp_path / "python").write_text(f"#!/bin/sh\n{interpreter}\n")
        (tmp_path / "python").chmod(0o755)
        done = subprocess.run(["bash", ROOT / "benchmarks" / "gpu.sh", tmp_path / folder], capture_output=True,
                              text=True, env=os.environ | {"PYTHON": str(tmp_path / "python")})
        records = list(tmp_path.glob(f"{folder}/*.md"))
        assert len(records) == (done.returncode != 2) and "syntax error" not in done.stderr
        return done.returncode, records and records[0].read_text(), done.stderr
    return run


def test_the_script_for_gpus_is_done_in_eight_minutes():
    limits = re.findall(r'^part ".*?" (\d+) ', (ROOT / "benchmarks" / "gpu.sh").read_text(), re.MULTILINE)
    assert len(limits) == 5 and sum(map(int, limits)) < 480


def test_the_script_for_gpus_leaves_nothing_where_there_is_none(gpu_script):
    code, record, told = gpu_script('case "$*" in *is_available*) exit 1;; esac')
    assert code == 2 and not record and "finds no CUDA device" in told
    code, record, told = gpu_script('case "$*" in *"import pytest"*) exit 1;; esac')
    assert code == 2 and not record and "put its wheel into ./wheels" in told


def test_the_script_for_gpus_goes_on_behind_a_part_that_fails(gpu_script):
    code, record, _ = gpu_script('case "$*" in *tests/gpu*) echo "1 failed"; exit 3;; *) echo "asked: $1";; esac')
    assert code == 1 and record.count("**Failed: exit code 3**") == 1 and "1 failed" in record
    assert record.index("1 failed") < record.index("asked: benchmarks/step.py") < record.index("The preset full")
    assert gpu_script('echo "all is well"', folder="others")[0] == 0
