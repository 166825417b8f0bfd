"""The training script: a full local run, one rank or several, and the script entrypoint on a cluster.

``rqa train CONFIG ...``, ``torchrun ... -m model_hub_rqa.train CONFIG ...`` and, as an experiment's entrypoint,
``python3 -m determined.launch.torch_distributed -- python3 -m model_hub_rqa.train --trial module:Class``.
"""

import argparse
import contextlib
import errno
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from model_hub_rqa.checkpoints import METRIC, SMALLER_IS_BETTER, checkpoints_of, steps_completed
from model_hub_rqa.commands.train_arguments import configuration, names_as_typed, parse_arguments
from model_hub_rqa.config.experiment import Experiment
from model_hub_rqa.errors import ConfigError, RqaError, folder_error, renamed
from model_hub_rqa.progress import is_chief, quiet_libraries
from model_hub_rqa.runtime.experiments import attach, checked, import_trial

logger = logging.getLogger("model_hub_rqa")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``rqa train`` and of this script."""
    parser.add_argument("config", nargs="?", help="experiment configuration (YAML); not needed on a cluster")
    parser.add_argument(
        "--config",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a key, in the grammar of `det experiment create --config`",
    )
    parser.add_argument("--output-dir", "--output_dir", metavar="DIR", help="the run's folder (default: runs/NAME)")
    parser.add_argument(
        "--resume", metavar="DIR|RUN|latest", help="go on from a checkpoint, or from a run's newest whole one"
    )
    parser.add_argument("--test", action="store_true", help="train, validate and checkpoint one batch only")
    parser.add_argument(
        "--trial",
        metavar="MODULE:CLASS",
        help="the trial class; overrides the entrypoint's. With --help: the flags of all its settings",
    )
    parser.add_argument(
        "--allow-unverified",
        action="store_true",
        help="go on from a checkpoint without manifest.json, though nothing shows whether it is damaged",
    )
    parser.add_argument(
        "--allow-changed-run",
        action="store_true",
        help="go on although the batch size, seed, data, optimizer or number of ranks is another than before",
    )


def main(argv: Sequence[str] | None = None, prog: str = "model_hub_rqa.train") -> int:
    """Runs the script; returns its exit code: 0 done, 2 for what the user can mend, 1 otherwise."""
    log_to_stderr()
    try:
        words = sys.argv[1:] if argv is None else argv
        args, given = parse_arguments(words, add_arguments, prog=prog)
        try:
            return _run(args, given)
        except RqaError as error:
            raise renamed(error, names_as_typed(words, args, given)) from error
    except RqaError as error:
        _report(error)
        return error.exit_code


def _report(error: RqaError) -> None:
    """Prints an error, and tells torchrun; on a cluster under its full name, which ``log_policies`` look for."""
    import determined

    from model_hub_rqa.runtime import cluster_run

    cluster_run.report_to_torchrun(error)
    if os.environ.get("LOCAL_RANK", "0") == "0":  # the other ranks of a host end with the same words
        kind = type(error)
        name = "" if determined.get_cluster_info() is None else f"{kind.__module__}.{kind.__qualname__}: "
        print(f"{name}{error}", file=sys.stderr, flush=True)


def log_to_stderr() -> None:
    """Warnings and errors go to stderr, errors alone from ranks other than 0; what run.log takes stays out of it."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING if is_chief() else logging.ERROR)
    logging.basicConfig(handlers=[handler], format="%(levelname)s: %(message)s")


