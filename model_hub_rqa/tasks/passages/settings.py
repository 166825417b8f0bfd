"""The settings of passages: which are read for a question, and how an answer is searched for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from model_hub_rqa.config.fields import FieldError, option, show
from model_hub_rqa.config.kwargs import Kwargs
from model_hub_rqa.data.formats.fields import format_errors
from model_hub_rqa.retrieval.hybrid import FUSIONS
from model_hub_rqa.retrieval.queries import template_error
from model_hub_rqa.retrieval.search import SearchSettings


@dataclass(frozen=True, kw_only=True)
class PassageKwargs(Kwargs):
    """What every task that generates answers has: passages of the records, or retrieved ones, and beams."""

    format: str | None = option(
        None, help="the format of the files, as kilt or dpr, or package.module:Class; unset: by the first record"
    )
    fields: Mapping[str, Any] | None = option(
        None, help='where the parts of a record are, for other files: {question: q, passages: "docs[*].text"}'
    )
    n_context: int | None = option(None, ge=1, help="passages read for a question; unset: all that a record has")
    num_hard_negatives: int = option(0, ge=0, help="passages of hard_neg_docs put among the gold ones in training")
    embedding_model: str = option(
        "", empty=True, help='the retriever\'s model; "": train on the passages of the records'
    )
    corpus_file: str | None = option(
        None, help="the corpus that embedding_model retrieves from; unset: the passages of all records"
    )
    index: list[str] | str | None = option(
        None,
        help="a folder of `rqa index`, or a list of them that are fused: a validation reads what is found there, and "
        "so does training with embedding_model",
    )
    fusion: str | None = option(
        None, choices=FUSIONS, help="how a list of indexes is fused: by ranks (the default), or by scores"
    )
    fusion_weights: list[float] | None = option(
        None, help="with fusion: convex, a weight for each index; unset: equal ones"
    )
    fusion_depth: int | None = option(None, ge=1, help="hits of each index that are fused; unset: 100")
    rerank: Mapping[str, Any] | str | None = option(
        None, help="the cross-encoder (a folder, a run, a name on the hub) or registered reranker of the first hits"
    )
    rerank_depth: int | None = option(None, ge=1, help="hits that are reranked; unset: 100")
    query_template: str | None = option(
        None,
        help="what is retrieved for: a text with {question}, {history}, {history:N}, {last_question} or {last_answer}; "
        "unset: the question",
    )
    query_rewriter: Mapping[str, Any] | str | None = option(
        None, help="a registered function, or package.module:function, that rewrites the questions before that"
    )
    embedding_max_num_to_retrieve: int = option(3, ge=1, help="passages retrieved for a question, gold not counted")
    num_beams: int = option(1, ge=1, help="beams of the search for an answer; 1 is greedy")
    length_penalty: float = option(1.0, help="exponent of the length that beams' scores are divided by")
    early_stopping: bool = option(False, help="end a beam search once num_beams answers have ended")
    no_repeat_ngram_size: int = option(0, ge=0, help="tokens in a row that an answer has once only; 0: any")
    min_new_tokens: int = option(0, ge=0, help="tokens of the shortest answer that is generated")
    do_sample: bool = option(False, help="draw each token at random, from the seed, in place of the likeliest")
    temperature: float = option(1.0, gt=0, help="what logits are divided by before a token is drawn")
    top_p: float = option(1.0, gt=0, le=1, help="draw among the likeliest tokens that sum up to this probability")

    @property
    def retrieves(self) -> bool:
        """Whether a validation reads retrieved passages in place of the records' own."""
        return bool(self.embedding_model or self.index)

    @property
    def search(self) -> SearchSettings | None:
        """What the retrieval settings ask for, without an index where one is made; None without retrieval."""
        if not self.retrieves:
            return None
        index = self.index if isinstance(self.index, list) else [self.index] if self.index else []
        return SearchSettings(
            index=tuple(index),
            retriever="dense" if self.embedding_model and len(index) == 1 else None,
            embedding_model=self.embedding_model or None,
            fusion=self.fusion,
            fusion_weights=None if self.fusion_weights is None else tuple(self.fusion_weights),
            fusion_depth=self.fusion_depth,
            rerank=self.rerank,
            rerank_depth=self.rerank_depth,
        )

    @property
    def generation_length(self) -> int:
        """Tokens of the longest answer that is generated."""
        raise NotImplementedError("each task has its own default")

    @property
    def generation(self) -> dict[str, Any]:
        """The arguments of transformers' ``generate``."""
        names = ("num_beams", "length_penalty", "early_stopping", "no_repeat_ngram_size", "min_new_tokens", "do_sample")
        # top_k: transformers would draw among 50 tokens unasked
        drawn = {"temperature": self.temperature, "top_p": self.top_p, "top_k": 0} if self.do_sample else {}
        return {name: getattr(self, name) for name in names} | {"max_new_tokens": self.generation_length, **drawn}

    def errors(self) -> Iterator[FieldError]:
        for names, other, met, rule in (
            (("temperature", "top_p"), "do_sample", self.do_sample, "do_sample: true"),
            (("length_penalty", "early_stopping"), "num_beams", self.num_beams != 1, "num_beams of at least 2"),
        ):
            for name in names:
                if not met and (value := getattr(self, name)) != (name != "early_stopping"):  # 1.0 or False: unset
                    yield FieldError((name, other), f"needs {rule} beside it, got {name} {show(value)} without")
        lengths = (self.min_new_tokens, self.generation_length)  # of another type where they break their own rule
        if all(isinstance(length, int) for length in lengths) and lengths[0] > lengths[1]:
            text = f"must be at most the longest answer ({self.generation_length:,}), got {self.min_new_tokens:,}"
            yield FieldError(("min_new_tokens", "max_new_tokens"), text)
        yield from format_errors(self.format, self.fields)
        if self.corpus_file is not None and not self.embedding_model:
            yield FieldError(("corpus_file", "embedding_model"), "needs embedding_model, got none")
        if self.corpus_file is not None and self.index is not None:
            yield FieldError(("corpus_file", "index"), "is ignored beside index: give one of the two")
        yield from self._search_errors()

    def _search_errors(self) -> Iterator[FieldError]:
        fields = ("index", "fusion", "fusion_weights", "fusion_depth", "rerank", "rerank_depth")
        for name, kinds, rule in (
            ("index", str, "a folder or a list of folders"),
            ("fusion_weights", int | float, "a list of numbers"),
        ):
            values = getattr(self, name)
            if isinstance(values, list) and not all(isinstance(value, kinds) and value != "" for value in values):
                yield FieldError((name,), f"must be {rule}, got {show(values)}")
                return
        try:
            lines = self.search.errors() if self.search is not None else []
        except TypeError:  # a field of another type, which breaks its own rule
            return
        queries = ("query_template", "query_rewriter")
        if self.search is None:
            given = [name for name in (*fields, *queries) if getattr(self, name) is not None]
            lines = [f"{name}: needs index or embedding_model, got neither" for name in given]
        elif isinstance(self.query_template, str) and (error := template_error(self.query_template)):
            lines.append(f"query_template: {error}")
        for name, _, text in (line.partition(": ") for line in lines):
            yield FieldError((name, *(other for other in fields if other != name)), text)
