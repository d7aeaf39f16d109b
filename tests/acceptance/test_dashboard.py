"""The dashboard, in a real browser, over the real program."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.browser import complaints_of, launched, needs_browser
from tests.program import Program
from tests.waiting import wait_for

pytestmark = [needs_browser, pytest.mark.timeout(120)]

KINDS = {
    "shell": 'command = ["sh", "-c", "{script}"]\nrestart = {policy = "never"}',
    "needs": 'target = "parameters:needs"',
    "secretive": 'target = "secretive:main"',
}

HOSTILE = "<img src=x onerror=window.hacked=1>"
LIMIT_MS = 20_000

expect.set_options(timeout=LIMIT_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, shared: Program) -> Iterator[Page]:
    """The dashboard of the module's program. Nothing may have gone wrong in it at the end."""
    with browser.new_page(base_url=str(shared.client.base_url), viewport={"width": 1280, "height": 800}) as page:
        complaints = complaints_of(page)
        page.goto("/")
        yield page
        page.goto("about:blank")
        assert complaints == []


def row(page: Page, bot_id: int) -> Locator:
    return page.locator("#bots tbody tr", has=page.get_by_role("link", name=f"Bot {bot_id}", exact=True))


def state(page: Page, bot_id: int) -> Locator:
    return row(page, bot_id).locator(".badge")