def _run(args: argparse.Namespace, given: dict[str, dict[str, Any]]) -> int:
    import determined

    from model_hub_rqa.runtime.resuming import is_run

    if determined.get_cluster_info() is not None:
        if given:
            raise ConfigError("flags of settings are for local runs: on a cluster the configuration says what to train")
        return _train_on_cluster(args.trial, args.allow_unverified)
    if args.allow_unverified and (args.resume in (None, "latest") or is_run(args.resume)):
        raise ConfigError("--allow-unverified: needs --resume DIR, the checkpoint to trust")
    if args.allow_changed_run and args.resume is None:
        raise ConfigError("--allow-changed-run: needs --resume")
    experiment = checked(configuration(args, given), int(os.environ.get("WORLD_SIZE", "1")))
    named = experiment.hyperparameters.get("output_dir")  # what is no text is told with the other settings
    folder = named if isinstance(named, str) and named else Path("runs") / experiment.name
    own = args.resume if is_run(args.resume) else folder
    return _train_locally(experiment, Path(args.output_dir or own), args)


# ---- a local run ----


def _train_locally(experiment: Experiment, folder: Path, args: argparse.Namespace) -> int:
    import torch
    from determined import pytorch

    from model_hub_rqa.runtime import determined_fixes, local_run, resuming

    if reason := folder_error(folder):
        by_config = args.output_dir is None and "output_dir" in experiment.hyperparameters
        raise ConfigError(f"{'hyperparameters.output_dir' if by_config else '--output-dir'}: {reason}")
    trial_class = import_trial(experiment.trial_class or "")
    hparams = _for_determined(experiment)
    quiet_libraries()
    distributed = determined_fixes.join_process_group()
    held = contextlib.ExitStack()
    try:
        resume_from, notes = resuming.begin(distributed, folder, args.resume, args.allow_unverified, held)
        folder.mkdir(parents=True, exist_ok=True)
        with (
            local_run.logging_to(folder / "run.log", enabled=distributed is None or distributed.rank == 0),
            pytorch.init(
                hparams=hparams,
                exp_conf=dict(experiment.raw),
                distributed=distributed,
                aggregation_frequency=experiment.accumulation,
            ) as context,
            local_run.stopping_on_signals(context) as interrupted,
        ):
            attach(context, experiment)
            for line in notes:
                _log(line)
            if context.distributed.rank == 0:
                local_run.write_config(folder / "config.yaml", experiment.file_content())
            trial: Any = trial_class(context)
            trial.output_dir = folder
            before: dict[str, Any] = {}
            if resume_from is not None and not trial.trainer.validates_only:
                before, notes = resuming.check_same_run(trial, resume_from, allow_changed=args.allow_changed_run)
                for line in notes:
                    _log(line)
            _fit_locally(
                trial, experiment, folder, resume_from, before, test_mode=args.test, interrupted=interrupted.is_set
            )
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RqaError(f"{error.filename or folder}: cannot be written: {error.strerror}") from error
    finally:
        held.close()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


def _fit_locally(
    trial: Any,
    experiment: Experiment,
    folder: Path,
    resume_from: Path | None,
    changed_from: dict[str, Any],
    *,
    test_mode: bool,
    interrupted: Callable[[], bool],
) -> None:
    from determined import pytorch

    from model_hub_rqa.runtime import determined_controller, local_run, summary

    began, context = time.monotonic(), trial.context
    chief = context.distributed.rank == 0
    resume_from, batches = _roll_back(trial, folder, resume_from, changed_from)
    done = batches // trial.accumulation
    reports = _use_local_backends(trial, experiment, folder, done)
    run = determined_controller.LocalRun(
        resume_from=resume_from,
        done=batches,
        changed_from=changed_from,
        checkpoint_policy=_checkpoint_policy(trial, experiment),
        metric=experiment.metric,
        smaller_is_better=trial.smaller_is_better,
        code=determined_controller.code_of(type(trial)),
        validates_only=trial.trainer.validates_only,
        interrupted=interrupted,
        on_validation_batch=reports.validating,
    )
    try:
        with determined_controller.local_controller(run):
            # the policy is the controller's; Trainer would warn of "best" and take "all"
            first = bool(experiment.resolved.get("perform_initial_validation")) and not trial.trainer.validates_only
            settings = {"checkpoint_policy": "none", "step_zero_validation": first, "test_mode": test_mode}
            fit(pytorch.Trainer(trial, context), trial, **settings)
        if chief and (trial.stop_reason is not None or not context.get_stop_requested()):
            local_run.remove_hidden_checkpoints(folder)
        if trial.stop_reason is not None:
            _log(f"stopped by {trial.stop_reason}")
        elif context.get_stop_requested() and trial.trainer.validates_only:
            _log("stopped before the validation was done: run it again")
        elif context.get_stop_requested():
            _log(f"stopped, with {checkpoints_of(folder)[0]} written: --resume latest goes on from it")
        if chief:
            summary.write(folder, trial, experiment, reports, resumed_at=done, seconds=time.monotonic() - began)
    finally:
        if reports.progress is not None:
            reports.progress.close()


