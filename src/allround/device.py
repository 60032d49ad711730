"""Where a stage computes, and how exactly: the device, threads, determinism and precision."""

from __future__ import annotations

import os
import re

from allround import gpus
from allround.errors import AllroundError

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats itself bit by bit; read when CUDA starts

import torch


def choose(name: str = "auto", threads: int = 1, *, exact: bool = False) -> torch.device:
    """The device called "auto", "cpu", "cuda" or "cuda:N", with the process set up so that a job repeats itself.

    threads: threads of the CPU; results on a CPU may depend on their number in the last bit
    exact: float32 products keep all 24 bits on CUDA, and sums of 16-bit products stay in float32; else TF32 (10 bits of
        mantissa, sums in float32) makes networks faster
    AllroundError: no such device here

    cuDNN keeps to deterministic algorithms, and attention to products and a softmax: the gradients of the fused kernels
    (flash, memory-efficient, cuDNN's) add up in another order every time. A GPU is shared with as many other jobs as
    the site allows (allround.gpus): this waits for a place. The process sees that GPU alone.
    """
    if threads < 1:
        raise AllroundError(f"--threads {threads}: allowed: whole numbers from 1.")
    torch.set_num_threads(threads)
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise AllroundError(f"device '{name}' is unknown; allowed: auto, cpu, cuda, cuda:N.")
    index = 0 if name == "cpu" else _place(name)
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        built = "sees no GPU (nvidia-smi shows what is there)" if torch.version.cuda else "was built without CUDA"
        raise AllroundError(f"device '{name}': this PyTorch {built}; use device: cpu or auto, or install a CUDA build.")
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False  # its choice of algorithm depends on timings
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cudnn.allow_tf32 = not exact
    torch.backends.cuda.matmul.allow_tf32 = not exact
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = not exact
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = not exact
    return device


def _place(name: str) -> int:
    """Take a place on a GPU, show this process that GPU alone, and return its index in what the process sees then."""
    count = torch.cuda.device_count()
    wanted = [int(name.partition(":")[2])] if ":" in name else list(range(count))
    if count and wanted[-1] >= count:
        raise AllroundError(f"device '{name}': this machine shows {count} GPUs, numbered from 0.")
    if not count or torch.cuda.is_initialized():
        return wanted[0] if wanted else 0
    names = gpus.names(count)
    index = wanted[gpus.take([names[number] for number in wanted], gpus.jobs_per_gpu())]
    os.environ["CUDA_VISIBLE_DEVICES"] = names[index]
    return 0 if torch.cuda.device_count() == 1 else index
