"""Readers to ask, without Determined: from a checkpoint's folder to answers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_hub_rqa.checkpoints import READER, pretrained_folder
from model_hub_rqa.config import ExtractiveKwargs, parse_dict_to_dataclasses
from model_hub_rqa.errors import CheckpointError, RqaError
from model_hub_rqa.metrics.spans import DecodedSpans, SpanCandidates, decode_spans, span_candidates
from model_hub_rqa.records import Answer

if TYPE_CHECKING:
    from datasets import Dataset


class ExtractiveReader:
    """Answers questions with a span of their context.

    Args:
        model: a question-answering model of transformers.
        tokenizer: its fast tokenizer.
        settings: window and decoding settings; by default those that the model was trained with.
        batch_size: windows read at a time.
    """

    def __init__(self, model: Any, tokenizer: Any, settings: ExtractiveKwargs, *, batch_size: int = 32) -> None:
        import torch

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device).eval()
        self.tokenizer = tokenizer
        self.settings = settings
        self.batch_size = batch_size

    @classmethod
    def from_pretrained(cls, path: str | Path, *, batch_size: int = 32, **settings: Any) -> "ExtractiveReader":
        """Loads a run's folder, a checkpoint, or a ``save_pretrained`` folder.

        Args:
            path: the folder; a checkpoint is verified against its manifest first.
            settings: fields of ExtractiveKwargs to use instead of those the model was trained with.

        Raises:
            CheckpointError: no such folder, a damaged one, or not an extractive reader's.
        """
        folder = pretrained_folder(Path(path))
        kept = {**_trained_settings(folder), **settings}
        parsed = parse_dict_to_dataclasses((ExtractiveKwargs,), kept, section=str(folder / READER))[0]
        from transformers import AutoModelForQuestionAnswering, AutoTokenizer

        try:
            model, loading = AutoModelForQuestionAnswering.from_pretrained(
                folder, dtype="auto", local_files_only=True, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except RqaError:
            raise
        except Exception as error:  # safetensors, json and transformers each raise their own kind on damage
            raise CheckpointError(f"{folder}: cannot be loaded as a question-answering model: {error}") from error
        if loading["missing_keys"]:
            missing = ", ".join(sorted(loading["missing_keys"])[:5])
            raise CheckpointError(f"{folder}: holds no trained extractive reader: weights missing for {missing}")
        return cls(model, tokenizer, parsed, batch_size=batch_size)

    def answer(self, question: str, context: str) -> Answer:
        """The answer to one question; its score is a probability among the n best, 0 to 1."""
        decoded = self.read([{"id": "0", "question": question, "context": context}])["0"]
        start, end = decoded.spans[decoded.best]
        return Answer(decoded.prediction, decoded.n_best[decoded.best]["probability"], start, end)

    def read(self, examples: "Sequence[Mapping[str, str]] | Dataset") -> dict[str, DecodedSpans]:
        """Reads examples with id, question and context; returns what is decoded, by id, in their order."""
        from datasets import Dataset

        if not isinstance(examples, Dataset):
            examples = Dataset.from_list([dict(example) for example in examples])
        candidates: dict[int, dict[int, SpanCandidates]] = {}
        for batch in self._batches(examples):
            for example, feature, found in batch:
                candidates.setdefault(example, {})[feature] = found
        return {
            key: decode_spans(
                context,
                [candidates[i][feature] for feature in sorted(candidates[i])],
                n_best_size=self.settings.n_best_size,
                version_2_with_negative=self.settings.version_2_with_negative,
                null_score_diff_threshold=self.settings.null_score_diff_threshold,
            )
            for i, (key, context) in enumerate(zip(examples["id"][:], examples["context"][:], strict=True))
        }

    def _batches(self, examples: "Dataset") -> Any:
        import torch

        from model_hub_rqa.data.batching import EvalBatchSampler
        from model_hub_rqa.data.extractive import ExtractiveCollator, FeatureBuilder, build_features
        from model_hub_rqa.models.extractive import span_logits

        builder = FeatureBuilder(
            self.tokenizer,
            max_seq_length=self.settings.max_seq_length,
            doc_stride=self.settings.doc_stride,
            labels=False,
        )
        features = build_features(examples, builder)
        loader = torch.utils.data.DataLoader(
            features,
            batch_sampler=EvalBatchSampler(features["length"][:], self.batch_size),
            collate_fn=ExtractiveCollator(self.tokenizer),
        )
        for batch in loader:
            batch = {name: values.to(self.device) for name, values in batch.items()}
            with torch.inference_mode():
                start_logits, end_logits = span_logits(self.model, batch)
            found = span_candidates(
                start_logits.cpu().numpy(),
                end_logits.cpu().numpy(),
                batch["offsets"].cpu().numpy(),
                batch["cls_index"].cpu().numpy(),
                n_best_size=self.settings.n_best_size,
                max_answer_length=self.settings.max_answer_length,
            )
            yield list(zip(batch["example_index"].tolist(), batch["feature_index"].tolist(), found, strict=True))


def _trained_settings(folder: Path) -> dict[str, Any]:
    """The settings that training left beside the weights; the defaults where another tool wrote the folder."""
    try:
        settings = json.loads((folder / READER).read_text(encoding="utf-8"))
        return {field.name: settings[field.name] for field in fields(ExtractiveKwargs) if field.name in settings}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / READER}: cannot be read: {error}") from error
