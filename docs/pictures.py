"""Makes the pictures of the documents from the real program: `make pictures`.

They go into docs/pictures/. It takes half a minute, Debian's Chromium, and the examples as kinds.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser
from rich.console import Console
from rich.text import Text

from tests.browser import launched
from tests.program import Program
from tests.waiting import wait_for

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"

KINDS = """
[kinds.shop]
command = ["sh", "-c", "i=0; while :; do echo order $i is paid; i=$((i + 1)); sleep 0.7; done"]
[kinds.fragile]
command = ["python3", "-c", "raise SystemExit(3)"]
restart = {max_restarts = 2, delay_s = 0.1}
"""

COMMANDS = (
    ("start", "counter", "--param", "start_number=40", "--name", "zoe", "--wait"),
    ("ps",),
    ("runs", "--bot", "2"),
    ("logs", "-n", "3", "7"),
)


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        program = Program(Path(directory), config=KINDS).start()
        try:
            fleet(program)
            with launched() as browser:
                for scheme in ("light", "dark"):
                    dashboard(browser, program, scheme)
                bot(browser, program)
                terminal(browser, program)
        finally:
            program.terminate()
            program.close()


def fleet(program: Program) -> None:
    """Some bots with a past."""
    for name in ("ada", "ben", "cleo", "dora"):
        program.post("/bots", {"kind": "shop", "name": name, "labels": {"team": "sales"}})
    program.post("/bots", {"kind": "fragile", "name": "glass"})
    for number in (12, 700):
        program.post("/start", {"start_number": number})
    program.post("/bots/2/restart")
    program.post("/bots/4/stop")
    program.wait_state(5, "failed")
    wait_for(lambda: program.bot_log(7).count("\n") > 3)


def dashboard(browser: Browser, program: Program, scheme: str) -> None:
    url = str(program.client.base_url)
    with browser.new_page(base_url=url, viewport={"width": 1100, "height": 440}, color_scheme=scheme) as page:  # type: ignore[arg-type]
        page.goto("/")
        page.get_by_text("ada").wait_for()
        # The charts begin with the second listing.
        page.wait_for_timeout(12_000)
        page.screenshot(path=PICTURES / f"dashboard-{scheme}.png")


def bot(browser: Browser, program: Program) -> None:
    with browser.new_page(base_url=str(program.client.base_url), viewport={"width": 1100, "height": 900}) as page:
        page.goto("/#/bots/2")
        page.get_by_text("is paid").first.wait_for()
        page.screenshot(path=PICTURES / "bot.png")


def terminal(browser: Browser, program: Program) -> None:
    """What botctl says, as a picture."""
    env = os.environ | {
        "BOT_SUPERVISOR_URL": str(program.client.base_url),
        "FORCE_COLOR": "1",
        "COLUMNS": "104",
        "TERM": "xterm-256color",
    }
    console = Console(record=True, width=104, file=io.StringIO(), force_terminal=True)
    for words in COMMANDS:
        done = subprocess.run(
            [sys.executable, "-m", "supervisor.botctl", *words], env=env, capture_output=True, text=True, check=True
        )
        console.print(Text.assemble(("$ ", "green"), ("botctl " + " ".join(words), "bold")))
        console.print(Text.from_ansi(done.stdout))
    with browser.new_page(viewport={"width": 1000, "height": 100}) as page:
        # As a picture of dots: the other names a font elsewhere.
        page.set_content(console.export_svg(title="botctl"))
        page.locator("svg").screenshot(path=PICTURES / "botctl.png")


if __name__ == "__main__":
    main()
