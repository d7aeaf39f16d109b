"""Swagger UI, in a real browser that reaches no other host."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.api.conftest import Api
from tests.browser import complaints_of, launched, needs_browser


def look(browser: Browser, url: str, then: Callable[[Page], None]) -> tuple[list[str], list[str]]:
    """Opens a page and looks at it; what it complained of, and all that it asked for."""
    page = browser.new_page()
    complaints = complaints_of(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    then(page)
    page.close()
    return complaints, asked


@needs_browser
@pytest.mark.timeout(120)
@pytest.mark.parametrize("path", ["/apidocs", "/apidocs/"])
def test_every_operation_is_listed(api: Api, path: str) -> None:
    document = api.client.get("/openapi.json").json()
    operations = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    shown: set[tuple[str, str]] = set()

    def read(page: Page) -> None:
        blocks = page.locator(".opblock-summary")
        expect(blocks).to_have_count(len(operations))
        for block in blocks.all():
            expect(block).to_be_visible()
            path = block.locator(".opblock-summary-path").get_attribute("data-path") or ""
            shown.add((block.locator(".opblock-summary-method").inner_text(), path))

    with launched() as browser:
        complaints, asked = look(browser, api.url + path, read)
    assert shown == operations
    assert complaints == []
    assert [url for url in asked if not url.startswith((api.url + "/", "data:"))] == []


@needs_browser
@pytest.mark.timeout(120)
def test_a_call_can_be_tried_out(api: Api) -> None:
    def try_out(page: Page) -> None:
        block = page.locator(".opblock", has=page.locator('[data-path="/start"]'))
        block.locator(".opblock-summary-control").click()
        block.locator("textarea.body-param__text").fill('{"start_number": 3}')
        block.locator(".execute").click()
        expect(block.locator(".live-responses-table td.response-col_status").last).to_contain_text("200")

    with launched() as browser:
        complaints, _ = look(browser, f"{api.url}/apidocs", try_out)
    assert complaints == []
    assert [view.bot.params for view in api.fleet.views.values()] == [{"start_number": 3}]


@pytest.mark.parametrize("path", ["/apidocs", "/apidocs/"])
def test_the_page_needs_nothing_else(api: Api, path: str) -> None:
    page = api.client.get(path)
    assert page.headers["content-type"].startswith("text/html")
    assert "http://" not in page.text
    assert "https://" not in page.text
    for asset, media_type in (
        ("swagger-ui-bundle.js", "text/javascript"),
        ("swagger-ui.css", "text/css"),
        ("apidocs.js", "text/javascript"),
    ):
        assert f"/assets/{asset}" in page.text
        response = api.client.get(f"/assets/{asset}")
        assert response.status_code == 200
        assert response.headers["content-type"].startswith(media_type)
        again = api.client.get(f"/assets/{asset}", headers={"If-None-Match": response.headers["etag"]})
        assert again.status_code == 304
