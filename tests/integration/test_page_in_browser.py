"""The job's page in a real browser: clicked through, by keyboard, on a phone's width, over 100,000 answers."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="PLAYWRIGHT IS NOT INSTALLED: make setup")
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from .many_answers import ENGINES, HOSTILE
from .served_page import ITERATIONS, TOKEN, serve_page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
WAIT_MILLISECONDS = 20_000
VIEWS = ("learning", "time", "pods", "answers", "spec")
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def address(page_file: Path) -> Iterator[str]:
    """Where a job with 100,000 answers is served."""
    with serve_page(page_file) as served:
        yield served


@pytest.fixture(scope="module")
def browser(address: str) -> Iterator[Browser]:
    """A browser; after the address, as asyncio.run and Playwright do not go together."""
    if CHROMIUM is None:
        # In CI, a test that is left out is a failure.
        (pytest.fail if os.environ.get("CI") else pytest.skip)("LEFT OUT, no chromium: tools/install-debian-packages")
    expect.set_options(timeout=WAIT_MILLISECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, address: str) -> Iterator[Open]:
    """Opens a part of the page; in the end it must have asked nobody else for anything, and no script have failed."""
    asked: list[str] = []
    failed: list[str] = []
    contexts = []

    def open_at(fragment: str = f"token={TOKEN}", width: int = 1280, **options: object) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 844}, **options)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MILLISECONDS)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.on("console", lambda message: message.type == "error" and failed.append(message.text))
        page.goto(f"{address}/ui/#{fragment}")
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert [url for url in asked if not url.startswith(f"{address}/")] == []
    expected = ("the server responded with a status of 401", "ERR_INTERNET_DISCONNECTED")
    assert [text for text in failed if not any(part in text for part in expected)] == []


def visit(page: Page, view: str) -> None:
    """Click on a view's tab."""
    page.get_by_role("navigation", name="Views").get_by_role("link", name=view).click()


def test_the_token_is_asked_for_and_a_wrong_one_refused(open_page: Open) -> None:
    page = open_page("learning")
    expect(page.get_by_label("token", exact=True)).to_be_focused()
    expect(page.locator("#content")).to_be_hidden()
    page.get_by_label("token", exact=True).fill("wrong")
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_role("alert")).to_have_text("This is not the job's token.")
    page.get_by_label("token", exact=True).fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="sums")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_token_in_the_address_does_not_stay_there(open_page: Open) -> None:
    page = open_page()
    expect(page.get_by_role("status").first).to_contain_text(f"Rollout · iteration {ITERATIONS + 1} of 600")
    assert page.url.endswith("/ui/#learning")
    page.reload()  # it is kept in the tab
    expect(page.get_by_role("heading", name="sums")).to_be_visible()
    expect(page.locator("#phases [aria-current=step]")).to_have_text("Rollout")


def test_curves_are_drawn_smoothed_zoomed_and_read_by_keyboard(open_page: Open) -> None:
    page = open_page()
    reward = page.get_by_role("img", name="Reward")
    expect(reward).to_be_visible()
    expect(page.locator("#figures figure")).to_have_count(9)
    average = page.locator("#figures figure").first.locator("path").nth(1)
    before = average.get_attribute("d")
    page.get_by_role("slider", name="smoothing").focus()
    page.keyboard.press("End")
    expect(page.locator("#smoothing-value")).to_have_text("0.99")
    expect(average).not_to_have_attribute("d", before or "")
    reward.focus()
    page.keyboard.press("Home")
    tip = page.locator("#figures figure").first.locator(".tip")
    expect(tip).to_contain_text(re.compile(r"iteration 1reward .*moving average"))
    page.keyboard.press("ArrowRight")
    expect(tip).to_contain_text("iteration 2")
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    page.locator("#span").select_option("last 30")
    page.keyboard.press("Escape")
    reward.focus()
    page.keyboard.press("ArrowLeft")
    expect(tip).to_contain_text(f"iteration {ITERATIONS - 1}")


def test_a_figure_is_zoomed_with_the_mouse(open_page: Open) -> None:
    page = open_page()
    reward = page.get_by_role("img", name="Reward")
    box = reward.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 80)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 80)
    page.mouse.up()
    expect(page.get_by_role("button", name="all iterations")).to_be_visible()
    ticks = [int(text) for text in reward.locator("text").all_text_contents() if text.isdigit()]
    assert all(200 < tick < 320 for tick in ticks if tick > 1)
    page.get_by_role("button", name="all iterations").click()
    expect(page.get_by_role("button", name="all iterations")).to_be_hidden()


