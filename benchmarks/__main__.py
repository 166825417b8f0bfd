"""``python -m benchmarks``: measures, prints a table in Markdown, and says on what machine."""

import argparse
from collections.abc import Callable

import torch

from benchmarks import accuracy, dense_search, extractive, fid, retrieval, startup
from benchmarks.machine import describe, gemm_ceiling
from benchmarks.timing import Row

Benchmark = Callable[[int, bool], list[Row]]
SHORT_FID = fid.Sizes(passages=2, max_seq_length=64, labels=8, batch=2)
FOUR, TWENTY = fid.Sizes(4, 512, 256, 4), fid.Sizes(20, 250, 64, 1)


def _fid_training(repeats: int, short: bool) -> list[Row]:
    if short:
        return fid.training(repeats, SHORT_FID, 1, ("", ""))
    rows = fid.training(repeats, FOUR, 2, ("3.8 (7)", "2.3 (3.2)"))
    return [*rows, *fid.training(repeats, TWENTY, 3, ("3 (4.8)", "1.8 (2.1)"))]


def _fid_passages(repeats: int, short: bool) -> list[Row]:
    return fid.passages(repeats, few=2, many=4, max_seq_length=64) if short else fid.passages(repeats)


def _f1(repeats: int, short: bool) -> list[Row]:
    return accuracy.f1(1, questions=12, validation=8) if short else accuracy.f1(3)


def _of_questions(run: Callable[..., list[Row]], few: int) -> Benchmark:
    def benchmark(repeats: int, short: bool) -> list[Row]:
        return run(repeats, questions=few) if short else run(repeats)

    return benchmark


BENCHMARKS: dict[str, Benchmark] = {
    "training": _of_questions(extractive.training, 8),
    "forward": _of_questions(extractive.forward, 16),
    "features": _of_questions(extractive.features, 50),
    "decoding": _of_questions(extractive.decoding, 50),
    "fid-training": _fid_training,
    "fid-generation": lambda repeats, short: fid.generation(repeats, SHORT_FID if short else fid.Sizes(4, 512, 64, 4)),
    "fid-passages": _fid_passages,
    "fid-memory": lambda repeats, short: fid.memory(SHORT_FID if short else TWENTY),
    "bm25": lambda repeats, short: retrieval.bm25(repeats, documents=100 if short else None),
    "bm25-engines": lambda repeats, short: (
        retrieval.engines(repeats, passages=300, queries=10) if short else retrieval.engines(repeats)
    ),
    "dense-search": lambda repeats, short: (
        dense_search.dense_search(repeats, passages=300, queries=10) if short else dense_search.dense_search(repeats)
    ),
    "dense": lambda repeats, short: retrieval.dense(repeats, documents=16 if short else 512),
    "f1": _f1,
    "startup": lambda repeats, short: startup.startup(repeats),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each case (default 5)")
    parser.add_argument("--short", action="store_true", help="tiny sizes and one turn: only to see that all of it runs")
    args = parser.parse_args()
    unknown = sorted(set(args.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    print("\n".join(f"- {line}" for line in describe()))
    if not args.short:
        for dtype in (torch.float32, torch.bfloat16):
            rate = gemm_ceiling(12 * 175, 384, 1536, dtype)
            print(f"- GEMM of 2,100 x 384 x 1,536 in {str(dtype).removeprefix('torch.')}: {rate:.0f} GFLOP/s sustained")
    print("\n| what | times | aimed at | ours | peer |\n|---|---|---|---|---|")
    for name in args.names or BENCHMARKS:
        for row in BENCHMARKS[name](1 if args.short else args.repeats, args.short):
            print(f"| {row.what} | **{row.ratio:.2f}** | {row.goal} | {row.ours} | {row.peer} |", flush=True)


if __name__ == "__main__":
    main()
