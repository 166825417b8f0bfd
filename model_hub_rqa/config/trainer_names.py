"""Names of other tools: what transformers' TrainingArguments call other keys, and hints at the rest.

``per_device_train_batch_size`` is a share of ``global_batch_size``, ``metric_for_best_model`` and ``greater_is_better``
are the searcher's, and the strategies say when a run validates and writes checkpoints.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from model_hub_rqa.config.fields import FieldError, did_you_mean, show
from model_hub_rqa.errors import ConfigError

_BATCH = "global_batch_size, the batch over all slots"
_NAMES = {
    # Trainer and run_qa
    **dict.fromkeys(("train_batch_size", "batch_size"), _BATCH),
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "max_train_steps": "max_steps",
    "warmup_epochs": "warmup_ratio, a share of the run",
    # Fusion-in-Decoder
    **dict.fromkeys(("total_step", "total_steps"), "max_steps"),
    "text_maxlength": "max_encoder_seq_length",
    "answer_maxlength": "max_decoder_seq_length",
    "use_checkpoint": "gradient_checkpointing",
    "lr": "learning_rate",
    "clip": "max_grad_norm",
    "accumulation_steps": "gradient_accumulation_steps",
    "scheduler": "lr_scheduler_type",
    "eval_freq": "eval_steps",
    "save_freq": "save_steps",
    "eval_print_freq": "logging_steps",
    "train_data": "train_file",
    "num_epochs": "num_train_epochs",
    "model_path": "init_checkpoint",
    "checkpoint_dir": "the option --output-dir",
    "per_gpu_batch_size": "per_device_train_batch_size",
    # LocalRQA
    **dict.fromkeys(("eval_data", "eval_file", "eval_data_path"), "validation_file"),
    "test_file": "rqa evaluate --data",
    **dict.fromkeys(("documents_path", "full_dataset_file_path"), "corpus_file"),
    "full_dataset_index_path": "index, which rqa index makes",
    "reader_model_path": "pretrained_model_name_or_path",
    "use_flash_attention": "attn_implementation: flash_attention_2",
    "sep_user": "user_end_tag",
    "run_group": "name, of the experiment",
    # open-unlearning
    "trainer": "hyperparameters (its args) and hyperparameters.objective (its handler and method_args)",
    "trainer.handler": "hyperparameters.objective.name",
    "method_args": "hyperparameters.objective.args",
    "model_args": "hyperparameters",
    "tokenizer_args": "hyperparameters",
    "forget_split": "the split of data.datasets that data.train names forget",
    "retain_split": "the split of data.datasets that data.train names retain",
    "holdout_split": "",
    "retain_logs_path": "",
    "task_name": "name, of the experiment",
    "paths.output_dir": "the option --output-dir",
    **dict.fromkeys(
        ("do_train", "do_eval", "do_predict", "overwrite_output_dir", "remove_unused_columns", "report_to"), ""
    ),
    **dict.fromkeys(("write_predictions", "logging_dir", "save_only_model", "bf16_full_eval", "run_project"), ""),
    **dict.fromkeys(("ddp_find_unused_parameters", "is_master", "local_rank", "deepspeed"), ""),
    "eval_on_start": "perform_initial_validation, at the top of the configuration",
}
"""Another tool's name, and what it is here; "" where it is not needed."""

_SECTIONS = {
    "trainer.args.": "hyperparameters.",
    "trainer.method_args.": "hyperparameters.objective.args.",
    "model.model_args.": "hyperparameters.",
    "model.tokenizer_args.": "hyperparameters.",
    "model.template_args.": "data.",
}


def hint_for(name: object, names: Iterable[str]) -> str:
    """What may be meant by an unknown name: what another tool's flag of this name is here, or the closest of ``names``.

    >>> hint_for("--total_step", ["eval_steps"])
    ': here it is max_steps'
    """
    known = known_elsewhere(name)
    return did_you_mean(name, names) if known is None else f": {known}"


def known_elsewhere(name: object) -> str | None:
    """What another tool's name is here, in a few words, or None."""
    text = str(name).lstrip("-+~").replace("-", "_")
    section = next((start for start in _SECTIONS if text.startswith(start)), "")
    text = text.removeprefix(section)
    if (found := _NAMES.get(text)) is not None:
        return f"here it is {found}" if found else "it is not needed here"
    return f"here it is {_SECTIONS[section]}{text}" if section else None


STRATEGIES = {"eval_strategy": "eval_steps", "save_strategy": "save_steps"}
"""The names of the strategies, and what gives the steps of each."""

_SIZE, _SLOTS_SIZE = "global_batch_size", "per_device_train_batch_size"


