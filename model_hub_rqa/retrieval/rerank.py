"""Reranking: the first hits of a retriever in the order of a model that reads query and passage together.

A cross-encoder (Nogueira and Cho 2019, "Passage re-ranking with BERT", arXiv:1901.04085) is far slower than an index,
and better, so that it scores the first hits alone.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from model_hub_rqa.checkpoints import pretrained_folder
from model_hub_rqa.errors import CheckpointError, ConfigError, DataError
from model_hub_rqa.libraries import missing_libraries, require
from model_hub_rqa.models.hub import CONFIG_FILES, check_model_name
from model_hub_rqa.records import Hit, Passage
from model_hub_rqa.registry import RERANKERS, RegisteredObject
from model_hub_rqa.retrieval.base import (
    Report,
    Retriever,
    Stage,
    check_k,
    fingerprint_of,
    json_sum,
    no_report,
    passage_text,
    search_stages,
    timed,
)
from model_hub_rqa.retrieval.encoder import tokenizer_sum, weights_sum

RERANK_DEPTH = 100
_CROSS_ENCODER = "cross-encoder"
_PAIRS_AT_ONCE = 2048  # scored between two reports, sorted by length among themselves
_MODULES = "modules.json"
_TYPE_FILE = "config_sentence_transformers.json"
_SCORING_HEADS = ("ForSequenceClassification", "ForCausalLM")


class Reranker(Protocol):
    """Scores passages for queries."""

    def score(self, pairs: Sequence[tuple[str, Passage]]) -> Sequence[float]:
        """A finite number for each pair of a query and a passage: the higher, the better the passage."""
        ...


class RerankedRetriever:
    """Puts the first hits of a retriever in the order of a reranker; the others follow in their own order.

    Args:
        retriever: finds the hits.
        reranker: scores them.
        depth: hits of a query that are scored.
        name: of the retriever's stage, where it has no ``search_stages``.
        report: told of the progress: queries done, and in all.

    Attributes:
        fingerprint: says all that a search depends on.

    Raises:
        ConfigError: depth is below 1.
    """

    def __init__(
        self,
        retriever: Retriever,
        reranker: Reranker,
        *,
        depth: int = RERANK_DEPTH,
        name: str = "retriever",
        report: Report = no_report,
    ) -> None:
        if depth < 1:
            raise ConfigError(f"rerank_depth: must be at least 1, got {depth}")
        self.retriever = retriever
        self.reranker = reranker
        self.depth = depth
        self.name = name
        self.report = report

    @property
    def fingerprint(self) -> str:
        return repr(("rerank", self.depth, fingerprint_of(self.retriever), fingerprint_of(self.reranker)))

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As :class:`~model_hub_rqa.retrieval.base.Retriever` says, with the reranker's scores. Equal ones keep the
        retriever's order. The scores of hits that were not scored are shifted so that they go on where those end."""
        return self.search_stages(queries, k)[-1].hits

    def search_stages(self, queries: Sequence[str], k: int) -> list[Stage]:
        """The retriever's stages, ``max(k, depth)`` hits, and the reranking, ``k`` hits.

        Raises:
            ConfigError: ``k`` is below 1.
            DataError: the reranker gave scores too few or too many, or one that is not finite.
        """
        check_k(k)
        stages = search_stages(self.name, self.retriever, queries, max(k, self.depth))
        return [*stages, timed("rerank", lambda: self._rerank(queries, stages[-1].hits, k))]

    def _rerank(self, queries: Sequence[str], found: Sequence[Sequence[Hit]], k: int) -> list[list[Hit]]:
        results: list[list[Hit]] = []
        at_once = max(_PAIRS_AT_ONCE // self.depth, 1)
        for begin in range(0, len(queries), at_once):
            heads = [hits[: self.depth] for hits in found[begin : begin + at_once]]
            asked = queries[begin : begin + at_once]
            pairs = [(query, hit.passage) for query, head in zip(asked, heads, strict=True) for hit in head]
            scores = iter(self._scores(pairs))
            for head, hits in zip(heads, found[begin : begin + at_once], strict=True):
                scored = [Hit(hit.passage, next(scores)) for hit in head]
                results.append(_joined(scored, hits[self.depth :])[:k])
            self.report("reranking", begin + len(asked), len(queries))
        return results

    def _scores(self, pairs: list[tuple[str, Passage]]) -> list[float]:
        scores = [float(score) for score in self.reranker.score(pairs)] if pairs else []
        if len(scores) != len(pairs):
            raise DataError(f"rerank: was asked {len(pairs)} pairs, gave {len(scores)} scores")
        if not all(map(math.isfinite, scores)):
            raise DataError("rerank: gives scores that are not finite")
        return scores


def _joined(scored: list[Hit], others: Sequence[Hit]) -> list[Hit]:
    """Scored hits, the best first, and after them the others, whose scores are shifted to begin with the last one's."""
    ranked = sorted(scored, key=lambda hit: -hit.score)
    if not others:
        return ranked
    shift = ranked[-1].score - others[0].score
    return [*ranked, *(Hit(hit.passage, hit.score + shift) for hit in others)]


@RERANKERS.register(_CROSS_ENCODER)
class CrossEncoderReranker:
    """A CrossEncoder of sentence-transformers. It reads the query, and the passage's title and text.

    Args:
        model: a folder, a run or a checkpoint (as `pretrained_folder` takes them), or a name on the hub.
        batch_size: pairs scored at a time, those of like length together.
        max_seq_length: tokens read of a pair; None for the model's own limit.

    Attributes:
        fingerprint: says all that the scores depend on.

    Raises:
        ConfigError: an argument breaks a rule, the model cannot be loaded, or does not give one score for a pair.
    """

    def __init__(self, model: str, batch_size: int = 32, max_seq_length: int | None = None) -> None:
        source, errors = _checked(model, batch_size, max_seq_length)
        if errors:
            raise ConfigError(errors)
        self.batch_size = batch_size
        self._model = _load(source)
        if error := _head_error(source):  # of the hub, only now are its files here
            raise ConfigError(error)
        if self._model.num_labels != 1:
            raise ConfigError(f"model: must give one score for a pair, got {self._model.num_labels} of {model!r}")
        if max_seq_length is not None:
            from model_hub_rqa.models.limits import model_limits

            limit = model_limits(self._model.model).tokens
            if max_seq_length > limit:
                raise ConfigError(f"max_seq_length: must be at most {limit}, the longest input, got {max_seq_length}")
            self._model.max_seq_length = max_seq_length

    @property
    def fingerprint(self) -> str:
        model = self._model
        settings = [model.max_seq_length, repr(model.activation_fn), model.prompts, model.default_prompt_name]
        return json_sum([weights_sum(model), tokenizer_sum(model.tokenizer), settings])

    def score(self, pairs: Sequence[tuple[str, Passage]]) -> list[float]:
        """What ``CrossEncoder.predict`` gives for each pair; in float64, whose sigmoid tells large logits apart."""
        import torch

        texts = [(query, passage_text(passage)) for query, passage in pairs]
        plain = {"activation_fn": torch.nn.Identity(), "show_progress_bar": False}
        logits = torch.as_tensor(self._model.predict(texts, batch_size=self.batch_size, **plain), dtype=torch.float64)
        scores: list[float] = self._model.activation_fn(logits).tolist()
        return scores


def _checked(model: str, batch_size: int = 32, max_seq_length: int | None = None) -> tuple[str, list[str]]:
    """What is loaded (a folder, or a name on the hub), and why it cannot be, as far as that shows before."""
    errors = missing_libraries("sentence_transformers")
    for name, value in (("batch_size", batch_size), ("max_seq_length", max_seq_length)):
        if value is not None and value < 1:
            errors.append(f"{name}: must be at least 1, got {value}")
    try:
        folder = Path(model)
        nested = (folder / _MODULES).is_file() and not (folder / CONFIG_FILES[0]).is_file()
        source = str(pretrained_folder(folder)) if (folder.is_dir() or "@" in model) and not nested else model
    except CheckpointError as damage:
        return model, [*errors, *(f"model: {line}" for line in damage.errors)]
    error = check_model_name("model", source, files=(_MODULES, *CONFIG_FILES)) or _head_error(source)
    return source, errors if error is None else [*errors, error]


def _head_error(source: str) -> str | None:
    """Why a model has no weights that score a pair, where its files are here: sentence-transformers would draw them."""
    names = _config(source, CONFIG_FILES[0]).get("architectures") or ["a model without a name"]
    if _config(source, _TYPE_FILE).get("model_type") == "CrossEncoder" or names[0].endswith(_SCORING_HEADS):
        return None
    if not _config(source, CONFIG_FILES[0]) and not os.path.isdir(source):
        return None
    return f"model: must be a cross-encoder, with weights that score a pair, got {', '.join(names)} in {source!r}"


def _config(source: str, name: str) -> Mapping[str, Any]:
    from huggingface_hub import try_to_load_from_cache

    path = os.path.join(source, name) if os.path.isdir(source) else try_to_load_from_cache(source, name)
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8")) if isinstance(path, str) else {}
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, Mapping) else {}


