"""The dataclasses of a run's settings: one for each thing that is built, under the names of model-hub.

Field names are those of ``transformers.TrainingArguments`` and ``from_pretrained`` where one exists. A field that is
None is unset: it is left out of ``as_dict()``, so that ``from_pretrained`` never sees it.

The dataclasses can be built by hand, by keyword (``ExtractiveKwargs(doc_stride=64)``): they check themselves then and
raise ConfigError with every error. They are frozen: ``dataclasses.replace`` makes a changed copy, which is checked
again. A subclass is to be decorated like its base, with ``@dataclass(frozen=True, kw_only=True)``.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from model_hub_rqa.config.fields import FieldError, TrueOrFalse, init_fields, kinds_of, option, plain, read_value, show
from model_hub_rqa.config.trainer_names import strategy_errors
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.metrics.languages import language_error

MODEL_MODES: Mapping[str, str] = {
    "base": "AutoModel",
    "pretraining": "AutoModelForPreTraining",
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "seq2seq-lm": "AutoModelForSeq2SeqLM",
    "sequence-classification": "AutoModelForSequenceClassification",
    "multiple-choice": "AutoModelForMultipleChoice",
    "next-sentence": "AutoModelForNextSentencePrediction",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
}
"""What a model is built for, and the name of the class of transformers that builds it."""

# transformers is not imported here (it takes seconds): a test holds this list to its SchedulerType.
LR_SCHEDULER_TYPES = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "reduce_lr_on_plateau",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "warmup_stable_decay",
    "greedy",
)
METRIC_LR_SCHEDULER_TYPES = ("reduce_lr_on_plateau", "greedy")
"""The schedules that step on a metric, so that no optimizer step alone can drive them."""

MIXINGS = ("by_size", "in_turn", "temperature", "keyed")
"""How training mixes several sets; data/mixing.py says what each does."""

_STRATEGIES = ("epoch", "steps", "no")
DTYPES = ("auto", "float32", "bfloat16", "float16")
NO_NAME = "is required (or config_name, tokenizer_name and model_name one by one)"


@dataclass(frozen=True, kw_only=True)
class Kwargs:
    """Base of the settings: reads each field into its type, then holds the rules between fields."""

    def __post_init__(self) -> None:
        errors: dict[str, str] = {}
        kinds = kinds_of(type(self))
        for field in init_fields(type(self)):
            try:
                value = read_value(field, kinds[field.name], getattr(self, field.name))
            except ValueError as error:
                errors[field.name] = str(error)
            else:
                object.__setattr__(self, field.name, value)
        lines = [f"{name}: {text}" for name, text in errors.items()]
        lines += [f"{error.fields[0]}: {error.text}" for error in holding(self.errors(), errors)]
        if lines:
            raise ConfigError([f"{type(self).__name__}.{line}" for line in lines])

    def errors(self) -> Iterable[FieldError]:
        """The rules between fields that do not hold. A subclass adds its own."""
        return ()

    def as_dict(self) -> dict[str, Any]:
        """A plain dict of the fields that are set, copied."""
        pairs = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {name: plain(value) for name, value in pairs if value is not None}


def holding(errors: Iterable[FieldError], bad: Iterable[str]) -> Iterator[FieldError]:
    """The errors that say something new: those which none of the ``bad`` fields takes part in."""
    skip = set(bad)
    return (error for error in errors if not skip & set(error.fields))


@dataclass(frozen=True, kw_only=True)
class HubKwargs(Kwargs):
    """What the config, the tokenizer and the model share: the name to load, and how to reach the hub."""

    OWN_NAME: ClassVar[str] = ""

    pretrained_model_name_or_path: str | None = option(
        None, help="a folder, or a model's name on the hub", aliases=("model_name_or_path",)
    )
    cache_dir: str | None = option(None, help="where files from the hub are kept")
    revision: str = option("main", help="branch, tag or commit on the hub")
    token: TrueOrFalse | str | None = option(
        None, help="the hub's token, or true for the saved one", aliases=("use_auth_token",), secret=True
    )
    trust_remote_code: bool = option(False, help="run code that comes with a model")

    @property
    def name_field(self) -> str:
        """The field that names what is loaded: the part's own where it is set, else the shared one."""
        return self.OWN_NAME if getattr(self, self.OWN_NAME) is not None else "pretrained_model_name_or_path"

    @property
    def name(self) -> str | None:
        """What is loaded, or None."""
        name: str | None = getattr(self, self.name_field)
        return name

    def as_dict(self) -> dict[str, Any]:
        """The keyword arguments of ``from_pretrained``: the name in force is under pretrained_model_name_or_path."""
        kwargs = super().as_dict()
        own = kwargs.pop(self.OWN_NAME, None)
        return kwargs if own is None else kwargs | {"pretrained_model_name_or_path": own}


