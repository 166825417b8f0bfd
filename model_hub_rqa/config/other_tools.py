"""What the flags and keys of other tools are called here, for the hints beside unknown names.

The tools: run_qa and transformers' Trainer, Fusion-in-Decoder's code (Izacard and Grave 2020), LocalRQA (Yu et al.
2024) and open-unlearning (Dorna et al. 2025), whose names are paths such as ``trainer.args.learning_rate``.
"""

from collections.abc import Iterable

from model_hub_rqa.config.fields import did_you_mean

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
