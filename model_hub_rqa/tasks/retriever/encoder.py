"""Builds a SentenceTransformer: of its own folder, or of any encoder, the mean of whose tokens is the vector."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from model_hub_rqa.errors import ConfigError
from model_hub_rqa.models import build
from model_hub_rqa.models.hub import WEIGHT_FILES, check_model_name

_PROMPTS = "config_sentence_transformers.json"


class _Kind:
    """A class of transformers with the two methods of an Auto class."""

    def __init__(self, kind: Any) -> None:
        self.__name__ = kind.__name__
        self.from_pretrained, self.from_config = kind.from_pretrained, kind._from_config


def build_encoder(config: Any, tokenizer: Any, model_kwargs: Mapping[str, Any], pretrained: bool) -> Any:
    """A SentenceTransformer on the CPU, with the config's overrides.

    Args:
        config: of the transformers model inside.
        tokenizer: of the model.
        model_kwargs: of ``from_pretrained``.
        pretrained: False starts from random weights.

    Raises:
        ConfigError: it cannot be loaded.
    """
    from sentence_transformers import SentenceTransformer

    given = build.loading_kwargs(model_kwargs)
    name = str(given.get("pretrained_model_name_or_path") or config.name_or_path)
    hub = {key: given[key] for key in ("trust_remote_code", "revision", "token") if key in given}
    with tempfile.TemporaryDirectory() as folder:
        if not pretrained and (not name or check_model_name("", name, files=WEIGHT_FILES) is not None):
            build.build_model(config, "base", model_kwargs, use_pretrained_weights=False).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            name, hub = folder, {}
        try:
            model = SentenceTransformer(name, device="cpu", cache_folder=given.get("cache_dir"), **hub)
        except Exception as error:  # the hub client, safetensors and transformers each raise their own kinds
            reason = str(error).strip().split("\n")[0]
            field = "hyperparameters.pretrained_model_name_or_path"
            raise ConfigError(f"{field}: cannot load {name!r}: {type(error).__name__}: {reason}") from error
    first: Any = model[0]
    inner = next((part for part, child in first.named_children() if child is first.auto_model), None)
    if inner is None:
        raise ConfigError(f"hyperparameters.pretrained_model_name_or_path: {name!r} holds no model of transformers")
    kind: Any = _Kind(type(first.auto_model))
    setattr(first, inner, build.build_model(config, kind, model_kwargs, pretrained))
    return model


def freeze_unused(model: Any) -> None:
    """Freezes weights that no vector depends on, such as a pooler's: ranks would wait for their gradients."""
    device = next(model.parameters()).device
    ids = torch.ones(1, 4, dtype=torch.int64, device=device)
    was_training, wanted = model.training, [one for one in model.parameters() if one.requires_grad]
    with torch.enable_grad():
        vector = model.eval()({"input_ids": ids, "attention_mask": ids})["sentence_embedding"]
        found = torch.autograd.grad(vector.sum(), wanted, allow_unused=True)
    for parameter, gradient in zip(wanted, found, strict=True):
        parameter.requires_grad_(gradient is not None)
    model.train(was_training)


def encoding_errors(model: Any, tokenizer: Any, prompts: tuple[str, str]) -> list[str]:
    """Why sentence-transformers would make other vectors of a text than a training, which gives the model plain tokens.

    Args:
        model: a SentenceTransformer.
        tokenizer: that of the training.
        prompts: before questions, and before passages.
    """
    errors = []
    if any(prompts) and any(getattr(part, "include_prompt", True) is False for part in model.modules()):
        shown = ", ".join(map(repr, prompts))
        errors.append(
            f"data.query_prompt, passage_prompt: must be empty, since the model's pooling leaves them out, got {shown}"
        )
    if getattr(model[0], "do_lower_case", False) and tokenizer("A")["input_ids"] != tokenizer("a")["input_ids"]:
        errors.append(
            "hyperparameters.tokenizer_name: must put texts in lower case, as the model's do_lower_case says, "
            f"got {tokenizer.name_or_path!r}"
        )
    return errors


def own_prompts(name: str) -> tuple[str, str]:
    """What a model of sentence-transformers puts before questions and before passages; "" where it says nothing."""
    folder = Path(name)
    path = folder / _PROMPTS
    if not folder.is_dir():
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(name, _PROMPTS))
        except Exception:  # of many kinds; most models have no such file
            return "", ""
    if not path.is_file():
        return "", ""
    prompts = json.loads(path.read_text(encoding="utf-8")).get("prompts") or {}
    passage = next((prompts[key] for key in ("document", "passage", "corpus") if prompts.get(key)), "")
    return prompts.get("query", ""), passage
