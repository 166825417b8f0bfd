"""Embedding models: texts into vectors as sentence-transformers' models make them (Reimers and Gurevych 2019), and what
tells one model from another."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_hub_rqa.checkpoints import PRETRAINED, file_sum, pretrained_folder
from model_hub_rqa.errors import CheckpointError, ConfigError
from model_hub_rqa.libraries import require
from model_hub_rqa.models.hub import CONFIG_FILES, check_model_name
from model_hub_rqa.retrieval.base import RetrieverSettings, json_sum

if TYPE_CHECKING:
    import numpy as np

SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
_NO_MATTER = (
    *("transformers_version", "architectures", "dtype", "torch_dtype", "id2label", "label2id", "use_cache"),
    *("problem_type", "return_dict", "output_attentions", "output_hidden_states", "gradient_checkpointing"),
)  # in a model's configuration: vectors do not depend on them


@dataclass(frozen=True)
class EncoderSettings(RetrieverSettings):
    """How texts become vectors.

    Attributes:
        embedding_model: a folder of sentence-transformers (or of transformers: then the mean over the tokens), a run
            of RetrieverTrial or a checkpoint of one (RUN, RUN@best, RUN@last, RUN@STEP), or a name on the hub.
        similarity: one of :data:`SIMILARITIES`; None for the model's own ``similarity_fn_name``, which is cosine where
            the model names none. With cosine, vectors are normalised to length 1.
        pooling: one of :data:`POOLINGS`: how the vectors of tokens become that of the text; None for the model's own.
        query_prompt: put before each query; None for the model's own, if it has one.
        passage_prompt: put before each passage, alike.
        max_seq_length: tokens read of a text; None for the model's own limit.
    """

    embedding_model: str = ""
    similarity: str | None = None
    pooling: str | None = None
    query_prompt: str | None = None
    passage_prompt: str | None = None
    max_seq_length: int | None = None

    def errors(self) -> list[str]:
        """A line for each field that breaks a rule."""
        errors = []
        name = self.embedding_model
        if not name:
            errors.append("embedding_model: must be given for a dense index")
        elif name.startswith(("/", "./", "../", "~")) and not Path(model_folder(name)).is_dir():
            errors.append(f"embedding_model: no such folder, got {name!r}")
        for field, value, known in (
            ("similarity", self.similarity, SIMILARITIES),
            ("pooling", self.pooling, POOLINGS),
        ):
            if value is not None and value not in known:
                errors.append(f"{field}: must be one of {', '.join(known)}, got {value!r}")
        if self.max_seq_length is not None and self.max_seq_length < 1:
            errors.append(f"max_seq_length: must be at least 1, got {self.max_seq_length}")
        return errors


def model_folder(name: str) -> str:
    """The folder inside a run or a checkpoint that sentence-transformers loads; any other name is returned as it is.

    Raises:
        CheckpointError: the checkpoint is damaged, or the run has none.
    """
    path = Path(name)
    run, at, _ = name.rpartition("@")
    inside = path if path.is_dir() or not at else Path(run)
    if (inside / "checkpoints").is_dir() or (path / PRETRAINED).is_dir():
        return str(pretrained_folder(path))
    return name


def model_name_error(name: str) -> str | None:
    """Why no embedding model has this name; None if it is a folder, or in the hub's cache or on the hub."""
    if os.path.isdir(model_folder(name)):
        return None
    on_hub = name if "/" in name else f"sentence-transformers/{name}"  # as sentence-transformers looks for it
    return check_model_name("embedding_model", on_hub, files=("modules.json", *CONFIG_FILES))


