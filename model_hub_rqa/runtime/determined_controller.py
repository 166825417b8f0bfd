"""Determined's controller of a training, with what this package needs of it: `Controller` anywhere, `LocalController`
in a local run.

An error that ends a run writes a checkpoint of the last good optimizer step first (`keep_last_step`). Determined writes
none: what was trained since the last checkpoint would be lost. Only its controller can write one, and no entrypoint
hands it out, so the controller is put where a trial finds it: on the context.
"""

import contextlib
import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from determined import pytorch, util

from model_hub_rqa.checkpoints import METADATA, STATE
from model_hub_rqa.errors import CheckpointError, RqaError
from model_hub_rqa.runtime import resuming
from model_hub_rqa.runtime.determined_fixes import steps_now

logger = logging.getLogger(__name__)

_NAME = "rqa_controller"


class Controller(pytorch._PyTorchTrialController):
    """Determined's own controller, which its context knows."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        vars(self.context)[_NAME] = self


def use_controller() -> None:
    """Makes ``Trainer.fit`` build a `Controller`; it takes the class from its module by name."""
    vars(pytorch)["_PyTorchTrialController"] = Controller


def keep_last_step(context: pytorch.PyTorchTrialContext, *, lost_steps: int = 0) -> None:
    """Writes a checkpoint of the last good optimizer step, unless there is one; every rank must call it.

    Args:
        context: of the trial.
        lost_steps: steps that left the weights as they were, up to the one that the batch at hand completes; 0 outside
            of training.
    """
    controller: Any = vars(context).get(_NAME)
    if controller is None or controller.state is None:
        return
    state, accumulation = controller.state, context._aggregation_frequency
    if lost_steps:  # the batch at hand is not counted yet
        good = state.batches_trained + 1 - lost_steps * accumulation
        state.batches_trained = max(good, controller.start_from_batch)
        state.epochs_trained = controller._get_epoch_idx(state.batches_trained)
        state.last_val = min(state.last_val, state.batches_trained)
    if state.last_ckpt >= state.batches_trained:
        state.last_ckpt = state.batches_trained  # so that Determined writes no other one
        return
    controller._checkpoint(already_exiting=True)
    logger.warning("before the run ends, step %d is kept in a checkpoint", state.batches_trained // accumulation)


@dataclass(frozen=True, kw_only=True)
class LocalRun:
    """What the controller of a local run is told; see `LocalController` for what each is for."""

    resume_from: Path | None
    done: int = 0
    changed_from: Mapping[str, Any] | None = None
    checkpoint_policy: str
    metric: str
    smaller_is_better: bool
    code: Path | None
    validates_only: bool = False
    interrupted: Callable[[], bool] = lambda: False
    on_validation_batch: Callable[[int, int], None] = lambda done, total: None


class LocalController(Controller):
    """The controller of a local run: it resumes exactly, and keeps ``checkpoint_policy: best`` off the cluster too.

    - Determined's local resume starts data and batch numbers at 0 and overshoots: it begins after ``done`` batches.
    - It restores the settings of optimizer and schedule along with their state: with ``changed_from``, the record of
      another run, those of this run hold, and batches are counted by this run's accumulation.
    - Its local training turns "best" into "all".
    - Its local checkpoints copy the whole working directory, be it a home directory: only ``code`` (the file or
      package of the trial class, None where it is installed) is copied (`local_controller`).
    - It validates only after training: with ``validates_only`` it validates once and writes no checkpoint.
    - It looks for a stop at reports and validations alone, and each rank at its own flag: all ranks look together,
      after every optimizer step.
    - It finishes a validation first, which may take long: where ``interrupted()`` is true on any rank, all leave it
      after the batch at hand, and a resume makes it up. ``on_validation_batch`` hears how many are done, of how many.
    - It loads what it finds of a checkpoint, and starts at 0 where the trial's number is another (the cluster's).
    - It tells an error of a reducer along with every value that was reduced, which fills a log with numbers.
    """

    local: LocalRun

    def __init__(self, **settings: Any) -> None:
        if self.local.resume_from is not None:
            settings["steps_completed"] = self.local.done
            settings["latest_checkpoint"] = str(self.local.resume_from)
        settings |= {"checkpoint_policy": self.local.checkpoint_policy, "searcher_metric_name": self.local.metric}
        settings["smaller_is_better"] = self.local.smaller_is_better
        super().__init__(**settings)
        self.context._steps_completed = self.local.done

    def _run(self) -> None:
        if not self.local.validates_only:
            super()._run()
            return
        with contextlib.suppress(pytorch._ShouldExit):
            self._validate()

    def _train(self, length: Any, train_boundaries: list[Any]) -> None:
        self.boundaries = train_boundaries
        if self.local.resume_from is not None:
            self._stop_requested()  # by a callback, of a run that had ended before it was resumed
            if self.validation_period.should_stop(self.start_from_batch) and not self._validation_is_current():
                self._validate()  # the run was stopped in it
        super()._train(length, train_boundaries)

    def _step_batch(self) -> None:
        super()._step_batch()
        if steps_now(self.context) and _any_rank_stops(self.context, self.context.get_stop_requested()):
            for boundary in self.boundaries:
                boundary.limit_reached |= boundary.step_type == pytorch._TrainBoundaryType.REPORT

    def _stop_requested(self) -> None:
        if _any_rank_stops(self.context, self.context.get_stop_requested()):
            raise pytorch._ShouldExit()

    def _leave_if_interrupted(self) -> None:
        if _any_rank_stops(self.context, self.local.interrupted()):
            raise pytorch._ShouldExit()

    def _looking_up(self, evaluate_batch: Any) -> Any:
        """The trial's ``evaluate_batch``, with a look for a signal after each batch: as many looks on each rank."""
        batches = len(self.validation_loader or ())
        most = max(self.context.distributed.allgather(batches))
        takes_number = util.has_param(evaluate_batch, "batch_idx", 2)

        def evaluate(batch: Any, batch_idx: int) -> Any:
            found = evaluate_batch(batch=batch, **({"batch_idx": batch_idx} if takes_number else {}))
            self.local.on_validation_batch(batch_idx + 1, batches)
            is_last = batch_idx + 1 == batches and not self.test_mode
            for _ in range(1 + most - batches if is_last else 1):
                self._leave_if_interrupted()
            return found

        return evaluate

    def _validate(self) -> dict[str, Any]:
        self._leave_if_interrupted()
        evaluate = self._looking_up(self.trial.evaluate_batch)
        try:
            with mock.patch.object(self.trial, "evaluate_batch", evaluate):
                return super()._validate()
        except ValueError as error:
            if error.__cause__ is None or isinstance(error, RqaError):  # which is our own, with its cause
                raise
            raise error.__cause__ from None

    def _load(self, load_path: Path) -> None:
        kept = resuming.keeping_new_settings(self.context) if self.local.changed_from else contextlib.nullcontext()
        try:
            with kept:
                super()._load(load_path)
        except Exception as error:  # torch, pickle and every load_state_dict raise their own kinds
            words = " ".join(str(error).split())
            raise CheckpointError(f"{load_path}: cannot be loaded into this configuration: {words}") from error
        found, expected = self.state.batches_trained if self.state else None, self.start_from_batch
        if found != expected:
            raise CheckpointError(f"{load_path / STATE}: must be of batch {expected}, as {METADATA} is, got {found}")

    def _load_state(self, state: Any) -> None:
        if self.local.changed_from:
            counted = {name: state[name] for name in ("batches_trained", "last_val", "last_ckpt")}
            accumulation = self.context._aggregation_frequency
            counted = {
                name: resuming.batches_of(number, self.local.changed_from, accumulation)
                for name, number in counted.items()
            }
            state = {**state, **counted, "epochs_trained": self._get_epoch_idx(counted["batches_trained"])}
        super()._load_state({**state, "trial_id": self.trial_id})