def with_global_batch_size(hparams: Mapping[str, Any], slots: int) -> dict[str, Any]:
    """Hyperparameters (resolved) with ``global_batch_size`` where ``per_device_train_batch_size`` says it: times the
    slots.

    >>> with_global_batch_size({"per_device_train_batch_size": 4}, 2)
    {'per_device_train_batch_size': 4, 'global_batch_size': 8}

    Raises:
        ConfigError: it is no number, or both are given and disagree.
    """
    given = {name: hparams[name] for name in (_SIZE, _SLOTS_SIZE) if hparams.get(name) is not None}
    if _SLOTS_SIZE not in given:
        return {**hparams}
    each = given[_SLOTS_SIZE]
    if isinstance(each, bool) or not isinstance(each, int | float) or each != int(each) or each < 1:
        raise ConfigError(f"hyperparameters.{_SLOTS_SIZE}: must be a whole number >= 1, got {show(each)}")
    size = given.get(_SIZE, int(each) * slots)
    if size != each * slots:
        raise ConfigError(
            f"hyperparameters.{_SLOTS_SIZE}: must be global_batch_size ({show(size)}) over {slots} slots, got {each}"
        )
    return {**hparams, _SIZE: size}


def with_searcher_metric(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration whose searcher says what ``metric_for_best_model`` and ``greater_is_better`` do.

    What the searcher itself says stays, and the trial holds the two to it. As in transformers, greater is better unless
    the metric's name ends in "loss".
    """
    hparams, searcher = config.get("hyperparameters"), config.get("searcher")
    if not isinstance(hparams, Mapping) or not isinstance(searcher, Mapping):
        return {**config}
    metric, greater = hparams.get("metric_for_best_model"), hparams.get("greater_is_better")
    added: dict[str, Any] = {}
    if isinstance(metric, str) and "metric" not in searcher:
        added["metric"] = metric
        added["smaller_is_better"] = metric.endswith("loss")
    if isinstance(greater, bool):
        added["smaller_is_better"] = not greater
    return {**config, "searcher": {**added, **searcher}}


def replaced_by_flag(name: str, value: Any) -> str | None:
    """The hyperparameter of a file that gives way to a flag which says the same in another way, or None."""
    if name in STRATEGIES:
        return None if value == "steps" else STRATEGIES[name]
    steps = {steps: strategy for strategy, steps in STRATEGIES.items()}
    return {_SIZE: _SLOTS_SIZE, _SLOTS_SIZE: _SIZE, **steps}.get(name)


def strategy_errors(settings: Any) -> Iterator[FieldError]:
    """The rules that do not hold between strategies and steps of TrainerKwargs."""
    for name, steps in STRATEGIES.items():
        strategy, given = getattr(settings, name), getattr(settings, steps) is not None
        if strategy == "steps" and not given:
            yield FieldError((name, steps), f"needs {steps} beside it")
        if strategy in ("epoch", "no") and given:
            yield FieldError((name, steps), f"must be steps beside {steps}, got {strategy!r}")


def best_checkpoint_errors(settings: Any, searcher: Mapping[str, Any], checkpoint_policy: str) -> Iterator[str]:
    """What TrainerKwargs say of the best checkpoint that the rest of a configuration does not allow.

    Args:
        settings: TrainerKwargs.
        searcher: the configuration's section.
        checkpoint_policy: the configuration's; "best" where it says none.
    """
    prefix, metric, smaller = "hyperparameters.", searcher.get("metric"), searcher.get("smaller_is_better", True)
    if settings.metric_for_best_model not in (None, metric):
        got = settings.metric_for_best_model
        yield f"{prefix}metric_for_best_model: must be searcher.metric ({metric!r}), got {got!r}"
    if settings.greater_is_better not in (None, not smaller):
        why = f"since searcher.smaller_is_better is {show(smaller)}"
        yield f"{prefix}greater_is_better: must be {show(not smaller)}, {why}, got {show(settings.greater_is_better)}"
    if settings.save_strategy == "no" and checkpoint_policy == "all":
        yield f"{prefix}save_strategy: must not be no beside checkpoint_policy: all"
    if settings.load_best_model_at_end:
        reasons = {
            "checkpoint_policy: none": checkpoint_policy == "none",
            "save_strategy: no": settings.save_strategy == "no",
            "eval_strategy: no": settings.eval_strategy == "no",
        }
        yield from (
            f"{prefix}load_best_model_at_end: must be false beside {reason}, which leaves no best checkpoint to choose"
            for reason, holds in reasons.items()
            if holds
        )