def tab_to(page: Page, name: str) -> None:
    """Presses Tab until the control of this name has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            "(document.activeElement.getAttribute('aria-label') || document.activeElement.innerText)"
        )
        if focused.strip() == name:
            return
    raise AssertionError(f"Tab does not reach {name!r}")


# ---- a bot's life


def test_from_the_form_to_the_history(page: Page, shared: Program) -> None:
    expect(page.get_by_text("There is no bot yet.")).to_be_visible()
    page.get_by_role("button", name="Start a bot").click()
    dialog = page.get_by_role("dialog", name="Start a bot")
    dialog.get_by_label("Kind").select_option("counter")
    dialog.get_by_label("start_number").fill("12")
    dialog.get_by_label("Name").fill("by hand")
    dialog.get_by_label("Labels").fill("team:a customer:17")
    dialog.get_by_role("button", name="Start").click()
    expect(dialog).to_be_hidden()
    [bot] = shared.get("/bots").json()
    assert (bot["name"], bot["params"]) == ("by hand", {"start_number": 12})
    assert bot["labels"] == {"team": "a", "customer": "17"}
    bot_id = bot["bot_id"]
    expect(state(page, bot_id)).to_have_text("running")
    expect(row(page, bot_id)).to_contain_text(str(bot["pid"]))
    # Its page: what it prints comes by itself, and so does what becomes of it.
    row(page, bot_id).get_by_role("link").click()
    expect(page.get_by_role("heading", name=f"Bot {bot_id} · by hand")).to_be_focused()
    for line in ("12", "13", "14"):
        expect(page.locator(".log .lines div").get_by_text(line, exact=True)).to_be_visible()
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator(".heading .badge")).to_have_text("stopped")
    expect(page.locator(".events")).to_contain_text("was stopped (exit code 0)")
    expect(page.get_by_role("img", name="Timeline of runs: 1 stopped")).to_be_visible()
    page.get_by_role("link", name="History").click()
    expect(page.locator("#view tbody tr")).to_have_count(1)
    expect(page.locator("#view tbody tr")).to_contain_text("stopped")
    page.get_by_role("link", name=re.compile("^Run ")).click()
    expect(page.get_by_text("Its last lines")).to_be_visible()


def test_by_keyboard_alone(page: Page, shared: Program) -> None:
    expect(page.locator("#empty")).to_be_visible()
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.press("Escape")
    tab_to(page, "Start a bot")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name="Start a bot")).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#bots .badge")).to_have_text("running")
    [bot] = shared.get("/bots").json()
    tab_to(page, f"Stop bot {bot['bot_id']}")
    page.keyboard.press("Enter")
    expect(state(page, bot["bot_id"])).to_have_text("stopped")
    expect(page.get_by_role("status").filter(has_text="is stopped: was stopped (exit code 0)")).to_be_attached()
    # The same button, which has kept the focus.
    expect(page.get_by_role("button", name=f"Start bot {bot['bot_id']}", exact=True)).to_be_focused()


def test_what_bots_say_is_text(page: Page, shared: Program) -> None:
    script = f"echo '<script>window.hacked=1</script>'; echo '{HOSTILE}'; exit 3"
    bot_id = shared.start_bot("shell", name=HOSTILE, labels={HOSTILE: HOSTILE}, params={"script": script})
    expect(state(page, bot_id)).to_have_text("failed")
    expect(row(page, bot_id).locator(".name")).to_have_text(HOSTILE)
    row(page, bot_id).get_by_role("link").click()
    expect(page.locator(".log")).to_contain_text(HOSTILE)
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Bot {bot_id} · {HOSTILE}")
    page.goto("/#/crashes")
    page.locator("#view a", has_text="exit code 3").click()
    expect(page.locator("#view")).to_contain_text("<script>window.hacked=1</script>")
    page.get_by_role("link", name="History").click()
    expect(page.locator("#view tbody tr")).not_to_have_count(0)
    assert page.evaluate(
        "[window.hacked ?? 0, document.images.length, document.querySelectorAll('script').length]"
    ) == [0, 0, 1]


# ---- the form


def test_problems_stand_at_their_fields(browser: Browser, shared: Program) -> None:
    with browser.new_page(base_url=str(shared.client.base_url)) as page:
        page.goto("/")
        page.get_by_role("button", name="Start a bot").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Kind").select_option("needs")
        dialog.get_by_label("leverage").fill("many")
        dialog.get_by_role("button", name="Start").click()
        leverage, symbol = dialog.get_by_label("leverage"), dialog.get_by_label("symbol")
        expect(leverage).to_have_accessible_description(re.compile("not a number"))
        leverage.fill("2")
        dialog.get_by_role("button", name="Start").click()
        expect(symbol).to_have_accessible_description(re.compile("Field required"))
        expect(symbol).to_be_focused()
        assert shared.get("/bots").json() == []
        symbol.fill("BTC")
        dialog.get_by_role("button", name="Start").click()
        expect(dialog).to_be_hidden()
        [bot] = shared.get("/bots").json()
        assert bot["params"] == {"symbol": "BTC", "leverage": 2, "note": None}
        # What is secret is neither shown while it is typed nor afterwards.
        page.get_by_role("button", name="Start a bot").click()
        dialog.get_by_label("Kind").select_option("secretive")
        expect(dialog.get_by_label("password")).to_have_attribute("type", "password")
        dialog.get_by_label("password").fill("correct horse")
        dialog.get_by_role("button", name="Start").click()
        expect(dialog).to_be_hidden()
        page.get_by_role("link", name="Look").last.click()
        expect(page.locator(".facts")).to_contain_text("password")
        expect(page.locator(".log")).to_contain_text("13 characters")
        assert "correct horse" not in page.content()


# ---- many


def test_commands_for_many(page: Page, shared: Program) -> None:
    ids = [shared.start_bot(labels={"team": team}) for team in "aaab"]
    expect(page.locator("#bots tbody .badge", has_text="running")).to_have_count(4)
    page.get_by_label("Label", exact=True).select_option("team:a")
    expect(page.locator("#shown")).to_have_text("3 of 4 bots")
    page.get_by_label("Select all bots shown").check()
    group = page.get_by_role("group", name="Commands for the selected bots")
    group.get_by_role("button", name="Stop").click()
    page.get_by_role("dialog", name="Stop 3 bots?").get_by_role("button", name="Cancel").click()
    assert {bot["state"] for bot in shared.get("/bots").json()} == {"running"}
    group.get_by_role("button", name="Stop").click()
    page.get_by_role("dialog").get_by_role("button", name="Stop").click()
    expect(page.get_by_text("3 bots: asked to stop")).to_be_visible()
    expect(page.locator("#bots tbody .badge", has_text="stopped")).to_have_count(3)
    assert shared.bot(ids[3])["state"] == "running"
    page.get_by_label("Label", exact=True).select_option("Any label")
    page.get_by_role("button", name=f"Delete bot {ids[3]}").click()
    page.get_by_role("dialog", name=f"Delete bot {ids[3]}?").get_by_role("button", name="Delete").click()
    expect(row(page, ids[3])).to_have_count(0)
    assert shared.get(f"/bots/{ids[3]}").status_code == 404


def a_thousand(busy: float) -> list[dict[str, Any]]:
    """A listing; the first bot's CPU is `busy`."""
    return [
        {
            "bot_id": n, "name": f"bot {n}", "kind": "even" if n % 2 == 0 else "odd", "params": {}, "labels": {},
            "goal": "up", "state": "failed" if n % 10 == 0 else "running", "reason": "", "pid": n, "run_id": n,
            "uptime_s": 1.0, "restarts": 0, "cpu_percent": busy if n == 1 else n / 100, "rss_bytes": 7919 * n % 1009,
        }
        for n in range(1, 1001)
    ]  # fmt: skip


