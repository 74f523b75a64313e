"""The page of a run in each of its states, and both pages kept in docs/, in a browser: on wide screens, small ones and
paper they fit, ask for nothing, and can be read by everybody."""
import shutil

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright
from test_first_screen import FIXED, made, recalled

from lib.config import ROOT
from lib.publish.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
KEPT = [ROOT / "docs" / name / "report.html" for name in ("default_run", "whole_run")]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of a run in each state, without chapters, as one has it that ended before them; and those in docs/."""
    folder, made_so = tmp_path_factory.mktemp("runs"), []
    for state, losses, more in (("reached", (0.082, 0.08), {}), ("reached", (0.077, 3.59), {"parameters": FIXED}),
                                ("limit", (0.31, 0.3), {}), ("stopped", (None, None), {"restarts": (2, 5)}),
                                ("failed", (None, None), {}), ("died", (None, None), {}),
                                ("running", (None, None), {})):
        run = made(folder / f"{len(made_so)}-{state}", state, *losses, **more)
        if losses[0]:
            recalled(run, anywhere=0.4, at_a_cut=0.75 if more else None)
        made_so.append(write_report(run))
    return made_so + KEPT


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
@pytest.mark.parametrize(("width", "scheme", "media"), [(1440, "light", "screen"), (390, "dark", "screen"),
                                                        (700, "light", "print")])
def test_pages_of_all_states_fit_ask_for_nothing_and_are_accessible(pages, width, scheme, media):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.emulate_media(media=media, color_scheme=scheme)
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        for path in pages:
            assert path.stat().st_size < 2_000_000
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            if path in KEPT and media == "print":  # which is long, and the same
                continue
            found = [violation for violation in Axe().run(page).response["violations"]
                     if violation["impact"] in ("serious", "critical")]
            assert not found, (path, [(violation["id"], [node["html"] for node in violation["nodes"][:3]])
                                      for violation in found])
        assert {url for url in asked if not url.startswith("data:")} == {path.as_uri() for path in pages}
        browser.close()
