"""Whether the name of a model can be loaded: a folder, a model in the hub's cache, or one on the hub.

Neither torch nor transformers is imported, so that a wrong name is found at once.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

CONFIG_FILES = ("config.json",)
TOKENIZER_FILES = (
    "tokenizer_config.json",
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "adapter_config.json",
)
SHARED_NAME = "pretrained_model_name_or_path"
TIMEOUT = 10.0  # seconds for the hub to answer


def check_model_name(
    field: str,
    name: str,
    revision: str | None = None,
    *,
    files: Sequence[str] = CONFIG_FILES,
    cache_dir: str | None = None,
    token: str | bool | None = None,
) -> str | None:
    """Find out whether a name can be loaded, without loading it.

    Args:
        field: the field that has the name, for the message.
        name: a folder, or a model's name on the hub.
        revision: branch, tag or commit on the hub; None means main.
        files: one of these has to be there.
        cache_dir: the hub's cache; None means the usual one.
        token: the hub's token, or True for the saved one.

    Returns:
        The error, or None. Without network (HF_HUB_OFFLINE=1) only folders and the cache count; else the hub is asked
        about what is not in the cache.
    """
    error = _folder_error(name, files) if _is_path(name) else _hub_error(name, revision, files, cache_dir, token)
    return None if error is None else f"{field}: {name!r} {error}"


def check_model_names(
    config_kwargs: Mapping[str, Any],
    tokenizer_kwargs: Mapping[str, Any],
    model_kwargs: Mapping[str, Any],
    *,
    pretrained: bool = True,
    section: str = "hyperparameters",
) -> list[str]:
    """Check the names that config, tokenizer and model are loaded from.

    Args:
        config_kwargs, tokenizer_kwargs, model_kwargs: as ``default_parse_config_tokenizer_model_kwargs`` gives them.
        pretrained: whether the model's weights are loaded; where they are not, its name is not checked.
        section: where the names stand in the configuration, for the messages.

    Returns:
        The errors, each once; none where all can be loaded.
    """
    parts = [("config_name", config_kwargs, CONFIG_FILES), ("tokenizer_name", tokenizer_kwargs, TOKENIZER_FILES)]
    if pretrained:
        parts.append(("model_name", model_kwargs, WEIGHT_FILES))
    named = [(own, kwargs, files) for own, kwargs, files in parts if kwargs.get(SHARED_NAME) is not None]
    names = [kwargs[SHARED_NAME] for _, kwargs, _ in named]
    errors = []
    for own, kwargs, files in named:
        name = kwargs[SHARED_NAME]
        # The dicts hold the name in force, and no longer which field gave it.
        field = SHARED_NAME if names.count(name) > 1 else f"{SHARED_NAME} or {own}"
        hub = {key: kwargs.get(key) for key in ("revision", "cache_dir", "token")}
        error = check_model_name(f"{section}.{field}" if section else field, name, files=files, **hub)
        if error is not None and error not in errors:
            errors.append(error)
    return errors


def _is_path(name: str) -> bool:
    return os.path.exists(name) or name.startswith((".", "~")) or os.path.isabs(name) or name.count("/") > 1


def _folder_error(name: str, files: Sequence[str]) -> str | None:
    if not os.path.exists(name):
        return "is not a folder that exists"
    if not os.path.isdir(name):
        return "is a file, not a folder"
    return None if any(os.path.isfile(os.path.join(name, file)) for file in files) else f"has {_none_of(files)}"


def _hub_error(
    name: str, revision: str | None, files: Sequence[str], cache_dir: str | None, token: str | bool | None
) -> str | None:
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    def is_cached(file: str) -> bool:
        return isinstance(try_to_load_from_cache(name, file, cache_dir=cache_dir, revision=revision), str)

    at = "" if revision in (None, "main") else f" at revision {revision!r}"
    try:
        if any(is_cached(file) for file in files):
            return None
        if not constants.HF_HUB_OFFLINE:
            return _remote_error(name, revision, files, token)
        if is_cached(CONFIG_FILES[0]):
            return f"has {_none_of(files)} in the hub's cache{at}, and HF_HUB_OFFLINE is set"
    except HFValidationError as error:
        return f"is neither a folder nor a model's name: {error}"
    return f"is neither a folder nor in the hub's cache{at}, and HF_HUB_OFFLINE is set"


def _remote_error(name: str, revision: str | None, files: Sequence[str], token: str | bool | None) -> str | None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    for file in files:
        try:
            get_hf_file_metadata(hf_hub_url(name, file, revision=revision), token=token, timeout=TIMEOUT)
        except EntryNotFoundError:
            continue
        except GatedRepoError:
            return "is gated on the hub: ask for access there and give token"
        except RepositoryNotFoundError:
            return "is neither a folder nor a model on the hub (a private one needs token)"
        except RevisionNotFoundError:
            return f"has no revision {revision!r} on the hub"
        except Exception as error:  # what else the hub's client raises differs between its releases and HTTP libraries
            return f"is not a folder, and the hub cannot be asked: {type(error).__name__}: {_one_line(error)}"
        return None
    return f"has {_none_of(files)} on the hub"


def _none_of(files: Sequence[str]) -> str:
    return f"no {files[0]}" if len(files) == 1 else f"none of {', '.join(files)}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
