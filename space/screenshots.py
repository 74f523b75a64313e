"""Pictures of the real page, for its README:

    MODEL=runs/NAME python space/screenshots.py docs          needs playwright and a Chromium
"""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

ADDRESS = "http://127.0.0.1:7861"


def main(folder: Path) -> None:
    """Write space_page.png and space_generation.png."""
    server = subprocess.Popen([sys.executable, Path(__file__).with_name("app.py")],
                              env=os.environ | {"GRADIO_SERVER_PORT": ADDRESS.rpartition(":")[2]})
    try:
        with sync_playwright() as playwright:
            chromium = shutil.which("chromium") or shutil.which("google-chrome")
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1100, "height": 1000})
            for _ in range(60):  # the server needs some seconds to start
                try:
                    page.goto(ADDRESS)
                    break
                except Exception:
                    page.wait_for_timeout(500)
            button = page.get_by_role("button", name="Generate")
            expect(button).to_be_visible()
            page.wait_for_timeout(1000)
            page.screenshot(path=folder / "space_page.png")
            button.click()
            expect(page.get_by_label("How", exact=True)).to_have_value(re.compile("80 of 80 tokens.*stands"),
                                                                       timeout=120_000)
            page.wait_for_timeout(500)
            page.screenshot(path=folder / "space_generation.png")
            browser.close()
    finally:
        server.terminate()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