def _load(source: str) -> Any:
    library = require("sentence_transformers")
    import torch

    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # for weights that a checkpoint lacks
            return library.CrossEncoder(source)
    except Exception as error:  # the hub client, safetensors and transformers each raise their own kinds
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"model: cannot load {source!r}: {type(error).__name__}: {reason}") from error


def parse_reranker(choice: Any) -> RegisteredObject:
    """What a configuration chose: ``MODEL``, a registered name, ``package.module:object``, or a mapping with arguments.

    Args:
        choice: as it was given. A text without a colon that is no registered name is the model of a cross-encoder.

    Raises:
        ConfigError: there is no such object or model, or its arguments do not fit.
    """
    resolved = _resolve(choice)
    if resolved.factory is CrossEncoderReranker and (errors := _checked(**resolved.args)[1]):
        given = resolved.path if isinstance(choice, str) else resolved.args_path
        raise ConfigError([f"{given}: {line.removeprefix('model: ')}" for line in errors])
    return resolved


def _resolve(choice: Any) -> RegisteredObject:
    if isinstance(choice, str) and choice not in RERANKERS.names() and ":" not in choice:
        choice = {"name": _CROSS_ENCODER, "args": {"model": choice}}
    return RERANKERS.from_config(choice, "rerank")


def build_reranker(choice: Any) -> Reranker:
    """Makes what :func:`parse_reranker` takes.

    Raises:
        ConfigError: as there, or it cannot be made, or has no method ``score``.
    """
    resolved = _resolve(choice)
    reranker: Reranker = resolved.build()
    if not callable(getattr(reranker, "score", None)):
        raise ConfigError(f"{resolved.path}: {resolved.name} must make an object with a method score, got {reranker!r}")
    return reranker
