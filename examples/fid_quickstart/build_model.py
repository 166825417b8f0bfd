"""Build the quickstart's small T5 from the world's text: a tokenizer and a configuration, no weights.

python build_model.py [--data DIR] [--output-dir DIR]
"""

import argparse
import json
import re
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config

HERE = Path(__file__).parent
SPECIAL = ("<pad>", "</s>", "<unk>")
PROMPT = "question: title: context:"
MAX_LENGTH = 64


def training_texts(folder: Path) -> list[str]:
    """The prompt's words, every passage and every question of training."""
    texts = [PROMPT]
    with (folder / "train.jsonl").open(encoding="utf-8") as file:
        for record in map(json.loads, file):
            texts += [record["question"], *(f"{ctx['title']} {ctx['text']}" for ctx in record["ctxs"])]
    return texts


def vocabulary(texts: list[str]) -> list[str]:
    """Special tokens, all words, and single characters for whatever else may come."""
    words = {word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())}
    characters = {character for word in words for character in word}
    pieces = words | characters | {f"##{character}" for character in characters if character.isalnum()}
    return [*SPECIAL, *sorted(pieces)]


def build_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of words, lower case, that ends each text with </s> as T5's does."""
    ids = {token: number for number, token in enumerate(vocabulary(texts))}
    backend = Tokenizer(models.WordPiece(ids, unk_token="<unk>"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", ids["</s>"])])
    backend.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=MAX_LENGTH,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=HERE)
    parser.add_argument("--output-dir", type=Path, default=HERE / "model")
    args = parser.parse_args()
    tokenizer = build_tokenizer(training_texts(args.data))
    tokenizer.save_pretrained(args.output_dir)
    T5Config(
        vocab_size=len(tokenizer),
        d_model=128,
        d_kv=32,
        d_ff=256,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    ).save_pretrained(args.output_dir)


if __name__ == "__main__":
    main()
