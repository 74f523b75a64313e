"""A run's model -> a folder that transformers loads, offline: weights, configuration, tokenizer and a model card.

    python -m lib.publish.export --out_dir runs/NAME --to DIR [--push OWNER/NAME]

    transformers.AutoModelForCausalLM.from_pretrained(DIR), transformers.AutoTokenizer.from_pretrained(DIR)
"""
import argparse
import dataclasses
import json
import sys
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from lib.config import InputError, RunConfig
from lib.files import write_json, write_whole
from lib.presets import command_line
from lib.publish.readme import fenced
from lib.runs.folder import RunFolder
from lib.runs.trained import FACTS, TrainedModel, open_model, write_weights
from lib.show.terminal import prepare_streams
from lib.show.wording import shown
from lib.text.tokenizer import encoding, merges, vocabulary

TEMPLATES = Path(__file__).parent / "templates" / "model_card"
CARD_FIGURES = ("corpus_loss", "shifted_loss", "target_loss", "mean_loss", "step", "tokens", "epochs", "elapsed_sec",
                "parameters")


def export(run: RunFolder, folder: Path) -> Path:
    """Write the best model of a run into a new folder and return it.

    Raises InputError where the run has saved no model or the folder is not empty, OSError where it cannot be written.
    """
    trained = open_model(run.path)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty: choose another --to")
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(trained.model, folder)
    write_json(transformers_config(trained), folder / "config.json")
    end, temperature = encoding().eot_token, trained.config.temperature
    write_json({"do_sample": temperature > 0, **({"temperature": temperature} if temperature else {}),
                "top_k": trained.config.top_k, "max_new_tokens": min(80, trained.context // 2), "bos_token_id": end,
                "eos_token_id": end, "pad_token_id": end}, folder / "generation_config.json")
    write_whole(json.dumps(vocabulary()), folder / "vocab.json")
    write_whole(merges(), folder / "merges.txt")
    write_json({"tokenizer_class": "GPT2Tokenizer", "model_max_length": trained.context},
               folder / "tokenizer_config.json")
    write_json(public_facts(trained), folder / FACTS)
    write_whole(model_card(trained), folder / "README.md")  # last: a folder that has it is whole
    return folder


def public_facts(trained: TrainedModel) -> dict:
    """What others may know of a run: no folder of this computer, no code that was not committed, no earlier run."""
    parameters = dataclasses.asdict(trained.config) | {"out_dir": "", "resume": ""}
    parameters["init_from"] = Path(parameters["init_from"]).name
    if Path(parameters["input_file"]).parts[:1] != ("data",):
        parameters["input_file"] = Path(parameters["input_file"]).name
    facts = {name: trained.facts[name] for name in ("started", "corpus", "code", "machine", "versions")}
    facts["corpus"] = facts["corpus"] | {"file": parameters["input_file"]}
    facts["code"] = {name: facts["code"][name] for name in ("commit", "dirty")}
    verdict = trained.summary["verdict"] if trained.reached else None  # others may tell of folders
    return {"config": {"parameters": parameters} | facts, "summary": trained.summary | {"verdict": verdict}}


def transformers_config(trained: TrainedModel) -> dict:
    """What transformers has to know of the architecture."""
    c = trained.model.config
    return {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": c.n_layer, "n_head": c.n_head,
            "n_embd": c.n_embd, "n_positions": c.block_size, "vocab_size": c.vocab_size,
            "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True,
            "attn_pdrop": trained.config.dropout, "embd_pdrop": trained.config.dropout,
            "resid_pdrop": trained.config.dropout, "bos_token_id": encoding().eot_token,
            "eos_token_id": encoding().eot_token, "dtype": "float32"}


def model_card(trained: TrainedModel) -> str:
    """The README.md of an exported model: every figure in it is from the run's own files."""
    figures = shown({name: trained.summary[name] for name in CARD_FIGURES})
    template = Environment(loader=FileSystemLoader(TEMPLATES), keep_trailing_newline=True,
                           trim_blocks=True).get_template("README.md.j2")
    facts = public_facts(trained)["config"]
    return template.render(figures=figures, trained=trained, facts=facts,
                           command=fenced(command_line(RunConfig(**facts["parameters"])), "bash"))


def push(folder: Path, repository: str) -> str:
    """Upload an exported folder to a model repository of Hugging Face, made private where it is new, with the login
    that huggingface_hub finds; returns its address."""
    from huggingface_hub import HfApi
    api = HfApi()
    api.create_repo(repository, exist_ok=True, private=True)
    return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message="GPT-2 notebook laboratory"))


def check_pushable(repository: str) -> None:
    """Raise InputError where nothing can be uploaded to a repository of that name."""
    try:
        from huggingface_hub.utils import validate_repo_id
        validate_repo_id(repository)
    except ImportError:
        raise InputError("--push needs huggingface_hub: pip install -e '.[space]'") from None
    except ValueError as error:
        raise InputError(f"--push {repository}: {error}") from None


def main(arguments: list[str]) -> int:
    prepare_streams()
    parser = argparse.ArgumentParser(prog="python -m lib.publish.export", description=__doc__.partition("\n")[0])
    parser.add_argument("--out_dir", required=True, help="folder of the run")
    parser.add_argument("--to", required=True, help="folder to write, empty or new")
    parser.add_argument("--push", default="", metavar="OWNER/NAME",
                        help="model repository to upload it to as well; it is private where it is new")
    args = parser.parse_args(arguments)
    try:
        if args.push:
            check_pushable(args.push)
        run, folder = RunFolder(Path.cwd() / args.out_dir), Path(args.to)
        if not (args.push and is_export_of(folder, run)):  # an upload that failed is tried again without a new folder
            print(f"exported to {export(run, folder)}")
        if args.push:
            print(f"uploaded: {push(folder, args.push)}")
    except (InputError, OSError) as error:
        print(f"lib.publish.export: {error}", file=sys.stderr)
        return 2
    return 0


def is_export_of(folder: Path, run: RunFolder) -> bool:
    """Whether a folder holds what this run would be exported as."""
    if not (folder / "README.md").exists() or not (folder / FACTS).exists():
        return False
    try:
        told = json.loads((folder / FACTS).read_text("utf-8"))
    except ValueError:
        return False
    return told == public_facts(open_model(run.path))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
