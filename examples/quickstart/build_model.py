"""Build the quickstart's small BERT from its training text: a tokenizer and a configuration, no weights.

python build_model.py [--data FILE] [--output-dir DIR]

The vocabulary holds the words that many passages share; names, which every passage has its own of, are cut into their
syllables and endings, so that an entity never seen before is still spelt in known pieces.
"""

import argparse
import json
import re
from collections import Counter
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast

HERE = Path(__file__).parent
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SHARED_BY = 12  # texts that a word has to stand in to be kept whole
MAX_LENGTH = 128
_SYLLABLES = re.compile(r"([^\Waeiou\d_][aeiou])([^\Waeiou\d_][aeiou])(\w*)")


def training_texts(path: Path) -> list[str]:
    """Every question, and every passage once."""
    texts = []
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            texts += [paragraph["context"], *(qa["question"] for qa in paragraph["qas"])]
    return texts


def vocabulary(texts: list[str]) -> list[str]:
    """Special tokens, shared words, the pieces of all others, and single characters for whatever may come."""
    words: Counter[str] = Counter()
    for text in texts:
        words.update(set(re.findall(r"\w+|[^\w\s]", text.lower())))
    whole = {word for word, count in words.items() if count >= SHARED_BY and not word.isdigit()}
    pieces = set()
    for word in words.keys() - whole:
        cuts = _cut(word)
        pieces |= {cuts[0], *(f"##{cut}" for cut in cuts[1:])}
    characters = {character for word in words for character in word}
    pieces |= characters | {f"##{character}" for character in characters if character.isalnum()}
    return [*SPECIAL, *sorted(whole | pieces)]


def _cut(word: str) -> list[str]:
    """Two digits at a time; a name as syllable, syllable and ending; anything else whole."""
    if word.isdigit():
        return re.findall(r"\d\d?", word)
    name = _SYLLABLES.fullmatch(word)
    return [part for part in name.groups() if part] if name else [word]


def build_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A BERT tokenizer, lower case, with the vocabulary of the texts."""
    ids = {token: number for number, token in enumerate(vocabulary(texts))}
    backend = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    backend.decoder = decoders.WordPiece()
    names = {f"{token[1:-1].lower()}_token": token for token in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=MAX_LENGTH, **names)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=HERE / "train.json")
    parser.add_argument("--output-dir", type=Path, default=HERE / "model")
    args = parser.parse_args()
    tokenizer = build_tokenizer(training_texts(args.data))
    tokenizer.save_pretrained(args.output_dir)
    BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=MAX_LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.05,
    ).save_pretrained(args.output_dir)


if __name__ == "__main__":
    main()
