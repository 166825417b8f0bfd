"""GenerationTrial: a causal language model that reads passages and a question, and writes the answer."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import torch

from model_hub_rqa.errors import ConfigError, Faults
from model_hub_rqa.models.signature import unwrapped
from model_hub_rqa.tasks.causal_lm.features import (
    ChatPrompt,
    GenerationCollator,
    GenerationFeatureBuilder,
    build_generation_features,
    end_ids,
    left_padded_prompts,
    padding_id,
)
from model_hub_rqa.tasks.causal_lm.model import answer_losses, causal_lm_fault, generate_answers
from model_hub_rqa.tasks.causal_lm.settings import GenerationKwargs
from model_hub_rqa.tasks.extractive.model import longest_window
from model_hub_rqa.trials.passages import PassageTrial
from model_hub_rqa.trials.reducers import Values


class GenerationTrial(PassageTrial):
    """Supervised fine-tuning on passages, a question and its answer; the loss is on the answer and its end alone.

    The loss is the mean over a batch's answers of the mean over an answer's tokens, so it does not depend on how a
    batch is divided among ranks. A validation reports eval_loss, the mean over the tokens of all answers; it writes
    answers (greedily, unless num_beams or do_sample say otherwise) and reports exact_match, f1 and rougeL in percent,
    but for ``predict_with_generate: false``. Where it reads retrieved passages, it is end to end and reports
    `document_metrics` as well.
    """

    default_model_mode = "causal-lm"
    default_metric = "eval_loss"
    smooths_labels = True
    task_kwargs = GenerationKwargs
    settings: GenerationKwargs

    @property
    def higher_is_better(self) -> Mapping[str, bool | None]:
        settings = [one for (side, _), one in self.settings_of_sets.items() if side == "validation"]
        generates = any(one.predict_with_generate for one in settings)
        return {**(super().higher_is_better if generates else {}), "eval_loss": False}

    # ---- configuration and data ----

    def check(self) -> None:
        if self.tokenizer is None:
            raise ConfigError(f"hyperparameters.tokenizer_name: is required by {type(self).__name__}")
        faults = []
        if self.config is not None and (fault := causal_lm_fault(self.config)):
            faults.append(f"hyperparameters.pretrained_model_name_or_path: {fault}")
        limit = longest_window(self.limits, self.tokenizer)
        for key, settings in self.settings_of_sets.items():
            place = self._place(*key) if key in self.set_settings else "data"
            written = settings.max_new_tokens if settings.predict_with_generate else 0
            if settings.max_length + written > limit:
                added = f" with max_new_tokens ({written})" if written else ""
                line = (
                    f"{place}.max_length: must be at most {limit:,}{added}, the longest that this model takes, "
                    f"got {settings.max_length:,}"
                )
                faults += [line] if line not in faults else []
            try:
                ChatPrompt(self.tokenizer, settings)
            except ConfigError as error:
                faults += [line for line in error.problems if line not in faults]
        if faults:
            raise ConfigError(faults)

    @functools.cached_property
    def settings_of_sets(self) -> dict[tuple[str, str], GenerationKwargs]:
        """The task's settings as each data set has them, by its side and name; a set may bring some of its own."""
        faults: dict[str, None] = {}
        found = {}
        for side, sets in self.sets.items():
            for name in sets or [""]:
                try:
                    found[side, name] = dataclasses.replace(self.settings, **self.set_settings.get((side, name), {}))
                except ConfigError as error:
                    lines = (line.partition(".")[2] for line in error.problems)
                    faults |= dict.fromkeys(f"{self._place(side, name)}.{line}" for line in lines)
        if faults:
            raise ConfigError(faults)
        return found

    def _place(self, side: str, name: str) -> str:
        """Where the arguments of a registered data set stand."""
        return f"data.datasets.{name or getattr(self.data, side)}.args"

    def build_features(self, split: str) -> Any:
        from datasets import concatenate_datasets

        examples = self.passages[split]
        parts = self.sets[split] or {"": range(len(examples))}
        settings = self.settings_of_sets
        faults = Faults()
        built = [
            faults.attempt(
                build_generation_features,
                examples.select(numbers),
                GenerationFeatureBuilder(self.tokenizer, settings[split, name], first=numbers.start),
                on_bad_record=self.data.on_bad_record,
                split=f"data.{split}" + (f" {name}" if name else ""),
                overwrite_cache=self.data.overwrite_cache,
            )
            for name, numbers in parts.items()
        ]
        faults.raise_any()
        return concatenate_datasets(built).with_format("numpy")

    @functools.cached_property
    def end_ids(self) -> list[int]:
        """The tokens at which an answer ends: those of all data sets' templates, and the tokenizer's own."""
        return end_ids(self.tokenizer, self.settings_of_sets.values())

    def build_collator(self) -> GenerationCollator:
        return GenerationCollator(
            self.tokenizer, self.pad_to_multiple_of, max_length=longest_window(self.limits, self.tokenizer)
        )

    # ---- model ----

    def build_model(self) -> torch.nn.Module:
        model: Any = super().build_model()
        settings = getattr(model, "generation_config", None)
        if settings is not None:  # so that a loaded copy ends its answers
            if settings.eos_token_id is None:
                settings.eos_token_id = self.end_ids[0]
            if settings.pad_token_id is None:
                settings.pad_token_id = padding_id(self.tokenizer)
        return model

    # ---- training and evaluation ----

    def compute_loss(self, batch: dict[str, Any]) -> torch.Tensor:
        smoothing = self.trainer.label_smoothing_factor
        losses, tokens = self.answer_losses(self.model, batch, label_smoothing=smoothing)
        return (losses / tokens).mean()

    def answer_losses(
        self, model: Any, batch: Mapping[str, Any], *, label_smoothing: float = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The cross entropy of each answer, summed over its tokens, and how many these are, [B] each."""
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
        return answer_losses(logits, batch["labels"], label_smoothing=label_smoothing)

    def answer_log_probs(self, model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        return -self.answer_losses(model, batch)[0]

    def evaluate_batch(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        model = unwrapped(self.model)  # ranks may have different numbers of batches
        with self.autocast():
            losses, tokens = self.answer_losses(model, batch)
            texts = self.write_answers(model, batch)
        values = zip(losses.tolist(), tokens.tolist(), texts, strict=True)
        self.reducer.update(dict(zip(batch["example_index"].tolist(), values, strict=True)))
        return {}

    def write_answers(self, model: Any, batch: Mapping[str, Any]) -> list[str | None]:
        """The answer to each prompt; None where predict_with_generate is false."""
        wanted = batch["predict_with_generate"]
        if not wanted.any():
            return [None] * len(wanted)
        padding, indices = padding_id(self.tokenizer), batch["example_index"][wanted].tolist()
        prompts, mask = left_padded_prompts(batch["input_ids"][wanted], batch["prompt_lengths"][wanted], padding)
        written = generate_answers(
            model,
            prompts,
            mask,
            end_ids=self.end_ids,
            padding=padding,
            seed=(self.seed, *indices),
            **self.settings.generation,
        )
        found = iter(self.answer_texts(written, indices))
        return [next(found) if one else None for one in wanted.tolist()]

    def compute_metrics(self, values: Values) -> dict[str, float]:
        losses, tokens, texts = zip(*values.values(), strict=True)
        answered = [number for number, text in zip(values, texts, strict=True) if text is not None]
        scores = self.answer_metrics(answered, [text for text in texts if text is not None]) if answered else {}
        return {**scores, "eval_loss": sum(losses) / sum(tokens)}
