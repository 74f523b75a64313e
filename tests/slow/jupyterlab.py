"""The notebooks as a person uses them: a real JupyterLab with its token, driven in a headless Chromium.

    pip install playwright; a Chromium from the system        about 4 minutes on two cores each time
    python tests/slow/jupyterlab.py [times]

Each notebook is opened and run; the live figure must change in place; the stop button must leave a checkpoint and a
line that says so; the cell run again must go on from there; a tab closed while training goes on is followed by
watch.ipynb. The stop button once more, of a run that two processes train: it must leave neither of them, a checkpoint,
a notebook executed to its end, and the kernel's signals as they were.
All of it happens in a copy of the project.
"""
import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright
from processes import processes

from lib.config import ROOT
from lib.runs.folder import RunFolder
from runs import outlived

PATIENCE_MS = 300_000


class Lab:
    """A JupyterLab server on a copy of the project, and a browser that looks at it."""

    def __init__(self, project: Path, browser):
        self.project, self.browser, self.token = project, browser, secrets.token_hex(16)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self.server = subprocess.Popen(
            [sys.executable, "-m", "jupyter", "lab", "notebooks", "--no-browser", "--allow-root", f"--port={port}",
             f"--IdentityProvider.token={self.token}"], cwd=project, env=os.environ | {"PYTHONPATH": str(project)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(100):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.address}/api?token={self.token}")
                break
            time.sleep(0.3)

    def open(self, name: str) -> Page:
        """A tab with a notebook, its kernel idle."""
        page = self.browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(PATIENCE_MS)
        page.goto(f"{self.address}/lab/tree/{name}.ipynb?token={self.token}&reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        self.wait_until_idle(page)
        return page

    def run_all(self, page: Page) -> None:
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()

    def wait_until_idle(self, page: Page) -> None:
        page.wait_for_function("""() => {
            const shown = document.querySelector('.jp-Notebook-ExecutionIndicator');
            const waiting = [...document.querySelectorAll('.jp-InputPrompt')].some(p => p.textContent.includes('*'));
            return shown && shown.dataset.status === 'idle' && !waiting;
        }""", timeout=PATIENCE_MS)
        page.wait_for_timeout(1500)

    def saved(self, page: Page, name: str) -> list[dict]:
        """The code cells of a notebook as JupyterLab saves it."""
        page.keyboard.press("Control+s")
        page.wait_for_timeout(2000)
        notebook = json.loads((self.project / "notebooks" / f"{name}.ipynb").read_text("utf-8"))
        return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]

    def close(self) -> None:
        self.server.terminate()
        self.server.wait(30)


def checks(lab: Lab) -> None:
    """Every step of the scenario; AssertionError or TimeoutError where one does not hold."""
    for name in ("1_data", "2_model"):
        run_through(lab, name)

    page = lab.open("3_training")
    change(page, 'note: str = ""', 'note: str = "from JupyterLab"')
    lab.run_all(page)
    image = page.locator(".jp-Notebook figure svg.wide").first
    image.wait_for()
    first = image.inner_html()
    page.wait_for_function("first => document.querySelector('.jp-Notebook figure svg.wide').innerHTML !== first",
                           arg=first)
    assert page.locator(".jp-Notebook figure svg.wide").count() == 1, "the figure came again, not anew"
    page.get_by_text("Kernel", exact=True).click()
    page.get_by_text("Interrupt Kernel", exact=True).click()
    lab.wait_until_idle(page)
    run, = (RunFolder(path) for path in lab.project.glob("runs/*-notebook"))
    assert run.read_config()[0].note == "from JupyterLab"
    stopped = run.read_summary()
    assert stopped["state"] == "stopped" and run.last_checkpoint.exists(), stopped
    expect(page.get_by_text("Stopped by the user at step").first).to_be_visible()
    print(f"3_training: figure renewed in place, stopped at step {stopped['step']}", flush=True)

    cell = page.locator(".jp-CodeCell", has_text="summary = trainer.train()").first
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    page.wait_for_timeout(4000)
    page.close()  # the kernel goes on by itself
    followed = lab.open("watch")
    lab.run_all(followed)
    lab.wait_until_idle(followed)
    ended = run.read_summary()
    assert ended["state"] == "reached" and ended["step"] > stopped["step"], ended
    text = json.dumps(lab.saved(followed, "watch"))
    assert "reached, heartbeat" in text and "<figure>" in text
    steps = run.read_metrics()["step"]
    assert steps.is_monotonic_increasing and steps.is_unique
    followed.close()
    print(f"3_training: the cell run again went on to step {ended['step']}, its tab closed; watch followed", flush=True)

    for name in ("4_results", "compare_runs", "play"):
        run_through(lab, name)
    page = lab.open("1_data")
    page.locator(".jp-CodeCell", has_text="max_tokens: int").first.locator(".cm-content").click()
    page.locator("[data-id='jp-property-inspector']").first.click()
    page.get_by_text("Common Tools", exact=True).click()
    expect(page.get_by_text("parameters", exact=True).first).to_be_visible()
    page.close()
    html = lab.project / "4_results.html"
    subprocess.run([sys.executable, "-m", "jupyter", "nbconvert", "--to", "html", "--output", html,
                    lab.project / "notebooks" / "4_results.ipynb"], check=True, capture_output=True)
    assert "Target reached" in html.read_text("utf-8")
    print("the tag of the parameters cell is shown; nbconvert makes a page", flush=True)
    stop_two_processes(lab)


def run_through(lab: Lab, name: str) -> None:
    """Open a notebook, run all of it, and find no error in what is saved."""
    page = lab.open(name)
    begin = time.monotonic()
    lab.run_all(page)
    page.wait_for_timeout(3000)
    lab.wait_until_idle(page)
    cells = lab.saved(page, name)
    assert not errors(cells) and all(cell["execution_count"] for cell in cells), errors(cells)
    page.close()
    print(f"{name}: run through in {time.monotonic() - begin:.0f} s", flush=True)


def stop_two_processes(lab: Lab) -> None:
    """Press the stop button while two processes train what 3_training begins."""
    page = lab.open("3_training")
    change(page, "nproc_per_node: int = 1", "nproc_per_node: int = 2")
    change(page, 'out_dir: str = ""', 'out_dir: str = "runs/two"')
    signals = "import signal; print([signal.getsignal(number) for number in (1, 2, 15)])"
    before = answer(lab, page, signals)
    lab.run_all(page)
    page.locator(".jp-Notebook figure svg.wide").first.wait_for()
    run = RunFolder(lab.project / "runs/two")
    started = processes(run)
    page.get_by_text("Kernel", exact=True).click()
    page.get_by_text("Interrupt Kernel", exact=True).click()
    begin = time.monotonic()
    left, seconds = outlived(list(started.values())), time.monotonic() - begin
    lab.wait_until_idle(page)
    stopped = run.read_summary()
    assert stopped["state"] == "stopped" and run.last_checkpoint.exists(), stopped
    assert set(started) == {"launcher", "rank0", "rank1"} and not left and not processes(run), (started, left)
    assert answer(lab, page, signals) == before
    cells = lab.saved(page, "3_training")
    assert not errors(cells) and all(cell["execution_count"] for cell in cells)
    page.close()
    print(f"3_training in two processes: stopped at step {stopped['step']}, all processes gone after {seconds:.1f} s",
          flush=True)


def answer(lab: Lab, page: Page, code: str) -> str:
    """What a line of code prints, in a cell put below the first one for it and deleted."""
    page.locator(".jp-MarkdownCell").first.click()
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    page.keyboard.press("Enter")
    page.keyboard.type(code)
    page.keyboard.press("Control+Enter")
    lab.wait_until_idle(page)
    printed = page.locator(".jp-Cell.jp-mod-selected .jp-OutputArea-output").first.inner_text()
    page.keyboard.press("Escape")
    page.keyboard.press("d")
    page.keyboard.press("d")
    return printed


def errors(cells: list[dict]) -> list[dict]:
    return [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]


def change(page: Page, before: str, after: str) -> None:
    """Edit a line of the parameters cell as a person does."""
    line = page.locator(".jp-CodeCell .cm-line", has_text=before).first
    line.click()
    page.keyboard.press("Home")
    page.keyboard.press("Shift+End")
    page.keyboard.type(line.inner_text().replace(before, after))


def main(times: int) -> int:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for count in range(1, times + 1):
            with tempfile.TemporaryDirectory() as place:
                project = Path(place, "project")
                shutil.copytree(ROOT, project, ignore=shutil.ignore_patterns(
                    ".venv", ".git", "__pycache__", "20*", ".ipynb_checkpoints", "rung*", "whole*"))
                lab = Lab(project, browser)
                try:
                    checks(lab)
                finally:
                    lab.close()
            print(f"passed, {count} of {times}", flush=True)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3))