@dataclass(frozen=True, kw_only=True)
class ConfigKwargs(HubKwargs):
    """The model's config: loaded by name, or made from scratch where ``config_overrides`` has a ``model_type``."""

    OWN_NAME: ClassVar[str] = "config_name"

    config_name: str | None = option(None, help="in place of pretrained_model_name_or_path, for the config")
    num_labels: int | None = option(None, ge=1, help="labels of a classification head")
    finetuning_task: str | None = option(None, help="the task's name, kept in the config")
    config_overrides: Mapping[str, Any] | None = option(None, help="attributes of the config to set, by name")

    def errors(self) -> Iterator[FieldError]:
        made = "model_type" in (self.config_overrides or {})
        names = ("pretrained_model_name_or_path", "config_name", "config_overrides")
        if self.name is None and not made:
            yield FieldError(names, NO_NAME)
        if self.name is not None and made:
            text = f"model_type makes a config from scratch, but {self.name_field} is given as well"
            yield FieldError(("config_overrides", *names), text)


@dataclass(frozen=True, kw_only=True)
class TokenizerKwargs(HubKwargs):
    """The tokenizer. transformers 5 has fast tokenizers only and ignores ``use_fast``."""

    OWN_NAME: ClassVar[str] = "tokenizer_name"

    tokenizer_name: str | None = option(None, help="in place of pretrained_model_name_or_path, for the tokenizer")
    do_lower_case: bool | None = option(None, help="lower the text's case; unset: as the tokenizer was saved")
    use_fast: bool = option(True, help="ask for the tokenizer in Rust")
    padding_side: str | None = option(
        None, choices=("left", "right"), help="where the tokenizer pads by itself; readers ignore it"
    )
    model_max_length: int | None = option(None, ge=1, help="the longest input in tokens")

    def errors(self) -> Iterator[FieldError]:
        if self.name is None:
            yield FieldError(("pretrained_model_name_or_path", "tokenizer_name"), NO_NAME)


@dataclass(frozen=True, kw_only=True)
class ModelKwargs(HubKwargs):
    """The model's weights. A name is needed only where pretrained weights are used, which parsing checks."""

    OWN_NAME: ClassVar[str] = "model_name"

    model_name: str | None = option(None, help="in place of pretrained_model_name_or_path, for the weights")
    # transformers 5 keeps a checkpoint's own dtype, so a checkpoint in bfloat16 would be trained in bfloat16 unasked.
    dtype: str = option(
        "float32", choices=DTYPES, help="of the weights; auto: as they were saved", aliases=("torch_dtype",)
    )
    attn_implementation: str | None = option(None, help="eager, sdpa, flash_attention_2 ...; unset: the model's own")