def test_the_time_of_each_phase_is_drawn_and_in_a_table(open_page: Open) -> None:
    page = open_page()
    visit(page, "Time")
    expect(page.get_by_role("img", name="Seconds by phase")).to_be_visible()
    rows = page.get_by_role("table", name="Seconds by phase").get_by_role("row")
    expect(rows).to_have_count(7)
    expect(rows.nth(1)).to_contain_text("Warmup31 s")


def test_pods_are_shown_by_window_with_the_versions_of_their_engines(open_page: Open) -> None:
    page = open_page()
    visit(page, "Pods")
    gantt = page.get_by_role("img", name="Timeline of the pods")
    expect(gantt).to_be_visible()
    assert page.get_by_role("spinbutton", name="from iteration").input_value() == str(ITERATIONS - 9)
    versions = page.get_by_role("img", name="Weight versions by engine")
    for engine in ENGINES:
        expect(versions).to_contain_text(engine)
    expect(versions).to_contain_text(str(ITERATIONS - 1))
    page.locator("#window-size").select_option("3")
    page.get_by_role("button", name="earlier iterations").click()
    expect(page.get_by_role("spinbutton", name="from iteration")).to_have_value(str(ITERATIONS - 12))
    expect(versions.locator("text.inside", has_text=str(ITERATIONS - 13)).first).to_be_visible()
    page.get_by_text("as a table").click()
    cells = page.locator("#gantt-rows tr").first
    expect(cells).to_contain_text(str(ITERATIONS - 12))
    engines = page.locator("#engine-rows tr")
    expect(engines.nth(1)).to_contain_text("the disk /dev/shm is full")
    expect(engines.nth(2)).to_contain_text(f"inferenceserving{ITERATIONS - 2}2")


def test_a_late_answer_about_another_window_is_not_shown(open_page: Open) -> None:
    page = open_page()
    held: list[Route] = []
    page.route(f"**/v1/timeline?first={ITERATIONS - 9}&last={ITERATIONS - 7}", lambda route: held.append(route))
    visit(page, "Pods")
    page.locator("#window-size").select_option("3")
    page.get_by_role("button", name="earlier iterations").click()
    page.get_by_text("as a table").click()
    rows = page.locator("#gantt-rows tr")
    expect(rows.first).to_contain_text(str(ITERATIONS - 12))
    with page.expect_response("**/v1/timeline*") as late:
        held[0].continue_()
    late.value.finished()
    page.evaluate("() => new Promise(requestAnimationFrame)")
    expect(rows.first).to_contain_text(str(ITERATIONS - 12))


def test_answers_are_filtered_ordered_and_paged(open_page: Open) -> None:
    page = open_page()
    visit(page, "Answers")
    expect(page.locator("#matching")).to_have_text("100,000 answers, 50 shown")
    page.get_by_role("button", name="show more").click()
    expect(page.locator("#matching")).to_have_text("100,000 answers, 100 shown")
    page.get_by_label("iteration from").fill("100")
    page.get_by_label("iteration to").fill("101")
    page.get_by_label("reward from").fill("0.9")
    page.get_by_label("tokens to").fill("80")
    page.get_by_role("combobox", name="verdict").select_option("right")
    with page.expect_response(lambda response: "order=longest" in response.url) as asked:
        page.get_by_role("combobox", name="order").select_option("longest")
    found = asked.value.json()
    expect(page.locator("#answer-list a").first).to_have_attribute("data-id", str(found["answers"][0]["id"]))
    expect(page.locator("#matching")).to_have_text(f"{found['matching']} answers, {len(found['answers'])} shown")
    lines = page.locator("#answer-list a .head")
    texts = lines.all_inner_texts()
    assert all("✓ right" in text for text in texts)
    assert all("iteration 100" in text or "iteration 101" in text for text in texts)
    tokens = [int(re.search(r"(\d+) tokens", text)[1]) for text in texts]  # type: ignore[index]
    assert tokens == sorted(tokens, reverse=True)
    assert max(tokens) <= 80
    page.reload()  # the address has the filter
    expect(page.get_by_label("iteration from")).to_have_value("100")
    expect(page.locator("#answer-list a .head").first).to_have_text(texts[0].replace("\n", ""))
    page.get_by_role("button", name="clear").click()
    expect(page.locator("#matching")).to_have_text("100,000 answers, 50 shown")
    expect(page.get_by_label("iteration from")).to_have_value("")


