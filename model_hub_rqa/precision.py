"""Whether computing in bfloat16 pays on this machine."""

from pathlib import Path

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
