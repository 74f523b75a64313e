"""A page on which anyone can prompt a trained model; for Hugging Face Spaces, or at home:

    python space/app.py                    the newest run in runs/
    MODEL=runs/NAME python space/app.py    a run, its best.pt, or an exported folder

Nothing of a visitor is kept, nothing is loaded from elsewhere, and no file is served.
"""
import html
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import torch
from starlette.middleware import Middleware

from lib.config import InputError
from lib.model.memorisation import quotation
from lib.model.sampling import generate
from lib.runs.locate import newest_run
from lib.runs.trained import TrainedModel, open_model
from lib.show.wording import shown
from lib.text.ngrams import NgramIndex
from lib.text.tokenizer import decoded, encode_prompt

HERE = Path(__file__).resolve().parent
LONGEST_PROMPT = 4000  # characters
LONGEST_SEC = 60  # that one answer may take
WAITING = 20  # visitors, beside the one who is served; the next are told that it is busy
FIGURES = ("corpus_loss", "shifted_loss", "step", "tokens", "parameters")
GUIDE = """
| control | what it does | try |
| --- | --- | --- |
| Max new tokens | tokens added to the prompt, each some three quarters of a word; more take longer | 50 to 120 |
| Temperature | 0.1 to 0.3 nearly always takes the likeliest token, 1 and more lets unlikely ones in | 0.7 to 0.9 |
| Top-K | choose among this many likeliest tokens only; 0 turns the limit off | 30 to 70 |
| Seed | the same seed, prompt and settings give the same text again | any |
"""
# Only what this page brings itself; styles and scripts of Gradio are inline in part
POLICY = ("default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
          "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
          "object-src 'none'; base-uri 'self'; form-action 'self'")


def checked(prompt, max_new_tokens, temperature, top_k, seed) -> tuple[str, int, float, int, int]:
    """The arguments of a request as numbers; gr.Error, which the visitor sees, where one cannot be."""
    if not isinstance(prompt, str) or not prompt:
        raise gr.Error("The prompt is empty: write at least one character, or choose an example.")
    if len(prompt) > LONGEST_PROMPT:
        raise gr.Error(f"The prompt has {len(prompt):,} characters and may have {LONGEST_PROMPT:,}: shorten it.")
    numbers = []
    for name, value, low, high, whole in (("Max new tokens", max_new_tokens, 1, 200, True),
                                          ("Temperature", temperature, 0.1, 1.5, False),
                                          ("Top-K", top_k, 0, 200, True), ("Seed", seed, 0, 2 ** 31, True)):
        kind = "a whole number" if whole else "a number"
        if (isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value)
                or not low <= value <= high or (whole and value != int(value))):
            raise gr.Error(f"{name} must be {kind} from {low} to {high}.")
        numbers.append(int(value) if whole else float(value))
    return prompt, *numbers


