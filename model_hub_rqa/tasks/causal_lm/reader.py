"""The reader that is one causal language model, which `GenerationTrial` trains."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from model_hub_rqa.checkpoints import pretrained_folder
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.records import Answer, Question
from model_hub_rqa.tasks.causal_lm.settings import GenerationKwargs
from model_hub_rqa.tasks.passages.answer_text import AnswerDecoder
from model_hub_rqa.tasks.reading import answer_texts, load_pretrained, question_columns, sampling_seed, trained_settings


class GenerationReader:
    """Writes the answer behind a prompt of passages and a question; it may be asked without passages as well.

    Args:
        model: a causal language model of transformers.
        tokenizer: its fast tokenizer.
        settings: prompt, lengths and how answers are searched for; by default those that the model was trained with.
        batch_size: questions read at a time.
    """

    def __init__(self, model: Any, tokenizer: Any, settings: GenerationKwargs, *, batch_size: int = 8) -> None:
        import torch

        from model_hub_rqa.tasks.causal_lm.features import GenerationCollator, GenerationFeatureBuilder, end_ids

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device).eval()
        self.tokenizer = tokenizer
        self.decoder = AnswerDecoder(tokenizer)
        self.settings = settings
        self.batch_size = batch_size
        self.builder = GenerationFeatureBuilder(tokenizer, settings)
        self.collator = GenerationCollator(tokenizer)
        self.end_ids = end_ids(tokenizer, [settings])

    @property
    def n_context(self) -> int | None:
        """Passages read for a question; None for all that it has."""
        return self.settings.n_context

    @classmethod
    def from_pretrained(cls, path: str | Path, *, batch_size: int = 8, **settings: Any) -> "GenerationReader":
        """Loads a run's folder, a checkpoint, or a ``save_pretrained`` folder.

        Args:
            path: the folder; a checkpoint is verified against its manifest first.
            settings: fields of GenerationKwargs to use instead of those the model was trained with.

        Raises:
            CheckpointError: no such folder, a damaged one, or not a causal language model's.
        """
        from transformers import AutoModelForCausalLM

        from model_hub_rqa.models.limits import model_limits
        from model_hub_rqa.tasks.extractive.model import longest_window

        folder = pretrained_folder(Path(path))
        parsed = trained_settings(folder, GenerationKwargs, settings)
        folder, model, tokenizer = load_pretrained(folder, AutoModelForCausalLM, "a causal language model")
        room = longest_window(model_limits(model), tokenizer)
        prompt, answer = parsed.max_length, parsed.max_new_tokens
        given = next((name for name in ("max_length", "max_new_tokens") if name in settings), None)
        if given is not None and prompt + answer > room:
            name, value = ("max_new_tokens", answer) if given == "max_length" else ("max_length", prompt)
            raise ConfigError(
                f"{given}: must be at most {max(0, room - value):,} with {name} ({value:,}), the longest that {folder} "
                f"takes, got {settings[given]:,}"
            )
        return cls(model, tokenizer, replace(parsed, max_length=min(prompt, room - answer)), batch_size=batch_size)

    def read_passages(self, questions: Sequence[Question], *, scores: bool = False) -> list[Answer]:
        """As :class:`~model_hub_rqa.tasks.reading.Reader` says, but passages are not required; at most
        ``settings.n_context`` of them are read, and cut at their end where the prompt exceeds ``settings.max_length``.

        Raises:
            DataError: every question that is too long by itself, or that the chat template refuses.
        """
        features = self._features(questions)
        answers: dict[int, Answer] = {}
        for numbers in self._batches(features):
            batch = [features[number] for number in numbers]
            asked = [questions[number] for number in numbers]
            answers.update(zip(numbers, self._answer(batch, asked, scores), strict=True))
        return [answers[number] for number in range(len(questions))]

    def errors(self, questions: Sequence[Question]) -> dict[int, str]:
        """Why questions cannot be read, whatever their passages, by their place in ``questions``; {} for none."""
        return self._errors(questions, self._columns([replace(question, passages=()) for question in questions]))

    def _features(self, questions: Sequence[Question]) -> list[dict[str, Any]]:
        columns = self._columns(questions)
        if errors := self._errors(questions, columns):
            raise DataError(errors.values())
        return [{name: column[number] for name, column in columns.items()} for number in range(len(questions))]

    def _columns(self, questions: Sequence[Question]) -> dict[str, list[Any]]:
        rows = {**question_columns(questions, self.n_context), "answers": [[""] for _ in questions]}
        return self.builder(rows, list(range(len(questions))))

    @staticmethod
    def _errors(questions: Sequence[Question], columns: dict[str, list[Any]]) -> dict[int, str]:
        names = [f"record {one.id}" if one.id else f"question {one.text[:60]!r}" for one in questions]
        return {number: f"{names[number]}: {error}" for number, error in enumerate(columns["error"]) if error}

    def _batches(self, features: Sequence[dict[str, Any]]) -> Iterator[list[int]]:
        from model_hub_rqa.data.batching import EvalBatchSampler

        for numbers in EvalBatchSampler([feature["length"] for feature in features], self.batch_size):
            yield list(numbers)

    def _answer(self, features: list[dict[str, Any]], questions: Sequence[Question], scores: bool) -> list[Answer]:
        import torch

        from model_hub_rqa.tasks.causal_lm.features import left_padded_prompts
        from model_hub_rqa.tasks.causal_lm.model import generate_answers

        batch, padding = self.collator(features), self.collator.padding
        prompts, mask = left_padded_prompts(batch["input_ids"], batch["prompt_lengths"], padding)
        with torch.inference_mode():
            written = generate_answers(
                self.model,
                prompts.to(self.device),
                mask.to(self.device),
                end_ids=self.end_ids,
                padding=padding,
                seed=sampling_seed(questions),
                **self.settings.generation,
            )
            texts = answer_texts(self.decoder, written, questions, self.n_context)
            if not scores:
                return [Answer(text) for text in texts]
            sure = self._probabilities(features, written)
        return [Answer(text, probability) for text, probability in zip(texts, sure, strict=True)]

    def _probabilities(self, features: list[dict[str, Any]], written: Any) -> list[float]:
        """The geometric mean of the probabilities of each answer's tokens, its end included."""
        from model_hub_rqa.tasks.causal_lm.model import answer_losses
        from model_hub_rqa.tasks.fid.model import end_of_answers

        labels = end_of_answers(written, self.end_ids).cpu()
        answered = [
            {**feature, "answer_ids": answer[answer != -100].numpy()}
            for feature, answer in zip(features, labels, strict=True)
        ]
        batch = self.collator(answered)
        inputs = {name: batch[name].to(self.device) for name in ("input_ids", "attention_mask")}
        losses, tokens = answer_losses(self.model(**inputs, use_cache=False).logits, batch["labels"].to(self.device))
        means: list[float] = (-losses / tokens.clamp_min(1)).exp().tolist()
        return means
