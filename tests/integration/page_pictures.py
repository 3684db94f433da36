"""Takes the pictures of docs/web-page.md, of a made-up job.

python -m tests.integration.page_pictures docs/figures
"""

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from .served_page import TOKEN, fill_job, serve_page


def main() -> None:
    """Write page-*.png into the folder that is given."""
    folder = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "replay.sqlite"
        asyncio.run(fill_job(file))
        with serve_page(file) as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            desk = browser.new_page(viewport={"width": 1200, "height": 960})
            phone = browser.new_page(viewport={"width": 390, "height": 800}, device_scale_factor=2, color_scheme="dark")
            for page in (desk, phone):
                page.goto(f"{address}/ui/#token={TOKEN}")
                page.wait_for_selector("#figures svg")
            _take(desk, folder / "page-learning.png")
            desk.click("#tabs a[href='#pods']")
            desk.wait_for_selector("#versions svg")
            _take(desk, folder / "page-pods.png", whole=True)
            for page, name in ((desk, "page-answers.png"), (phone, "page-phone.png")):
                page.goto(f"{address}/ui/#answers?reward_to=0.9&tokens_from=60&order=best")
                page.click("#answer-list li:nth-child(3) a")
                page.wait_for_selector("pre.pieces")
                _take(page, folder / name)
            browser.close()


def _take(page: Page, file: Path, *, whole: bool = False) -> None:
    page.mouse.move(0, 0)
    page.wait_for_load_state("networkidle")
    page.screenshot(path=file, full_page=whole)
    print(file)


if __name__ == "__main__":
    main()
