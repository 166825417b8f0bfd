"""What Determined 0.38.1 does on a cluster and should do otherwise: the workarounds that a local run has no need of.

With the other modules of this name, the only one that touches Determined's internals. What holds here holds under both
kinds of entrypoint, the script and ``module:Class``, whose harness is Determined's own.
"""

import contextlib
import logging
import os
import pickle
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import determined
from determined import pytorch
from determined.common.api import bindings, errors

from model_hub_rqa.checkpoints import PRETRAINED, STATE, verify_checkpoint
from model_hub_rqa.errors import CheckpointError, ConfigError
from model_hub_rqa.progress import ShownMetrics, hide_bars
from model_hub_rqa.runtime import determined_controller
from model_hub_rqa.runtime.determined_fixes import is_loading_only

logger = logging.getLogger(__name__)

ALLOW_UNVERIFIED = "RQA_ALLOW_UNVERIFIED_CHECKPOINT"  # a variable: a legacy entrypoint takes no options
WARM_START = "searcher.source_checkpoint_uuid"  # or source_trial_id, or a fork in the WebUI
MASTER_ERRORS = (errors.BadRequestException, errors.BadResponseException, bindings.APIHttpError)


def written_config(info: Any) -> dict[str, Any]:
    """The experiment configuration of a cluster's task (``determined.get_cluster_info()``), as the master has it."""
    return dict(info.trial._config)


def is_debugged(info: Any) -> bool:
    """Whether the experiment asks for debug logs."""
    return bool(info.trial._debug)


def patch_context(context: pytorch.PyTorchTrialContext) -> None:
    """Puts our behaviour over that of the context's own parts; call it before anything is built.

    - Determined unpickles trial_state.pkl unseen: here a checkpoint is verified as soon as it is on the disk, before
      any of its files is opened. One without a manifest needs the environment variable `ALLOW_UNVERIFIED`.
    - A plain number as ``searcher.max_length`` counts batches, and Determined fails on it: the unit is written out.
    - InvalidHP is raised on every rank, or the others would wait for ever, and each of them would report it; the
      first report already counts, and Determined's handling of a refused second one does not work.
    - A searcher's stop stops the trial: see `_SearcherStop`.
    - The log shows metrics rounded, the main ones first; the master gets them in full.
    """
    if is_loading_only(context):
        return
    determined_controller.use_controller()
    searcher = context.get_experiment_config().get("searcher") or {}
    if isinstance(searcher.get("max_length"), int):
        searcher["max_length"] = {"batches": searcher["max_length"]}
    core: Any = context._core  # whose methods are replaced: no entrypoint lets us give other objects
    distributed, checkpoints = context.distributed, core.checkpoint
    restore_path = checkpoints.restore_path

    @contextlib.contextmanager
    def restore_verified(storage_id: str, *args: Any, **kwargs: Any) -> Iterator[Path]:
        with restore_path(storage_id, *args, **kwargs) as path:
            error = _checkpoint_error(Path(path)) if distributed.local_rank == 0 else None
            error = distributed.broadcast_local(error)
            if error is not None:
                raise error
            yield path

    checkpoints.restore_path = restore_verified
    if distributed.rank != 0:
        core.train.report_early_exit = lambda reason: None
    if _runs_a_trial():
        hide_bars()  # the script has done it before; the harness of a module:Class has not
        _SearcherStop(context).attach()
        _show_rounded(context)


def _runs_a_trial() -> bool:
    info = determined.get_cluster_info()
    return info is not None and info.task_type == "TRIAL"


class _SearcherStop:
    """Ends the trial, with a checkpoint and exit code 0, once the searcher has decided against it.

    Determined 0.38.1's master then sets the trial's state to STOPPING_COMPLETED and sends no preemption signal: the
    trial would train to its end, and an adaptive search would save nothing. So the chief asks for the state once after
    each validation, and tells the other ranks where all of them look for a preemption anyway. A request that fails is
    logged, and the next validation asks again.
    """

    STOPPING = "STATE_STOPPING_COMPLETED"
    PATIENCE = 10.0  # seconds; validation metrics travel in a thread, and the searcher decides when they arrive

    def __init__(self, context: pytorch.PyTorchTrialContext) -> None:
        self.context = context
        self.core: Any = context._core  # whose methods are replaced, as in `patch_context`
        self.validated = False  # since the state was asked for
        self.arrived = threading.Event()

    def attach(self) -> None:
        """Puts itself between the context and the master."""
        preempt, distributed = self.core.preempt, self.context.distributed
        should_preempt = preempt.should_preempt

        def should_preempt_or_stop(auto_ack: bool = True) -> bool:
            preempted: bool = should_preempt(auto_ack=auto_ack)
            if distributed.broadcast(self._is_told_to_stop() if distributed.rank == 0 else None):
                self.context.set_stop_requested(True)
            return preempted

        preempt.should_preempt = should_preempt_or_stop
        if distributed.rank == 0:
            self._watch_reports()

    def _watch_reports(self) -> None:
        train = self.core.train
        report, shipper = train.report_validation_metrics, train._metrics._shipper
        post = shipper._post_metrics

        def report_and_note(*args: Any, **kwargs: Any) -> None:
            self.arrived.clear()
            report(*args, **kwargs)
            self.validated = True

        def post_and_note(group: str, *args: Any, **kwargs: Any) -> None:
            try:
                post(group, *args, **kwargs)
            finally:
                if group == "validation":
                    self.arrived.set()

        train.report_validation_metrics = report_and_note
        shipper._post_metrics = post_and_note

    def _is_told_to_stop(self) -> bool:
        if not self.validated:
            return False
        self.validated = False
        self.arrived.wait(self.PATIENCE)
        try:
            train = self.core.train
            reply = train._session.get(f"/api/v1/trials/{train._trial_id}").json()
            state = reply["trial"]["state"]
        except Exception as error:  # whatever fails here is no reason to lose the trial
            logger.warning("the trial's state could not be asked for (%s): training goes on", error)
            return False
        if state != self.STOPPING:
            return False
        logger.info("the searcher stops this trial: training ends with a checkpoint")
        return True