def _roll_back(trial: Any, folder: Path, resume_from: Path | None, changed_from: Any) -> tuple[Path | None, int]:
    """Makes the run's checkpoints those up to the one that it goes on from.

    Returns:
        That checkpoint by the name that it has now, and the batches that were trained before.
    """
    from model_hub_rqa.runtime import local_run, resuming, summary

    distributed, accumulation = trial.context.distributed, trial.accumulation
    chief = distributed.rank == 0
    new_names = distributed.broadcast(local_run.count_in_steps(folder, accumulation) if chief else None)
    if resume_from is not None and resume_from.parent == (folder / "checkpoints").resolve():
        resume_from = resume_from.with_name(new_names.get(resume_from.name, resume_from.name))
    done = 0 if resume_from is None else steps_completed(resume_from)
    batches = resuming.batches_of(done, changed_from, accumulation)
    if chief:
        for line in local_run.roll_back(folder, batches // accumulation):
            _log(line)
        summary.remove(folder)
    return resume_from, batches


def _use_local_backends(trial: Any, experiment: Experiment, folder: Path, done: int) -> Any:
    """Lets the run's folder receive checkpoints and reports, which are returned; ``done`` steps were trained before."""
    from model_hub_rqa.progress import TrainProgress
    from model_hub_rqa.runtime import local_checkpoints, local_run, resuming

    context, accumulation = trial.context, trial.accumulation
    chief = context.distributed.rank == 0
    reports = local_run.Reports(
        folder,
        metric=experiment.metric,
        smaller_is_better=trial.smaller_is_better,
        resumed_at=done,
        accumulation=accumulation,
        is_chief=chief,
    )
    reports.last_validation = context.distributed.broadcast(reports.last_validation)
    searcher = {METRIC: experiment.metric, SMALLER_IS_BETTER: trial.smaller_is_better}
    checkpoints = local_checkpoints.LocalCheckpoints(
        context.distributed,
        (folder / "checkpoints").resolve(),
        resuming.run_record(trial) | searcher if chief else {},
        lambda _: local_run.remove_old_checkpoints(folder, trial.trainer.save_total_limit, reports),
        accumulation=accumulation,
    )
    local_checkpoints.use_local_backends(context, checkpoints, reports)
    if chief:
        whole, examples = trial.num_training_batches() // accumulation, context.get_global_batch_size() * accumulation
        reports.progress = TrainProgress(whole, done, examples)
    return reports


def fit(trainer: Any, trial: Any, **settings: Any) -> bool:
    """Calls ``Trainer.fit`` with the lengths and periods of the trial's hyperparameters, in batches.

    Returns:
        Whether training came to its end; False where it was stopped before, and is to go on from its checkpoint.
    """
    from determined import pytorch

    from model_hub_rqa.runtime import determined_fixes

    whole = trial.num_training_batches()
    trainer.fit(
        max_length=pytorch.Batch(whole),
        validation_period=pytorch.Batch(trial.period("eval")),
        checkpoint_period=pytorch.Batch(trial.period("save")),
        reporting_period=pytorch.Batch(trial.trainer.logging_steps * trial.accumulation),
        **settings,
    )
    finished = not determined_fixes.was_stopped(trial.context)
    done = determined_fixes.batches_trained(trial.context)
    logger.info("training %s after %d of %d batches", "is finished" if finished else "was stopped", done, whole)
    return finished


def _checkpoint_policy(trial: Any, experiment: Experiment) -> str:
    none = trial.trainer.validates_only or trial.trainer.save_strategy == "no"
    return "none" if none else experiment.checkpoint_policy


# ---- a cluster's task ----


def _train_on_cluster(trial: str | None, allow_unverified: bool) -> int:
    import determined

    from model_hub_rqa.runtime import determined_cluster

    info = determined.get_cluster_info()
    assert info is not None
    quiet_libraries()
    determined.common.set_logger(determined_cluster.is_debugged(info))
    logging.getLogger("determined").setLevel(logging.NOTSET)  # a task's log is read for its commentary
    config = determined_cluster.written_config(info)
    if trial is not None:
        config["entrypoint"] = trial
    if allow_unverified:
        os.environ[determined_cluster.ALLOW_UNVERIFIED] = "1"
    try:
        _fit_on_cluster(config, info)
    except determined_cluster.MASTER_ERRORS as error:
        logger.debug("the whole error:", exc_info=error)
        request = determined_cluster.refused_request(error)
        print(f"the master at {info.master_url} failed {request}: {error.message or repr(error)}", file=sys.stderr)
        return 1
    return 0


def _fit_on_cluster(config: dict[str, Any], info: Any) -> None:
    from determined import pytorch

    from model_hub_rqa.runtime import cluster_run, determined_cluster

    experiment, hparams, impossible = None, None, None
    try:
        experiment = Experiment.load(config, info.trial.hparams)
        experiment = experiment.for_slots(int(os.environ.get("WORLD_SIZE", "1")))
        hparams = _for_determined(experiment)
        info.trial.hparams["global_batch_size"] = hparams["global_batch_size"]  # which pytorch.Trainer reads as well
    except ConfigError as error:
        impossible = error  # to be raised inside of init, where a search is told; init itself would fail
    else:
        experiment.check()
    accumulation = 1 if experiment is None else experiment.accumulation
    with pytorch.init(hparams=hparams, exp_conf=config, aggregation_frequency=accumulation) as context:
        if context.distributed.rank != 0:
            logging.getLogger().setLevel(logging.DEBUG if determined_cluster.is_debugged(info) else logging.WARNING)
        with cluster_run.raising_invalid_hp():
            if impossible is not None:
                raise impossible
        assert experiment is not None
        attach(context, experiment)
        trial: Any = import_trial(experiment.trial_class or "")(context)
        settings = {
            "checkpoint_policy": _checkpoint_policy(trial, experiment),
            "latest_checkpoint": info.latest_checkpoint,
            "step_zero_validation": bool(config.get("perform_initial_validation")),
            "profiling_enabled": bool((config.get("profiling") or {}).get("enabled")),
        }
        trainer = pytorch.Trainer(trial, context)
        if not trial.trainer.validates_only:
            fit(trainer, trial, **settings)
            return
        with tempfile.TemporaryDirectory() as files, determined_cluster.validation_on_cluster(Path(files)):
            trial.output_dir = Path(files)
            fit(trainer, trial, **settings)


def _for_determined(experiment: Experiment) -> dict[str, Any]:
    """The hyperparameters that Determined gets. It divides the batch before the trial is made: the size is a number.

    Raises:
        ConfigError: the size is none.
    """
    size, ranks = experiment.hyperparameters.get("global_batch_size"), int(os.environ.get("WORLD_SIZE", "1"))
    if isinstance(size, float) and size.is_integer():
        size = int(size)
    if isinstance(size, bool) or not isinstance(size, int) or size < ranks:
        raise ConfigError(
            f"hyperparameters.global_batch_size: must be a whole number of at least 1 a rank ({ranks}), got {size!r}"
        )
    return {**experiment.trial_hparams, "global_batch_size": size}


def _log(line: str) -> None:
    """A line for the user, on stderr and in run.log."""
    if is_chief():
        print(line, file=sys.stderr)
        logger.info(line)


if __name__ == "__main__":
    sys.exit(main())