@contextlib.contextmanager
def local_controller(run: LocalRun) -> Iterator[None]:
    """While this is open, ``Trainer.fit`` builds a `LocalController`."""

    def write_code(path: Path, on_cluster: bool) -> None:
        target = path / "code"
        target.mkdir()
        if run.code is not None and run.code.is_dir():
            shutil.copytree(run.code, target / run.code.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif run.code is not None:
            shutil.copy2(run.code, target)

    controller = type("LocalController", (LocalController,), {"local": run})
    # Trainer.fit has no argument for either: it takes them from their modules by name.
    with (
        mock.patch.object(pytorch, "_PyTorchTrialController", controller),
        mock.patch.object(util, "write_user_code", write_code),
    ):
        yield


def _any_rank_stops(context: pytorch.PyTorchTrialContext, wanted: bool) -> bool:
    """Whether any rank wants to stop, which every rank then knows of; all of them must call it."""
    if context.distributed.size > 1:
        flag = torch.tensor(int(wanted), device=context.device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        wanted = bool(flag)
    if wanted:
        context.set_stop_requested(True)
    return wanted


def code_of(trial_class: type) -> Path | None:
    """The file or top package of a trial class that lives under the working directory and is not ours."""
    top = trial_class.__module__.partition(".")[0]
    if top == __name__.partition(".")[0]:
        return None
    file = getattr(sys.modules.get(top), "__file__", None)
    if file is None or not Path(file).resolve().is_relative_to(Path.cwd().resolve()):
        return None
    return Path(file).parent if Path(file).name == "__init__.py" else Path(file)
