"""Builds config, tokenizer, model, optimizer and schedule from the settings in `model_hub_rqa.config`.

Every function takes the dataclasses as well as plain dicts, and changes neither. What the user can mend, a name that
cannot be loaded say, is raised as ConfigError, with the library's own error as its cause.
"""

from __future__ import annotations  # so that the names in them do not make transformers load its models now

import contextlib
import copy
import errno
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn

from model_hub_rqa.config import (
    MODEL_MODES,
    ConfigKwargs,
    ModelKwargs,
    TokenizerKwargs,
)
from model_hub_rqa.config.fields import did_you_mean, plain
from model_hub_rqa.config.kwargs import NO_NAME, HubKwargs
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.libraries import sentencepiece_hint
from model_hub_rqa.models.hub import CONFIG_FILES, SHARED_NAME, TOKENIZER_FILES, WEIGHT_FILES, check_model_name
from model_hub_rqa.registry import MODELS

logger = logging.getLogger(__name__)


_LOAD_ERRORS = (OSError, ValueError, TypeError, KeyError, ImportError, StrictDataclassError, SafetensorError)


# ---- config, tokenizer, model ----


def build_using_auto(
    config_kwargs: Mapping[str, Any] | ConfigKwargs,
    tokenizer_kwargs: Mapping[str, Any] | TokenizerKwargs,
    model_mode: str,
    model_kwargs: Mapping[str, Any] | ModelKwargs,
    use_pretrained_weights: bool = True,
) -> tuple[transformers.PreTrainedConfig, transformers.PreTrainedTokenizerBase, transformers.PreTrainedModel]:
    """Build config, tokenizer and model with transformers' Auto classes.

    Args:
        config_kwargs, tokenizer_kwargs, model_kwargs: the settings of each.
        model_mode: what the model is for, a key of `MODEL_MODES`.
        use_pretrained_weights: False starts from random weights, drawn from torch's global generator.

    Returns:
        config, tokenizer, model; ``model.config`` is a copy of the config.

    Raises:
        ConfigError: something cannot be loaded, or the tokenizer has more tokens than the model has embeddings.
    """
    config, tokenizer = build_config_and_tokenizer(config_kwargs, tokenizer_kwargs)
    model = build_model(config, model_mode, model_kwargs, use_pretrained_weights)
    check_vocabulary(tokenizer, model)
    return config, tokenizer, model


def build_config_and_tokenizer(
    config_kwargs: Mapping[str, Any] | ConfigKwargs | None, tokenizer_kwargs: Mapping[str, Any] | TokenizerKwargs | None
) -> tuple[Any, Any]:
    """Build the config, with its overrides, and the tokenizer; of what is None, None.

    Raises:
        ConfigError: the errors of both, config and tokenizer.
    """
    built: list[Any] = []
    errors = []
    parts: tuple[tuple[Any, Any], ...] = ((_build_config, config_kwargs), (_build_tokenizer, tokenizer_kwargs))
    for build, kwargs in parts:
        try:
            built.append(None if kwargs is None else build(kwargs))
        except ConfigError as error:
            errors.append(error)
    if errors:
        lines = dict.fromkeys(line for error in errors for line in error.errors)
        raise ConfigError(lines) from (errors[0].__cause__ or errors[0])
    config, tokenizer = built
    return config, tokenizer


