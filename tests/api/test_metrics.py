"""The metrics of the real program, and what the dashboard and the alerts in docs/ ask of them."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from supervisor.model import Cause, State
from tests.api.conftest import Api
from tests.program import Program
from tests.waiting import wait_for

DOCS = Path(__file__).parents[2] / "docs"
KINDS = {
    "leaves": 'target = "obedient:leaves"',
    "exits": 'target = "misbehaving:exits"',
}
NEVER = {"policy": "never"}
SOON = {"delay_s": 0.01, "factor": 1, "jitter": 0}

Make = Callable[..., Program]
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not on the PATH (Debian's package prometheus has it)"
)


def scrape(program: Program) -> Series:
    response = program.get("/metrics")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return series(response.text)


def series(text: str) -> Series:
    families = parser.text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(found: Series, name: str, /, **labels: str) -> float | None:
    """Of the series with these labels, and no others."""
    return found.get((f"bot_supervisor_{name}", frozenset(labels.items())))


def promtool(*arguments: str, text: str = "") -> None:
    done = subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr


# ---- what they tell


def test_starts_ends_and_restarts_are_counted(shared: Program) -> None:
    before = scrape(shared)
    bot_id = shared.start_bot("leaves")
    exits = shared.start_bot("exits", restart=NEVER, params={"code": 3})
    looping = shared.start_bot("exits", restart={**SOON, "max_restarts": 2}, params={"code": 3})
    assert shared.wait_state(looping, "failed")["restarts"] == 2
    shared.wait_state(exits, "failed")
    shared.wait_state(bot_id, "running")
    after = scrape(shared)

    def more(name: str, /, **labels: str) -> float:
        was, now = value(before, name, **labels), value(after, name, **labels)
        assert was is not None, f"not there before it happened: {name} {labels}"
        assert now is not None
        return now - was

    assert more("starts_total", kind="leaves") == 1
    assert more("starts_total", kind="exits") == 4
    assert more("restarts_total", kind="exits") == 2
    assert more("restarts_total", kind="leaves") == 0
    causes = {cause: more("exits_total", kind="exits", cause=cause) for cause in Cause}
    assert causes == dict.fromkeys(Cause, 0) | {Cause.CRASHED: 4}
    states = {state: value(after, "bots", kind="leaves", state=state) for state in State}
    assert states == dict.fromkeys(State, 0) | {State.RUNNING: 1}
    assert value(after, "bots", kind="exits", state="failed") == 2
    assert {value(after, "bots", kind="counter", state=state) for state in State} == {0}

    shared.get(f"/stop/{bot_id}")
    after = scrape(shared)
    assert more("exits_total", kind="leaves", cause="stopped") == 1
    assert value(after, "bots", kind="leaves", state="stopped") == 1


def test_how_long_starts_and_stops_take(shared: Program) -> None:
    def count(name: str) -> float:
        return value(scrape(shared), f"{name}_latency_seconds_count", kind="leaves") or 0

    starts, stops = count("start"), count("stop")
    bots = [shared.start_bot("leaves") for _ in range(3)]
    for bot_id in bots:
        shared.wait_state(bot_id, "running")
    shared.client.delete(f"/bots/{bots[0]}")
    shared.post(f"/bots/{bots[1]}/restart")
    assert (count("start"), count("stop")) == (starts + 4, stops + 2)
    found = scrape(shared)
    assert value(found, "start_latency_seconds_bucket", kind="leaves", le="0.005") is not None
    assert 0 < (value(found, "stop_latency_seconds_sum", kind="leaves") or 0) < 60
    assert (
        value(found, "bots", kind="leaves", state="running"),
        value(found, "bots", kind="leaves", state="stopped"),
    ) == (2, 0)


def test_what_each_bot_uses(shared: Program) -> None:
    bot_id = shared.start_bot("leaves", name='a "b"\\c', labels={"team": "x"})
    labels = {"bot_id": str(bot_id), "name": 'a "b"\\c', "kind": "leaves"}
    found = scrape(shared)
    assert (value(found, "bot_resident_memory_bytes", **labels) or 0) > 1 << 20
    first = value(found, "bot_cpu_seconds_total", **labels)
    second = value(scrape(shared), "bot_cpu_seconds_total", **labels)
    assert first is not None
    assert second is not None
    assert first <= second
    shared.get(f"/stop/{bot_id}")
    assert value(scrape(shared), "bot_cpu_seconds_total", **labels) is None


def test_no_number_for_each_bot_if_that_is_not_wanted(make_program: Make) -> None:
    program = make_program(config="metrics_per_bot = false\n").start()
    bot_id = program.start_bot()
    program.wait_state(bot_id, "running")
    text = program.get("/metrics").text
    assert 'bot_supervisor_bots{kind="counter",state="running"} 1.0' in text
    assert "bot_supervisor_bot_" not in text


def test_the_program_itself(shared: Program) -> None:
    shared.start_bot()
    found = scrape(shared)
    assert value(found, "zygote_warm", kind="counter") == 1
    assert (value(found, "zygote_resident_memory_bytes", kind="counter") or 0) > 1 << 20
    assert value(found, "ledger_outage") == 0
    assert value(found, "ledger_queue_length") is not None
    assert (value(found, "ledger_commit_seconds_count") or 0) > 0
    assert (value(found, "http_connections") or 0) >= 1
    assert value(found, "http_requests_in_progress") == 1
    assert found["process_resident_memory_bytes", frozenset()] > 1 << 20
    [build] = [dict(labels) for name, labels in found if name == "bot_supervisor_build_info"]
    assert build.keys() == {"version", "python_version"}


def test_calls_are_told_by_route_and_never_by_path(shared: Program) -> None:
    bot_id = shared.start_bot()
    for path in (f"/bots/{bot_id}", "/bots/987654321", "/nope-1", "/nope-2"):
        shared.get(path)
    shared.client.request("FROBNICATE", "/bots")
    shared.client.get("/bots", headers={"Host": "evil.example"})
    text = shared.get("/metrics").text
    found = series(text)
    count = "http_request_duration_seconds_count"
    assert value(found, count, method="GET", route="/bots/{bot_id}", status="200") is not None
    assert value(found, count, method="GET", route="/bots/{bot_id}", status="404") == 1
    assert value(found, count, method="GET", route="other", status="404") == 2
    assert value(found, count, method="other", route="/bots", status="405") == 1
    assert value(found, count, method="GET", route="other", status="400") == 1
    assert not re.search("nope|987654321|FROB", text)


def test_open_streams(shared: Program) -> None:
    assert value(scrape(shared), "http_streams") == 0
    with shared.client.stream("GET", "/events", headers={"Accept": "text/event-stream"}) as stream:
        assert stream.status_code == 200
        wait_for(lambda: value(scrape(shared), "http_streams") == 1, what="the stream is counted")
        assert value(scrape(shared), "http_requests_in_progress") == 2
    wait_for(lambda: value(scrape(shared), "http_streams") == 0, what="the stream has ended")
    found = scrape(shared)
    assert value(found, "http_request_duration_seconds_count", method="GET", route="/events", status="200") == 1


def test_a_name_that_would_break_a_line(make_program: Make) -> None:
    """No call takes such a name; the ledger may have one."""
    program = make_program().start()
    bot_id = program.start_bot(name="plain")
    program.terminate()
    program.write("UPDATE bot SET name = ? WHERE bot_id = ?", 'a\nb "c" \\', bot_id)
    program.start()
    program.wait_state(bot_id, "running")
    labels = {"bot_id": str(bot_id), "name": 'a\nb "c" \\', "kind": "counter"}
    assert value(scrape(program), "bot_resident_memory_bytes", **labels)


def test_counters_begin_anew_with_each_supervisor(make_program: Make) -> None:
    """What happened is counted since this supervisor started; bots are counted as they are, by ledger and kernel."""
    program = make_program().start()
    runs, stopped = program.start_bot(), program.start_bot()
    program.get(f"/stop/{stopped}")
    assert value(scrape(program), "starts_total", kind="counter") == 2
    program.kill()
    program.start()
    program.wait_state(runs, "running")
    found = scrape(program)
    assert value(found, "starts_total", kind="counter") == 0
    states = {state: value(found, "bots", kind="counter", state=state) for state in State}
    assert states == dict.fromkeys(State, 0) | {State.RUNNING: 1, State.STOPPED: 1}


def test_an_outage_of_the_ledger(program: Program) -> None:
    program.wait_state(program.start_bot(), "running")
    with contextlib.closing(sqlite3.connect(program.data_dir / "ledger.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert program.post("/start").status_code == 503
        found = scrape(program)
    assert value(found, "ledger_outage") == 1
    assert value(found, "bots", kind="counter", state="running") == 1
    wait_for(lambda: value(scrape(program), "ledger_outage") == 0, what="the outage is over")


# ---- how they are asked for


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", "application/openmetrics-text"),
        ("text/plain;version=1.0.0;escaping=allow-utf-8", "text/plain; version=1.0.0"),
        ("image/png", "text/plain; version=0.0.4"),
        (", ;;=", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;version=abc", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;version=1.x, text/plain;version=2.\xe9", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;version=", "text/plain; version=0.0.4"),
        ("x" * 8000, "text/plain; version=0.0.4"),
    ],
)
def test_what_is_accepted(api: Api, accept: str, expected: str) -> None:
    api.start()
    response = api.client.get("/metrics", headers={b"Accept": accept.encode("latin-1")})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith(expected)
    parse = (
        openmetrics_parser.text_string_to_metric_families
        if "openmetrics" in expected
        else parser.text_string_to_metric_families
    )
    assert "bot_supervisor_bots" in {family.name for family in parse(response.text)}


def test_head(api: Api) -> None:
    response = api.client.head("/metrics")
    assert (response.status_code, response.content) == (200, b"")


def test_a_reader_may_look(serve: Callable[..., Api]) -> None:
    guarded = serve(admin_token="a" * 20, read_token="r" * 20)

    def ask(**headers: str) -> httpx.Response:
        return guarded.client.get("/metrics", headers=headers)

    assert ask().status_code == 401
    assert ask(Authorization=f"Bearer {'r' * 20}").status_code == 200


# ---- what docs/ makes of them


def expressions() -> list[str]:
    panels = json.loads((DOCS / "grafana-dashboard.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def exercise(program: Program) -> None:
    """Something of everything: a bot that runs, and one that was stopped."""
    program.get(f"/stop/{program.start_bot()}")
    program.wait_state(program.start_bot(), "running")


def test_dashboard_and_alerts_name_what_there_is(shared: Program) -> None:
    exercise(shared)
    there = {name for name, _ in scrape(shared)}
    text = (DOCS / "alerts.yml").read_text() + (DOCS / "grafana-dashboard.json").read_text()
    named = set(re.findall(r"\b(?:bot_supervisor|process)_\w+", text))
    assert len(named) > 10
    assert named <= there, named - there


def test_every_metric_is_in_the_readme_and_no_other(shared: Program) -> None:
    exercise(shared)
    readme = (DOCS.parent / "README.md").read_text().partition("\n### Metrics\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(bot_supervisor_\w+)", readme))
    there = {
        re.sub("_(bucket|count|sum)$", "", name) for name, _ in scrape(shared) if name.startswith("bot_supervisor_")
    }
    assert named == there


def test_the_dashboard_can_be_imported_anywhere() -> None:
    dashboard = json.loads((DOCS / "grafana-dashboard.json").read_text())
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    panels = dashboard["panels"]
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    assert {target["datasource"]["uid"] for panel in panels for target in panel["targets"]} == {"${datasource}"}
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(x, y) for panel in panels for x, y in squares(panel["gridPos"])}
    assert len(places) == sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in panels), "panels overlap"


def squares(place: dict[str, int]) -> list[tuple[int, int]]:
    return [
        (x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])
    ]


@needs_promtool
def test_promtool_finds_nothing_wrong(shared: Program, tmp_path: Path) -> None:
    exercise(shared)
    promtool("check", "metrics", text=shared.get("/metrics").text)
    promtool("check", "rules", str(DOCS / "alerts.yml"))
    # The panels' expressions as rules. What is JSON is YAML.
    panels = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(expressions())
    ]
    rules = tmp_path / "rules.yml"
    rules.write_text(json.dumps({"groups": [{"name": "panels", "rules": panels}]}))
    promtool("check", "rules", str(rules))
