"""Several processes train one run: what one process would, from their shares of each step's windows. In fp32."""
import ast
import dataclasses
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from lib.config import ROOT, InputError
from lib.model.gpt import new_model
from lib.presets import preset_config
from lib.runs.checkpoint import load_checkpoint
from lib.runs.folder import RunFolder
from lib.text.corpus import load_corpus
from lib.training import processes, worker
from lib.training.group import Group
from lib.training.machine import Machine, _precision, choose_device, memory_needed
from lib.training.processes import train_in_processes
from lib.training.provenance import provenance
from lib.training.shard import ShardedStep
from lib.training.split import SplitStep
from lib.training.step import TrainingStep
from lib.training.stopping import StopRequest
from lib.training.trainer import Trainer

PLAIN = Machine(torch.device("cpu"), None)
needs_fork = pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(),
                                reason="this system does not fork processes")


@pytest.fixture
def toy(config):
    """A smaller one than `tiny`, whose steps take as long as what is around them."""
    return dataclasses.replace(config, max_tokens=256, n_layer=1, n_embd=16, muon_rows=8, seq_len=16, amp="off",
                               target_loss=0.0, log_every=1, save_every=100, sample_every=100)


@pytest.fixture
def corpus(toy):
    return load_corpus(toy)


def begin(config, corpus) -> RunFolder:
    run = RunFolder(config.out_dir)
    run.write_config(config, provenance(corpus, PLAIN, 0.0))
    return run


def train(config, corpus, step=TrainingStep):
    """The run that one process makes, with such steps."""
    run = begin(config, corpus)
    Trainer(new_model(config, PLAIN.device), corpus, config, run, PLAIN, step=step).train()
    return run


