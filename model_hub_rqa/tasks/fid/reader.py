"""The Fusion-in-Decoder reader: an answer is written from all passages at once."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from model_hub_rqa.checkpoints import pretrained_folder
from model_hub_rqa.errors import DataError
from model_hub_rqa.models.precision import computes_in_bf16, warn_of_slow_bf16
from model_hub_rqa.records import Answer, Question
from model_hub_rqa.tasks.fid.settings import FusionKwargs
from model_hub_rqa.tasks.passages.answer_text import AnswerDecoder
from model_hub_rqa.tasks.reading import (
    answer_texts,
    check_lengths,
    load_pretrained,
    question_columns,
    sampling_seed,
    trained_settings,
)


class FusionReader:
    """Writes answers from passages that are fused in the decoder.

    Args:
        model: an encoder-decoder of transformers.
        tokenizer: its tokenizer.
        settings: prompt, lengths and how answers are searched for; by default those that the model was trained with.
        batch_size: questions read at a time.
        bf16: compute in bfloat16; None: where the machine has it, as `FiDTrial` does.
    """

    def __init__(
        self, model: Any, tokenizer: Any, settings: FusionKwargs, *, batch_size: int = 8, bf16: bool | None = None
    ) -> None:
        import torch

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device).eval()
        self.tokenizer = tokenizer
        self.decoder = AnswerDecoder(tokenizer)
        self.settings = settings
        self.batch_size = batch_size
        self.bf16 = computes_in_bf16(self.device.type) if bf16 is None else bf16
        if bf16:
            warn_of_slow_bf16(self.device.type, "bf16")

    @property
    def n_context(self) -> int | None:
        """Passages read for a question; None for all that it has."""
        return self.settings.n_context

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, batch_size: int = 8, bf16: bool | None = None, **settings: Any
    ) -> "FusionReader":
        """Loads a run's folder, a checkpoint, or a ``save_pretrained`` folder.

        Args:
            path: the folder; a checkpoint is verified against its manifest first.
            settings: fields of FusionKwargs to use instead of those the model was trained with.

        Raises:
            CheckpointError: no such folder, a damaged one, or not an encoder-decoder's.
        """
        from transformers import AutoModelForSeq2SeqLM

        from model_hub_rqa.models.limits import model_limits

        folder = pretrained_folder(Path(path))
        parsed = trained_settings(folder, FusionKwargs, settings)
        folder, model, tokenizer = load_pretrained(folder, AutoModelForSeq2SeqLM, "a Fusion-in-Decoder reader")
        limits = model_limits(model)
        decoder = dict.fromkeys(("max_decoder_seq_length", "max_new_tokens"), limits.decoder)
        check_lengths(settings, {"max_encoder_seq_length": limits.encoder, **decoder}, folder)
        return cls(model, tokenizer, parsed, batch_size=batch_size, bf16=bf16)

    def read_passages(self, questions: Sequence[Question], *, scores: bool = False) -> list[Answer]:
        """As :class:`~model_hub_rqa.tasks.reading.Reader` says; at most ``settings.n_context`` passages are read.

        A passage's score is its share in a softmax over those of `models.fusion.passage_scores`; 0 where it was not
        read.
        """
        missing = [question.text for question in questions if not question.passages]
        if missing:
            raise DataError(f"passages: needs at least one to answer {text!r}" for text in missing)
        answers: dict[int, Answer] = {}
        for numbers, batch in self._batches(questions):
            asked = [questions[number] for number in numbers]
            answers.update(zip(numbers, self._answer(batch, asked, scores), strict=True))
        return [answers[number] for number in range(len(questions))]

    def _batches(self, questions: Sequence[Question]) -> Iterator[tuple[list[int], dict[str, Any]]]:
        import torch

        from model_hub_rqa.data.batching import EvalBatchSampler
        from model_hub_rqa.tasks.fid.features import FusionCollator, FusionFeatureBuilder

        builder = FusionFeatureBuilder(self.tokenizer, self.settings)
        rows = {**question_columns(questions, self.n_context), "answers": [[] for _ in questions]}
        columns = builder(rows, list(range(len(questions))))
        features = [{name: column[number] for name, column in columns.items()} for number in range(len(questions))]
        collator = FusionCollator(builder)
        for numbers in EvalBatchSampler(columns["length"], self.batch_size):
            batch = collator([features[number] for number in numbers])
            yield (
                list(numbers),
                {name: value.to(self.device) for name, value in batch.items() if isinstance(value, torch.Tensor)},
            )

    def _answer(self, batch: dict[str, Any], questions: Sequence[Question], scores: bool) -> list[Answer]:
        import torch

        from model_hub_rqa.tasks.fid.model import encode_passages, fusion_generate, passage_scores

        settings = self.settings
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            fused = encode_passages(self.model, batch, encoder_chunk_size=settings.encoder_chunk_size)
            seed = sampling_seed(questions)
            written = fusion_generate(self.model, batch, fused=fused, seed=seed, **settings.generation)
            texts = answer_texts(self.decoder, written, questions, self.n_context)
            if not scores:
                return [Answer(text) for text in texts]
            sure = self._probabilities(written, fused)
            read = passage_scores(self.model, batch, fused=fused).split(batch["passage_counts"].tolist())
        shares = [found.softmax(dim=0).tolist() for found in read]
        return [
            Answer(text, probability, passage_scores=(*share, *[0.0] * (len(question.passages) - len(share))))
            for text, probability, share, question in zip(texts, sure, shares, questions, strict=True)
        ]

    def _probabilities(self, written: Any, fused: Any) -> list[float]:
        """The geometric mean of the probabilities of each answer's tokens, its end included."""
        from model_hub_rqa.tasks.fid.model import answer_losses, end_of_answers

        labels = end_of_answers(written[:, 1:], self.model.generation_config.eos_token_id)
        logits = self.model(**fused.inputs, decoder_input_ids=written[:, :-1], use_cache=False).logits
        losses, tokens = answer_losses(logits, labels)
        means: list[float] = (-losses / tokens.clamp_min(1)).exp().tolist()
        return means
