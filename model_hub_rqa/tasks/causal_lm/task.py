"""A causal language model that reads passages and a question, and generates the answer."""

import dataclasses
import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from model_hub_rqa.data.predictions import question_of
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.models.limits import Limits
from model_hub_rqa.records import Question
from model_hub_rqa.registry import TASKS
from model_hub_rqa.tasks.base import Variant
from model_hub_rqa.tasks.causal_lm.features import (
    ChatPrompt,
    GenerationCollator,
    GenerationFeatureBuilder,
    build_generation_features,
    end_ids,
    left_padded_prompts,
    padding_id,
)
from model_hub_rqa.tasks.causal_lm.settings import GenerationKwargs
from model_hub_rqa.tasks.extractive.model import longest_window
from model_hub_rqa.tasks.fid.model import end_of_answers
from model_hub_rqa.tasks.passages.generation import answer_losses, generate
from model_hub_rqa.tasks.passages.task import Generated, PassageTask


@TASKS.register("causal-lm")
class CausalLM(PassageTask):
    """Supervised fine-tuning on passages, a question and its answer; the loss is on the answer and its end alone.

    The loss is the mean over a batch's answers of the mean over an answer's tokens, so it does not depend on how a
    batch is divided among ranks. A validation reports eval_loss, the mean over the tokens of all answers; it generates
    answers (greedily, unless num_beams or do_sample say otherwise) and reports exact_match, f1 and rougeL in percent,
    but for ``predict_with_generate: false``. A checkpoint may be asked without passages as well.
    """

    name, description = "causal-lm", "a causal language model"
    model_mode, Settings = "causal-lm", GenerationKwargs
    metric, smaller_is_better = "eval_loss", True
    scores_answers = True

    @property
    def higher_is_better(self) -> Mapping[str, bool | None]:
        generates = any(one.settings.predict_with_generate for one in self._variants if one.split == "validation")
        return {**(super().higher_is_better if generates else {}), "eval_loss": False}

    @classmethod
    def reads(cls, config: Any) -> bool:
        names = getattr(config, "architectures", None) or ()
        return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names) and causal_lm_error(config) is None

    # ---- settings against the model ----

    @property
    def _variants(self) -> list[Variant]:
        return self.variants or [Variant(split, "", self.settings) for split in ("train", "validation")]

    def check(self) -> None:
        if self.tokenizer is None:
            raise ConfigError("hyperparameters.tokenizer_name: is required to generate answers")
        errors: dict[str, None] = {}
        if self.config is not None and (wrong := causal_lm_error(self.config)):
            errors[f"hyperparameters.pretrained_model_name_or_path: {wrong}"] = None
        limit = self.longest_window
        for variant in self._variants:
            settings = variant.settings
            generated = settings.max_new_tokens if settings.predict_with_generate else 0
            if settings.max_length + generated > limit:
                added = f" with max_new_tokens ({generated})" if generated else ""
                line = (
                    f"{variant.path}.max_length: must be at most {limit:,}{added}, the longest that this model takes, "
                    f"got {settings.max_length:,}"
                )
                errors[line] = None
            try:
                ChatPrompt(self.tokenizer, settings)
            except ConfigError as error:
                errors |= dict.fromkeys(error.errors)
        if errors:
            raise ConfigError(errors)

    def adapt_to_checkpoint(
        self, config: Any, tokenizer: Any, limits: Limits, folder: Path, given: Collection[str]
    ) -> None:
        prompt, answer = self.settings.max_length, self.settings.max_new_tokens
        room = longest_window(limits, tokenizer)
        first = next((name for name in ("max_length", "max_new_tokens") if name in given), None)
        if first is not None and prompt + answer > room:
            name, value = ("max_new_tokens", answer) if first == "max_length" else ("max_length", prompt)
            raise ConfigError(
                f"{first}: must be at most {max(0, room - value):,} with {name} ({value:,}), the longest that {folder} "
                f"takes, got {getattr(self.settings, first):,}"
            )
        self.settings = dataclasses.replace(self.settings, max_length=min(prompt, room - answer))

    @property
    def longest_window(self) -> int:
        """Tokens of the longest text that model and tokenizer take."""
        return longest_window(self.limits, self.tokenizer)

    # ---- features and batches ----

    def features(self, examples: Any, *, training: bool) -> Any:
        if training or self.wants_loss:
            builder = GenerationFeatureBuilder(self.tokenizer, self.settings)
            return build_generation_features(
                examples,
                builder,
                on_bad_record=self.on_bad_record,
                split=f"data.{'train' if training else 'validation'}{f' {self.dataset}' if self.dataset else ''}",
                overwrite_cache=self.overwrite_cache,
            )
        from datasets import Dataset

        self.note_questions(examples)
        settings = dataclasses.replace(self.settings, predict_with_generate=True)
        columns = GenerationFeatureBuilder(self.tokenizer, settings)(examples[:], list(range(len(examples))))
        if errors := _errors(examples, columns.pop("error")):
            raise DataError(errors.values())
        return Dataset.from_dict(columns).with_format("numpy")

    def question_errors(self, questions: Sequence[Question]) -> dict[int, str]:
        examples = self.examples_of([dataclasses.replace(question, passages=()) for question in questions])
        columns = GenerationFeatureBuilder(self.tokenizer, self.settings)(examples[:], list(range(len(examples))))
        return _errors(examples, columns["error"])

    def collate(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        return self.collator(features)

    @property
    def collator(self) -> GenerationCollator:
        return GenerationCollator(self.tokenizer, self.padding_multiple, max_length=self.longest_window)

    # ---- the model ----

    @functools.cached_property
    def end_ids(self) -> list[int]:
        """The tokens at which an answer ends: those of all data sets' templates, and the tokenizer's own."""
        return end_ids(self.tokenizer, [variant.settings for variant in self._variants])

    def prepare_model(self, model: Any) -> None:
        settings = getattr(model, "generation_config", None)
        if settings is not None:  # so that a loaded copy ends its answers
            if settings.eos_token_id is None:
                settings.eos_token_id = self.end_ids[0]
            if settings.pad_token_id is None:
                settings.pad_token_id = padding_id(self.tokenizer)

    def loss(self, model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        losses, tokens = self.answer_losses(model, batch, label_smoothing=self.label_smoothing)
        return (losses / tokens).mean()

    def answer_losses(
        self, model: Any, batch: Mapping[str, Any], *, label_smoothing: float = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The cross entropy of each answer, summed over its tokens, and how many these are, [B] each."""
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
        return next_token_losses(logits, batch["labels"], label_smoothing=label_smoothing)

    def answer_log_probs(self, model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        """The logarithm of the probability of each answer, [B]; for objectives that compare models."""
        return -self.answer_losses(model, batch)[0]

    def scoring_examples(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Any, list[int]]:
        """Each passage by itself, with the gold answer to its question: the target, or the first one."""
        errors = [f"record {row['id']}: must have an answer, whose likelihood is the score" for row in rows]
        golds = [row["target"] or next(iter(row["answers"]), "") for row in rows]
        if missing := [line for line, gold in zip(errors, golds, strict=True) if not gold]:
            raise DataError(missing)
        owners = [number for number, row in enumerate(rows) for _ in row["passages"]]
        alone = [{**row, "passages": [passage]} for row in rows for passage in row["passages"]]
        examples = self.examples_of([question_of(row) for row in alone]).remove_columns("target")
        return examples.add_column("target", [golds[number] for number in owners]), owners

    def score_passages(self, model: Any, batch: Mapping[str, Any]) -> dict[Any, list[float]]:
        """The logarithm of the likelihood of the gold answer, given the passage alone (REPLUG, Shi et al. 2023,
        arXiv:2301.12652)."""
        found = self.answer_log_probs(model, batch).tolist()
        return {index: [score] for index, score in zip(batch["example_index"].tolist(), found, strict=True)}

    def predict(self, model: Any, batch: Mapping[str, Any]) -> dict[Any, Any]:
        indices = batch["example_index"].tolist()
        columns: list[Sequence[Any]] = [[0.0] * len(indices), [0] * len(indices)]
        if self.wants_loss:
            columns = [part.tolist() for part in self.answer_losses(model, batch)]
        tokens = self.generate(model, batch)
        if self.wants_scores:
            columns.append(self._confidences(model, batch, tokens))
        rows = zip(tokens, *columns, strict=True)
        return dict(zip(indices, (Generated(*row) for row in rows), strict=True))

    def generate(self, model: Any, batch: Mapping[str, Any]) -> list[list[int] | None]:
        """The tokens of the answer to each prompt; None where predict_with_generate is false."""
        wanted = batch["predict_with_generate"]
        if not wanted.any():
            return [None] * len(wanted)
        padding, indices = padding_id(self.tokenizer), batch["example_index"][wanted].tolist()
        prompts, mask = left_padded_prompts(batch["input_ids"][wanted], batch["prompt_lengths"][wanted], padding)
        generated = generate_answers(
            model,
            prompts,
            mask,
            end_ids=self.end_ids,
            padding=padding,
            seed=self.sampling_seed(indices),
            **self.settings.generation,
        )
        rows: Iterator[list[int]] = iter(generated.tolist())
        return [next(rows) if one else None for one in wanted.tolist()]

    def _confidences(self, model: Any, batch: Mapping[str, Any], tokens: Sequence[list[int] | None]) -> list[float]:
        """The geometric mean of the probabilities of each answer's tokens, its end included."""
        labels = end_of_answers(torch.tensor(tokens), self.end_ids)
        prompts = zip(batch["input_ids"].cpu(), batch["prompt_lengths"].tolist(), strict=True)
        features = [
            {
                "input_ids": ids[:length].numpy(),
                "answer_ids": answer[answer != -100].numpy(),
                "example_index": 0,
                "predict_with_generate": True,
            }
            for (ids, length), answer in zip(prompts, labels, strict=True)
        ]
        answered = {name: column.to(batch["input_ids"].device) for name, column in self.collate(features).items()}
        losses, counts = self.answer_losses(model, answered)
        means: list[float] = (-losses / counts.clamp_min(1)).exp().tolist()
        return means

    def metrics(self, results: Sequence[Any], examples: Any) -> dict[str, float]:
        return {**self.answer_metrics(results, examples), "eval_loss": self.mean_loss(results)}


def _errors(examples: Any, errors: Sequence[str]) -> dict[int, str]:
    """The error of each example that has one, named by the record's id or the question."""
    rows = zip(examples["id"], examples["question"], errors, strict=True)
    named = ((f"record {id_}" if id_ else f"question {text[:60]!r}", error) for id_, text, error in rows)
    return {number: f"{name}: {error}" for number, (name, error) in enumerate(named) if error}


def next_token_losses(
    logits: torch.Tensor, labels: torch.Tensor, *, label_smoothing: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """`answer_losses` of a model that predicts each token [B, T] from those before it; the first is never learned.

    >>> next_token_losses(torch.zeros(1, 3, 4), torch.tensor([[-100, 2, 1]]))
    (tensor([2.7726]), tensor([2]))
    """
    targets = labels[:, 1:]
    kept = (targets != -100).any(dim=0)  # columns of prompts alone need no softmax over the vocabulary
    return answer_losses(logits[:, :-1][:, kept], targets[:, kept], label_smoothing=label_smoothing)


def generate_answers(
    model: Any,
    prompts: torch.Tensor,
    mask: torch.Tensor,
    *,
    end_ids: Sequence[int],
    padding: int,
    seed: Sequence[int] = (0,),
    **settings: Any,
) -> torch.Tensor:
    """What a model writes behind prompts.

    Args:
        model: a causal language model of transformers.
        prompts: [B, T], padded on the left; mask: [B, T], 1 for their tokens.
        end_ids: the tokens at which an answer ends.
        padding: the token behind an answer's end.
        seed, settings: as `generate` has them: num_beams, max_new_tokens ...

    Returns:
        The tokens of the answers alone, [B, at most max_new_tokens].
    """
    ends = {"eos_token_id": list(end_ids), "pad_token_id": padding}
    inputs = {"input_ids": prompts, "attention_mask": mask}
    generated = generate(model, inputs, seed=seed, use_cache=True, **ends, **settings)
    return generated[:, prompts.shape[1] :]


def causal_lm_error(config: Any) -> str | None:
    """Why a model of this config is no causal language model, or None."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    if config.is_encoder_decoder:
        return f"must name a causal language model, got a {config.model_type} (FiDTrial takes encoder-decoders)"
    encodes = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or encodes:
        return f"must name a causal language model, got a {config.model_type}"
    return None