def build_model(
    config: transformers.PreTrainedConfig,
    model_mode: str | type,
    model_kwargs: Mapping[str, Any] | ModelKwargs,
    use_pretrained_weights: bool = True,
) -> transformers.PreTrainedModel:
    """Build a model for a config, which is copied.

    Args:
        config: of the model.
        model_mode: what the model is for, a key of `MODEL_MODES`; or a class with from_config and from_pretrained, as
            transformers' Auto classes have them.
        model_kwargs: the weights' name, ``dtype`` (float32 where it is not given), ``attn_implementation`` ...
        use_pretrained_weights: False starts from random weights; no name is needed then.

    Raises:
        ConfigError: no such mode, the mode is not there for this config, or the weights cannot be loaded.
    """
    auto: Any = auto_class(model_mode) if isinstance(model_mode, str) else model_mode
    model_mode = model_mode if isinstance(model_mode, str) else model_mode.__name__
    config = copy.deepcopy(config)
    field, name, kwargs = _split_name(model_kwargs, "model_name")
    kwargs.setdefault("dtype", "float32")
    if not use_pretrained_weights:
        passed = {key: kwargs[key] for key in ("dtype", "attn_implementation", "trust_remote_code") if key in kwargs}
        if passed["dtype"] == "auto":  # weights that are not loaded have no dtype of their own: the config's is taken
            del passed["dtype"]
        with _as_config_error(f"model_mode: {type(config).__name__} as {model_mode}"):
            random: transformers.PreTrainedModel = auto.from_config(config, **passed)
            return random
    name = _check_name(field, name, kwargs, WEIGHT_FILES)
    with _as_config_error(f"{field}: {name!r} as {model_mode}"):
        model, loading = auto.from_pretrained(name, config=config, output_loading_info=True, **kwargs)
    if missing := sorted(loading["missing_keys"]):
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        logger.info("%s has no weights for %s%s: they start at random", name, ", ".join(missing[:5]), more)
    trained: transformers.PreTrainedModel = model
    return trained


@MODELS.register("AutoModel")
def auto_model(
    config: transformers.PreTrainedConfig,
    model_kwargs: Mapping[str, Any],
    use_pretrained_weights: bool,
    model_mode: str,
) -> transformers.PreTrainedModel:
    """`build_model` as a registered factory."""
    return build_model(config, model_mode, model_kwargs, use_pretrained_weights)


def auto_class(model_mode: str) -> Any:
    """The Auto class of a key of `MODEL_MODES`; it is imported only now."""
    if model_mode not in MODEL_MODES:
        hint = did_you_mean(model_mode, MODEL_MODES)
        raise ConfigError(f"model_mode: must be one of {', '.join(MODEL_MODES)}, got {model_mode!r}{hint}")
    return getattr(transformers, MODEL_MODES[model_mode])


def enable_gradient_checkpointing(model: Any) -> None:
    """Makes the model compute its activations twice, to save memory.

    Raises:
        ConfigError: the model does not know how.
    """
    # the second name is the older one; both take the arguments of torch's checkpoint first
    for name in ("activation_checkpointing_enable", "gradient_checkpointing_enable"):
        if hasattr(model, name):
            getattr(model, name)({"use_reentrant": False})
            if hasattr(model, "config"):
                model.config.use_cache = False
            return
    raise ConfigError(f"hyperparameters.gradient_checkpointing: {type(model).__name__} does not know how to do it")


def check_vocabulary(tokenizer: transformers.PreTrainedTokenizerBase | None, model: nn.Module) -> None:
    """Hold the tokenizer's size to the model's embeddings: an id beyond them fails in the middle of training.

    Raises:
        ConfigError: the tokenizer has more tokens than the model's input embeddings have rows.
    """
    if tokenizer is None or not isinstance(model, transformers.PreTrainedModel):
        return
    try:
        embeddings = model.get_input_embeddings()
    except NotImplementedError:  # transformers', of a model that does not say where its embeddings are
        return
    if isinstance(embeddings, nn.Embedding) and len(tokenizer) > embeddings.num_embeddings:
        raise ConfigError(
            f"tokenizer_name: the tokenizer has {len(tokenizer)} tokens, "
            f"but the model has embeddings for {embeddings.num_embeddings} only"
        )


def _build_config(config_kwargs: Mapping[str, Any] | ConfigKwargs) -> transformers.PreTrainedConfig:
    field, name, kwargs = _split_name(config_kwargs, "config_name")
    overrides = kwargs.pop("config_overrides", {})
    task = kwargs.pop("finetuning_task", None)
    labels = {"num_labels": kwargs.pop("num_labels")} if "num_labels" in kwargs else {}
    if name is None and "model_type" in overrides:
        config = _config_from_scratch(overrides, labels)
    else:
        name = _check_name(field, name, kwargs, CONFIG_FILES)
        with _as_config_error(f"{field}: {name!r}"):
            config = transformers.AutoConfig.from_pretrained(name, **labels, **kwargs)
        _apply_overrides(config, overrides, "config_overrides")
    if task is not None:  # transformers 5 drops what is no field of the config
        config.finetuning_task = task
    return config


