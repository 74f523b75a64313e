"""What moves the weights, and by how much: optimisers and the schedule of their rates."""
import math
from typing import TYPE_CHECKING

import torch

from lib.config import RunConfig
from lib.model.gpt import GPT
from lib.training.muon import Muon

if TYPE_CHECKING:
    from lib.training.group import Group


def make_optimizers(model: GPT, config: RunConfig, group: "Group | None" = None,
                    muon: type[Muon] = Muon) -> list[torch.optim.Optimizer]:
    """The optimisers of a run, each parameter that learns in one of them; every group keeps its peak rate as `peak_lr`.

    AdamW (Loshchilov & Hutter, 2019) updates everything, or, with config.optimizer `muon`, all but the matrices of the
    blocks. Weight decay acts on matrices only. The position table of a model that began by looking back stays as it is.
    With `sgd`, plain gradient steps update the matrices of the feed-forward layers, which write where the head reads
    and nowhere else; all else is frozen (lib.model.start.key_value). `group` is the machine's.
    """
    if config.optimizer == "sgd":
        model.requires_grad_(False)
        memories = []
        for block in model.h:
            memories += [block.mlp.c_fc.weight.requires_grad_(), block.mlp.c_proj.weight.requires_grad_()]
            block.mlp.c_proj.weight.register_hook(lambda grad: grad * (model.ln_f.weight != 0)[:, None])
        return _with_peaks([torch.optim.SGD(memories, lr=config.lr, weight_decay=config.weight_decay)])
    blocks = [p for p in model.h.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": [model.wte.weight], "lr": config.embedding_lr or config.lr},
              {"params": [model.wpe.weight], "lr": config.lr if config.init == "gpt2" else 0.0},
              {"params": vectors, "weight_decay": 0.0}]
    optimizers = []
    if config.optimizer == "muon":
        by_columns = [m.c_proj.weight for block in model.h for m in (block.attn, block.mlp)]
        by_rows = [weight for block in model.h for weight in (block.attn.c_attn.weight, block.mlp.c_fc.weight)]
        optimizers.append(muon([{"params": by_rows}, {"params": by_columns, "by_columns": True}], lr=config.muon_lr,
                               rows=config.muon_rows, weight_decay=config.weight_decay,
                               group=group))
    else:
        groups.append({"params": blocks})
    optimizers.append(torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2),
                                        weight_decay=config.weight_decay, fused=True))
    return _with_peaks(optimizers)


def _with_peaks(optimizers: list[torch.optim.Optimizer]) -> list[torch.optim.Optimizer]:
    for optimizer in optimizers:
        for settings in optimizer.param_groups:
            settings["peak_lr"] = settings["lr"]
    return optimizers


def rate_factor(step: int, config: RunConfig) -> float:
    """The share of its peak that a learning rate has at update number `step`, counted from 0: a linear rise to 1, then
    the schedule. `wsd`, warm-up, stable, decay (Hu et al., "MiniCPM", 2024), stays at 1 but for the last fifth."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
    return {"constant": 1.0, "cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done,
            "wsd": min(1.0, (1 - done) / 0.2)}[config.lr_schedule]
