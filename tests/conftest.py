"""What all tests share."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.program import Program

# What a shell starts in the background ignores Ctrl-C, and so would all that the tests start and end by it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def make_program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Makes programs in directories of their own. What must hold after every case is checked at the end."""
    programs: list[Program] = []

    def make(**kwargs: Any) -> Program:
        directory = tmp_path / f"program-{len(programs)}"
        directory.mkdir()
        programs.append(Program(directory, **kwargs))
        return programs[-1]

    try:
        yield make
        for program in programs:
            program.check_invariants()
    finally:
        for program in programs:
            program.close()


@pytest.fixture(scope="module")
def program_of_module(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """One program for all tests of a module, with the module's KINDS; to be used as `shared`."""
    program = Program(tmp_path_factory.mktemp("program"), kinds=request.module.KINDS)
    try:
        yield program.start()
        assert program.terminate() == 0
        program.check_invariants()
    finally:
        program.close()


@pytest.fixture
def shared(program_of_module: Program) -> Iterator[Program]:
    """The module's program, without any bot. What must hold after every case is checked at the end."""
    program = program_of_module
    try:
        yield program
        program.check_invariants()
    finally:
        bots = program.get("/bots", params={"state": "all", "limit": 1000}).json()
        forget = [lambda client, id_=bot["bot_id"]: client.delete(f"/bots/{id_}").status_code for bot in bots]
        assert not bots or set(program.together(*forget)) == {204}
    assert not program.processes(), "deleted bots have left processes"


@pytest.fixture
def program(make_program: Callable[..., Program]) -> Program:
    """A running supervisor with the kind that ships."""
    return make_program().start()
