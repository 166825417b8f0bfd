"""BaseTransformerTrial: a trial as model-hub's users write it, in Determined's local test mode."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers_for_tests import bert
from transformers import AutoConfig, BertConfig, BertForSequenceClassification

import model_hub_rqa
from model_hub_rqa import config
from model_hub_rqa.config import parse_dict_to_dataclasses
from model_hub_rqa.trials.base import BaseTransformerTrial
from model_hub_rqa.utils import AttrDict

TRIAL = """
import model_hub_rqa as hf
import model_hub_rqa.utils as attrdict
import numpy as np
import determined.pytorch as det_torch
import transformers

class Sentences(hf.BaseTransformerTrial):
    def __init__(self, context):
        self.hparams = attrdict.AttrDict(context.get_hparams())
        self.data_config = attrdict.AttrDict(context.get_data_config())
        self.raw_datasets = hf.default_load_dataset(self.data_config)
        self.hparams.num_labels = len(set(self.raw_datasets["train"]["label"]))
        super().__init__(context)
        assert self.model.config.num_labels == 3 and self.exp_config.name == "sentences"
        assert self.grad_clip_fn is not None and self.hparams.num_training_steps == 6
        encode = lambda row: self.tokenizer(row["sentence"], truncation=True)
        self.tokenized = self.raw_datasets.map(encode)
        for part in self.tokenized.values():
            hf.remove_unused_columns(self.model, part)
        self.collator = transformers.DataCollatorWithPadding(self.tokenizer)
        self.reducer = context.wrap_reducer(lambda pairs: {"accuracy": float(np.mean(pairs))}, for_training=False)

    def loader(self, split):
        size = self.context.get_per_slot_batch_size()
        return det_torch.DataLoader(self.tokenized[split], batch_size=size, collate_fn=self.collator)

    def build_training_data_loader(self):
        return self.loader("train")

    def build_validation_data_loader(self):
        return self.loader("validation")

    def evaluate_batch(self, batch, batch_idx):
        right = self.model(**batch).logits.argmax(-1) == batch["labels"]
        self.reducer.update(right.float().mean().item())
        return {}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A trial of model-hub's kind, its configuration, its data and a tiny BERT."""
    tokenizer = bert()
    tokenizer.save_pretrained(tmp_path / "bert")
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(tmp_path / "bert")
    rows = "".join(f"{'oil price'[: 3 + number]},{number % 3}\n" for number in range(6))
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text(f"sentence,label\n{rows}")
    content = {
        "name": "sentences",
        "entrypoint": "trial:Sentences",
        "hyperparameters": {
            "pretrained_model_name_or_path": "bert",
            "model_mode": "sequence-classification",
            "use_pretrained_weights": False,
            "use_apex_amp": False,
            "global_batch_size": 2,
            "learning_rate": 1e-3,
        },
        "data": {"train_file": "train.csv", "validation_file": "validation.csv"},
        "records_per_epoch": 6,
        "searcher": {"name": "single", "metric": "accuracy", "max_length": {"epochs": 2}, "smaller_is_better": False},
        "resources": {"slots_per_trial": 1},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(content))
    (tmp_path / "trial.py").write_text(TRIAL)
    return tmp_path


def test_a_trial_of_model_hub_runs(folder: Path) -> None:
    """With nothing replaced but its imports; transformers' collator gives a BatchEncoding."""
    det = Path(sys.executable).with_name("det")
    words = [str(det), "experiment", "create", "config.yaml", ".", "--local", "--test"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "The test experiment passed" in done.stdout + done.stderr


class Context:
    """What check_hparams asks of Determined's context."""

    def __init__(self, hparams: dict[str, Any], config: dict[str, Any]) -> None:
        self.hparams, self.config = hparams, config

    def get_global_batch_size(self) -> int:
        return 4


def checked(hparams: dict[str, Any], exp_config: dict[str, Any]) -> Any:
    class Trial(BaseTransformerTrial):
        build_training_data_loader: Any = None
        build_validation_data_loader: Any = None

    trial: Any = object.__new__(Trial)
    trial.context, trial.hparams, trial.exp_config = Context(hparams, exp_config), hparams, exp_config
    trial.check_hparams()
    return trial.hparams


def test_what_is_unset_is_completed(caplog: pytest.LogCaptureFixture) -> None:
    found = checked({"use_apex_amp": False, "model_mode": "base"}, {"searcher": {"max_length": {"records": 40}}})
    assert isinstance(found, AttrDict)
    assert (found.num_training_steps, found.use_pretrained_weights) == (10, True)
    assert "use_pretrained_weights: is unset" in caplog.text


def test_every_missing_hyperparameter_is_named() -> None:
    with pytest.raises(model_hub_rqa.errors.ConfigError, match=r"^hyperparameters\.num_training_steps: ") as caught:
        checked({"use_apex_amp": True}, {"searcher": {"max_length": {"epochs": 1}}})
    lines = [line.partition(":")[0] for line in caught.value.errors]
    names = ["num_training_steps", "model_mode", "use_apex_amp"]
    assert lines == [f"hyperparameters.{name}" for name in names]


def test_the_dicts_are_model_hubs() -> None:
    """Names without a default are there only if they were given; the others always."""
    args = {"pretrained_model_name_or_path": "xnli", "num_labels": 4}
    (found,) = parse_dict_to_dataclasses((config.ConfigKwargs,), args, as_dict=True)
    always = {"pretrained_model_name_or_path": "xnli", "revision": "main", "use_auth_token": False, "cache_dir": None}
    assert found == {**always, "num_labels": 4}
    assert found.num_labels == 4
    (tokenizer,) = parse_dict_to_dataclasses((config.TokenizerKwargs,), args, as_dict=True)
    assert tokenizer == {**always, "use_fast": True}


def test_the_dicts_build(folder: Path) -> None:
    """As build_using_auto takes them, use_auth_token and all."""
    kwargs = config.default_parse_config_tokenizer_model_kwargs(
        {"pretrained_model_name_or_path": str(folder / "bert"), "use_auth_token": False, "num_labels": 5}
    )
    built, tokenizer, model = model_hub_rqa.build_using_auto(kwargs[0], kwargs[1], "base", kwargs[2])
    assert isinstance(built, type(AutoConfig.from_pretrained(folder / "bert")))
    assert built.num_labels == 5
    assert len(tokenizer) == model.get_input_embeddings().num_embeddings
    assert next(model.parameters()).dtype == torch.float32
