"""Which machines compute in bfloat16."""

from pathlib import Path

import pytest
import tiny

from model_hub_rqa import train
from model_hub_rqa.models import precision
from model_hub_rqa.models.precision import computes_in_bf16


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 sse", True),
        ("flags\t\t: fpu amx_tile amx_bf16", True),
        ("Features\t: fp asimd bf16", True),
        ("flags\t\t: fpu avx512f avx2", False),
        ("model name\t: bf16", False),
        ("", False),
    ],
)
def test_a_processors_flags(line: str, expected: bool, tmp_path: Path) -> None:
    """Those of Intel, AMD and Arm; no other line counts."""
    (tmp_path / "cpuinfo").write_text(f"processor: 0\n{line}\n", encoding="utf-8")
    assert computes_in_bf16("cpu", tmp_path / "cpuinfo") is expected


def test_other_machines(tmp_path: Path) -> None:
    """Without the list of flags, or on an unknown device, float32 is the safe choice."""
    assert not computes_in_bf16("cpu", tmp_path / "none")
    assert not computes_in_bf16("mps")


@pytest.mark.parametrize("has", [True, False])
def test_bf16_without_arithmetic_for_it_is_told(
    has: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a user asks for it; what is taken by default is taken where it pays."""
    monkeypatch.setattr(precision, "computes_in_bf16", lambda device_type: has)
    config = tiny.experiment(tmp_path, train=8, validation=1, max_steps=1, bf16=True)
    assert train.main([str(config), "--output-dir", str(tmp_path / "run")]) == 0
    told = "hyperparameters.bf16: this processor has no arithmetic for bfloat16: expect a step to take up to 20 times"
    assert (told in caplog.text) is not has