class Encoder:
    """A loaded embedding model.

    Attributes:
        settings: with the maximal length as it is in force, and the model's folder as an absolute path.
        similarity: by which its vectors are compared, one of :data:`SIMILARITIES`.
        identity: all that its vectors depend on, by name; see :func:`model_identity`.
        dimension: of its vectors.
        device: where its vectors are compared: its own GPU, such as "cuda:0", or "cpu".

    Raises:
        ConfigError: the settings break a rule, the model cannot be loaded, or sentence-transformers is missing.
    """

    def __init__(self, settings: EncoderSettings) -> None:
        if errors := settings.errors():
            raise ConfigError(errors)
        name = model_folder(settings.embedding_model)
        model = _load(name)
        if errors := [*_set_length(model, settings), *_set_pooling(model, settings)]:
            raise ConfigError(errors)
        if settings.similarity is not None:
            model.similarity_fn_name = settings.similarity
        self._model = model
        self._pool: Any = None
        self._query_prompt = _prompt(settings.query_prompt, model.prompts, "query")
        self._passage_prompt = _prompt(settings.passage_prompt, model.prompts, "document", "passage", "corpus")
        source = os.path.abspath(name) if os.path.isdir(name) else name
        self.settings = replace(settings, embedding_model=source, max_seq_length=model.max_seq_length)
        self.similarity = str(model.similarity_fn_name)
        prompts = {"query_prompt": repr(self._query_prompt), "passage_prompt": repr(self._passage_prompt)}
        self.identity = {**model_identity(model), **prompts}
        self.dimension = self._measure()
        self.device = str(model.device) if model.device.type == "cuda" else "cpu"

    def _measure(self) -> int:
        """The dimension of a vector; some models do not know it by themselves."""
        try:
            return int(self.queries(["x"]).shape[1])
        except (ValueError, RuntimeError, TypeError, KeyError, AttributeError) as error:
            name = self.settings.embedding_model
            hint = ""
            if "DPR" in "".join(getattr(getattr(self._model, "config", None), "architectures", None) or ()):
                hint = " (DPR is on the hub in the form of sentence-transformers, as facebook-dpr-ctx_encoder-...)"
            raise ConfigError(f"embedding_model: {name} does not encode text: {error}{hint}") from error

    def queries(self, texts: Sequence[str], batch_size: int = 32) -> "np.ndarray":
        """Vectors of queries: (len(texts), dimension), float32."""
        return self._vectors(self._model.encode_query, texts, self._query_prompt, batch_size)

    def passages(self, texts: Sequence[str], batch_size: int = 32) -> "np.ndarray":
        """Vectors of passages: (len(texts), dimension), float32."""
        return self._vectors(self._model.encode_document, texts, self._passage_prompt, batch_size)

    @contextlib.contextmanager
    def on(self, devices: Sequence[str]) -> Iterator[None]:
        """Inside it, every device of the list encodes its share, in a process of its own.

        Raises:
            ConfigError: the processes cannot be started.
        """
        try:
            self._pool = self._model.start_multi_process_pool(list(devices))
        except Exception as error:  # torch and CUDA raise their own kinds in each process
            raise ConfigError(f"devices: cannot encode on {', '.join(devices)}: {error}") from error
        try:
            yield
        finally:
            self._model.stop_multi_process_pool(self._pool)
            self._pool = None

    def _vectors(self, encode: Any, texts: Sequence[str], prompt: str, batch_size: int) -> "np.ndarray":
        import numpy as np

        vectors = encode(
            list(texts),
            prompt=prompt,
            batch_size=batch_size,
            pool=self._pool,
            chunk_size=8 * batch_size,  # of one process; the batches are those that one process makes
            normalize_embeddings=self.similarity == "cosine",
            show_progress_bar=False,
        )
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if not np.isfinite(vectors).all():
            raise CheckpointError(f"{self.settings.embedding_model}: gives vectors that are not finite")
        return vectors


def all_gpus() -> list[str]:
    """The names of the GPUs that torch sees; where torchrun has started several ranks here, that of this rank."""
    import torch

    if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        return [f"cuda:{os.environ['LOCAL_RANK']}"] if torch.cuda.device_count() else []
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


def _load(name: str) -> Any:
    sentence_transformers = require("sentence_transformers")
    if unknown := model_name_error(name):  # found out in seconds, where the library would try again for minutes
        raise ConfigError(unknown)
    import torch

    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # for weights that a checkpoint lacks, such as BERT's pooler
            return sentence_transformers.SentenceTransformer(name)
    except Exception as error:  # the hub client, safetensors and transformers each raise their own kinds
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"embedding_model: cannot load {name!r}: {type(error).__name__}: {reason}") from error


