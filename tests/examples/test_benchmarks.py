"""The benchmarks run; what they measure is not tested, since other work on the machine would decide it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from benchmarks import flops
from benchmarks.timing import Timing, faster, interleaved

ROOT = Path(__file__).parents[2]


def test_rivals_take_turns() -> None:
    """Each case runs once uncounted, and then in turn with the others."""
    order: list[str] = []
    found = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert "".join(order) == "ababab"
    assert found["a"].low <= found["a"].median <= found["a"].high


def test_a_ratio_is_the_peers_median_over_ours() -> None:
    """Above 1 where ours is the faster one."""
    row = faster("what", Timing(2.0, 1.0, 3.0), Timing(5.0, 4.0, 6.0))
    assert row.ratio == 2.5
    assert (row.ours, row.peer) == ("2 s (1 to 3)", "5 s (4 to 6)")


def test_operations_are_those_of_torchs_own_count() -> None:
    """Of a forward pass of a tiny BERT and a tiny T5, without what is not a matrix product."""
    bert = BertModel(
        BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48),
        add_pooling_layer=False,
    )
    with FlopCounterMode(display=False) as counter:
        bert(torch.ones(1, 7, dtype=torch.long))
    assert counter.get_total_flops() == flops.encoder(bert.config, [7])
    config = T5Config(vocab_size=50, d_model=16, d_kv=4, num_heads=2, d_ff=48, num_layers=2, num_decoder_layers=3)
    t5 = T5ForConditionalGeneration(config)
    with FlopCounterMode(display=False) as counter:
        t5(input_ids=torch.ones(1, 7, dtype=torch.long), decoder_input_ids=torch.ones(1, 5, dtype=torch.long))
    assert counter.get_total_flops() == flops.fusion(config, [([7], 5)])


@pytest.mark.slow
def test_every_benchmark_runs(rqa_data: Path) -> None:
    """At tiny sizes, one turn each; the table has a line for every comparison."""
    pytest.importorskip("accelerate", reason="the peers come with the extra bench")
    pytest.importorskip("rank_bm25", reason="the peers come with the extra bench")
    command = [sys.executable, "-m", "benchmarks", "--short"]
    environment = {**os.environ, "RQA_DATA": str(rqa_data)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(lines) == 1 + 6 + 2 + 1 + 2 + 4 + 2 + 1 + 1 + 2 + 12 + 36 + 1 + 1 + 3