def _show_rounded(context: pytorch.PyTorchTrialContext) -> None:
    """Determined logs whole dicts of metrics, with all their digits, where it reports them."""
    train, metric = context._core.train, context.get_experiment_config()["searcher"].get("metric")
    for name in ("report_training_metrics", "report_validation_metrics"):
        report = getattr(train, name)

        def report_shown(steps_completed: int, metrics: Any, *args: Any, _report: Any = report, **kwargs: Any) -> None:
            _report(steps_completed, ShownMetrics(metrics, metric), *args, **kwargs)

        setattr(train, name, report_shown)


@contextlib.contextmanager
def warm_start(context: pytorch.PyTorchTrialContext) -> Iterator[Path | None]:
    """The ``save_pretrained`` folder of another trial's checkpoint that this trial is to start from; None without.

    A fork in the WebUI, ``searcher.source_checkpoint_uuid`` and ``source_trial_id`` hand over the whole checkpoint, and
    Determined would restore its finished optimizer and schedule: every step then has learning rate 0. Its weights are
    taken here, and Determined is told of no checkpoint. One of this trial's own is left to Determined, to resume.

    Raises:
        CheckpointError: it was not written by a trial of this package.
    """
    info = determined.get_cluster_info() if _runs_a_trial() and not is_loading_only(context) else None
    if info is None or info.latest_checkpoint is None or info.trial._steps_completed > 0:
        yield None
        return
    with context._core.checkpoint.restore_path(info.latest_checkpoint) as path:
        source = pickle.loads((Path(path) / STATE).read_bytes()).get("trial_id")  # verified
        if source == info.trial.trial_id:
            yield None
            return
        folder = Path(path) / PRETRAINED
        if not folder.is_dir():
            raise CheckpointError(
                f"{WARM_START}: {info.latest_checkpoint} must be a checkpoint of this package, "
                f"got one without {PRETRAINED}/"
            )
        if context.distributed.rank == 0:
            logger.info(
                "starting from the weights of checkpoint %s of trial %s; optimizer, schedule, data order and batch "
                "count begin anew",
                info.latest_checkpoint,
                source,
            )
        yield folder
    info._latest_checkpoint = None  # both harness and script give it to Trainer.fit


def _checkpoint_error(folder: Path) -> CheckpointError | None:
    allowed = os.environ.get(ALLOW_UNVERIFIED, "").lower() in ("1", "true")
    try:
        verify_checkpoint(folder, allow_unverified=allowed)
    except CheckpointError as error:
        hint = f"the checkpoint is not loaded; {ALLOW_UNVERIFIED}=1 allows one without a manifest, if you trust it"
        return CheckpointError([*error.errors, hint])
    return None


def refused_request(error: BaseException) -> str:
    """What the master was asked when ``error`` came back; Determined's own message often does not say it."""
    trace = error.__traceback__
    while trace is not None:
        values = trace.tb_frame.f_locals
        if trace.tb_frame.f_code.co_name == "_do_request":
            return f"{values['method']} {values['path']}"
        trace = trace.tb_next
    return "a request"


def refuse_length_of_cluster(context: pytorch.PyTorchTrialContext) -> None:
    """Raises ConfigError where a cluster trains by its own keys, for a run that is to validate only.

    Determined trains a ``module:Class`` entrypoint for ``searcher.max_length``, whatever the hyperparameters say.
    """
    if context._is_pre_trainer:
        raise ConfigError(
            "hyperparameters.num_train_epochs (or max_steps): 0, to validate only, needs the script as entrypoint "
            "(python3 -m determined.launch.torch_distributed -- python3 -m model_hub_rqa.train --trial module:Class)"
        )


@contextlib.contextmanager
def validation_on_cluster(files: Path) -> Iterator[None]:
    """While this is open, ``Trainer.fit`` validates once and does not train; a checkpoint takes ``files`` along.

    Determined's own way to validate first does so only before the first batch, and nothing but a checkpoint's folder
    is kept of what a task writes: ``files`` are under ``validation`` in it.
    """

    class ValidationController(pytorch._PyTorchTrialController):
        def _run(self) -> None:
            self._validate()
            self._checkpoint(already_exiting=False)

        def _save(self, path: Path) -> None:
            if any(files.iterdir()):
                shutil.copytree(files, path / "validation")
            super()._save(path)

    with mock.patch.object(pytorch, "_PyTorchTrialController", ValidationController):
        yield
