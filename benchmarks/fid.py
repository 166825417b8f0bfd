"""Fusion-in-Decoder: training, generation, memory, and time against the number of passages."""

import contextlib
import functools
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import data, fixed_fid, flops
from benchmarks.ours import trial_of
from benchmarks.timing import Row, faster, interleaved
from model_hub_rqa.progress import peak_memory_mib

SHAPE: dict[str, Any] = {
    "model_type": "t5",
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "vocab_size": 30528,
    "dropout_rate": 0.1,
}  # t5-small's, with the vocabulary of the tokenizer at hand


@dataclass(frozen=True)
class Sizes:
    """Passages of a question, tokens of a passage (at most) and of an answer, questions of a batch."""

    passages: int
    max_seq_length: int
    labels: int
    batch: int

    def __str__(self) -> str:
        return f"{self.passages} passages of {self.max_seq_length}, batch {self.batch}"


def _trial(path: Path, folder: Path, sizes: Sizes, **more: Any) -> Any:
    from model_hub_rqa.trials.fid import FiDTrial

    settings = {
        "train_file": str(path),
        "validation_file": str(path),
        "cache_dir": str(folder / "cache"),
        "n_context": sizes.passages,
        "max_encoder_seq_length": sizes.max_seq_length,
        "max_decoder_seq_length": sizes.labels,
    }
    hparams = {
        "global_batch_size": sizes.batch,
        "tokenizer_name": data.minilm(),
        "config_overrides": {**SHAPE, "eos_token_id": 102, "pad_token_id": 0},
        "use_pretrained_weights": False,
        "learning_rate": 1e-4,
        **more,
    }
    return trial_of(FiDTrial, settings, hparams)


def _padded(trial: Any, features: list[Any], sizes: Sizes) -> dict[str, torch.Tensor]:
    return fixed_fid.batch_of(trial, features, sizes.max_seq_length, sizes.labels, sizes.passages)


def training(repeats: int, sizes: Sizes, batches: int, goals: tuple[str, str]) -> list[Row]:
    """Steps on Faire: ours on real tokens, the peer on fixed padding."""
    folder = Path(tempfile.mkdtemp())
    path = data.faire(sizes.batch * batches, sizes.passages, folder)
    with contextlib.ExitStack() as stack:
        fp32 = stack.enter_context(_trial(path, folder, sizes, bf16=False))
        bf16 = stack.enter_context(_trial(path, folder, sizes, bf16=True))
        peer = stack.enter_context(_trial(path, folder, sizes, bf16=False)).model
        features = [fp32.datasets["train"][i] for i in range(sizes.batch * batches)]
        groups = [features[i : i + sizes.batch] for i in range(0, len(features), sizes.batch)]
        padded = [_padded(fp32, group, sizes) for group in groups]
        ragged = [fp32.collator(group) for group in groups]
        optimizer = torch.optim.AdamW(peer.parameters(), 1e-4)

        def run_peer() -> None:
            for one in padded:
                fixed_fid.loss_of(peer, one, sizes.max_seq_length).backward()
                torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()

        def run_ours(trial: Any) -> None:
            for number, one in enumerate(ragged):
                trial.context._current_batch_idx = number
                trial.train_batch(one, 0, number)

        cases = {"peer": run_peer, "fp32": lambda: run_ours(fp32), "bf16": lambda: run_ours(bf16)}
        times = interleaved(cases, repeats)
        work = flops.TRAINING * flops.fusion(fp32.config, [one for batch in ragged for one in _sizes(batch)])
    shutil.rmtree(folder)
    shape = (sizes.batch * sizes.passages * sizes.max_seq_length, SHAPE["d_model"], SHAPE["d_ff"])
    what = f"FiD training, t5-small's shape, Faire, {sizes}, labels {sizes.labels}"
    return [
        faster(f"{what}: ours bf16 / fixed padding fp32", times["bf16"], times["peer"], goals[0]),
        faster(f"{what}: both fp32", times["fp32"], times["peer"], goals[1]),
        flops.share(what, work, times["fp32"], torch.float32, shape),
        flops.share(what, work, times["bf16"], torch.bfloat16, shape),
    ]


def _sizes(batch: dict[str, torch.Tensor]) -> list[tuple[list[int], int]]:
    """Tokens of each passage, and of the answer, of the questions of a batch."""
    passages = [part.tolist() for part in batch["passage_lengths"].split(batch["passage_counts"].tolist())]
    return list(zip(passages, (batch["answer_ids"] != -100).sum(dim=1).tolist(), strict=True))


