"""Whether computing in bfloat16 pays on this machine."""

import logging
from pathlib import Path

logger = logging.getLogger(__name__)

SLOWDOWN = 20  # of a training step in bfloat16 on a processor with AVX2 alone, measured against float32
_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # Intel's and AMD's, Intel's tiles, Arm's


def computes_in_bf16(device_type: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether a device has instructions for bfloat16; without, autocast to it is slower than float32.

    Args:
        device_type: torch's, "cpu" or "cuda".
        cpuinfo: Linux' list of the processor's flags; where there is none, a CPU is taken to have none of them.
    """
    if device_type == "cuda":
        import torch

        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device_type != "cpu" or not cpuinfo.is_file():
        return False
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    found = (line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features")))
    return bool(_FLAGS & set(next(found, [])))


def warn_of_slow_bf16(device_type: str, setting: str) -> None:
    """Says in the log what bfloat16 costs on a device that has no instructions for it.

    Args:
        device_type: torch's, "cpu" or "cuda".
        setting: the name of what asks for bfloat16.
    """
    if not computes_in_bf16(device_type):
        logger.warning(
            "%s: this %s has no arithmetic for bfloat16: expect a step to take up to %d times as long as in float32 "
            "(as measured on AVX2); bf16: false computes in float32",
            setting,
            "GPU" if device_type == "cuda" else "processor",
            SLOWDOWN,
        )