def test_a_thousand_rows(page: Page) -> None:
    busy = iter(range(1, 1000))

    def answer(route: Route) -> None:
        route.fulfill(json=a_thousand(busy=next(busy)))

    page.route("**/events*", lambda route: route.abort("aborted"))
    page.route("**/bots?state=all*", answer)
    page.reload()
    rows = page.locator("#bots tbody tr:not(.spacer)")
    expect(page.locator("#totals")).to_contain_text("1000all")
    expect(row(page, 1)).to_be_visible()
    assert rows.count() < 60
    with page.expect_response("**/bots?state=all*"):
        pass
    # Another listing that differs in one figure changes that cell of the table, and nothing else.
    page.evaluate(
        """() => {
            window.changes = [];
            const where = ({target}) => target.className || target.nodeName;
            const seen = (records) => window.changes.push(...records.map(where));
            new MutationObserver(seen).observe(document.querySelector("#bots tbody"),
                {subtree: true, childList: true, characterData: true, attributes: true});
        }"""
    )
    wait_for(lambda: len(page.evaluate("window.changes")) >= 2, what="two more listings")
    assert set(page.evaluate("window.changes")) == {"cpu"}
    assert len(page.evaluate("window.changes")) <= 4
    # Sorted, the largest first; and filtered, by state, by kind, by words.
    page.get_by_role("button", name="Memory").click()
    most = max(a_thousand(0), key=lambda bot: int(bot["rss_bytes"]))
    expect(rows.first.get_by_role("link")).to_have_text(str(most["bot_id"]))
    expect(page.locator("#bots thead .memory")).to_have_attribute("aria-sort", "descending")
    page.locator("#totals").get_by_role("button", name="failed").click()
    expect(page.locator("#shown")).to_have_text("100 of 1000 bots")
    page.get_by_label("Kind", exact=True).select_option("odd")
    expect(page.get_by_text("No bot passes the filter.")).to_be_visible()
    page.get_by_label("Kind", exact=True).select_option("even")
    page.locator("#search").fill("bot 100")
    expect(rows).to_have_count(2)
    page.locator("#search").fill("")
    page.locator("#totals").get_by_role("button", name="all").click()
    page.get_by_label("Kind", exact=True).select_option("Any kind")
    page.get_by_role("button", name="Id", exact=True).click()
    expect(row(page, 1)).to_be_visible()
    # Down to the last one, there are never more in the document than can be seen.
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    expect(row(page, 1000)).to_be_in_viewport()
    assert rows.count() < 60
    page.unroute_all(behavior="ignoreErrors")


def test_states_look_as_they_are(page: Page) -> None:
    """A bot that waits for its schedule is well, and does not look like one that waits after a crash."""
    process: dict[str, Any] = {"pid": None, "uptime_s": None, "cpu_percent": None, "rss_bytes": None}
    states: dict[str, dict[str, Any]] = {
        "scheduled": process,
        "backoff": process,
        "running": {},
        "frozen": {"state": "running", "frozen": True},
    }
    told = [
        {**bot, "state": state, **changes}
        for bot, (state, changes) in zip(a_thousand(0.0), states.items(), strict=False)
    ]
    page.route("**/events*", lambda route: route.abort("aborted"))
    page.route("**/bots?state=all*", lambda route: route.fulfill(json=told))
    page.reload()
    colours = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for bot_id, name in enumerate(states, 1):
            expect(state(page, bot_id)).to_have_text("running" if name == "frozen" else name)
            dot = "badge => getComputedStyle(badge).getPropertyValue('--dot')"
            colours[scheme, name] = state(page, bot_id).evaluate(dot)
        assert colours[scheme, "frozen"] == colours[scheme, "backoff"]
        assert len({colours[scheme, name] for name in ("scheduled", "backoff", "running")}) == 3
    expect(page.locator("#totals")).to_contain_text("1scheduled")
    expect(page.get_by_role("button", name="Stop bot 1", exact=True)).to_be_enabled()
    page.unroute_all(behavior="ignoreErrors")


def test_a_frozen_bot_is_seen(page: Page, shared: Program) -> None:
    bot_id = shared.start_bot()
    shared.post(f"/bots/{bot_id}/signal", {"signal": "SIGSTOP"})
    expect(row(page, bot_id).locator(".reason")).to_have_text("frozen by a signal (state T)")
    expect(state(page, bot_id)).to_have_attribute("data-is", "frozen")
    row(page, bot_id).get_by_role("link").click()
    expect(page.locator("p.reason")).to_have_text("frozen by a signal (state T)")
    shared.post(f"/bots/{bot_id}/signal", {"signal": "SIGCONT"})
    expect(page.locator(".heading .badge")).to_have_attribute("data-is", "running")


# ---- what surrounds it


@pytest.mark.parametrize("width", [360, 800, 1100, 1280])
def test_the_table_is_as_wide_as_there_is_room(page: Page, shared: Program, width: int) -> None:
    bot_id = shared.start_bot()
    page.set_viewport_size({"width": width, "height": 740})
    page.goto("/")
    expect(row(page, bot_id)).to_be_visible()
    right = "element => element.getBoundingClientRect().right"
    table, last = page.locator("table.fleet").evaluate(right), row(page, bot_id).locator(".commands").evaluate(right)
    assert abs(table - last) < 3