def work(path: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    worker.main(path)


def start(run: RunFolder, count: int, follower: RunFolder | None = None, **environment: str) -> list:
    """So many processes that train a run, as torchrun starts them, but forked from one that has imported torch; those
    that follow find it in a folder of their own, where one is given."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pandas", "pytest", "torch._dynamo", "lib.training.worker"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count),
                    "LOCAL_WORLD_SIZE": str(count)}
    runs = [run, *[follower or run] * (count - 1)]
    started = [context.Process(target=work, args=(str(run.path), environment | {"RANK": str(rank)}))
               for rank, run in enumerate(runs)]
    for process in started:
        process.start()
    return started


def ends(started: list) -> list[int | None]:
    """The exit codes of processes, None of one that does not end."""
    deadline = time.monotonic() + 100
    for process in started:
        process.join(max(0, deadline - time.monotonic()))
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    return codes


class SamePieces(TrainingStep):
    """What two processes compute, in one: the pieces of each, and then their sum."""

    def gradients(self, step):
        losses, gradients = [], []
        learned = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for rank in range(2):
            n = self.config.batch_size * self.config.grad_accum
            share = type("Share", (), {"share": lambda self, n, rank=rank: range(rank * n // 2, (rank + 1) * n // 2)})()
            self.group, loss = share, torch.zeros(())
            self.model.zero_grad(set_to_none=True)
            for k, rows in SplitStep.pieces(self, step):
                windows, candidates = self.fetch(k)
                windows = windows[rows.start:rows.stop]
                piece = self.forward(windows[:, :-1], windows[:, 1:], candidates=candidates) * (len(rows) / n)
                piece.backward()
                loss += piece.detach()
            losses.append(loss)
            gradients.append([parameter.grad.clone() for parameter in learned])
        for parameter, *both in zip(learned, *gradients, strict=True):
            parameter.grad = both[0] + both[1]
        return losses[0] + losses[1]


def losses(run: RunFolder):
    return run.read_metrics()[["step", "loss", "mean_loss", "grad_norm", "corpus_loss"]]


@needs_fork
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_two_processes_equal_one_that_computes_the_same_pieces(optimizer, toy, corpus, tmp_path):
    """to the last bit, in steps of 3 micro-batches of 3 windows, of which one is cut in two"""
    config = dataclasses.replace(toy, batch_size=3, grad_accum=3, steps=50, optimizer=optimizer, sample_every=25,
                                 init="key_value" if optimizer == "sgd" else "gpt2")
    one = train(dataclasses.replace(config, out_dir=str(tmp_path / "one")), corpus, SamePieces)
    two = begin(dataclasses.replace(config, nproc_per_node=2, out_dir=str(tmp_path / "two")), corpus)
    assert ends(start(two, 2)) == [0, 0]
    assert losses(two).equals(losses(one)) and len(losses(two)) == 50
    assert two.read_summary()["cut_losses"] == one.read_summary()["cut_losses"]
    assert two.read_samples() == one.read_samples()
    ours, theirs = (load_checkpoint(run.best_checkpoint)["model"] for run in (two, one))
    assert all(ours[name].equal(theirs[name]) for name in theirs)


@needs_fork
@pytest.mark.parametrize(("optimizer", "count"), [("adamw", 3), ("muon", 2)])
def test_processes_that_share_the_weights_equal_one_that_has_them(optimizer, count, toy, corpus, tmp_path):
    """within 1e-5; and what they leave, one process alone goes on from, and they from what it leaves"""
    config = dataclasses.replace(toy, n_layer=2, batch_size=3, grad_accum=2, steps=30, lr=1e-3, optimizer=optimizer,
                                 sample_every=3, save_every=4, target_loss=9.0)  # looks, and never finds it
    one = train(dataclasses.replace(config, out_dir=str(tmp_path / "one")), corpus)
    run = begin(dataclasses.replace(config, out_dir=str(tmp_path / "shared")), corpus)
    for steps, several in ((10, True), (20, False), (30, True)):
        config = dataclasses.replace(config, out_dir=str(run.path), steps=steps, shard=several,
                                     nproc_per_node=count if several else 1)
        run.write_config(config, provenance(corpus, PLAIN, 0.0))
        if several:
            assert ends(start(run, count)) == [0] * count
        else:
            Trainer(new_model(config, PLAIN.device), corpus, config, run, PLAIN).train()
    ours, theirs = losses(run), losses(one)
    assert ours["step"].tolist() == list(range(1, 31)) and (ours["loss"] - theirs["loss"]).abs().max() < 1e-5
    assert run.read_summary()["restarts"] == [10, 20]
    assert run.read_summary()["corpus_loss"] == pytest.approx(one.read_summary()["corpus_loss"], abs=1e-5)
    assert all(sample in run.read_samples() for sample in one.read_samples())


def test_each_process_keeps_its_part_only(toy, corpus, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=4)
    try:
        monkeypatch.setattr(dist, "init_process_group", lambda *args, **settings: None)
        monkeypatch.setattr(dist, "new_group", lambda *args, **settings: None)
        config = dataclasses.replace(toy, nproc_per_node=4, shard=True)
        machine = dataclasses.replace(PLAIN, group=Group(PLAIN.device))
        model = new_model(config)
        step = ShardedStep(model, corpus, config, machine)
        step(0)
        parameters = [p for optimizer in step.optimizers for group in optimizer.param_groups for p in group["params"]]
        assert len(parameters) == len(list(model.parameters()))
        for p in parameters:
            (moments,) = (optimizer.state[p] for optimizer in step.optimizers if p in optimizer.state)
            for kept in (p, moments["exp_avg"], moments["exp_avg_sq"]):
                assert kept.shape == p.shape and kept.to_local().size(0) <= -(-p.size(0) // 4)
        alone, among = (memory_needed(some, 1_000_000_000, machine) for some in
                        (dataclasses.replace(config, shard=False, nproc_per_node=1, batch_size=1), config))
        assert alone - among == 4 * (12e9 - 12e9 / 4 - 4e9)  # in 4 processes: a quarter of that, and all weights
    finally:
        dist.destroy_process_group()


@needs_fork
def test_a_run_goes_on_with_another_number_of_processes(toy, corpus, tmp_path):
    """and has the losses of one that one process alone made without a break, within 1e-5"""
    config = dataclasses.replace(toy, steps=30, lr=1e-3)
    whole = train(dataclasses.replace(config, out_dir=str(tmp_path / "whole")), corpus)
    run = begin(dataclasses.replace(config, out_dir=str(tmp_path / "split")), corpus)
    for steps, count in ((10, 2), (20, 3), (30, 1)):
        config = dataclasses.replace(run.read_config()[0], steps=steps, nproc_per_node=count)
        run.write_config(config, provenance(corpus, PLAIN, 0.0))
        if count > 1:
            assert ends(start(run, count)) == [0] * count
        else:
            Trainer(new_model(config, PLAIN.device), corpus, config, run, PLAIN).train()
    summary = run.read_summary()
    assert summary["restarts"] == [10, 20]
    ours, theirs = losses(run), losses(whole)
    assert ours["step"].tolist() == list(range(1, 31)) and (ours["loss"] - theirs["loss"]).abs().max() < 1e-5
    assert summary["corpus_loss"] == pytest.approx(whole.read_summary()["corpus_loss"], abs=1e-6)


@pytest.mark.parametrize(("changes", "message"), [
    ({"nproc_per_node": 5}, "5 processes cannot share the 4 windows of a step"),
    ({"nproc_per_node": 3, "nnodes": 2, "rdzv_endpoint": "one:29500"}, "6 processes cannot share the 4 windows"),
    ({"shard": True}, "several processes: raise --nproc_per_node, or leave it out by --no_shard"),
    ({"shard": True, "nproc_per_node": 4, "grad_accum": 2, "batch_size": 3}, "windows in every micro-batch, and "
     "there are 3"),
    ({"shard": True, "nproc_per_node": 2, "optimizer": "sgd", "init": "key_value"}, "not built for optimizer sgd"),
    ({"shard": True, "nproc_per_node": 2, "compile": True}, "not built for compile True"),
    ({"shard": True, "nproc_per_node": 2, "amp": "fp16"}, "not built for amp fp16"),
    ({"nnodes": 2}, "2 machines have to find each other: name the one where the run is started with --rdzv_endpoint"),
    ({"nnodes": 2, "rdzv_endpoint": "one"}, "2 machines have to find each other"),
])
def test_what_several_processes_cannot_do_is_refused(changes, message):
    with pytest.raises(InputError) as error:
        preset_config("tiny", **changes)
    assert message in str(error.value)


def test_more_processes_than_windows_are_refused_before_they_meet(toy, corpus, monkeypatch):
    """whatever torchrun was asked for on another machine"""
    run = begin(toy, corpus)
    monkeypatch.setenv("WORLD_SIZE", "5")
    for name in ("end_with_ancestors", "Group"):
        monkeypatch.setattr(worker, name, lambda *args: None)
    monkeypatch.setattr(worker.signal, "signal", lambda *args: None)
    with pytest.raises(InputError, match="5 processes cannot share the 4 windows of a step"):
        worker.main(str(run.path))


@needs_fork
def test_processes_do_not_go_on_from_different_checkpoints(toy, corpus, tmp_path):
    runs = [train(dataclasses.replace(toy, steps=n, out_dir=str(tmp_path / str(n))), corpus) for n in (3, 2)]
    for run in runs:
        run.write_config(dataclasses.replace(run.read_config()[0], steps=9), run.read_config()[1])
    before = [run.summary_file.read_bytes() for run in runs]
    assert ends(start(runs[0], 2, follower=runs[1])) == [1, 1]
    assert [run.summary_file.read_bytes() for run in runs] == before


def test_a_run_in_fp16_is_not_gone_on_with_in_parts():
    with pytest.raises(InputError, match="not built for fp16, in which this run computes"):
        _precision("fp16", "cuda", shard=True)


def test_as_many_gpus_are_asked_for_as_there_are_processes(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert choose_device("auto", 2) == "cuda" and choose_device("cpu", 3) == "cpu"
    with pytest.raises(InputError, match="3 processes need a GPU each, and torch finds 2 here: lower --nproc_per_node"):
        choose_device("auto", 3)


def test_one_process_takes_nothing_of_it():
    """what several processes take is not imported for one"""
    seen, new = set(), {"lib.training.trainer", "lib.training.processes"}
    while new:
        seen |= new
        trees = [ast.parse((ROOT / name.replace(".", "/")).with_suffix(".py").read_text("utf-8")) for name in new]
        nodes = [node for tree in trees for node in tree.body]
        named = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        named |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        new = {name for name in named if name.startswith("lib.")} - seen
        assert not [name for name in named if name.startswith("torch.distributed")]
    assert "lib.training.step" in seen and not seen & {"lib.training.group", "lib.training.split"}


@pytest.fixture
def endless(toy, corpus):
    return begin(dataclasses.replace(toy, steps=100_000, save_every=5, nproc_per_node=2), corpus)


def wait_for(path, started) -> None:
    deadline = time.monotonic() + 100
    while not path.exists():
        assert time.monotonic() < deadline and all(process.is_alive() for process in started)
        time.sleep(0.05)


@needs_fork
@pytest.mark.parametrize("rank", [0, 1])
def test_where_one_process_is_killed_the_other_ends_and_the_run_has_not_failed(endless, rank):
    started = start(endless, 2)
    wait_for(endless.last_checkpoint, started)
    started[rank].kill()
    codes = ends(started)
    assert codes[rank] == -signal.SIGKILL and codes[1 - rank] == 1
    assert endless.read_summary()["state"] == "killed" and endless.checkpoints()


@needs_fork
def test_no_process_outlives_the_kernel(endless):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as kernel:
        started = start(endless, 2, LAB_KERNEL=str(kernel.pid))
        wait_for(endless.metrics_file, started)
        kernel.kill()
        assert not psutil.wait_procs([psutil.Process(process.pid) for process in started], timeout=15)[1]
    assert ends(started) == [1, 1]


def test_an_interrupt_stops_all_processes_after_a_step(endless):
    """through torch's launcher, as the notebook starts it; the handlers are those of before"""
    handlers = [signal.getsignal(signum) for signum in signal.valid_signals()]
    rows = []

    def stop_button(row):
        if not rows:
            signal.raise_signal(signal.SIGINT)
        rows.append(row)
    summary = train_in_processes(endless, endless.read_config()[0], stop_button)
    assert summary["state"] == "stopped" and endless.last_checkpoint.exists() and not endless.stop_file.exists()
    assert rows[0]["step"] >= 1 and rows[0]["loss"] > 0
    assert not [process for process in psutil.Process().children(recursive=True)
                if str(endless.path) in process.cmdline()]
    assert [signal.getsignal(signum) for signum in signal.valid_signals()] == handlers


def test_the_others_are_told_to_wait_while_the_leader_is_at_work_by_itself(tmp_path):
    """once a minute, so that whoever hears nothing for long knows that it is gone"""
    leader, follower, said = Group.__new__(Group), Group.__new__(Group), []
    leader._broadcast, leader._spoke = said.append, time.monotonic() - 61
    stop = StopRequest(tmp_path / "STOP", leader)
    for _ in range(3):
        stop.check()
    leader.say(Group.WINDOWS, 5, -1, 7)
    leader.say(Group.END)
    follower._broadcast = lambda numbers: said.pop(0)
    assert [numbers.tolist() for numbers in said[:2]] == [[Group.WAIT, 0], [Group.WINDOWS, 3]]
    assert list(follower.told()) == [(Group.WINDOWS, [5, -1, 7])]


@pytest.mark.parametrize(("codes", "state", "attempts"), [
    ([1, 1, 1, 0], "running", 4), ([1, 1, 1, 1], "running", 4), ([1], "failed", 1), ([-9, 0], "running", 2)])
def test_a_run_begins_again_three_times_where_a_process_is_lost_and_not_where_it_failed(
        toy, corpus, monkeypatch, capsys, codes, state, attempts):
    run = begin(toy, corpus)
    left = list(codes)

    def attempt(*args):
        run.write_summary({"state": "limit" if left[0] == 0 else state, "step": 5, "verdict": "what came of it"})
        return left.pop(0)
    monkeypatch.setattr(processes, "_attempt", attempt)
    if codes[-1]:
        with pytest.raises(RuntimeError, match=r"the processes of the run ended: (what came of it|Killed after step)"):
            train_in_processes(run, toy)
    else:
        assert train_in_processes(run, toy)["state"] == "limit"
    assert not left and capsys.readouterr().out.count("a process was lost") == attempts - 1


@pytest.mark.parametrize("before", [None, {"state": "stopped", "step": 20, "verdict": "Stopped by the user"}])
def test_processes_that_do_not_begin_to_train_are_not_started_again(toy, corpus, monkeypatch, before):
    run, attempts = begin(toy, corpus), []
    if before:
        run.write_summary(before)
    monkeypatch.setattr(processes, "_attempt", lambda *args: attempts.append(1) or 1)
    with pytest.raises(RuntimeError, match="did not begin to train: what they printed says why"):
        train_in_processes(run, toy)
    assert len(attempts) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing tells a process that its parent is gone")
def test_who_waits_for_another_machine_ends_with_the_kernel(endless, tmp_path):
    config = dataclasses.replace(endless.read_config()[0], nnodes=2, rdzv_endpoint="localhost:29611")
    endless.write_config(config, endless.read_config()[1])
    code = ("import sys; from lib.runs.folder import RunFolder; from lib.training.processes import train_in_processes; "
            "run = RunFolder(sys.argv[1]); train_in_processes(run, run.read_config()[0])")
    with subprocess.Popen([sys.executable, "-c", code, str(endless.path)], cwd=ROOT) as kernel:
        deadline = time.monotonic() + 60
        while not (launchers := psutil.Process(kernel.pid).children()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(3)  # until it waits
        kernel.kill()
        assert not psutil.wait_procs(launchers, timeout=15)[1]


def test_several_machines_meet_where_the_run_is_started(endless):
    config = dataclasses.replace(endless.read_config()[0], nnodes=2, rdzv_endpoint="one:29500")
    command = processes.launch_command(endless, config, 120)
    assert {"--nnodes=2", "--rdzv_endpoint=one:29500", "--local_addr=one", "--max_restarts=0",
            "--rdzv_conf=is_host=1,join_timeout=120"} <= set(command)
    assert "--standalone" not in command
