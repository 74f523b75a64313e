"""A disk that several machines share: who is at work there, and what is read while another one writes."""
import builtins
import errno
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from lib import files
from lib.config import ROOT, InputError
from lib.files import again_if_stale, whole_file
from lib.runs import locks
from lib.runs.checkpoint import load_checkpoint, save_checkpoint
from lib.runs.formats import end_of, read_json, read_rows, sampled_rows
from lib.runs.locks import ProcessLock

fcntl = pytest.importorskip("fcntl", reason="locks of another kind")


@pytest.fixture
def without_locks(monkeypatch):
    """A disk whose system refuses them, as Lustre does unless it is mounted with them; a lease lasts some moments."""
    def refuse(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(locks, "LEASE_SEC", 3)
    monkeypatch.setattr("filelock._soft.exchange_names", lambda *names: False)


def test_where_a_disk_has_no_locks_a_lease_keeps_others_out(without_locks, tmp_path):
    first, second = (ProcessLock(tmp_path / ".lock", "another process is training") for _ in range(2))
    first.take()
    first.take()  # it may have it already
    time.sleep(4)  # it goes on renewing it
    assert second.is_held()
    with pytest.raises(InputError, match="another process is training"):
        second.take()
    first.let_go()
    assert not second.is_held()
    second.take()
    assert first.is_held()
    second.let_go()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_lease_of_a_process_that_is_gone_here_is_none(without_locks, tmp_path):
    program = ("import fcntl, os, sys; from pathlib import Path; fcntl.flock = lambda *_: (_ for _ in ()).throw("
               "OSError(38, 'no locks')); from lib.runs import locks; locks.LEASE_SEC = 3; "
               "locks.ProcessLock(Path(sys.argv[1]), 'x').take(); os._exit(9)")
    path = tmp_path / ".lock"
    assert subprocess.run([sys.executable, "-c", program, path], cwd=ROOT).returncode == 9
    lock = ProcessLock(path, "another")
    assert path.with_name(".lock.lease").exists() and not lock.is_held()
    lock.take()
    lock.let_go()


def test_a_lease_that_nobody_renews_is_of_a_holder_that_is_gone(without_locks, tmp_path):
    lock = ProcessLock(tmp_path / ".lock", "another")
    lock.take()
    lease = tmp_path / ".lock.lease"
    claim = lease.read_text()
    lock.let_go()
    assert socket.gethostname() in claim
    lease.write_text(claim.replace(socket.gethostname(), "elsewhere"))  # where no process can be looked for
    assert lock.is_held()
    with pytest.raises(InputError, match="another"):
        lock.take()
    os.utime(lease, (time.time() - 4,) * 2)
    assert not lock.is_held()
    lock.take()
    assert lock.is_held() and socket.gethostname() in lease.read_text()
    lock.let_go()


def test_what_is_replaced_while_it_is_read_is_read_once_more(tmp_path, monkeypatch):
    table, content = tmp_path / "table.csv", tmp_path / "content.json"
    table.write_text("step,loss\n1,2.5\n")
    content.write_text('{"a": 1}')
    save_checkpoint({"a": 1}, checkpoint := tmp_path / "last.pt")
    asked = []

    def stale_at_first(path, read):
        def reader(*args, **options):
            asked.append(path)
            if asked.count(path) == 1:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            return read(*args, **options)
        return reader

    readers = {read_rows: (table, ["step", "loss"]), end_of: (table, 0), sampled_rows: (table, 2),
               read_json: (content,), load_checkpoint: (checkpoint,)}
    expected = {read: str(read(*args)) for read, args in readers.items()}
    for read, args in readers.items():
        with monkeypatch.context() as patch:
            for owner, name in ((builtins, "open"), (pd, "read_csv"), (Path, "read_text")):
                patch.setattr(owner, name, stale_at_first(read, getattr(owner, name)))
            assert str(read(*args)) == expected[read] and asked.count(read) >= 2

    def always(path):
        asked.append(path)
        raise OSError(errno.ESTALE, "gone")
    with pytest.raises(OSError, match="gone"):
        again_if_stale(always)("twice")
    assert asked.count("twice") == 2


def test_a_new_file_has_the_mode_that_its_owner_wants(tmp_path):
    before = os.umask(0o027)
    try:
        with whole_file(tmp_path / "a.txt") as file:
            file.write(b"a")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_a_file_in_the_making_tells_whose_it_is_and_the_disk_has_its_name_at_the_end(tmp_path, monkeypatch):
    settled = []
    monkeypatch.setattr(files, "_settle", lambda folder: settled.append((folder, sorted(os.listdir(folder)))))
    with whole_file(tmp_path / "a.txt") as file:
        made, = tmp_path.iterdir()
        assert f".{socket.gethostname()}-{os.getpid()}-" in made.name
        file.write(b"a")
        assert not settled
    assert settled == [(tmp_path, ["a.txt"])]