def _set_length(model: Any, settings: EncoderSettings) -> list[str]:
    """Sets the tokens that are read of a text; the error where the model has positions for fewer."""
    from model_hub_rqa.models.limits import UNLIMITED, model_limits

    if settings.max_seq_length is None:
        return []
    inner = getattr(model[0], "auto_model", None)
    limit = UNLIMITED if inner is None else model_limits(inner).tokens
    if limit != UNLIMITED and settings.max_seq_length > limit:
        longest = f"the longest input of {settings.embedding_model}"
        return [f"max_seq_length: must be at most {limit}, {longest}, got {settings.max_seq_length}"]
    model.max_seq_length = settings.max_seq_length
    return []


def _set_pooling(model: Any, settings: EncoderSettings) -> list[str]:
    """Sets how the vectors of tokens become one; the error where the model does not pool."""
    if settings.pooling is None:
        return []
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child).__name__ == "Pooling"
    ]
    for parent, name, child in found:
        config = child.get_config_dict()
        dimension = config.get("embedding_dimension", config.get("word_embedding_dimension"))  # before version 6
        setattr(parent, name, type(child)(dimension, settings.pooling, include_prompt=child.include_prompt))
    return [] if found else [f"pooling: {settings.embedding_model} has no pooling to set, got {settings.pooling!r}"]


def _prompt(given: str | None, prompts: Mapping[str, str], *names: str) -> str:
    """The prompt that was given, else the model's first of these names that is not empty: sentence-transformers itself
    takes an empty "document", which every model has, before a "passage" that the model's configuration names."""
    if given is not None:
        return given
    return next((prompts[name] for name in names if prompts.get(name)), "")


def model_identity(model: Any) -> dict[str, str]:
    """All that the vectors of a SentenceTransformer depend on, by name.

    Weights and tokenizer are there by their SHA-256, the same wherever they are stored; the similarity, the names of
    the modules and every field of their and of the transformer's configuration by their value.
    """
    identity = {
        "weights": weights_sum(model),
        "similarity": str(model.similarity_fn_name),
        "truncate_dim": str(model.truncate_dim),
        "modules": ", ".join(type(module).__name__ for module in model),
    }
    with contextlib.suppress(AttributeError):  # not every model has one
        identity["tokenizer"] = tokenizer_sum(model.tokenizer)
    for name, module in model.named_modules():
        if hasattr(module, "get_config_dict"):
            identity.update(_values(f"{name} {type(module).__name__}", module.get_config_dict()))
        if hasattr(module, "auto_model"):
            identity.update(_values(f"{name} config", module.auto_model.config.to_dict()))
    return identity


def identity_differences(built: Mapping[str, str], model: Mapping[str, str]) -> Iterator[str]:
    """``field: must be ... as in the index, got ...`` for each field of two identities that differs. One that only one
    of them has is another version's, which is no difference."""
    for name in sorted(built.keys() & model.keys()):
        if built[name] != model[name]:
            is_sum = name.endswith(("weights", "tokenizer"))
            one, other = (f"SHA-256 {value[:12]}" if is_sum else value for value in (built[name], model[name]))
            yield f"{name}: must be {one} as in the index, got {other}"


def _values(prefix: str, config: Mapping[str, Any]) -> dict[str, str]:
    kept = {key: value for key, value in config.items() if key not in _NO_MATTER and not key.startswith("_")}
    return {f"{prefix}.{key}": json.dumps(value, sort_keys=True, default=str) for key, value in kept.items()}


def weights_sum(model: Any) -> str:
    """SHA-256 over names, types, shapes and bytes of a model's weights: the same wherever they are stored."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def tokenizer_sum(tokenizer: Any) -> str:
    """SHA-256 of a tokenizer: of the fast ones the content of tokenizer.json, of others the files that they save."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(backend, "to_str"):
        content = json.loads(backend.to_str())
        content = {key: content[key] for key in content if key not in ("truncation", "padding")}  # set at each call
        return json_sum([content, *(getattr(tokenizer, side, "") for side in ("padding_side", "truncation_side"))])
    with tempfile.TemporaryDirectory() as folder:
        (tokenizer.save_pretrained if hasattr(tokenizer, "save_pretrained") else tokenizer.save)(folder)
        return json_sum({path.name: file_sum(path) for path in Path(folder).rglob("*") if path.is_file()})
