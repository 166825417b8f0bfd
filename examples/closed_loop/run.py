"""Train a reader, distil it into the retriever, retrieve anew, train the reader on that: one command, step by step.

``python examples/closed_loop/run.py --help``. A step that is finished is skipped, a training that was stopped goes on
from its newest checkpoint: after any stop, give the same command again.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from model_hub_rqa.checkpoints import checkpoints_of
from model_hub_rqa.cli import main as rqa

HERE = Path(__file__).parent
WORLD = HERE.parent / "fid_quickstart"


@dataclass(frozen=True)
class Step:
    """An ``rqa`` command and the file or folder that it makes."""

    words: tuple[str, ...]
    output: Path

    @property
    def done(self) -> bool:
        """Whether the output is whole."""
        if self.words[0] == "train":
            summary = self.output / "summary.json"
            return summary.is_file() and json.loads(summary.read_text(encoding="utf-8"))["status"] == "finished"
        return (self.output / "score.json" if self.words[0] == "evaluate" else self.output).exists()

    def check(self, commands: Sequence[Sequence[str]]) -> None:
        """Ends the program where the output was made by other commands than these: its own, and those before it."""
        record = self.output.parent / "commands" / f"{self.output.name}.json"
        if self.output.exists() and record.is_file():
            before = [word for words in json.loads(record.read_text(encoding="utf-8")) for word in words]
            now = [word for words in commands for word in words]
            for old, new in zip_longest(before, now):
                if old != new:
                    hint = "remove it and what comes after it, or name another --output-dir"
                    print(f"{self.output}: was made with {old!r}, got {new!r}: {hint}", file=sys.stderr)
                    sys.exit(2)
        record.parent.mkdir(exist_ok=True)
        record.write_text(json.dumps(commands), encoding="utf-8")

    def run(self, tell: Callable[[str], None]) -> None:
        """Does what is left of it; ends the program where the command fails or was stopped."""
        if self.done:
            tell(f"finished: {self.output}")
            return
        tell(f"rqa {' '.join(self.words)}")
        words = list(self.words)
        if words[0] == "train" and checkpoints_of(self.output):
            words += ["--resume", "latest"]
        elif words[0] == "evaluate":
            shutil.rmtree(self.output, ignore_errors=True)  # what a stop has left
        elif words[0] == "predict":  # a file that is there is whole
            part = self.output.with_suffix(".part")
            words = [str(part) if word == str(self.output) else word for word in words]
        if code := rqa(words):
            sys.exit(code)
        if words[0] == "predict":
            part.replace(self.output)
        if not self.done:
            tell("stopped: the same command goes on from here")
            sys.exit(0)


def steps(args: argparse.Namespace) -> Iterator[Step]:
    """All steps in their order; round 0 retrieves with BM25."""
    out = Path(args.output_dir)

    def path(name: str, number: int, ending: str = "") -> Path:
        return out / f"{name}-{number}{ending}"

    def train(kind: str, number: int, own: Sequence[str], **settings: object) -> Step:
        target, words = path(kind, number), [str(HERE / f"{kind}.yaml"), "--output-dir", str(path(kind, number))]
        for word in (*(f"{name.replace('__', '.')}={value}" for name, value in settings.items()), *own):
            words += ["--config", word]
        return Step(("train", *words), target)

    def retrieve(number: int, split: str, data: str) -> Step:
        target = path(split, number)
        words = ["--index", str(path("index", number)), "--queries", data, "--top-k", str(args.top_k)]
        return Step(("retrieve", *words, "--output", str(target)), target)

    for number in range(args.rounds + 1):
        if number == 0:
            kind, started = ["--retriever", "bm25"], {}
        else:
            scores = path("scores", number, ".jsonl")
            reader, data = str(path("reader", number - 1)), str(path("train", number - 1) / "ctxs.jsonl")
            yield Step(("predict", "--checkpoint", reader, "--data", data, "--passage-scores", str(scores)), scores)
            first = {"hyperparameters__pretrained_model_name_or_path": args.embedding_model}
            if number > 1:
                first = {"hyperparameters__pretrained_model_name_or_path": "null"}
                first["hyperparameters__init_checkpoint"] = str(path("retriever", number - 1))
            files = {"data__train_file": scores, "data__validation_file": args.dev, "data__corpus_file": args.corpus}
            files |= {"data__reader": reader, "data__reader_top_k": args.top_k}
            depth = {"hyperparameters__num_hard_negatives": args.top_k - 1}
            yield train("retriever", number, args.retriever_config, **first, **files, **depth)
            kind = ["--retriever", "dense", "--embedding-model", str(path("retriever", number))]
            started = {"hyperparameters__init_checkpoint": reader}
        index = path("index", number)
        yield Step(("index", "--corpus", args.corpus, *kind, "--output", str(index)), index)
        yield retrieve(number, "train", args.train)
        yield retrieve(number, "dev", args.dev)
        found = {f"data__{name}": path(split, number) / "ctxs.jsonl" for name, split in FILES}
        model = {"hyperparameters__pretrained_model_name_or_path": args.reader_model}
        yield train("reader", number, args.reader_config, **model, **found, data__n_context=args.top_k, **started)
        words = ["--checkpoint", str(path("reader", number)), "--data", args.dev, "--index", str(index)]
        target = path("evaluation", number)
        yield Step(("evaluate", *words, "--top-k", str(args.top_k), "--output-dir", str(target)), target)


FILES = (("train_file", "train"), ("validation_file", "dev"))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", default="runs/closed_loop")
    parser.add_argument("--rounds", type=int, default=1, help="how often the reader is distilled (default 1)")
    parser.add_argument("--top-k", type=int, default=4, help="passages of a question (default 4)")
    parser.add_argument("--corpus", default=str(WORLD / "corpus.jsonl"))
    parser.add_argument("--train", default=str(WORLD / "train.jsonl"), help="questions with answers")
    parser.add_argument("--dev", default=str(WORLD / "validation.jsonl"), help="the same, with gold passages marked")
    parser.add_argument("--reader-model", default=str(WORLD / "model"), help="of FiDTrial")
    parser.add_argument("--embedding-model", default="sentence-transformers/all-MiniLM-L6-v2", help="to be tuned")
    parser.add_argument("--reader-config", action="append", default=[], metavar="KEY=VALUE", help="of reader.yaml")
    parser.add_argument(
        "--retriever-config", action="append", default=[], metavar="KEY=VALUE", help="of retriever.yaml"
    )
    args = parser.parse_args(argv)
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    commands: list[list[str]] = []
    for step in steps(args):
        commands.append([word.replace(args.output_dir, "") for word in step.words])
        step.check(commands)
        step.run(lambda line: print(f"== {line}", file=sys.stderr, flush=True))
    for number in range(args.rounds + 1):
        scores = json.loads((Path(args.output_dir) / f"evaluation-{number}/score.json").read_text(encoding="utf-8"))
        shown = {name: scores[name] for name in ("exact_match", "f1", "document_recall") if name in scores}
        print(json.dumps({"round": number, **shown}))


if __name__ == "__main__":
    main()
