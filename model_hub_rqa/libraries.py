"""Optional libraries: what each is for pip, and the extra of this package that brings it."""

import importlib
from typing import Any

from model_hub_rqa.errors import ConfigError

_LIBRARIES = {
    "tantivy": ("tantivy", "retrieval"),
    "bm25s": ("bm25s", "retrieval"),
    "faiss": ("faiss-cpu", "retrieval"),
    "sentence_transformers": ("sentence-transformers", "retrieval"),
    "ir_measures": ("ir_measures", "retrieval"),
    "pypdf": ("pypdf", "documents"),
    "bs4": ("beautifulsoup4", "documents"),
    "docutils": ("docutils", "documents"),
    "markdown_it": ("markdown-it-py", "documents"),
    "sacrebleu": ("sacrebleu", "evaluation"),
    "Stemmer": ("PyStemmer", "retrieval"),
    "sentencepiece": ("sentencepiece", "sentencepiece"),
}


def require(module: str) -> Any:
    """Imports an optional library.

    Raises:
        ConfigError: it is not installed; the message names the library and the extra to install.
    """
    name, extra = _LIBRARIES[module]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{name}: cannot be imported ({error}): pip install 'model-hub-rqa[{extra}]'") from error


def missing_libraries(*modules: str) -> list[str]:
    """Imports all of these, so that what is missing shows before the work that needs it; a line for each that is."""
    errors: list[str] = []
    for module in modules:
        try:
            require(module)
        except ConfigError as error:
            errors += error.errors
    return errors


def check_libraries(*modules: str) -> None:
    """Raises ConfigError where `missing_libraries` has a line."""
    if errors := missing_libraries(*modules):
        raise ConfigError(errors)


def sentencepiece_hint(error: BaseException) -> str:
    """What to add to transformers' error for a tokenizer that is stored as a SentencePiece model, "" for others.

    Without the library it takes the file for tiktoken's, and advises to install that.
    """
    if not any(word in str(error).lower() for word in ("sentencepiece", "tiktoken", "protobuf")):
        return ""
    return "".join(f" ({line})" for line in missing_libraries("sentencepiece"))