@dataclass(frozen=True, kw_only=True)
class OptimizerKwargs(Kwargs):
    """AdamW, or Adafactor where ``optim`` or ``adafactor`` asks for it."""

    learning_rate: float = option(5e-5, ge=0, help="the peak of the schedule; unused by Adafactor with relative_step")
    max_grad_norm: float = option(1.0, ge=0, help="clip the gradient's norm to this; 0: no clipping")
    weight_decay: float = option(0.0, ge=0, help="of all weights but biases, norms and other vectors")
    adam_beta1: float = option(0.9, ge=0, lt=1, help="AdamW's beta1")
    adam_beta2: float = option(0.999, ge=0, lt=1, help="AdamW's beta2")
    adam_epsilon: float = option(1e-8, ge=0, help="AdamW's epsilon")
    optim: str | None = option(None, choices=("adamw_torch", "adafactor"), help="unset: adamw_torch")
    adafactor: bool = option(False, help="the same as optim: adafactor")
    scale_parameter: bool = option(False, help="Adafactor: scale the learning rate by a weight's root mean square")
    relative_step: bool = option(False, help="Adafactor: find the learning rate from the step")
    warmup_init: bool = option(False, help="Adafactor with relative_step: start low")

    @property
    def use_adafactor(self) -> bool:
        """Whether Adafactor is asked for, by either name."""
        return self.adafactor or self.optim == "adafactor"

    def errors(self) -> Iterator[FieldError]:
        if self.adafactor and self.optim == "adamw_torch":
            yield FieldError(("optim", "adafactor"), "must be adafactor where adafactor is true, got 'adamw_torch'")
        if self.warmup_init and not self.relative_step:
            yield FieldError(("warmup_init", "relative_step"), "must be false where relative_step is false, got true")


@dataclass(frozen=True, kw_only=True)
class LRSchedulerKwargs(Kwargs):
    """The learning rate over the optimizer steps."""

    lr_scheduler_type: str = option("linear", choices=LR_SCHEDULER_TYPES, help="a name of transformers' SchedulerType")
    warmup_steps: int = option(0, ge=0, aliases=("num_warmup_steps",), help="optimizer steps up to the peak")
    warmup_ratio: float = option(0.0, ge=0, le=1, help="the same as a share of all steps; unused with warmup_steps > 0")
    num_training_steps: int | None = option(None, ge=1, help="all optimizer steps; unset: the trial finds them")
    lr_scheduler_kwargs: Mapping[str, Any] | None = option(None, help="what the type takes beside, e.g. num_cycles")

    def errors(self) -> Iterator[FieldError]:
        kind, given = self.lr_scheduler_type, self.lr_scheduler_kwargs or {}
        fields = ("lr_scheduler_kwargs", "lr_scheduler_type")
        if kind in ("cosine_with_min_lr", "cosine_warmup_with_min_lr"):
            found = [name for name in ("min_lr", "min_lr_rate") if given.get(name) is not None]
            if len(found) != 1:
                text = f"{kind} needs one of min_lr and min_lr_rate, got {' and '.join(found) or 'none'}"
                yield FieldError(fields, text)
        if kind == "warmup_stable_decay" and given.get("num_decay_steps") is None:
            yield FieldError(fields, f"{kind} needs num_decay_steps, got none")
        if kind in ("constant", "constant_with_warmup") and given:
            yield FieldError(fields, f"{kind} takes none, got {show(given)}")


