"""Small fast tokenizers of the three kinds in use, made from a few sentences: no network, no time to build.

WordPiece and Unigram vocabularies are counted here: the library's trainers for these two give another vocabulary, or
other scores, in every process, and with them another model to every run of a test.
"""

import copy
import math
from collections import Counter
from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXT = [
    "The 1973 oil crisis began in October 1973, when the members of OAPEC proclaimed an oil embargo.",
    "Who proclaimed an embargo? The price of oil had risen from US$3 per barrel to nearly $12 globally.",
    "Université de Montréal, naïve café: the Amazon rainforest covers 5,500,000 km2 of the basin's 7,000,000.",
    "What is the name of the river? It is called the Amazonas, the Solimões, or 亚马逊河 in Chinese \U0001f30a.",
]


def _pieces(backend: Tokenizer, *, mark_inner: str = "") -> Counter[str]:
    """How often TEXT holds its words, their commonest runs of characters, and every single character.

    ``mark_inner`` stands before a piece that does not begin a word; single characters are there in both forms.
    """
    words: Counter[str] = Counter()
    for text in TEXT:
        words.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text)))
    runs: Counter[str] = Counter()
    for word, count in words.items():
        for start in range(len(word)):
            for end in range(start + 2, len(word) + 1):
                runs[(mark_inner if start else "") + word[start:end]] += count
    common = sorted(runs.items(), key=lambda item: (-item[1], -len(item[0]), item[0]))[:60]
    singles = dict.fromkeys(form for one in sorted(set("".join(words))) for form in (one, mark_inner + one))
    return Counter(dict.fromkeys(singles, 1) | dict(common) | dict(sorted(words.items())))


@cache
def bert() -> PreTrainedTokenizerFast:
    """WordPiece, lower case, [CLS] question [SEP] context [SEP] with token types, padded on the right."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [*special, *_pieces(backend, mark_inner="##")]
    backend.model = models.WordPiece({token: number for number, token in enumerate(tokens)}, unk_token="[UNK]")
    backend.add_special_tokens(special)
    ids = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=512,
    )


@cache
def roberta() -> PreTrainedTokenizerFast:
    """Byte-level BPE, <s> question </s></s> context </s>, offsets trimmed, no token types."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    sep, cls = (("</s>", backend.token_to_id("</s>")), ("<s>", backend.token_to_id("<s>")))
    backend.post_processor = processors.RobertaProcessing(sep, cls, trim_offsets=True, add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )


@cache
def xlnet() -> PreTrainedTokenizerFast:
    """SentencePiece-like unigram, context <sep> question <sep> <cls>, padded on the left."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "<unk>", "<sep>", "<cls>"]
    pieces = _pieces(backend)
    scores = [(piece, math.log(count / pieces.total())) for piece, count in pieces.items()]
    backend.model = models.Unigram([*((token, 0.0) for token in special), *scores], unk_id=special.index("<unk>"))
    backend.add_special_tokens(special)
    ids = [(token, backend.token_to_id(token)) for token in ("<sep>", "<cls>")]
    backend.post_processor = processors.TemplateProcessing(
        single="$A <sep> <cls>:2", pair="$A <sep> $B:1 <sep>:1 <cls>:2", special_tokens=ids
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        pad_token="<pad>",
        sep_token="<sep>",
        cls_token="<cls>",
        padding_side="left",
        model_max_length=512,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@cache
def t5() -> PreTrainedTokenizerFast:
    """SentencePiece-like unigram without a CLS token: question </s> context </s>."""
    backend = Tokenizer.from_str(xlnet().backend_tokenizer.to_str())
    backend.post_processor = processors.TemplateProcessing(
        single="$A <sep>", pair="$A <sep> $B <sep>", special_tokens=[("<sep>", backend.token_to_id("<sep>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<sep>",
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat_tokenizer(template: str = CHATML) -> PreTrainedTokenizerFast:
    """The byte-level tokenizer with the tokens of a chat."""
    tokenizer = copy.deepcopy(roberta())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = template
    return tokenizer


ALL = {"bert": bert, "roberta": roberta, "xlnet": xlnet, "t5": t5}