def test_narrow_screens_do_not_scroll_sideways(page: Page, shared: Program) -> None:
    long = "a-name-without-any-space-" * 6
    bot_id = shared.start_bot("shell", name=long, params={"script": f"echo {long * 3}; exit 3"})
    page.set_viewport_size({"width": 360, "height": 740})
    for where, shown in (
        ("/", "failed"),
        (f"/#/bots/{bot_id}", "Restart policy"),
        ("/#/history", "the newest first"),
        ("/#/crashes", "exit code 3"),
    ):
        page.goto(where)
        expect(page.locator("main")).to_contain_text(shown)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, where
    page.goto("/")
    page.get_by_role("button", name="Start a bot").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.evaluate("document.querySelector('dialog').getBoundingClientRect().right") <= 360


def test_a_lost_connection_is_told_and_comes_back(browser: Browser, shared: Program) -> None:
    with browser.new_page(base_url=str(shared.client.base_url)) as page:
        page.goto("/")
        expect(page.locator("#empty")).to_be_visible()
        page.context.set_offline(True)
        expect(page.locator("#lost")).to_be_visible()
        bot_id = shared.start_bot()
        page.context.set_offline(False)
        expect(page.locator("#lost")).to_be_hidden()
        expect(state(page, bot_id)).to_have_text("running")


def test_a_log_goes_on_after_the_supervisor_was_replaced(browser: Browser, program: Program) -> None:
    bot_id = program.start_bot()
    with browser.new_page(base_url=str(program.client.base_url)) as page:
        page.goto(f"/#/bots/{bot_id}")
        lines = page.locator(".log .lines div")
        expect(lines.get_by_text("1", exact=True)).to_be_visible()
        assert program.replace().returncode == 0
        later = str(len(program.bot_log(bot_id).split()) + 2)
        expect(lines.get_by_text(later, exact=True)).to_be_visible()
        shown = [int(line) for line in lines.all_inner_texts()]
        assert shown == list(range(len(shown)))


def test_a_token_is_asked_for(browser: Browser, make_program: Callable[..., Program]) -> None:
    admin, read = "admin-" + "a" * 30, "read-" + "r" * 30
    env = {"BOT_SUPERVISOR_ADMIN_TOKEN": admin, "BOT_SUPERVISOR_READ_TOKEN": read}
    program = make_program(env=env).start()
    program.client.headers["Authorization"] = f"Bearer {admin}"
    bot_id = program.start_bot()
    with browser.new_page(base_url=str(program.client.base_url)) as page:
        page.goto("/")
        dialog = page.get_by_role("dialog", name="A token, please")
        for token in ("wrong", read):
            dialog.get_by_label("Token").fill(token)
            dialog.get_by_role("button", name="Continue").click()
        expect(state(page, bot_id)).to_have_text("running")
        page.get_by_role("button", name=f"Stop bot {bot_id}").click()
        expect(page.get_by_role("alert").filter(has_text="this token may only read")).to_be_visible()
        # Streams carry it, too.
        row(page, bot_id).get_by_role("link").click()
        expect(page.locator(".log .lines div").first).to_be_visible()
        page.get_by_role("button", name="Token…").click()
        dialog.get_by_label("Token").fill(admin)
        dialog.get_by_role("button", name="Continue").click()
        page.get_by_role("button", name="Stop", exact=True).click()
        expect(page.locator(".heading .badge")).to_have_text("stopped")
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


def test_the_log_stands_still_for_who_scrolls_up(page: Page, shared: Program) -> None:
    script = "trap 'seq 3000' HUP; while sleep 0.05; do echo more; done"
    bot_id = shared.start_bot("shell", params={"script": script})
    page.goto(f"/#/bots/{bot_id}")
    log, lines, more = page.locator(".log"), page.locator(".log .lines div"), page.locator(".more")
    expect(lines.get_by_text("more").first).to_be_visible()
    # However much it prints, no more lines are kept than so many.
    shared.post(f"/bots/{bot_id}/signal", {"signal": "SIGHUP"})
    expect(lines.get_by_text("3000", exact=True)).to_be_visible()
    expect(lines).to_have_count(2000)
    log.evaluate("box => box.scrollTop = 0")
    expect(more).to_be_visible()
    first, last = lines.first.inner_text(), lines.last.evaluate_handle("line => line")
    expect(more).to_contain_text(re.compile(r"\d\d new lines"))
    assert lines.first.inner_text() == first
    assert lines.last.evaluate("(line, last) => line === last", last)
    more.click()
    expect(more).to_be_hidden()
    expect(lines.last).to_be_in_viewport()
    assert not lines.last.evaluate("(line, last) => line === last", last)
