"""Imports go down only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [*sorted((ROOT / "supervisor").rglob("*.py")), *sorted((ROOT / "botproc").rglob("*.py"))]

ROOMS = [
    ("supervisor.__main__",),
    ("supervisor.cli", "supervisor.botctl"),
    ("supervisor.program",),
    ("supervisor.api",),
    ("supervisor.fleet",),
    ("supervisor.notices",),
    ("supervisor.engine",),
    ("supervisor.store", "supervisor.logs"),
    ("supervisor.data_directory", "supervisor.metrics", "supervisor.background"),
    ("supervisor.settings", "supervisor.event_loop"),
    ("supervisor.handover",),
    ("supervisor.core",),
    ("supervisor.client",),
    ("botproc",),
]
"""From the top of the house down."""


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(file: Path) -> Iterator[str]:
    """The modules of ours that a file imports, those of `from supervisor import errors` by their full names."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                below = ROOT.joinpath(*node.module.split("."), alias.name)
                is_module = below.is_dir() or below.with_suffix(".py").exists()
                yield f"{node.module}.{alias.name}" if is_module else node.module


def floor_of(module: str) -> int | None:
    """How far down a module is; None for what is not ours, and for the empty top of the package."""
    for number, room in enumerate(ROOMS):
        if f"{module}.".startswith(tuple(f"{name}." for name in room)):
            return number
    return None


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_imports_go_down_only(file: Path) -> None:
    own = floor_of(module_of(file))
    if own is None:
        assert module_of(file) == "supervisor", "a module in no room"
        return
    for name in imports_of(file):
        there = floor_of(name)
        assert there is None or there >= own, f"{module_of(file)} imports {name}, which is above it"


def test_there_is_no_cycle() -> None:
    """Not within a room either. What is imported for type checkers alone counts too."""
    below = {module_of(file): {name for name in imports_of(file) if floor_of(name) is not None} for file in FILES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a cycle: {' -> '.join((*path[path.index(module) :], module))}"
        if module not in done:
            for name in below.get(module, ()):
                visit(name, (*path, module))
            done.add(module)

    for module in below:
        visit(module, ())


def test_botproc_stands_alone() -> None:
    for file in (ROOT / "botproc").rglob("*.py"):
        assert not [name for name in imports_of(file) if name.startswith("supervisor")], file


def test_only_the_composition_root_names_an_engine() -> None:
    users = {module_of(file) for file in FILES if "supervisor.engine.local" in imports_of(file)}
    assert users == {"supervisor.program"}


def test_above_the_engine_nobody_knows_how_processes_are_made() -> None:
    for file in FILES:
        module = module_of(file)
        if module == "supervisor.program" or module.startswith(("supervisor.engine", "botproc")):
            continue
        below = {name for name in imports_of(file) if name.startswith(("supervisor.engine", "botproc"))}
        # `kernel` is for the start of the program: the signals that it inherits, and its lock.
        allowed = {
            "supervisor.engine.protocol",
            "botproc.wire",
            *(["botproc.kernel"] if module in ("supervisor.cli.serve", "supervisor.data_directory") else []),
            # Whether a process belongs to a data directory is judged in one way.
            *(["supervisor.engine.locks", "supervisor.engine.pidfd"] if module == "supervisor.cli.check" else []),
        }
        assert below <= allowed, f"{module} imports {below}"


def test_the_client_stands_alone_and_the_command_line_on_it() -> None:
    for room, below in (("client", {"supervisor.client"}), ("botctl", {"supervisor.client", "supervisor.botctl"})):
        for file in (ROOT / "supervisor" / room).rglob("*.py"):
            for name in imports_of(file):
                allowed = name == "supervisor.logs.text" or any(f"{name}.".startswith(f"{part}.") for part in below)
                assert allowed or not name.startswith(("supervisor", "botproc")), f"{file} imports {name}"
