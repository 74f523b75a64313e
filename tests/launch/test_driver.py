"""Points run one in each slot, are gone on with or left alone, and can be stopped."""
import dataclasses

import pytest

from lib.config import InputError, relative_to_root
from lib.launch import driver, executors
from lib.launch.driver import outcome, run_points
from lib.launch.executors import choose_executor
from lib.launch.point import Point
from lib.launch.sweep import read_sweep
from lib.runs.locks import ProcessLock


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "POLL_SEC", 0)
    (tmp_path / "some.yaml").write_text("preset: tiny\ngrid: {seed: [1, 2, 3, 4, 5]}")
    found = read_sweep(tmp_path / "some.yaml", relative_to_root(tmp_path / "runs"))
    found.folder.mkdir()
    return found


class Jobs:
    """Starts nothing: a point's job ends after some looks at it, or when it is asked to stop."""

    def __init__(self, looks: int = 3):
        self.looks, self.started, self.most, self.now, self.withdrawn = looks, [], 0, [], []

    def start(self, point, slot):
        jobs = self
        jobs.started.append((point.name, slot))
        jobs.now.append(slot)
        jobs.most = max(jobs.most, len(jobs.now))
        assert len(set(jobs.now)) == len(jobs.now)

        class Job:
            left = jobs.looks

            def has_ended(self):
                self.left -= 1
                if point.run.stop_file.exists():
                    point.run.write_summary({"state": "stopped", "step": 1, "verdict": "Stopped"})
                elif self.left == 0:
                    point.run.write_summary({"state": "limit", "step": 3, "verdict": "Trained"})
                    point.run.report.write_text("")
                else:
                    point.run.path.mkdir(exist_ok=True)
                    return False
                jobs.now.remove(slot)
                return True

            def withdraw(self):
                jobs.withdrawn.append(point.name)

        return Job()


def test_every_point_runs_once_and_no_slot_twice_at_a_time(sweep):
    jobs, lines = Jobs(), []
    run_points(sweep, ["a", "b"], jobs.start, lines.append)
    assert [name for name, _ in jobs.started] == [point.name for point in sweep.points] and jobs.most == 2
    assert lines[0] == "5 points, 0 of them done, 2 at a time" and lines.count("3-seed=3: Trained") == 1
    assert outcome(sweep) == "limit"


def test_points_that_are_done_are_left_alone_and_others_go_on(sweep):
    run_points(sweep, ["a"], Jobs().start, lambda line: None)
    sweep.points[1].run.write_config(sweep.points[1].config, {})
    sweep.points[1].run.write_summary({"state": "died", "step": 2, "verdict": ""})
    assert outcome(sweep) == "failed"
    jobs, lines = Jobs(), []
    run_points(sweep, ["a"], jobs.start, lines.append)
    assert jobs.started == [("2-seed=2", "a")] and "2-seed=2: goes on" in lines and outcome(sweep) == "limit"


def test_a_point_that_another_process_is_at_work_on_is_waited_for(sweep, monkeypatch):
    claim = ProcessLock(sweep.points[0].run.claim.path, "another")
    claim.take()
    jobs, polls = Jobs(), iter(range(1000))

    def sleep(seconds):
        if next(polls) == 30:  # the other one comes to its end
            assert len(jobs.started) == 4
            sweep.points[0].run.write_summary({"state": "reached", "step": 1, "verdict": ""})
            sweep.points[0].run.report.write_text("")
            claim.let_go()

    monkeypatch.setattr(driver.time, "sleep", sleep)
    run_points(sweep, ["a", "b"], jobs.start, lambda line: None)
    assert len(jobs.started) == 4 and outcome(sweep) == "limit"


def test_a_stop_reaches_those_that_run_and_no_other_begins(sweep, monkeypatch):
    jobs, polls = Jobs(looks=100), iter(range(1000))
    monkeypatch.setattr(driver.time, "sleep", lambda seconds: next(polls) == 5 and sweep.stop_file.touch())
    run_points(sweep, ["a", "b"], jobs.start, lambda line: None)
    assert [name for name, _ in jobs.started] == ["1-seed=1", "2-seed=2"] == sorted(set(jobs.withdrawn))
    assert [point.state() for point in sweep.points] == ["stopped", "stopped", "", "", ""]
    assert not any(point.run.stop_file.exists() for point in sweep.points) and outcome(sweep) == "stopped"


def test_a_stop_reaches_those_that_another_driver_started(sweep):
    claim = ProcessLock(sweep.points[0].run.claim.path, "another")
    claim.take()
    sweep.stop_file.touch()
    run_points(sweep, ["a"], Jobs().start, lambda line: None)
    assert [point.run.stop_file.exists() for point in sweep.points] == [True, False, False, False, False]
    claim.let_go()


def test_a_cluster_that_takes_no_more_is_asked_again(sweep):
    jobs, refused = Jobs(), []

    def start(point, slot):
        if len(jobs.now) == 2:
            refused.append(point.name)
            raise InputError("Slurm took no job")
        return jobs.start(point, slot)
    run_points(sweep, list("abcde"), start, lambda line: None)
    assert refused == ["3-seed=3", "5-seed=5"] and outcome(sweep) == "limit" and len(jobs.started) == 5
    with pytest.raises(InputError, match="took no job"):  # nothing runs, so nothing can end
        jobs.now = [1, 2]
        sweep.points[0].run.report.unlink()
        run_points(sweep, ["a"], start, lambda line: None)


def test_gpus_are_slots_and_processors_are_shared(sweep, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(executors.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    seen = []
    monkeypatch.setattr(Point, "start", lambda point, output, environment: seen.append(environment))
    for visible, parallel, slots, environment in (
            ("", 0, [""], {}), ("", 3, [""] * 3, {"OMP_NUM_THREADS": "2"}),
            ("0,GPU-5a", 0, ["0", "GPU-5a"], {"CUDA_VISIBLE_DEVICES": "0", "OMP_NUM_THREADS": "4"}),
            ("2,3", 3, ["2", "3", "2"], {"CUDA_VISIBLE_DEVICES": "2", "OMP_NUM_THREADS": "2"})):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        found, start = choose_executor(sweep, "local", parallel)
        start(sweep.points[0], found[0])
        assert found == slots and seen[-1] == environment
    two = dataclasses.replace(sweep.points[0].config, nproc_per_node=2)
    wide = dataclasses.replace(sweep, points=(Point("1", two), *sweep.points[1:]))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    found, start = choose_executor(wide, "local", 0)
    start(wide.points[0], found[1])
    assert found == ["0,1", "2,3"] and seen[-1] == {"CUDA_VISIBLE_DEVICES": "2,3", "OMP_NUM_THREADS": "2"}


def test_a_cluster_takes_submitit(sweep, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "submitit", None)
    with pytest.raises(InputError, match=r"takes submitit: install the extra .*\[cluster\]"):
        choose_executor(sweep, "slurm", 0)