@dataclass(frozen=True, kw_only=True)
class DatasetKwargs(Kwargs):
    """The data: files, or else a data set by its name. Files win, so that they can stand in for a named data set.

    Instead of files, ``train`` and ``validation`` may list several named data sets: see `NamedDatasetKwargs`.
    """

    dataset_name: str | None = option(None, help="a data set on the hub, or a folder of one")
    dataset_config_name: str | None = option(None, help="which configuration of the data set")
    train_file: list[Any] | str | None = option(
        None, help="the file to train on, a pattern of several (shards/*.json) or a list; each may be a slice"
    )
    validation_file: list[Any] | str | None = option(None, help="the file to evaluate on, or several, as train_file")
    validation_split_percentage: float | None = option(
        None, gt=0, lt=100, help="percent of the training data held out, where there is no validation data"
    )
    max_train_samples: int | None = option(None, ge=1, help="train on no more examples than this")
    max_eval_samples: int | None = option(None, ge=1, help="evaluate on no more examples than this")
    on_bad_record: str = option("error", choices=("error", "skip"), help="what a record that breaks a rule does")
    language: str = option("auto", help="of the answers, ISO 639-1: which rules compare them; auto: by their script")
    cache_dir: str | None = option(None, help="where data sets are kept")
    overwrite_cache: bool = option(False, help="make features anew")
    revision: str | None = option(None, help="branch, tag or commit of the data set")
    token: TrueOrFalse | str | None = option(
        None, help="the hub's token, or true for the saved one", aliases=("use_auth_token",), secret=True
    )

    train: list[Any] | str | None = option(
        None, help="several named data sets to train on, or the name of one, in place of train_file"
    )
    validation: list[Any] | str | None = option(
        None, help="several named data sets to evaluate on, or the name of one, in place of validation_file"
    )
    datasets: Mapping[str, Any] | None = option(
        None, help="sets by name, for train and validation to name; a registered one is {handler: NAME, args: ...}"
    )
    template_args: Mapping[str, Any] | None = option(
        None, help="of the prompts of every dataset that takes them; a dataset's own args.template_args win"
    )
    plugins: Any = option(None, help="modules of your own to import")
    collator: Any = option(None, help="a registered collator in place of the trial's own")
    mixing: str = option("by_size", choices=MIXINGS, help="how batches are drawn from the sets of train")
    mixing_temperature: float | None = option(
        None, gt=0, help="of mixing: temperature: 1 draws by size, more draws small sets more often; unset: 2"
    )

    anchor: str | None = option(None, help="of mixing: keyed: the set of train whose length is an epoch")

    def errors(self) -> Iterator[FieldError]:
        if error := language_error(self.language):
            yield FieldError(("language",), error)
        if self.anchor is not None and self.mixing != "keyed":
            text = f"needs mixing: keyed beside it, got mixing: {self.mixing}"
            yield FieldError(("anchor", "mixing"), text)
        if self.mixing != "by_size" and self.train is None:
            yield FieldError(("mixing", "train"), f"needs data.train, a list of sets, got {self.mixing} and none")
        if self.mixing_temperature is not None and self.mixing != "temperature":
            text = f"needs mixing: temperature beside it, got mixing: {self.mixing}"
            yield FieldError(("mixing_temperature", "mixing"), text)
        for split, names in (
            ("train", ("train_file", "max_train_samples")),
            ("validation", ("validation_file", "validation_split_percentage", "max_eval_samples")),
        ):
            given = [name for name in names if getattr(self, name) is not None]
            if getattr(self, split) is not None:
                yield from (FieldError((name, split), f"is ignored beside the list data.{split}") for name in given)
        if self.train is not None and self.validation is not None:
            return
        if self.train is not None or self.validation is not None:
            # the other split may be plain
            other = "validation_file" if self.train is not None else "train_file"
            if self.validation_split_percentage is not None and self.validation is None:
                text = "cannot be drawn from several sets: give data.validation or validation_file"
                yield FieldError(("validation_split_percentage", "train"), text)
            elif getattr(self, other) is None and self.dataset_name is None:
                listed = "train" if self.train is not None else "validation"
                yield FieldError(
                    (other, "train", "validation"), f"is required beside the list data.{listed} (or a second list)"
                )
            return
        if self.train_file is None:
            if self.validation_file is not None:
                yield FieldError(("validation_file", "train_file"), "needs train_file beside it")
            elif self.dataset_name is None:
                yield FieldError(("dataset_name", "train_file"), "is required where train_file is not given")
        elif self.validation_file is None and self.validation_split_percentage is None:
            fields = ("validation_file", "validation_split_percentage", "train_file")
            yield FieldError(fields, "is required beside train_file (or validation_split_percentage)")


