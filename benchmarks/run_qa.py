"""The peer in extractive reading: what transformers' run_qa example does, written anew from its description.

Features are made in ``Dataset.map`` with a loop over windows, everything is padded to max_seq_length, the Trainer
trains, and n-best lists are found with two loops over every window's best starts and ends.
"""

import tempfile
from collections import defaultdict
from typing import Any

import numpy as np
from datasets import Dataset

MAX_SEQ_LENGTH, DOC_STRIDE, N_BEST, MAX_ANSWER_LENGTH = 384, 128, 20, 30


def train_features(examples: Dataset, tokenizer: Any, *, padding: str | bool = "max_length") -> Dataset:
    """Windows with start and end positions."""

    def prepare(rows: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = _encode(tokenizer, rows, padding)
        owner, offsets = encoded.pop("overflow_to_sample_mapping"), encoded.pop("offset_mapping")
        starts, ends = [], []
        for i, places in enumerate(offsets):
            cls = encoded["input_ids"][i].index(tokenizer.cls_token_id)
            start, end = _labels(rows["answers"][owner[i]], places, encoded.sequence_ids(i), cls)
            starts.append(start)
            ends.append(end)
        return {**encoded, "start_positions": starts, "end_positions": ends}

    return examples.map(prepare, batched=True, remove_columns=examples.column_names, load_from_cache_file=False)


def _labels(answers: dict[str, Any], places: list[tuple[int, int]], sequence: list[Any], cls: int) -> tuple[int, int]:
    if not answers["text"]:
        return cls, cls
    begin = answers["answer_start"][0]
    finish = begin + len(answers["text"][0])
    first = 0
    while sequence[first] != 1:
        first += 1
    last = len(sequence) - 1
    while sequence[last] != 1:
        last -= 1
    if places[first][0] > begin or places[last][1] < finish:
        return cls, cls
    while first < len(places) and places[first][0] <= begin:
        first += 1
    while places[last][1] >= finish:
        last -= 1
    return first - 1, last + 1


def evaluation_features(examples: Dataset, tokenizer: Any, *, padding: str | bool = "max_length") -> Dataset:
    """Windows with the characters of each context token, None elsewhere, and the question's id."""

    def prepare(rows: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = _encode(tokenizer, rows, padding)
        owner = encoded.pop("overflow_to_sample_mapping")
        encoded["example_id"] = []
        for i in range(len(encoded["input_ids"])):
            sequence = encoded.sequence_ids(i)
            encoded["example_id"].append(rows["id"][owner[i]])
            encoded["offset_mapping"][i] = [
                place if sequence[k] == 1 else None for k, place in enumerate(encoded["offset_mapping"][i])
            ]
        return dict(encoded)

    return examples.map(prepare, batched=True, remove_columns=examples.column_names, load_from_cache_file=False)


def _encode(tokenizer: Any, rows: dict[str, list[Any]], padding: str | bool) -> Any:
    return tokenizer(
        [question.lstrip() for question in rows["question"]],
        rows["context"],
        truncation="only_second",
        max_length=MAX_SEQ_LENGTH,
        stride=DOC_STRIDE,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding=padding,
    )


def n_best_predictions(
    examples: Dataset, features: Dataset, start_logits: np.ndarray, end_logits: np.ndarray
) -> dict[str, list[dict[str, Any]]]:
    """n-best lists by question id, as the published post-processing finds them (v1.1)."""
    windows = defaultdict(list)
    for number, key in enumerate(features["example_id"]):
        windows[key].append(number)
    found = {}
    for example in examples:
        candidates = []
        for number in windows[example["id"]]:
            starts, ends, places = start_logits[number], end_logits[number], features[number]["offset_mapping"]
            best_starts = np.argsort(starts)[-1 : -N_BEST - 1 : -1].tolist()
            best_ends = np.argsort(ends)[-1 : -N_BEST - 1 : -1].tolist()
            for start in best_starts:
                for end in best_ends:
                    if start >= len(places) or end >= len(places) or not places[start] or not places[end]:
                        continue
                    if end < start or end - start + 1 > MAX_ANSWER_LENGTH:
                        continue
                    candidates.append(
                        {
                            "offsets": (places[start][0], places[end][1]),
                            "score": starts[start] + ends[end],
                            "start_logit": starts[start],
                            "end_logit": ends[end],
                        }
                    )
        best = sorted(candidates, key=lambda one: one["score"], reverse=True)[:N_BEST]
        for one in best:
            begin, finish = one.pop("offsets")
            one["text"] = example["context"][begin:finish]
        if not best or (len(best) == 1 and best[0]["text"] == ""):
            best.insert(0, {"text": "empty", "start_logit": 0.0, "end_logit": 0.0, "score": 0.0})
        scores = np.array([one.pop("score") for one in best])
        weights = np.exp(scores - scores.max())
        for one, probability in zip(best, weights / weights.sum(), strict=True):
            one["probability"] = probability
        found[example["id"]] = best
    return found


def trainer(
    model: Any, features: Dataset, tokenizer: Any, *, pad_to_max: bool, bf16: bool, batch_size: int, **arguments: Any
) -> Any:
    """A ``transformers.Trainer`` that takes one pass over the features with run_qa's settings, and saves nothing."""
    from transformers import (
        DataCollatorWithPadding,
        PrinterCallback,
        Trainer,
        TrainingArguments,
        default_data_collator,
    )

    settings: dict[str, Any] = {
        "output_dir": tempfile.gettempdir(),  # nothing is written there
        "per_device_train_batch_size": batch_size,
        "num_train_epochs": 1,
        "learning_rate": 3e-5,
        "bf16": bf16,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": [],
        "logging_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    collator = default_data_collator if pad_to_max else DataCollatorWithPadding(tokenizer)
    made = Trainer(
        model=model, args=TrainingArguments(**settings | arguments), train_dataset=features, data_collator=collator
    )
    made.remove_callback(PrinterCallback)
    return made
