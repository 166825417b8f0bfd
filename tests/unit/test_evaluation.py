"""The evaluation from question to answer: its numbers by hand, the command and its files."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import tiny
from readers_for_tests import CORPUS, QUESTIONS, InOrder, Repeater, fusion_folder, world_folder, write_lines

from model_hub_rqa.cli import main
from model_hub_rqa.evaluation import evaluate
from model_hub_rqa.pipeline import RQAPipeline
from model_hub_rqa.records import Answer


def rows() -> list[dict[str, Any]]:
    def passage(ctx: dict[str, str], gold: str | None) -> dict[str, Any]:
        return {**ctx, "score": None, "gold": ctx["id"] == gold}

    return [
        {
            **{name: record[name] for name in ("id", "question", "answers")},
            "chat_history": [],
            "passages": [passage(ctx, record.get("gold_id")) for ctx in record["ctxs"]],
        }
        for record in QUESTIONS
    ]


# ---- the numbers ----


def test_passages_that_are_not_read_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """f1_passages looks at the first n_context passages alone, and latencies at this evaluation's questions alone."""
    reader = Repeater()
    monkeypatch.setattr(reader, "answer_questions", lambda asked, scores=False: [Answer("barrel")] * len(asked))
    pipeline = RQAPipeline(reader, InOrder(), top_k=3)
    assert evaluate(pipeline, rows())["f1_passages"] > 0  # it stands in the second passage
    pipeline.retrieval_seconds = pipeline.reading_seconds = 1e6
    reader.n_context = 1
    scores = evaluate(pipeline, rows())
    assert scores["f1_passages"] == 0
    assert scores["latency"] < 1000


def test_a_pipeline_by_hand() -> None:
    """The first passage is always found first, so "October" is always said: right once, with one gold passage first
    and one second of two."""
    lines: list[dict[str, Any]] = []
    pipeline = RQAPipeline(Repeater(), InOrder(), top_k=2)
    scores = evaluate(pipeline, rows(), batch_size=2, write=lines.append)
    assert scores["n_questions"] == 3
    assert scores["n_judged"] == 2
    assert scores["document_accuracy"] == pytest.approx(2 / 4)
    assert scores["document_recall"] == 1.0
    assert scores["document_recall@1"] == pytest.approx(1 / 2)
    assert scores["compared_by_id"] == 1
    # "October" and "members" are in passages 1 and 3, of which two are retrieved; "a barrel of oil" is in none
    assert (scores["has_answer@1"], scores["has_answer@2"], scores["n_with_answers"]) == (1 / 3, 1 / 3, 3)
    assert scores["ndcg"] == pytest.approx((1 + 1 / math.log2(3)) / 2)
    for name in ("exact_match", "f1", "precision", "rouge1", "rougeL"):
        assert scores[name] == pytest.approx(100 / 3), name
    assert scores["rouge2"] == 0.0
    assert scores["f1_passages"] == pytest.approx(
        100 * 2 * (1 / 1) * (1 / 5) / (1 + 1 / 5)
    )  # oil price rose in October
    assert scores["precision_passages"] == pytest.approx(100)
    assert (scores["answer_words_mean"], scores["answer_words_empty"]) == (1.0, 0.0)
    assert scores["reference_words_mean"] == pytest.approx((1 + 2 + 4 + 1) / 4)
    assert scores["latency"] == pytest.approx(scores["retrieval_latency"] + scores["generation_latency"])
    assert [(line["id"], line["prediction"], line["exact_match"]) for line in lines] == [
        ("a", "October", 1.0),
        ("b", "October", 0.0),
        ("c", "October", 0.0),
    ]
    assert [passage["score"] for passage in lines[0]["passages"]] == [0.0, -1.0]


def test_without_a_retriever() -> None:
    """The questions' own passages are read, and nothing is said of retrieval."""
    scores = evaluate(RQAPipeline(Repeater()), rows())
    assert scores["exact_match"] == pytest.approx(100 / 3)
    assert not {"document_accuracy", "retrieval_latency", "n_judged", "has_answer@1"} & set(scores)
    assert scores["latency"] == scores["generation_latency"]


def test_without_gold_passages() -> None:
    """Retrieval is timed and not judged."""
    scores = evaluate(RQAPipeline(Repeater(), InOrder(), top_k=1), rows()[2:])
    assert scores["n_judged"] == 0
    assert "document_recall" not in scores
    assert scores["retrieval_latency"] > 0


