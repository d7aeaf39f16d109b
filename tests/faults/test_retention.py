"""Old and surplus runs go while the program works, and what it says of its bots stays true."""

from __future__ import annotations

from collections.abc import Callable

from tests.faults.observe import ready
from tests.program import Program
from tests.waiting import wait_for

Make = Callable[..., Program]

DAY_US = 86_400 * 10**6


def test_runs_go_and_their_bots_stay(make_program: Make) -> None:
    program = make_program(flags=["--keep-runs-days", "2", "--keep-runs", "3"]).start()
    stopped, restarted, forgotten = (program.start_bot() for _ in range(3))
    for _ in range(5):
        assert program.post(f"/bots/{restarted}/restart").status_code == 200
    newest = program.runs(restarted)[-1]["run_id"]
    program.get(f"/stop/{stopped}")
    assert program.client.delete(f"/bots/{forgotten}").status_code == 204
    as_it_was = program.bot(stopped)
    program.kill()
    # As a supervisor leaves it that is killed in the middle of a DELETE.
    leftover = program.data_dir / "logs" / f"{forgotten}.log"
    leftover.write_text("of a bot that nobody can see\n")
    program.write("UPDATE run SET started_at = started_at - ?, ended_at = ended_at - ?", 3 * DAY_US, 3 * DAY_US)
    program.write("UPDATE event SET at = at - ?", 3 * DAY_US)
    latest = program.ledger("SELECT max(event_id) FROM event")[0][0]

    program.start()
    pid = ready(program, restarted)
    wait_for(lambda: not program.runs(stopped) and not leftover.exists(), 20, "the old runs and the log are gone")
    wait_for(lambda: len(program.runs(restarted)) == 1, 5, "the old runs of the bot that runs are gone")
    assert [run["run_id"] for run in program.runs(restarted)] == [newest]
    assert program.bot(restarted)["pid"] == pid
    assert program.bot(stopped) == as_it_was
    assert program.ledger("PRAGMA foreign_key_check") == []
    assert "deleted 7 runs" in program.log()
    # It goes on from there, under new numbers.
    assert program.post(f"/bots/{stopped}/start").status_code == 200
    assert [run["run_id"] for run in program.runs(stopped)] == [9]
    assert program.ledger("SELECT min(event_id) FROM event WHERE run_id = 9")[0][0] > latest
    assert program.terminate() == 0
