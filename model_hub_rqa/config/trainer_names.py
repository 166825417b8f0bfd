"""Names of transformers' TrainingArguments that say the same as other keys of a configuration, and how they are read.

``per_device_train_batch_size`` is a share of ``global_batch_size``, ``metric_for_best_model`` and ``greater_is_better``
are the searcher's, and the strategies say when a run validates and writes checkpoints.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from model_hub_rqa.config.fields import Problem, show
from model_hub_rqa.config.search import resolve_search_specs
from model_hub_rqa.errors import ConfigError

STRATEGIES = {"eval_strategy": "eval_steps", "save_strategy": "save_steps"}
"""The names of the strategies, and what gives the steps of each."""

_SIZE, _SLOTS_SIZE = "global_batch_size", "per_device_train_batch_size"


def with_global_batch_size(hparams: Mapping[str, Any], slots: int) -> dict[str, Any]:
    """Hyperparameters with ``global_batch_size`` where ``per_device_train_batch_size`` says it: times the slots.

    >>> with_global_batch_size({"per_device_train_batch_size": 4}, 2)
    {'per_device_train_batch_size': 4, 'global_batch_size': 8}

    Raises:
        ConfigError: it is no number, or both are given and disagree.
    """
    named = {name: hparams[name] for name in (_SIZE, _SLOTS_SIZE) if hparams.get(name) is not None}
    given = resolve_search_specs(named)
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


def strategy_problems(settings: Any) -> Iterator[Problem]:
    """The rules that do not hold between strategies and steps of TrainerKwargs."""
    for name, steps in STRATEGIES.items():
        strategy, given = getattr(settings, name), getattr(settings, steps) is not None
        if strategy == "steps" and not given:
            yield Problem((name, steps), f"needs {steps} beside it")
        if strategy in ("epoch", "no") and given:
            yield Problem((name, steps), f"must be steps beside {steps}, got {strategy!r}")


def best_checkpoint_faults(settings: Any, searcher: Mapping[str, Any], checkpoint_policy: str) -> Iterator[str]:
    """What TrainerKwargs say of the best checkpoint that the rest of a configuration does not allow.

    Args:
        settings: TrainerKwargs.
        searcher: the configuration's section.
        checkpoint_policy: the configuration's; "best" where it says none.
    """
    place, metric, smaller = "hyperparameters.", searcher.get("metric"), searcher.get("smaller_is_better", True)
    if settings.metric_for_best_model not in (None, metric):
        got = settings.metric_for_best_model
        yield f"{place}metric_for_best_model: must be searcher.metric ({metric!r}), got {got!r}"
    if settings.greater_is_better not in (None, not smaller):
        reason = f"since searcher.smaller_is_better is {show(smaller)}"
        yield f"{place}greater_is_better: must be {show(not smaller)}, {reason}, got {show(settings.greater_is_better)}"
    if settings.save_strategy == "no" and checkpoint_policy == "all":
        yield f"{place}save_strategy: must not be no beside checkpoint_policy: all"
    if settings.load_best_model_at_end:
        reasons = {
            "checkpoint_policy: none": checkpoint_policy == "none",
            "save_strategy: no": settings.save_strategy == "no",
            "eval_strategy: no": settings.eval_strategy == "no",
        }
        yield from (
            f"{place}load_best_model_at_end: must be false beside {reason}, which leaves no best checkpoint to choose"
            for reason, holds in reasons.items()
            if holds
        )
