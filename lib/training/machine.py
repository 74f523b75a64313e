"""What this computer offers to a run: device, arithmetic, threads, memory."""
import ctypes
import os
import platform
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass

import psutil
import torch

from lib.config import InputError, RunConfig


@dataclass(frozen=True)
class Machine:
    """Where a run computes, and in which precision: `amp` is None for plain float32."""

    device: torch.device
    amp: torch.dtype | None
    notice: str = ""  # what could not be had as asked for

    @property
    def precision(self) -> str:
        return {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.amp]

    @property
    def is_asynchronous(self) -> bool:
        """Whether Python goes on while the device computes: there, to read a number is to wait for all before it."""
        return self.device.type != "cpu"

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of main memory on the device; a CUDA device fetches it behind what it is computing."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, dtype=self.amp, enabled=self.amp is not None)

    def name(self) -> str:
        """The device in words, without anything that names the computer's owner."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        processor = platform.processor() or platform.machine()
        if os.path.exists("/proc/cpuinfo"):
            with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
                names = [line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")]
            processor = names[0] if names else processor
        return f"{processor}, {torch.get_num_threads()} threads"


def prepare_machine(config: RunConfig) -> Machine:
    """Choose device and precision, and set this process up for training. Call it before the first large tensor.

    Raises InputError where a device was asked for that is not there.
    """
    _keep_freed_memory()
    torch.set_float32_matmul_precision("high")  # TF32 on the GPUs that have it; nothing changes on a processor
    device = choose_device(config.device)
    amp, notice = _precision(config.amp, device)
    return Machine(torch.device(device), amp, notice)


def choose_device(asked: str) -> str:
    """The device asked for, the best one there is for `auto`; InputError where it is not there."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    device = next(name for name, there in available.items() if there) if asked == "auto" else asked
    if not available[device]:
        raise InputError(f"torch {torch.__version__} finds no device {device!r} here: use --device auto")
    return device


def _precision(asked: str, device: str) -> tuple[torch.dtype | None, str]:
    """The autocast type for a device, and why it is not the one asked for where it is not."""
    if asked == "off":
        return None, ""
    if device == "cuda":
        best = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        return {"bf16": torch.bfloat16, "fp16": torch.float16}[best if asked == "auto" else asked], ""
    # Emulated, bfloat16 is 170 times slower than float32 on a processor without such instructions
    if device == "cpu" and asked in ("auto", "bf16") and _processor_has_bf16():
        return torch.bfloat16, ""
    return None, "" if asked == "auto" else f"--amp {asked} is not for this {device}: computing in fp32"


def _processor_has_bf16() -> bool:
    """Whether matrix products in bfloat16 have instructions of their own (AVX512-BF16 or AMX)."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def memory_needed(config: RunConfig, parameters: int, machine: Machine) -> int:
    """Bytes that training takes on its device besides the weights, roughly: gradients, two moments, what backward
    needs of a micro-batch, and in main memory the copy that a checkpoint is written from."""
    number = 4 if machine.amp is None else 2
    block = 16 * config.n_embd * number  # kept of a token: two norms, query, key, value, head outputs, 8 C of the MLP
    logits = 50257 * (number + 4 + 4)  # of a token: themselves, their logarithms of probability and their gradients
    copy = 0 if machine.device.type == "cuda" else 12 * parameters
    return copy + 12 * parameters + config.batch_size * config.seq_len * (config.n_layer * block + logits)


def memory_notice(config: RunConfig, parameters: int, machine: Machine) -> str:
    """What training needs of the memory that is free, in words, and what would need less where that is more."""
    needed, free = memory_needed(config, parameters, machine), memory_free(machine.device)
    return (f"about {needed / 1e9:.1f} GB of memory are needed and {free / 1e9:.1f} GB free"
            + (": if that fails, a lower --batch_size with --grad_accum raised by the same factor needs less for the "
               "same steps" if needed > free else ""))


def memory_free(device: torch.device) -> int:
    """Bytes that a device has left for a run."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def _keep_freed_memory() -> None:
    """Tell glibc to keep large freed blocks instead of returning them to the kernel.

    Every step frees and asks again for hundreds of megabytes of activations and gradients; faulting those pages in
    anew costs a fifth of a step on two cores. Elsewhere than on glibc this does nothing.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        m_trim_threshold, m_mmap_threshold, most = -1, -3, 2 ** 31 - 1
        if libc.mallopt(m_mmap_threshold, most):  # an old glibc refuses; the second alone would make things worse
            libc.mallopt(m_trim_threshold, most)