def generation(repeats: int, sizes: Sizes) -> list[Row]:
    """Greedy answers of exactly ``sizes.labels`` tokens."""
    from model_hub_rqa.tasks.fid.model import fusion_generate

    folder = Path(tempfile.mkdtemp())
    path = data.faire(sizes.batch, sizes.passages, folder)
    with _trial(path, folder, sizes) as trial:
        model = trial.model.eval()
        features = [trial.datasets["train"][i] for i in range(sizes.batch)]
        padded, ragged = _padded(trial, features, sizes), trial.collator(features)

        def run_ours(bf16: bool) -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                fusion_generate(model, ragged, max_new_tokens=sizes.labels, min_new_tokens=sizes.labels)

        cases = {
            "peer": lambda: fixed_fid.generate(model, padded, sizes.max_seq_length, sizes.labels),
            "fp32": lambda: run_ours(False),
            "bf16": lambda: run_ours(True),
        }
        times = interleaved(cases, repeats)
    shutil.rmtree(folder)
    what = f"FiD generation, {sizes}, {sizes.labels} new tokens"
    return [
        faster(f"{what}: ours bf16 / fixed padding fp32", times["bf16"], times["peer"], "2.2 (3)"),
        faster(f"{what}: both fp32", times["fp32"], times["peer"], "1.4 (1.8)"),
    ]


def passages(repeats: int, *, few: int = 5, many: int = 100, max_seq_length: int = 250) -> list[Row]:
    """A training step with many passages, in units of one with few."""
    folder = Path(tempfile.mkdtemp())
    with contextlib.ExitStack() as stack:
        steps = {}
        for count in (few, many):
            path = data.faire(1, count, folder)
            more = {"gradient_checkpointing": True, "bf16": True, "encoder_chunk_size": 8}
            trial = stack.enter_context(_trial(path, folder, Sizes(count, max_seq_length, 64, 1), **more))
            batch = trial.collator([trial.datasets["train"][0]])
            # as many tokens a passage on both sides, so that their number alone differs
            batch["passage_ids"] = torch.randint(5, 30000, (count * max_seq_length,))
            batch["passage_lengths"] = torch.full((count,), max_seq_length)
            batch["passage_counts"] = torch.tensor([count])
            steps[count] = (trial, batch)

        def run(count: int) -> None:
            trial, batch = steps[count]
            trial.context._current_batch_idx = 0
            trial.train_batch(batch, 0, 0)

        times = interleaved({str(count): functools.partial(run, count) for count in steps}, repeats)
    shutil.rmtree(folder)
    row = faster("", times[str(few)], times[str(many)])
    what = f"FiD, a step with {many} passages instead of {few} (times as long)"
    return [Row(what, row.ratio, row.peer, row.ours, "21 or less (19)")]


def memory(sizes: Sizes) -> list[Row]:
    """The most memory of a training step beyond what importing takes, each in a process of its own."""
    used = {}
    for side in ("ours", "peer"):
        command = [sys.executable, "-m", "benchmarks.fid", side, json.dumps(vars(sizes))]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=data.ROOT)
        used[side] = int(done.stdout.split()[-1])
    shown = {side: f"{mib / 1024:.2f} GiB" for side, mib in used.items()}
    what = f"FiD peak memory of a step, {sizes}, ours with checkpointing / fixed padding (times as much)"
    return [Row(what, used["ours"] / used["peer"], shown["ours"], shown["peer"], "0.5 or less (0.35)")]


def _one_step(side: str, sizes: Sizes) -> int:
    """MiB beyond those of imports."""
    from model_hub_rqa.trials.fid import FiDTrial  # noqa: F401 - so that importing it is not counted

    folder = Path(tempfile.mkdtemp())
    path = data.faire(1, sizes.passages, folder)
    before = peak_memory_mib()
    with _trial(path, folder, sizes, gradient_checkpointing=side == "ours", encoder_chunk_size=4, bf16=False) as trial:
        features = [trial.datasets["train"][0]]
        if side == "ours":
            trial.context._current_batch_idx = 0
            trial.train_batch(trial.collator(features), 0, 0)
        else:
            model = trial.model
            fixed_fid.loss_of(model, _padded(trial, features, sizes), sizes.max_seq_length).backward()
            torch.optim.AdamW(model.parameters(), 1e-4).step()
    shutil.rmtree(folder)
    return round(peak_memory_mib() - before)


if __name__ == "__main__":
    print(_one_step(sys.argv[1], Sizes(**json.loads(sys.argv[2]))))
