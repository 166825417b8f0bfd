"""The machine: what it is, and the most that it can do."""

import datetime
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import torch

LIBRARIES = ("model-hub-rqa", "torch", "transformers", "datasets", "tokenizers", "numpy")


def describe() -> list[str]:
    """Lines that say on what a result was measured."""
    from model_hub_rqa import __version__

    found = {name: version(name) for name in LIBRARIES if name != "model-hub-rqa"}
    return [
        f"Date: {datetime.date.today().isoformat()}",
        f"Processor: {_processor()}, {os.cpu_count()} cores, torch threads {torch.get_num_threads()}, "
        f"{torch.backends.cpu.get_cpu_capability()}, AMX {'yes' if torch.cpu._is_amx_tile_supported() else 'no'}",
        f"GPU: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}",
        f"Python {platform.python_version()}, model-hub-rqa {__version__}, "
        + ", ".join(f"{name} {number}" for name, number in found.items()),
        f"GLIBC_TUNABLES: {os.environ.get('GLIBC_TUNABLES') or 'not set'}",
    ]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def gemm_ceiling(rows: int, inner: int, columns: int, dtype: torch.dtype, seconds: float = 1.0) -> float:
    """The best sustained rate of one matrix product, in GFLOP/s: [rows, inner] times [inner, columns]."""
    left, right = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
    best, until = 0.0, time.perf_counter() + seconds
    torch.mm(left, right)
    while time.perf_counter() < until:
        begun = time.perf_counter()
        torch.mm(left, right)
        best = max(best, 2e-9 * rows * inner * columns / (time.perf_counter() - begun))
    return best
