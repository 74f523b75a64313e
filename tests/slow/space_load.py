"""Fifty visitors at once, for a minute, on the page in space/: what becomes of their requests, and of its memory.

    python tests/slow/space_load.py runs/NAME [seconds]          default 60; the model of that run
"""
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter

import psutil
from gradio_client import Client

from lib.config import ROOT

VISITORS, PORT = 50, 7862


def ask(client: Client, seed: int, tokens: int = 20) -> str:
    """One request: "answered", "busy", or what else became of it."""
    try:
        text, told = client.predict("First Citizen:\n", tokens, 0.9, 50, seed, api_name="/generate")
    except Exception as error:
        return "busy" if "full" in str(error) else f"lost: {type(error).__name__}: {error}"
    return "answered" if text.startswith("<pre>") and f"{tokens} of {tokens} tokens" in told else f"wrong: {told}"


def main(model: str, seconds: float) -> int:
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", "import app"], cwd=ROOT / "space", check=True)
    imports, begin = time.monotonic() - begin, time.monotonic()
    server = subprocess.Popen([sys.executable, ROOT / "space" / "app.py"],
                              env=os.environ | {"MODEL": model, "GRADIO_SERVER_PORT": str(PORT)})
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}").read()
                break
            except OSError:
                time.sleep(0.1)
        print(f"imported in {imports:.1f} s; the page is there {time.monotonic() - begin - imports:.1f} s after that")
        client = Client(f"http://127.0.0.1:{PORT}", verbose=False)
        first = time.monotonic()
        assert ask(client, 0, 1) == "answered"
        first = time.monotonic() - first
        before = [ask(client, seed) for seed in range(5)]
        process, outcomes, end = psutil.Process(server.pid), Counter(before), time.monotonic() + seconds
        memory = process.memory_info().rss

        def visit(number: int) -> None:
            mine = Client(f"http://127.0.0.1:{PORT}", verbose=False)
            while time.monotonic() < end:
                outcomes[ask(mine, number)] += 1

        visitors = [threading.Thread(target=visit, args=(number,)) for number in range(VISITORS)]
        for visitor in visitors:
            visitor.start()
        for visitor in visitors:
            visitor.join()
        after = ask(client, 1)
        growth = process.memory_info().rss / memory - 1
        print(f"one token in {first:.2f} s, the request included; {VISITORS} visitors for {seconds:.0f} s: "
              f"{dict(outcomes)}; memory {memory / 1e9:.2f} GB, {growth:+.1%} after; then: {after}")
        wrong = [outcome for outcome in outcomes if outcome not in ("answered", "busy")]
        return int(bool(wrong) or growth > 0.1 or after != "answered" or server.poll() is not None)
    finally:
        server.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 60))
