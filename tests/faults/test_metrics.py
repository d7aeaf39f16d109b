"""What Prometheus sees of the real program, and what is made for it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import parser
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families

from supervisor.core.model import Cause, State
from tests.program import Program
from tests.sse import following
from tests.waiting import wait_for

DOCS = Path(__file__).parents[2] / "docs"
PREFIX = "bot_supervisor_"
KINDS = {
    "leaves": 'target = "obedient:leaves"',
    "raises": 'target = "misbehaving:raises"',
}

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(program: Program) -> Samples:
    answer = program.get("/metrics")
    assert answer.status_code == 200, answer.text
    families = list(parser.text_string_to_metric_families(answer.text))
    assert len({family.name for family in families}) == len(families), "a family comes twice"
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(samples: Samples, name: str, /, **labels: str) -> float:
    return samples[PREFIX + name, frozenset(labels.items())]


def test_what_happens_to_bots_is_counted(shared: Program) -> None:
    before = scrape(shared)
    ones = [shared.start_bot("leaves") for _ in range(2)]
    failed = shared.start_bot("raises", restart={"policy": "never"})
    again = shared.start_bot("raises", restart={"policy": "on-failure", "delay_s": 0.0, "max_restarts": 1})
    for bot_id in ones:
        shared.wait_state(bot_id, "running")
    for bot_id in (failed, again):
        shared.wait_state(bot_id, "failed")
    assert shared.get(f"/stop/{ones[0]}").status_code == 200
    after = scrape(shared)

    def grew(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grew("starts_total", kind="leaves") == 2
    assert grew("starts_total", kind="raises") == 3
    ends = {(kind, cause): grew("exits_total", kind=kind, cause=cause) for kind in KINDS for cause in Cause}
    assert {end for end, number in ends.items() if number} == {("leaves", Cause.STOPPED), ("raises", Cause.CRASHED)}
    assert ends["leaves", Cause.STOPPED] == 1
    assert ends["raises", Cause.CRASHED] == 3
    assert grew("restarts_total", kind="leaves") == 0
    assert grew("restarts_total", kind="raises") == 1
    assert grew("start_latency_seconds_count", kind="leaves") == 2
    assert 0 < grew("start_latency_seconds_sum", kind="leaves") < 20
    assert grew("stop_latency_seconds_count", kind="leaves") == 1
    assert grew("stop_latency_seconds_count", kind="raises") == 0
    assert grew("ledger_commit_seconds_count") > 5
    assert value(after, "ledger_outage") == 0
    assert value(after, "zygote_warm", kind="leaves") == 1
    assert value(after, "zygote_resident_memory_bytes", kind="leaves") > 2**20
    assert value(after, "http_connections") >= 1
    assert value(after, "zygote_warm", kind="counter") in (0, 1)
    assert after["process_resident_memory_bytes", frozenset()] > 2**20

    bots = {(kind, state): value(after, "bots", kind=kind, state=state) for kind in KINDS for state in State}
    assert {key: number for key, number in bots.items() if number} == {
        ("leaves", State.RUNNING): 1,
        ("leaves", State.STOPPED): 1,
        ("raises", State.FAILED): 2,
    }
    labels = {"bot_id": str(ones[1]), "name": "", "kind": "leaves"}
    assert value(after, "bot_cpu_seconds_total", **labels) >= 0
    # Two looks at a process that may just have grown.
    wait_for(
        lambda: value(scrape(shared), "bot_resident_memory_bytes", **labels) == shared.bot(ones[1])["rss_bytes"],
        what="both show the same",
    )
    assert len([1 for name, _ in after if name == PREFIX + "bot_resident_memory_bytes"]) == 1


def test_calls_are_timed_by_their_route_and_by_nothing_that_a_caller_can_invent(shared: Program) -> None:
    def calls() -> dict[tuple[str, str, str], float]:
        count = PREFIX + "http_request_duration_seconds_count"
        found = [(dict(labels), number) for (name, labels), number in scrape(shared).items() if name == count]
        return {(labels["method"], labels["route"], labels["status"]): number for labels, number in found}

    before = calls()
    bot_id = shared.start_bot("leaves")
    for path in (f"/bots/{bot_id}", f"/bots/{bot_id}", "/bots/123456", "/nowhere/1", "/nowhere/2", "/bots/x"):
        shared.get(path)
    shared.client.request("BREW", "/bots")
    shared.client.get("/bots", headers={"Host": "elsewhere.example"})
    after = calls()
    assert {call: number - before.get(call, 0) for call, number in after.items() if number != before.get(call, 0)} == {
        ("POST", "/start", "200"): 1,
        ("GET", "/bots/{bot_id}", "200"): 2,
        ("GET", "/bots/{bot_id}", "404"): 1,
        ("GET", "/bots/{bot_id}", "422"): 1,
        ("GET", "unknown", "404"): 2,
        ("GET", "unknown", "400"): 1,
        ("other", "/bots", "405"): 1,
        ("GET", "/metrics", "200"): 1,
    }


def test_a_stream_is_counted_while_it_is_open_and_timed_until_it_begins(shared: Program) -> None:
    assert value(scrape(shared), "open_streams") == 0
    with following(shared.client, "/events"):
        samples = scrape(shared)
        assert value(samples, "open_streams") == 1
        began = {"method": "GET", "route": "/events", "status": "200"}
        assert value(samples, "http_request_duration_seconds_count", **began) == 1
    wait_for(lambda: value(scrape(shared), "open_streams") == 0, what="the stream is closed")


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "text/plain; version=0.0.4"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text; version=1.0.0"),
        ("application/openmetrics-text; version=x", "text/plain; version=0.0.4"),
        ("application/openmetrics-text; version=1.0.0.x; escaping=y", "application/openmetrics-text"),
        ("application/json", "text/plain; version=0.0.4"),
    ],
)
def test_the_format_is_the_one_that_is_asked_for(shared: Program, accept: str | None, content_type: str) -> None:
    answer = shared.get("/metrics", headers={"Accept": accept} if accept else {})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(content_type)
    if "openmetrics" in content_type:
        names = {family.name for family in openmetrics_families(answer.text)}
        assert {PREFIX + "bots", PREFIX + "exits"} <= names
    assert shared.client.head("/metrics").status_code == 200


def test_names_are_escaped(shared: Program) -> None:
    name = 'say "hi" \\n {x="y"} ü'
    bot_id = shared.start_bot("leaves", name=name)
    labels = {"bot_id": str(bot_id), "name": name, "kind": "leaves"}
    assert value(scrape(shared), "bot_resident_memory_bytes", **labels) > 0


def test_bots_are_left_out_when_the_settings_say_so_and_a_read_token_will_do(
    make_program: Callable[..., Program],
) -> None:
    tokens = {"BOT_SUPERVISOR_ADMIN_TOKEN": "admin-token", "BOT_SUPERVISOR_READ_TOKEN": "read-token"}
    program = make_program(flags=["--no-metrics-per-bot"], env=tokens).start()
    assert program.get("/metrics").status_code == 401
    program.client.headers["Authorization"] = "Bearer admin-token"
    program.wait_state(program.start_bot(), "running")
    program.client.headers["Authorization"] = "Bearer read-token"
    samples = scrape(program)
    assert value(samples, "bots", kind="counter", state="running") == 1
    assert not [name for name, _ in samples if name.startswith(PREFIX + "bot_")]
    program.client.headers["Authorization"] = "Bearer admin-token"


def strings_of(node: Any, key: str) -> Iterator[str]:
    """All values of a key, however deep."""
    for name, inner in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if name == key and isinstance(inner, str):
            yield inner
        yield from strings_of(inner, key)


def test_rules_and_dashboard_ask_for_what_there_is(shared: Program) -> None:
    bot_id = shared.start_bot("leaves")
    shared.wait_state(bot_id, "running")
    there: dict[str, set[str]] = {}
    for name, labels in scrape(shared):
        there.setdefault(name, {"instance", "job"}).update(key for key, _ in labels)
    rules = yaml.safe_load((DOCS / "alerts.yml").read_text())
    dashboard = json.loads((DOCS / "grafana-dashboard.json").read_text())
    asked = [*strings_of(rules, "expr"), *strings_of(dashboard, "expr"), *strings_of(dashboard, "query")]
    assert len(asked) >= 18
    used = re.compile(rf"\b((?:{PREFIX}|process_)\w+)(?:\{{([^}}]*)\}})?")
    found = {match for expression in asked for match in used.findall(expression)}
    assert {name for name, _ in found} >= {PREFIX + "bots", PREFIX + "exits_total", PREFIX + "ledger_outage"}
    for name, selector in found:
        assert name in there, name
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)) <= there[name], (name, selector)
    words = {word for expression in asked for word in re.findall(r'(?:state|cause)[!=~]+"([^"]*)"', expression)}
    assert {word for several in words for word in several.split("|")} <= {*State, *Cause}
    variables = {variable["name"]: variable["type"] for variable in dashboard["templating"]["list"]}
    assert variables["datasource"] == "datasource"
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {"${datasource}"}


@pytest.mark.skipif(not shutil.which("promtool"), reason="there is no promtool (of Debian's package prometheus)")
def test_promtool_finds_nothing_wrong(shared: Program, tmp_path: Path) -> None:
    shared.wait_state(shared.start_bot("leaves", name='a "name"'), "running")
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=shared.get("/metrics").text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = subprocess.run(
        ["promtool", "check", "rules", DOCS / "alerts.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 rules found" in done.stdout
    # What the panels ask for, as rules. What is JSON is YAML.
    panels = strings_of(json.loads((DOCS / "grafana-dashboard.json").read_text())["panels"], "expr")
    asked = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m").replace("$__range", "1h")}
        for number, expression in enumerate(panels)
    ]
    rules = tmp_path / "panels.yml"
    rules.write_text(json.dumps({"groups": [{"name": "panels", "rules": asked}]}))
    done = subprocess.run(["promtool", "check", "rules", rules], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
