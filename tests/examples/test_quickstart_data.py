"""The quickstart's data: made by its generator, and honest."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer

QUICKSTART = Path(__file__).parents[2] / "examples/quickstart"


def paragraphs(split: str) -> list[dict[str, Any]]:
    data = json.loads((QUICKSTART / f"{split}.json").read_text(encoding="utf-8"))["data"]
    return [paragraph for article in data for paragraph in article["paragraphs"]]


def questions(split: str) -> list[dict[str, Any]]:
    return [qa for paragraph in paragraphs(split) for qa in paragraph["qas"]]


def names(split: str) -> set[str]:
    """Every word of a split that is cut like a name: two syllables and an ending."""
    text = (QUICKSTART / f"{split}.json").read_text(encoding="utf-8")
    endings = "burg|ford|wick|holm|corp|tech|work|gold|sson|bert|mann|lind|ssel|rinn|bekk|fell"
    return set(re.findall(rf"\b[A-Z][a-z]{{3}}(?:{endings})\b", text))


def test_the_committed_files_are_the_generators(tmp_path: Path) -> None:
    """Byte for byte, data and model folder alike."""
    run = [sys.executable]
    subprocess.run([*run, str(QUICKSTART / "generate.py"), "--output-dir", str(tmp_path)], check=True)
    model = ["--data", str(tmp_path / "train.json"), "--output-dir", str(tmp_path / "model")]
    subprocess.run([*run, str(QUICKSTART / "build_model.py"), *model], check=True)
    for name in ("train.json", "validation.json", "model/tokenizer.json", "model/config.json"):
        ours, made = (folder / name for folder in (QUICKSTART, tmp_path))
        if name == "model/config.json":  # transformers writes its version into it
            strip = r'"transformers_version": "[^"]*"'
            assert re.sub(strip, "", ours.read_text()) == re.sub(strip, "", made.read_text())
        else:
            assert ours.read_bytes() == made.read_bytes()


def test_train_and_validation_share_no_entity() -> None:
    """No name stands in both, and none is a part of another."""
    train, validation = names("train"), names("validation")
    assert len(train) > 3000
    assert len(validation) > 200
    assert not train & validation


def test_train_and_validation_share_no_pair_of_phrasings() -> None:
    """The phrasing of a question never meets the same phrasing of its answer's sentence on both sides."""
    pairs = {
        split: {tuple(qa["id"].split("-")[2:]) for qa in questions(split) if qa["answers"]}
        for split in ("train", "validation")
    }
    assert len(pairs["train"]) > 200
    assert not pairs["train"] & pairs["validation"]
    for place in (1, 2):  # while each phrasing alone stands on both
        alone = [{(pair[0], pair[place]) for pair in pairs[split]} for split in pairs]
        assert alone[0] == alone[1]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_answers_stand_where_they_should(split: str) -> None:
    """Offsets are right, ids unique, and a tenth to a third of the questions has no answer."""
    found = questions(split)
    assert len({qa["id"] for qa in found}) == len(found)
    unanswerable = sum(qa["is_impossible"] for qa in found)
    assert 0.1 < unanswerable / len(found) < 0.33
    for paragraph in paragraphs(split):
        for qa in paragraph["qas"]:
            assert qa["is_impossible"] == (not qa["answers"])
            for answer in qa["answers"]:
                start = answer["answer_start"]
                assert paragraph["context"][start : start + len(answer["text"])] == answer["text"]


def test_the_tokenizer_spells_what_it_never_saw() -> None:
    """Validation text has no unknown token, in a fast tokenizer that fits the configuration."""
    tokenizer = AutoTokenizer.from_pretrained(QUICKSTART / "model")
    assert tokenizer.is_fast
    assert AutoConfig.from_pretrained(QUICKSTART / "model").vocab_size == len(tokenizer)
    for paragraph in paragraphs("validation"):
        for text in (paragraph["context"], *(qa["question"] for qa in paragraph["qas"])):
            assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
