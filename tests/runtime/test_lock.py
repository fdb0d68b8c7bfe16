import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.runtime.lock import FolderLock


def owner(path):
    return json.loads((path / "lock.json").read_text())


def write_owner(path, **changes):
    with FolderLock(path):
        record = owner(path)
    (path / "lock.json").write_text(json.dumps(record | changes))


def test_lock_names_its_owner_and_goes_with_it(tmp_path):
    with FolderLock(tmp_path):
        assert owner(tmp_path)["host"] == socket.gethostname()
        assert owner(tmp_path)["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_second_owner_is_refused_and_the_first_keeps_the_lock(tmp_path):
    with FolderLock(tmp_path):
        before = owner(tmp_path)
        with pytest.raises(UserError, match=f"process {os.getpid()} on {socket.gethostname()}"):
            FolderLock(tmp_path).acquire()
        assert owner(tmp_path) == before
        assert [path.name for path in tmp_path.iterdir()] == ["lock.json"]


def test_lock_of_a_process_that_is_gone_is_taken_over(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    write_owner(tmp_path, pid=child.pid)
    with FolderLock(tmp_path):
        assert owner(tmp_path)["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_lock_of_an_earlier_process_with_the_same_id_is_taken_over(tmp_path):
    write_owner(tmp_path, started=1.0)
    with FolderLock(tmp_path):
        assert owner(tmp_path)["started"] > 1.0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_process_that_nobody_waited_for_counts_as_gone(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        write_owner(tmp_path, pid=child.pid, started=float(stat[19]))
        with pytest.raises(UserError, match=f"process {child.pid} on"):
            FolderLock(tmp_path).acquire()
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie from here on
        with FolderLock(tmp_path):
            assert owner(tmp_path)["pid"] == os.getpid()


def test_lock_of_another_host_stands(tmp_path):
    write_owner(tmp_path, host="node-7", pid=4)
    with pytest.raises(UserError, match=r"process 4 on node-7.*delete .*lock\.json"):
        FolderLock(tmp_path).acquire()
    assert owner(tmp_path)["host"] == "node-7"


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"host": "x"'])
def test_unreadable_lock_is_told_and_kept(tmp_path, content):
    (tmp_path / "lock.json").write_text(content)
    with pytest.raises(UserError, match="names no owner: delete it"):
        FolderLock(tmp_path).acquire()
    assert (tmp_path / "lock.json").read_text() == content


def test_two_newcomers_cannot_both_take_over(tmp_path, monkeypatch):
    write_owner(tmp_path, started=1.0)
    second = []

    def replace(source, target, original=os.replace):
        if not second:  # a rival comes while the first is at it
            with pytest.raises(UserError) as caught:
                FolderLock(tmp_path).acquire()
            second.append(str(caught.value))
        original(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with FolderLock(tmp_path):
        assert "is being taken over by another process" in second[0]
