"""A disk that several machines share: who is at work there, and what is read while another one writes."""
import errno
import os
import socket
import time

import pytest

from lib import files
from lib.config import InputError
from lib.files import again_if_stale, whole_file
from lib.runs import locks
from lib.runs.formats import end_of, read_json, read_rows, sampled_rows
from lib.runs.locks import ProcessLock

fcntl = pytest.importorskip("fcntl", reason="locks of another kind")


@pytest.fixture
def without_locks(monkeypatch):
    """A disk whose system refuses them, as Lustre does unless it is mounted with them; a lease lasts some moments."""
    def refuse(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(locks, "LEASE_SEC", 0.6)


def test_where_a_disk_has_no_locks_a_lease_keeps_others_out(without_locks, tmp_path):
    first, second = (ProcessLock(tmp_path / ".lock", "another process is training") for _ in range(2))
    first.take()
    first.take()  # it may have it already
    time.sleep(1.5)  # it goes on renewing it
    assert second.is_held()
    with pytest.raises(InputError, match="another process is training"):
        second.take()
    first.let_go()
    assert not second.is_held()
    second.take()
    assert first.is_held()
    second.let_go()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


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
    time.sleep(0.7)
    assert not lock.is_held()
    lock.take()
    assert lock.is_held() and socket.gethostname() in lease.read_text()
    lock.let_go()


def test_what_is_replaced_while_it_is_read_is_read_once_more(tmp_path, monkeypatch):
    table, content = tmp_path / "table.csv", tmp_path / "content.json"
    table.write_text("step,loss\n1,2.5\n")
    content.write_text('{"a": 1}')
    asked = []

    def stale_at_first(path, read):
        def reader(*args, **options):
            asked.append(path)
            if asked.count(path) == 1:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            return read(*args, **options)
        return reader

    readers = {read_rows: (["step", "loss"],), end_of: (0,), sampled_rows: (2,)}
    for read, args in readers.items():
        assert str(again_if_stale(stale_at_first(read, read))(table, *args)) == str(read(table, *args))
    assert [asked.count(read) for read in readers] == [2, 2, 2]
    monkeypatch.setattr(type(content), "read_text", stale_at_first(content, type(content).read_text))
    assert read_json(content) == {"a": 1} and asked.count(content) == 2

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