@dataclass(frozen=True, kw_only=True)
class CallbackKwargs(Kwargs):
    """What is called in the course of training beside the trial's own steps; it stands in the data section."""

    callbacks: list[Any] | None = option(None, help="names of callbacks, or mappings with name and arguments")
    metrics: list[Any] | None = option(
        None, help="metrics that a validation of a task reports beside its own: names, or mappings with name and args"
    )


@dataclass(frozen=True, kw_only=True)
class TrainerKwargs(Kwargs):
    """The course of training. A step is an optimizer step, as in transformers."""

    global_batch_size: int = option(
        ge=1, help="examples of a batch over all slots, before accumulation (by flags alone: 8 a slot)"
    )
    per_device_train_batch_size: int | None = option(None, ge=1, help="instead: this times the slots")
    per_device_eval_batch_size: int | None = option(None, ge=1, help="unset: a slot's share of global_batch_size")
    num_train_epochs: float = option(
        3.0, ge=0, help="passes over the training data, where max_steps is -1; 0: validate once, and do not train"
    )
    max_steps: int = option(-1, ge=-1, help="optimizer steps; -1: num_train_epochs decides; 0: validate only")
    eval_steps: int | None = option(None, ge=1, help="steps between validations; unset: every epoch")
    eval_strategy: str | None = option(
        None, choices=_STRATEGIES, aliases=("evaluation_strategy",), help="no: validate at the end alone"
    )
    save_steps: int | None = option(None, ge=1, help="steps between checkpoints; unset: every epoch")
    save_strategy: str | None = option(None, choices=_STRATEGIES, help="no: one checkpoint, that of the last step")
    logging_steps: int = option(50, ge=1, help="steps between reports of training metrics")
    gradient_accumulation_steps: int = option(1, ge=1, help="batches for one optimizer step")
    label_smoothing_factor: float = option(
        0.0, ge=0, lt=1, help="share of the probability spread over all tokens in training, where answers are generated"
    )
    bf16: bool | None = option(None, help="compute in bfloat16; unset: FiDTrial does where the machine has it")
    fp16: bool = option(False, help="compute in float16 with a scaled loss")
    gradient_checkpointing: bool = option(False, help="save memory, compute activations twice")
    seed: int = option(42, ge=0, lt=2**32, help="of shuffling, initial weights and dropout")
    dataloader_num_workers: int = option(0, ge=0, help="processes that make batches; 0: the main one")
    max_tokens_per_batch: int | None = option(
        None, ge=1, help="train on batches of so many tokens in place of global_batch_size examples, padding included"
    )
    group_by_length: bool = option(True, help="batch examples of like length together")
    save_total_limit: int | None = option(None, ge=1, help="checkpoints to keep; unset: all")
    load_best_model_at_end: bool = option(
        False, help="needs checkpoint_policy best or all; --checkpoint RUN takes the best either way"
    )
    metric_for_best_model: str | None = option(None, help="searcher.metric, where that is not given")
    greater_is_better: bool | None = option(None, help="the opposite of searcher.smaller_is_better, likewise")
    output_dir: str | None = option(None, help="a local run's folder, where --output-dir is not given")
    task: str | None = option(None, help="of TaskTrial: a registered name, or package.module:Class")
    model_mode: str | None = option(None, choices=MODEL_MODES, help="unset: the trial's own")
    use_pretrained_weights: bool = option(True, help="false: start from random weights")
    init_checkpoint: str | None = option(
        None, help="start from the weights of an earlier run's folder or checkpoint, or of a save_pretrained folder"
    )
    model: Any = option(
        None, help="a model of your own: {_target_: module.build_model, and its arguments}, or a registered one"
    )
    objective: Any = option(None, help="a registered objective in place of the trial's loss")

    @property
    def validates_only(self) -> bool:
        """Whether nothing is to be trained."""
        return self.max_steps == 0 or (self.max_steps < 0 and self.num_train_epochs == 0)

    def errors(self) -> Iterator[FieldError]:
        if self.bf16 and self.fp16:
            yield FieldError(("fp16", "bf16"), "must not be true together with bf16, got true")
        yield from strategy_errors(self)
