"""How much memory a hundred passages take."""

import os
import subprocess
import sys

import pytest

STEP = """
import torch
from transformers import T5Config, T5ForConditionalGeneration
from model_hub_rqa.tasks.fid.model import enable_fusion, shift_right
from model_hub_rqa.tasks.passages.generation import answer_losses
from model_hub_rqa.progress import peak_memory_mib

torch.manual_seed(0)
config = T5Config(
    vocab_size=32128, d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8, decoder_start_token_id=0
)
model = T5ForConditionalGeneration(config).train()
model.gradient_checkpointing_enable({"use_reentrant": False})
model.config.use_cache = False
enable_fusion(model, encoder_chunk_size=8)
optimizer = torch.optim.AdamW(model.parameters())
passages, tokens = 100, 250
batch = {
    "passage_ids": torch.randint(5, 32000, (passages * tokens,)),
    "passage_lengths": torch.full((passages,), tokens),
    "passage_counts": torch.tensor([passages]),
}
labels = torch.randint(5, 32000, (1, 16))
logits = model(**batch, decoder_input_ids=shift_right(labels, 0, 0), use_cache=False).logits
losses, counts = answer_losses(logits, labels)
(losses / counts).mean().backward()
assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
optimizer.step()
print(peak_memory_mib())
"""


@pytest.mark.slow
def test_a_hundred_passages_train_within_6_gb() -> None:
    """A whole step on 100 passages of 250 tokens, on t5-small's shape in fp32, with the optimizer's state."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", STEP], check=True, env=environment, capture_output=True, text=True)
    assert float(done.stdout.split()[-1]) * 2**20 < 6e9