def test_an_answer_is_shown_with_segments_versions_rewards_and_group(open_page: Open) -> None:
    page = open_page()
    visit(page, "Answers")
    page.locator("#answer-list a").nth(2).click()
    answer = page.get_by_role("article")
    expect(answer.locator("ol.legend li")).to_have_count(2)
    expect(answer.locator("ol.legend li").first).to_contain_text(f"segment 1: version {ITERATIONS - 2}")
    expect(answer.locator("ol.legend li").nth(1)).to_contain_text("ended by stop")
    expect(answer).to_contain_text("Think first, then write the sum.")
    parts = answer.locator("dl.parts")
    expect(parts.get_by_role("meter", name="exact")).to_be_visible()
    expect(parts).to_contain_text("format")
    expect(answer.locator(".group li")).to_have_count(8)
    title = answer.get_by_role("heading").first.inner_text()
    page.get_by_role("link", name="next").click()
    expect(answer.get_by_role("heading").first).not_to_have_text(title)
    page.get_by_role("link", name=re.compile("answer 1, ")).click()
    expect(answer.get_by_role("heading").first).to_contain_text("Answer 1 to prompt")
    page.go_back()
    page.go_back()
    expect(answer.get_by_role("heading").first).to_have_text(title)


def test_answers_are_walked_through_by_keyboard(open_page: Open) -> None:
    page = open_page()
    visit(page, "Answers")
    first, second = page.locator("#answer-list a").nth(0), page.locator("#answer-list a").nth(1)
    first.focus()
    page.keyboard.press("ArrowDown")
    expect(second).to_be_focused()
    page.keyboard.press("Enter")
    expect(second).to_have_attribute("aria-current", "true")


def test_what_a_model_writes_stays_text(open_page: Open) -> None:
    page = open_page()
    visit(page, "Answers")
    line = page.locator("#answer-list a").first
    expect(line).to_contain_text("<script>")
    line.click()
    expect(page.locator("pre.pieces")).to_have_text(HOSTILE)
    assert page.title() == "sums - Tandem"
    assert page.locator("main img, main script").count() == 0


def test_everything_fits_a_phone(open_page: Open) -> None:
    page = open_page(width=390, has_touch=True, is_mobile=True)
    expect(page.get_by_role("heading", name="sums")).to_be_visible()
    drawn = {
        "learning": "#figures svg",
        "time": "#phase-seconds svg",
        "pods": "#versions svg",
        "answers": "#answer-list li",
    }
    for view in VIEWS:
        page.locator(f"#tabs a[href='#{view}']").click()
        expect(page.locator(f"#view-{view}")).to_be_visible()
        if view in drawn:
            expect(page.locator(drawn[view]).first).to_be_visible()
        assert _overflow(page) == 0, view
    visit(page, "Answers")
    page.locator("#answer-list a").nth(3).click()
    expect(page.get_by_role("article")).to_be_visible()
    expect(page.locator("#answer-list")).to_be_hidden()
    assert _overflow(page) == 0
    page.get_by_role("link", name="all answers").click()
    expect(page.locator("#answer-list a").nth(3)).to_be_focused()


def _overflow(page: Page) -> int:
    """Pixels by which the page is wider than the screen."""
    return int(page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


@pytest.mark.parametrize(("scheme", "light"), [("light", True), ("dark", False)])
def test_colours_follow_the_system_until_the_button_is_pressed(open_page: Open, scheme: str, light: bool) -> None:
    page = open_page(color_scheme=scheme)
    assert (_brightness(page) > 128) is light
    page.locator("#theme").click()
    assert (_brightness(page) > 128) is not light


def _brightness(page: Page) -> float:
    """Of the background, 0 to 255."""
    colours = re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))
    return sum(int(value) for value in colours[:3]) / 3


def test_a_master_that_is_gone_is_told_and_found_again(open_page: Open) -> None:
    page = open_page()
    expect(page.get_by_role("heading", name="sums")).to_be_visible()
    page.context.set_offline(True)
    _look_again(page)
    expect(page.get_by_role("alert")).to_contain_text("The master does not answer")
    page.context.set_offline(False)
    _look_again(page)
    expect(page.get_by_role("alert")).to_be_hidden()


def _look_again(page: Page) -> None:
    """As somebody does who comes back to the tab: it asks at once then."""
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