class Playground:
    """Answers the page's requests with one model."""

    def __init__(self, trained: TrainedModel):
        self.trained = trained
        text = trained.text()
        self.index = NgramIndex(text) if text is not None else None
        places = [] if text is None else [len(text) // 3, len(text) // 2, 2 * len(text) // 3]
        # the one it was sampled with, and some words of the text from anywhere in it
        self.prompts = [trained.prompt(), *(decoded(text[at:at + 8])[0] for at in places)]

    def answer(self, prompt, max_new_tokens, temperature, top_k, seed) -> Iterator[tuple[str, str]]:
        """Yields the text so far as HTML without a live tag of the model's, and a line about it; at last with what is
        quoted from the learned text marked."""
        prompt, max_new_tokens, temperature, top_k, seed = checked(prompt, max_new_tokens, temperature, top_k, seed)
        try:
            idx = torch.tensor([encode_prompt(prompt, self.trained.context)])
        except InputError as error:
            raise gr.Error(str(error).replace(" (seq_len)", "").replace("--prompt", "the prompt")) from None
        begin, ids = time.perf_counter(), idx[0].tolist()
        generator = torch.Generator().manual_seed(seed)
        for token in generate(self.trained.model, idx, max_new_tokens, self.trained.context, temperature, top_k,
                              generator):
            ids.append(token.item())
            count, seconds = len(ids) - idx.size(1), time.perf_counter() - begin
            told = f"{count} of {max_new_tokens} tokens, {count / seconds:.0f} a second"
            yield f"<pre>{html.escape(decoded(ids)[0])}</pre>", told
            if seconds > LONGEST_SEC:
                told += f"; ended after {LONGEST_SEC} seconds, which is the most a request may take"
                break
        if self.index is None:
            yield f"<pre>{html.escape(decoded(ids)[0])}</pre>", f"{told}. The learned text is not here."
            return
        quoted = quotation(decoded(ids)[0], self.index)
        yield f"<pre>{quoted.marked()}</pre>", (
            f"{told}. {quoted.share:.0%} of it, prompt included, stands in the learned text word for word, marked; the "
            f"longest stretch has {quoted.longest_tokens} tokens.")

    def page(self) -> gr.Blocks:
        """The page, for visitors to prompt the model on."""
        summary, parameters = self.trained.summary, self.trained.model.num_parameters()
        with gr.Blocks(title="A GPT-2 from scratch", analytics_enabled=False) as page:
            known = self.trained.known or "not known to the end"
            gr.Markdown(f"# A GPT-2 from scratch\n{parameters:,} parameters, trained from {self.trained.origin}. "
                        f"Its one text is {known}.")
            with gr.Row():
                with gr.Column():
                    prompt = gr.Textbox(self.prompts[0], label="Prompt", lines=4, max_length=LONGEST_PROMPT)
                    length = gr.Slider(1, 200, 80, step=1, label="Max new tokens")
                    temperature = gr.Slider(0.1, 1.5, 0.9, step=0.05, label="Temperature")
                    top_k = gr.Slider(0, 200, 50, step=1, label="Top-K (0 turns it off)")
                    seed = gr.Number(1337, label="Seed", precision=0, minimum=0, maximum=2 ** 31)
                    with gr.Row():
                        go = gr.Button("Generate", variant="primary")
                        stop = gr.Button("Stop")
                    gr.Examples(self.prompts, prompt, label="Prompts to try")
                with gr.Column():
                    answer = gr.HTML(label="What it writes", show_label=True, container=True, min_height=320,
                                     elem_id="answer")
                    told = gr.Textbox(label="How", interactive=False, lines=2)
            asked = go.click(self.answer, [prompt, length, temperature, top_k, seed], [answer, told],
                             api_name="generate", concurrency_limit=1)
            stop.click(None, cancels=[asked])
            with gr.Accordion("What the controls do", open=False):
                gr.Markdown(GUIDE)
            with gr.Accordion("What it is", open=False):
                figures = shown({name: summary[name] for name in FIGURES})
                gr.Markdown("\n".join(["| | |", "| --- | --- |", *(f"| {name} | {figure} |"
                                                                    for name, figure in figures.items())]))
        return page.queue(max_size=WAITING, api_open=False)


class OwnContentOnly:
    """Tells the browser to load nothing from elsewhere, whatever the page asks for."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)
        await self.app(scope, receive, send_with_policy)


def main() -> int:
    named, beside = os.environ.get("MODEL"), HERE / "model"
    try:
        trained = open_model(Path(named).absolute() if named else beside if beside.exists() else newest_run().path)
    except InputError as error:
        print(f"space/app.py: {error}. Name a run or an exported folder: MODEL=runs/NAME", file=sys.stderr)
        return 2
    fonts = ["system-ui", "sans-serif"]
    Playground(trained).page().launch(
        server_name=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), share=False, quiet=True,
        ssr_mode=False, mcp_server=False, enable_monitoring=False, footer_links=[], max_file_size=0,
        theme=gr.themes.Base(font=fonts, font_mono=["ui-monospace", "monospace"]),
        css="#answer { padding-top: 2.2rem; } #answer pre { white-space: pre-wrap; overflow-wrap: anywhere; }",
        app_kwargs={"middleware": [Middleware(OwnContentOnly)], "docs_url": None, "redoc_url": None})
    return 0


if __name__ == "__main__":
    sys.exit(main())