def _config_from_scratch(overrides: Mapping[str, Any], labels: Mapping[str, Any]) -> transformers.PreTrainedConfig:
    attributes = {name: value for name, value in overrides.items() if name != "model_type"}
    kind = overrides["model_type"]
    if kind not in transformers.CONFIG_MAPPING:
        hint = did_you_mean(kind, transformers.CONFIG_MAPPING)
        raise ConfigError(f"config_overrides.model_type: must be a model type of transformers, got {kind!r}{hint}")
    with _as_config_error("config_overrides"):
        _check_attributes(transformers.AutoConfig.for_model(kind), attributes, "config_overrides")
        return transformers.AutoConfig.for_model(kind, **labels, **attributes)


def _apply_overrides(config: transformers.PreTrainedConfig, overrides: Mapping[str, Any], config_path: str) -> None:
    _check_attributes(config, overrides, config_path)
    for name, value in overrides.items():
        inner = getattr(config, name)
        if isinstance(inner, transformers.PreTrainedConfig) and isinstance(value, Mapping):
            _apply_overrides(inner, value, f"{config_path}.{name}")
        else:
            with _as_config_error(f"{config_path}.{name}"):
                setattr(config, name, value)


def _check_attributes(config: transformers.PreTrainedConfig, names: Iterable[str], config_path: str) -> None:
    """A misspelt attribute would be set, kept in the checkpoint and read by nobody."""
    known = config.to_dict()
    errors = [
        f"{config_path}.{name}: {type(config).__name__} has no such attribute{did_you_mean(name, known)}"
        for name in names
        if not hasattr(config, name)
    ]
    if errors:
        raise ConfigError(errors)


def _build_tokenizer(tokenizer_kwargs: Mapping[str, Any] | TokenizerKwargs) -> transformers.PreTrainedTokenizerBase:
    field, name, kwargs = _split_name(tokenizer_kwargs, "tokenizer_name")
    name = _check_name(field, name, kwargs, TOKENIZER_FILES)
    with _as_config_error(f"{field}: {name!r}"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **kwargs)
    # Where the vocabulary's file is missing, transformers 5 makes a tokenizer of special tokens (and T5's "▁") unasked.
    special = set(tokenizer.all_special_ids)
    if all(number in special or token == "▁" for token, number in tokenizer.get_vocab().items()):
        raise ConfigError(f"{field}: {name!r} has no vocabulary: the tokenizer has special tokens only")
    return tokenizer


def _split_name(kwargs: Mapping[str, Any] | HubKwargs, own: str) -> tuple[str, str | None, dict[str, Any]]:
    """The field that names what is loaded, the name, and the other arguments that are set, copied."""
    copied = loading_kwargs(kwargs)
    shared_name = copied.pop(SHARED_NAME, None)
    own_name = copied.pop(own, None)
    return (SHARED_NAME, shared_name, copied) if own_name is None else (own, own_name, copied)


def loading_kwargs(kwargs: Mapping[str, Any] | HubKwargs) -> dict[str, Any]:
    """The arguments of ``from_pretrained`` that are set, copied; the token under its name of today."""
    given = kwargs if isinstance(kwargs, Mapping) else vars(kwargs)
    copied = {key: plain(value) for key, value in given.items() if value is not None}
    token = copied.pop("use_auth_token", False)
    return {"token": token, **copied} if token else copied


def _check_name(field: str, name: str | None, kwargs: Mapping[str, Any], files: tuple[str, ...]) -> str:
    if name is None:
        raise ConfigError(f"{field}: {NO_NAME}")
    hub = {key: kwargs.get(key) for key in ("revision", "cache_dir", "token")}
    if "subfolder" not in kwargs and (error := check_model_name(field, name, files=files, **hub)):
        raise ConfigError(error)
    return name


@contextlib.contextmanager
def _as_config_error(config_path: str) -> Iterator[None]:
    """Turn what transformers raises for a bad name, file or setting into a ConfigError that names the setting."""
    try:
        yield
    except ConfigError:
        raise
    except _LOAD_ERRORS as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # a full disk is not the configuration's error
        text = " ".join(str(error).split())[:400]
        raise ConfigError(f"{config_path}: {text}{sentencepiece_hint(error)}") from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise ConfigError(f"{config_path}: the weights have other sizes than the config says") from error


# ---- optimizer and schedule ----
