"""Control groups: found, divided and filled in, in a tree that behaves as the kernel's; and its counts of kills."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from supervisor.core.model import Limits
from supervisor.engine import cgroups, oom

ALL = Limits(memory_bytes=1 << 26, pids=20, cpu=0.5)
NO_KILL = "low 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n"
OURS = os.getpid()
STRANGER = 1


class Kernel:
    """A hierarchy of version 2 at `root`, mounted as the group /outer, with this process in /outer/unit of the machine.

    Files that the kernel puts into a new group are there, processes move, and a group with files can be removed.
    """

    def __init__(self, directory: Path, controllers: str = "cpu io memory pids", group: str = "/outer/unit") -> None:
        self.proc = directory / "proc"
        self.root = directory / "cgroup two"
        self.unit = self.root / group.removeprefix("/outer/")
        self.proc.mkdir()
        self.unit.mkdir(parents=True)
        for path in (self.root, *(path for path in self.root.rglob("*") if path.is_dir())):
            self.fill(path, controllers)
        (self.unit / "cgroup.procs").write_text(f"{OURS}\n")
        (self.proc / "cgroup").write_text(f"4:memory:/elsewhere\n1:name=systemd:/outer\n0::{group}\n")
        shown = str(self.root).replace(" ", r"\040")
        (self.proc / "mountinfo").write_text(
            "22 1 8:1 / / rw shared:1 - ext4 /dev/root rw\n"
            f"35 31 0:32 / {directory} rw - cgroup cgroup rw,memory\n"
            f"41 31 0:38 /outer {shown} rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
        )

    def fill(self, group: Path, controllers: str) -> None:
        texts = {"cgroup.controllers": f"{controllers}\n", "cgroup.procs": "", "cgroup.subtree_control": ""}
        if "memory" in controllers:
            texts |= {"memory.events": NO_KILL, "memory.swap.max": "max\n"}
        for name, text in texts.items():
            with (group / name).open("w") as file:
                file.write(text)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        mkdir, rmdir, write_text = os.mkdir, os.rmdir, Path.write_text

        def make(path: Any, *args: Any, **kwargs: Any) -> None:
            mkdir(path, *args, **kwargs)
            enabled = (Path(path).parent / "cgroup.subtree_control").read_text().replace("+", " ").split()
            self.fill(Path(path), " ".join(enabled))

        def remove(path: Any) -> None:
            for file in Path(path).iterdir():
                file.unlink()
            rmdir(path)

        def write(path: Path, text: str) -> int:
            group = path.parent
            if path.name == "cgroup.procs":
                for other in self.root.rglob("cgroup.procs"):
                    write_text(other, "".join(f"{pid}\n" for pid in other.read_text().split() if pid != text))
                text = f"{path.read_text()}{text}\n"
            elif path.name == "cgroup.subtree_control":
                if (group / "cgroup.procs").read_text():
                    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
                text = f"{path.read_text()}{text}"
            return write_text(path, text)

        patch.setattr(os, "mkdir", make)
        patch.setattr(os, "rmdir", remove)
        patch.setattr(Path, "write_text", write)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel(tmp_path)
    kernel.install(monkeypatch)
    return kernel


def make(groups: cgroups.Groups, limits: Limits, bot_id: int = 1) -> str:
    return groups.make(bot_id, limits, lambda: {OURS})


def files(directory: str, *names: str) -> list[str]:
    return [(Path(directory) / name).read_text() for name in names]


def test_a_group_with_limits(kernel: Kernel) -> None:
    groups = cgroups.Groups(kernel.proc)
    made = make(groups, ALL)
    assert made == str(kernel.unit / "bot-1")
    values = files(made, "memory.max", "memory.swap.max", "pids.max", "cpu.max")
    assert values == [str(1 << 26), "0", "20", "50000 100000"]
    assert files(str(kernel.unit), "cgroup.procs", "supervisor/cgroup.procs") == ["", f"{OURS}\n"]
    assert groups.note(ALL) == ""


def test_a_fresh_one_for_each_run_and_none_in_the_end(kernel: Kernel) -> None:
    groups = cgroups.Groups(kernel.proc)
    assert make(groups, Limits(pids=1))
    (kernel.unit / "bot-1" / "memory.events").write_text("oom_kill 1\n")
    made = make(groups, Limits(cpu=0.001))
    assert files(made, "memory.events", "cpu.max") == [
        NO_KILL,
        "1000 100000",
    ]
    assert not (Path(made) / "pids.max").exists()
    assert groups.directory(1) == Path(made)
    groups.remove(1)
    assert groups.directory(1) is None
    assert not Path(made).exists()


def test_nothing_is_touched_before_a_bot_needs_it(kernel: Kernel) -> None:
    groups = cgroups.Groups(kernel.proc)
    before = sorted(kernel.root.rglob("*"))
    assert groups.note(ALL) == ""
    assert make(groups, Limits(open_files=100, nice=3, address_space_bytes=1 << 30)) == ""
    groups.remove(1)
    assert sorted(kernel.root.rglob("*")) == before


def test_a_supervisor_in_the_leaf_of_an_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(tmp_path, group="/outer/unit/supervisor")
    kernel.install(monkeypatch)
    made = make(cgroups.Groups(kernel.proc), ALL)
    assert made == str(kernel.unit.parent / "bot-1")
    assert files(str(kernel.unit), "cgroup.procs") == [f"{OURS}\n"]


def test_strangers_are_not_moved(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    with (kernel.unit / "cgroup.procs").open("a") as file:
        file.write(f"{STRANGER}\n")
    groups = cgroups.Groups(kernel.proc)
    assert make(groups, ALL) == ""
    assert make(groups, ALL, bot_id=2) == ""
    why = f"the cgroup v2 at {kernel.unit} cannot be divided: other processes are in it (pid {STRANGER})"
    assert groups.note(Limits(pids=3)) == f"pids is not enforced: {why}"
    assert len(caplog.messages) == 1, "one warning is enough"
    assert why in caplog.messages[0]
    assert files(str(kernel.unit), "cgroup.procs") == [f"{STRANGER}\n"]


def test_what_the_controllers_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(tmp_path, controllers="cpu pids")
    kernel.install(monkeypatch)
    groups = cgroups.Groups(kernel.proc)
    note = f"memory_bytes is RLIMIT_DATA of each process: the cgroup v2 at {kernel.unit} has no controller memory"
    assert groups.note(ALL) == note
    assert groups.note(Limits(pids=3)) == ""
    made = make(groups, ALL)
    assert files(made, "pids.max", "cpu.max") == ["20", "50000 100000"]
    assert not (Path(made) / "memory.max").exists(), "so the bot sets RLIMIT_DATA"
    assert make(groups, Limits(memory_bytes=1 << 26)) == ""


@pytest.mark.parametrize(
    ("cgroup", "mountinfo", "why"),
    [
        ("4:memory:/x\n", "", "none is mounted here"),
        ("0::/unit\n", "22 1 8:1 / / rw - ext4 /dev/root rw\n", "none is mounted here"),
        ("0::/../unit\n", "41 31 0:38 / {tmp} rw - cgroup2 cgroup2 rw\n", "none is mounted here"),
        ("0::/\n", "41 31 0:38 / {tmp} rw - cgroup2 cgroup2 rw\n", "{tmp} cannot be written to"),
    ],
)
def test_where_none_is_delegated(tmp_path: Path, cgroup: str, mountinfo: str, why: str) -> None:
    (tmp_path / "unit").mkdir()
    (tmp_path / "cgroup").write_text(cgroup)
    (tmp_path / "mountinfo").write_text(mountinfo.format(tmp=tmp_path))
    groups = cgroups.Groups(tmp_path)
    expected = "memory_bytes is RLIMIT_DATA of each process, pids and cpu are not enforced: no writable cgroup v2 is"
    assert groups.note(ALL) == f"{expected} delegated: {why.format(tmp=tmp_path)}"
    assert groups.note(Limits(nice=1)) == ""
    assert make(groups, ALL) == ""


# ---- killed for memory


def test_a_kill_is_one_bots_alone(tmp_path: Path) -> None:
    file = tmp_path / "vmstat"
    file.write_text("nr_free_pages 1\noom_kill 3\nballoon_inflate 0\n")
    watcher = oom.Oom(file)
    assert not watcher.killed(None), "the three were before"
    file.write_text("nr_free_pages 1\noom_kill 5\nballoon_inflate 0\n")
    watcher.look()
    assert [watcher.killed(None) for _ in range(3)] == [True, True, False]
    watcher.close()


def test_a_bots_own_group_knows_for_certain(tmp_path: Path) -> None:
    everywhere, group = tmp_path / "vmstat", tmp_path / "bot-1"
    everywhere.write_text("oom_kill 3\n")
    group.mkdir()
    (group / "memory.events").write_text("max 9\noom_kill 0\n")
    watcher = oom.Oom(everywhere)
    everywhere.write_text("oom_kill 4\n")
    assert not watcher.killed(group), "it was another"
    (group / "memory.events").write_text("max 9\noom_kill 1\n")
    assert watcher.killed(group)
    watcher.close()


def test_the_counter_is_the_nearest(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    assert oom.counter(kernel.proc) == kernel.unit / "memory.events"
    for file in kernel.root.rglob("memory.events"):
        file.unlink()
    machine = tmp_path / "vmstat"
    assert oom.counter(kernel.proc, machine) == machine
    version_1 = tmp_path / "elsewhere" / "memory.oom_control"
    version_1.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert oom.counter(kernel.proc, machine) == version_1


def test_a_kill_in_a_group_of_version_1_below_our_own_counts(tmp_path: Path) -> None:
    below = tmp_path / "bots" / "greedy"
    below.mkdir(parents=True)
    for directory, kills in ((tmp_path, 0), (tmp_path / "bots", 2), (below, 7)):
        (directory / "memory.oom_control").write_text(f"under_oom 0\noom_kill {kills}\n")
    watcher = oom.Oom(tmp_path / "memory.oom_control")
    assert not watcher.killed(None), "all of that was before"
    (below / "memory.oom_control").write_text("under_oom 0\noom_kill 8\n")
    assert [watcher.killed(None) for _ in range(2)] == [True, False]
    (below / "memory.oom_control").unlink()
    below.rmdir()
    assert not watcher.killed(None)
    watcher.close()


def test_a_counter_that_cannot_be_read_once_is_not_taken_for_growth(tmp_path: Path) -> None:
    file = tmp_path / "vmstat"
    file.write_text("oom_kill 3\n")
    watcher = oom.Oom(file)
    with pytest.MonkeyPatch.context() as patch:

        def fails(*_: object) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

        patch.setattr(os, "pread", fails)
        assert not watcher.killed(None)
    assert not watcher.killed(None)
    watcher.close()
