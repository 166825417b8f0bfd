"""Training in processes of their own, each forked from one that has imported everything: starting takes no time."""

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch

from model_hub_rqa import train

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        *("model_hub_rqa.train", "model_hub_rqa.trials.fid", "model_hub_rqa.trials.qa", "model_hub_rqa.progress"),
        *("determined.cli.ntsc", "determined.pytorch", "torch.utils.tensorboard", "zmq", "setuptools", "pytest"),
        *("transformers.models.bert.modeling_bert", "transformers.models.t5.modeling_t5", "transformers.optimization"),
    ]
)


def start(
    argv: Sequence[str], log: Path, *, hook: Callable[[], object] | None = None, **environment: str
) -> ForkServerProcess:
    """Starts ``train.main(argv)``; its stdout and stderr go to ``log``, and ``hook`` is called first."""
    process = _CONTEXT.Process(target=_train, args=(list(argv), log, hook, environment))
    process.start()
    return process


def finish(process: ForkServerProcess, seconds: float = 120) -> int:
    """Waits, and returns the exit code."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"the run did not end within {seconds} seconds")
    return process.exitcode


def start_ranks(
    count: int, argv: Sequence[str], logs: Path, *, hook: Callable[[], object] | None = None, **environment: str
) -> list[ForkServerProcess]:
    """As torchrun starts them; rank R writes to ``logs``/R.log."""
    logs.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return [
        start(
            argv,
            logs / f"{rank}.log",
            hook=hook,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(count),
            LOCAL_WORLD_SIZE=str(count),
            GROUP_RANK="0",
            GROUP_WORLD_SIZE="1",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
            **environment,
        )
        for rank in range(count)
    ]


def run_nodes(argvs: Sequence[Sequence[str]], logs: Path, seconds: float = 120) -> list[int]:
    """One rank on each of several machines, with a command line of its own; returns the exit codes."""
    logs.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank, argv in enumerate(argvs):
        environment = {"RANK": str(rank), "GROUP_RANK": str(rank), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        environment |= {"WORLD_SIZE": str(len(argvs)), "GROUP_WORLD_SIZE": str(len(argvs))}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        processes.append(start(argv, logs / f"{rank}.log", **environment))
    try:
        return [finish(process, seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()


def run_ranks(count: int, argv: Sequence[str], logs: Path, *, hook: Callable[[], object] | None = None) -> list[int]:
    """Runs all ranks to their end; returns their exit codes."""
    if count == 1:
        logs.mkdir(parents=True, exist_ok=True)
        return [finish(start(argv, logs / "0.log", hook=hook))]
    processes = start_ranks(count, argv, logs, hook=hook)
    try:
        return [finish(process) for process in processes]
    finally:
        for process in processes:  # where one did not end, neither did the others
            process.kill()


def _train(argv: list[str], log: Path, hook: Callable[[], object] | None, environment: dict[str, str]) -> None:
    multiprocessing.set_start_method("fork", force=True)  # for a loader's workers, as without this module
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # as torchrun has it; sums on two threads round otherwise
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if hook is not None:
        hook()
    sys.exit(train.main(argv))
