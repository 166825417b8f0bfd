"""Build the small language model of the unlearning example: a tokenizer of TOFU's own text and a configuration.

python build_model.py --data DIR --output-dir DIR

DIR holds TOFU's full.json, a JSON object a line with question and answer. There are no weights: the first stage trains
from random ones.
"""

import argparse
import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, PreTrainedTokenizerFast

END = "<|endoftext|>"
MAX_LENGTH = 192


def training_texts(path: Path) -> list[str]:
    """Every question and every answer."""
    with path.open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    return [text for record in records for text in (record["question"], record["answer"])]


def build_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that no text is unknown to it."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[END], initial_alphabet=alphabet)
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, bos_token=END, pad_token=END, model_max_length=MAX_LENGTH
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--vocab-size", type=int, default=2048)
    args = parser.parse_args()
    tokenizer = build_tokenizer(training_texts(args.data / "full.json"), args.vocab_size)
    tokenizer.save_pretrained(args.output_dir)
    GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=MAX_LENGTH,
        n_embd=128,
        n_layer=2,
        n_head=4,
        activation_function="gelu_pytorch_tanh",  # fused, unlike the default of the same shape
        **dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    ).save_pretrained(args.output_dir)


if __name__ == "__main__":
    main()
