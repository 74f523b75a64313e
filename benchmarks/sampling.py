"""New tokens per second with a key/value cache: this project's generate against that of transformers, in turns.

    python benchmarks/sampling.py [--new 64 --rounds 5]                       about 2 minutes on two cores

Both hold random weights of GPT-2 124M in float32 and draw with top-k 50. Each new token reads every weight once,
whatever the number of prompts; so bytes of the weights over the memory's bandwidth is the least time for it.
"""
import argparse
import statistics
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from lib.model.gpt import GPT, GPTConfig
from lib.model.sampling import generate


def bandwidth() -> float:
    """Bytes per second read by the fastest of several sums over a gigabyte."""
    block = torch.ones(2 ** 28)
    best = 0.0
    for _ in range(7):
        begin = time.perf_counter()
        block.sum()
        best = max(best, block.nbytes / (time.perf_counter() - begin))
    return best


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(1337)
    ours = GPT(GPTConfig()).eval()
    theirs = GPT2LMHeadModel(GPT2Config()).eval()
    weights = sum(p.nbytes for p in ours.parameters())
    speed = bandwidth()
    print(f"{args.new} new tokens after 16, {args.rounds} rounds, torch {torch.__version__}, {torch.get_num_threads()} "
          f"threads, memory read at {speed / 1e9:.1f} GB/s: at most {speed / weights:.0f} tokens/s per prompt")
    for prompts in (1, 4):
        idx = torch.randint(50257, (prompts, 16))
        contenders = {
            "transformers": lambda idx=idx: theirs.generate(
                idx, attention_mask=torch.ones_like(idx), max_new_tokens=args.new, min_new_tokens=args.new,
                do_sample=True, top_k=50, pad_token_id=50256),
            "this project": lambda idx=idx: list(generate(ours, idx, args.new, context=1024, top_k=50)),
        }
        rates = {name: [] for name in contenders}
        for counted in [False] + [True] * args.rounds:
            for name, run in contenders.items():
                begin = time.perf_counter()
                run()
                if counted:
                    rates[name].append(args.new * prompts / (time.perf_counter() - begin))
        for name, found in rates.items():
            pairs = zip(found, rates["transformers"], strict=True)
            print(f"{prompts} prompts  {name:14} {statistics.median(found):6.1f} new tokens/s "
                  f"({min(found):.1f} to {max(found):.1f})  {statistics.median(a / b for a, b in pairs):4.2f} x "
                  f"transformers  {statistics.median(found) / prompts * weights / speed:4.0%} of the roofline")


if __name__ == "__main__":
    main()