# ---- the commands ----


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world_folder(tmp_path_factory.mktemp("world"))


def evaluate_command(world: Path, output: Path, *options: str, reader: str = "fusion") -> list[str]:
    files = ["--data", str(world / "questions.jsonl"), "--output-dir", str(output)]
    return ["evaluate", "--checkpoint", str(world / reader), *files, *options]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("reader", ["fusion", "extractive"])
def test_evaluate_with_an_index(reader: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four files; the scores on stdout are those of score.json, all of them finite; memory is among them."""
    output = tmp_path / "results"
    index = ["--index", str(world / "index"), "--top-k", "2", "--batch-size", "2"]
    assert main(evaluate_command(world, output, *index, reader=reader)) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == read_json(output / "score.json")
    rules = {name: printed.pop(name) for name in ("language", "answer_rules", "bleu_tokenizer")}
    assert rules == {"language": "en", "answer_rules": "SQuAD", "bleu_tokenizer": "13a"}
    assert all(math.isfinite(value) for value in printed.values())
    assert {"ndcg", "bleu", "f1", "latency", "peak_memory_mib", "document_recall"} <= set(printed)
    assert sorted(path.name for path in output.iterdir()) == [
        *("all_args.json", "evaluate.log", "predictions.jsonl", "score.json"),
    ]
    arguments = read_json(output / "all_args.json")
    assert arguments["top_k"] == printed["top_k"] == 2
    assert arguments["index_manifest"]["n_passages"] == 3
    assert arguments["reader"] == {"fusion": "FusionReader", "extractive": "ExtractiveReader"}[reader]
    lines = [json.loads(line) for line in (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == ["a", "b", "c"]
    assert all(len(line["passages"]) == 2 for line in lines)
    assert "3 questions" in (output / "evaluate.log").read_text(encoding="utf-8")


def test_evaluate_a_part_without_an_index(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """FILE[1:] leaves the first question out; its predictions can be scored again, to the same numbers."""
    command = evaluate_command(world, tmp_path / "results")
    command[command.index("--data") + 1] += "[1:]"
    assert main(command) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["n_questions"] == 2
    assert main(["score", str(tmp_path / "results/predictions.jsonl")]) == 0
    again = json.loads(capsys.readouterr().out)
    same = ("exact_match", "f1", "rougeL", "language", "answer_rules")
    assert again == {name: scores[name] for name in same} | {"total": 2}


def test_evaluate_lists_every_error(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Data, index and options together, before a reader is loaded; nothing is written."""
    broken = write_lines(tmp_path / "broken.jsonl", [{"question": "who?", "answers": "x", "ctxs": []}])
    (tmp_path / "half.partial").mkdir()
    output = tmp_path / "results"
    command = ["evaluate", "--checkpoint", "nowhere", "--data", str(broken), "--output-dir", str(output)]
    options = ["--index", str(tmp_path / "half.partial"), "--top-k", "0", "--batch-size", "0"]
    assert main([*command, *options]) == 2
    error = capsys.readouterr().err
    for said in ("line 1: answers must be a list", "manifest.json", "--top-k: must be", "--batch-size: must be"):
        assert said in error
    assert not output.exists()


def test_evaluate_refuses_what_would_be_passed_over(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options of retrieval without an index, options of the other reader, an output that is taken."""
    assert main(evaluate_command(world, tmp_path / "results", "--top-k", "3")) == 2
    assert "--top-k: needs --index" in capsys.readouterr().err
    assert main(evaluate_command(world, tmp_path / "results", "--max-answer-length", "3")) == 2
    assert "--max-answer-length: is not a setting of" in capsys.readouterr().err
    assert main(evaluate_command(world, world)) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err


def test_an_evaluation_that_fails_leaves_nothing(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the folder nor a part of it."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("model_hub_rqa.evaluation.evaluate", fail)
    (tmp_path / "in").mkdir()
    assert main(evaluate_command(world, tmp_path / "in/results")) == 2
    assert list((tmp_path / "in").iterdir()) == []


@pytest.mark.slow
def test_faire_from_its_corpus_to_scores(rqa_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real dialogues over a real support site: BM25 finds all gold documents of most questions, and every score is
    finite, however little an untrained reader says."""
    docs, questions = rqa_data / "rqa/faire_docs.jsonl", rqa_data / "rqa/faire_test.jsonl"
    skip = ["--on-bad-record", "skip"]
    index = ["--corpus", str(docs), "--retriever", "bm25", "--output", str(tmp_path / "index")]
    assert main(["index", *index, *skip]) == 0
    reader = fusion_folder(tmp_path / "reader", prompt_template="chat", max_encoder_seq_length=128)
    capsys.readouterr()
    command = ["evaluate", "--checkpoint", str(reader), "--data", str(questions), "--index", str(tmp_path / "index")]
    assert main([*command, "--top-k", "4", "--output-dir", str(tmp_path / "results")]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["n_questions"] == scores["n_judged"] == 75
    assert all(math.isfinite(value) for value in scores.values() if not isinstance(value, str))
    assert scores["document_recall"] > 0.85
    assert scores["document_recall@1"] > 0.6


# ---- scores and predictions of written answers ----


def test_score_with_data_in_fids_form(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Any of the gold answers is enough; a question without a prediction counts as wrong."""
    predictions = tmp_path / "predictions.json"
    predictions.write_text(json.dumps({"a": "In october!", "b": "barrel of oil"}), encoding="utf-8")
    assert main(["score", str(predictions), "--data", str(world / "questions.jsonl")]) == 0
    captured = capsys.readouterr()
    scores = json.loads(captured.out)
    assert scores["exact_match"] == pytest.approx(200 / 3)
    assert scores["total"] == 3
    assert "1 of 3 questions have no prediction" in captured.err


def test_gold_answers_of_natural_questions_score_100(
    rqa_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each last answer as the prediction, against all of them, on 2,655 real questions."""
    import gzip

    data = rqa_data / "nq/nq-open-oracle.jsonl.gz"
    with gzip.open(data, "rt", encoding="utf-8") as file:
        answers = {str(number): json.loads(line)["answers"][-1] for number, line in enumerate(file, 1)}
    predictions = tmp_path / "predictions.json"
    predictions.write_text(json.dumps(answers), encoding="utf-8")
    assert main(["score", str(predictions), "--data", str(data)]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["exact_match"], scores["total"]) == (100, 2655)


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([{"id": "a", "prediction": "x"}], "record a: has no references, give --data"),
        ([{"id": "a", "prediction": 3, "references": ["x"]}], "line 1: prediction must be text"),
        ([{"prediction": "x", "references": ["x"]}], "line 1: must be an object with id"),
        ([{"id": "a", "prediction": "x", "references": "x"}], "line 1: references must be a list of texts"),
        ([{"id": "a", "prediction": "x", "references": ["x"]}] * 2, "line 2: duplicate id 'a'"),
        ([], "empty file"),
    ],
)
def test_bad_lines_of_predictions(
    lines: list[Any], error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is named with its line."""
    assert main(["score", str(write_lines(tmp_path / "predictions.jsonl", lines))]) == 2
    assert error in capsys.readouterr().err


def test_score_needs_true_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A JSON object of answers brings none."""
    (tmp_path / "p.json").write_text("{}", encoding="utf-8")
    assert main(["score", str(tmp_path / "p.json")]) == 2
    assert "--data: say where the gold answers are" in capsys.readouterr().err


@pytest.mark.parametrize(("reader", "form"), [("fusion", "fid"), ("fusion", "squad"), ("extractive", "fid")])
def test_predict_for_a_file(
    reader: str, form: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Either reader predicts on either form; what it writes can be scored with the same file."""
    data = world / "questions.jsonl" if form == "fid" else tiny.squad_file(tmp_path / "squad.json", 3)
    output = tmp_path / "predictions.json"
    assert main(["predict", "--checkpoint", str(world / reader), "--data", str(data), "--output", str(output)]) == 0
    assert len(read_json(output)) == 3
    capsys.readouterr()
    assert main(["score", str(output), "--data", str(data)]) == 0
    assert "exact_match" in json.loads(capsys.readouterr().out)


def test_predict_for_one_question_of_a_fusion_reader(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The answer and how sure it is; it has no place in the context."""
    command = ["predict", "--checkpoint", str(world / "fusion"), "--question", "oil?", "--context", CORPUS[0].text]
    assert main(command) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"answer", "score"}
