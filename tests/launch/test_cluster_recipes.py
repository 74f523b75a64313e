"""What docs/cluster.md says is to be typed or put into files has a form that its reader understands, and its scripts do
what is said of them."""
import configparser
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
import yaml

from lib.config import ROOT

BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "docs" / "cluster.md").read_text("utf-8"), re.M | re.S)

pytestmark = pytest.mark.skipif(os.name == "nt" or not shutil.which("bash"), reason="they are for Linux")


def of_kind(kind: str) -> list[str]:
    return [text for name, text in BLOCKS if name == kind]


def test_every_block_has_the_form_of_its_kind():
    assert {kind for kind, _ in BLOCKS} == {"bash", "yaml", "ini"}
    for script in of_kind("bash"):
        done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
    jobs = [yaml.safe_load(text) for text in of_kind("yaml")]
    assert [job["kind"] for job in jobs if "kind" in job] == ["Job"]
    unit, = of_kind("ini")
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str
    parser.read_string(unit)
    assert parser["Service"]["SuccessExitStatus"] == "3 130"  # a limit, and a stop


@pytest.fixture
def job(tmp_path):
    """The job that the document gives for Slurm, started in a folder with a program in the place of run_training.py,
    which writes down its arguments, and another in the place of scontrol."""
    scripts = of_kind("bash")
    for name, words in (("begin_or_go_on.sh", "# begin_or_go_on.sh"), ("night.sh", "--signal=B:USR1@300")):
        (tmp_path / name).write_text(next(text for text in scripts if words in text))
    (tmp_path / ".venv" / "bin").mkdir(parents=True)

    def start(program: str) -> subprocess.Popen:
        for path, text in ((".venv/bin/python", program.replace("TOLD", 'echo "$@" > told')),
                           ("scontrol", 'echo "$@" > requeued')):
            (tmp_path / path).write_text(f"#!/bin/bash\n{text}\n")
            (tmp_path / path).chmod(0o755)
        return subprocess.Popen(["bash", "night.sh"], cwd=tmp_path, env=os.environ | {
            "SLURM_JOB_ID": "7", "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"})
    return start


def test_a_job_that_is_told_of_its_end_stops_its_run_and_queues_again(job, tmp_path):
    process = job("trap 'sleep 0.5; exit 130' TERM; TOLD; for i in {1..400}; do sleep 0.05; done")
    deadline = time.monotonic() + 20
    while not (tmp_path / "told").exists() or not (tmp_path / "told").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 130
    assert (tmp_path / "told").read_text().split() == ["run_training.py", "--preset", "plain", "--input_file",
                                                       "data/my.txt", "--out_dir", "runs/night"]
    assert (tmp_path / "requeued").read_text().split() == ["requeue", "7"]


@pytest.mark.parametrize("code", [0, 3, 130])
def test_a_job_that_ends_by_itself_ends_and_one_that_had_begun_goes_on(job, tmp_path, code):
    (tmp_path / "runs" / "night").mkdir(parents=True)
    (tmp_path / "runs" / "night" / "config.json").write_text("{}")
    assert job(f"TOLD; exit {code}").wait(20) == code
    assert (tmp_path / "told").read_text().split() == ["run_training.py", "--resume", "runs/night"]
    assert not (tmp_path / "requeued").exists()  # also where somebody stopped it
