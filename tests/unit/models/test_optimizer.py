"""The default optimizer: its groups, AdamW and Adafactor."""

import copy
import math
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from model_hub_rqa.config import LRSchedulerKwargs, OptimizerKwargs
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.models import optimizers
from model_hub_rqa.models.optimizers import (
    build_default_lr_scheduler,
    build_default_optimizer,
    no_decay_names,
)

BERT = transformers.BertConfig(
    vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
)
T5 = transformers.T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)


def tiny() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))


def names_in(group: dict[str, Any], model: nn.Module) -> list[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for parameter in group["params"]]


# ---- weight decay ----


def test_bert_has_no_decay_on_biases_and_norms() -> None:
    """Counted by hand: every bias and both parameters of every LayerNorm, and nothing else."""
    model = transformers.BertForQuestionAnswering(BERT)
    layer = "bert.encoder.layer.0."
    assert no_decay_names(model) == {
        "bert.embeddings.LayerNorm.weight",
        "bert.embeddings.LayerNorm.bias",
        layer + "attention.self.query.bias",
        layer + "attention.self.key.bias",
        layer + "attention.self.value.bias",
        layer + "attention.output.dense.bias",
        layer + "attention.output.LayerNorm.weight",
        layer + "attention.output.LayerNorm.bias",
        layer + "intermediate.dense.bias",
        layer + "output.dense.bias",
        layer + "output.LayerNorm.weight",
        layer + "output.LayerNorm.bias",
        "qa_outputs.bias",
    }


def test_t5_has_no_decay_on_its_own_norms() -> None:
    """T5's layer_norm is no torch norm, and its relative_attention_bias is an embedding: neither decays."""
    model = transformers.T5ForConditionalGeneration(T5)
    assert no_decay_names(model) == {
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "encoder.block.0.layer.0.layer_norm.weight",
        "encoder.block.0.layer.1.layer_norm.weight",
        "encoder.final_layer_norm.weight",
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "decoder.block.0.layer.0.layer_norm.weight",
        "decoder.block.0.layer.1.layer_norm.weight",
        "decoder.block.0.layer.2.layer_norm.weight",
        "decoder.final_layer_norm.weight",
    }


@pytest.mark.parametrize(
    ("model_type", "sizes"),
    [
        ("bert", {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}),
        ("t5", {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}),
        ("gpt2", {"n_embd": 8, "n_layer": 1, "n_head": 2}),
        ("llama", {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}),
        ("deberta-v2", {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}),
        ("modernbert", {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}),
    ],
)
def test_the_groups_are_those_of_transformers_trainer(model_type: str, sizes: dict[str, Any]) -> None:
    """The Trainer goes by names, and finds the same parameters where names say what things are."""
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
    config = transformers.AutoConfig.for_model(model_type, vocab_size=20, **sizes, **tokens)
    model = transformers.AutoModel.from_config(config)
    trainer: Any = transformers.Trainer
    decayed = trainer.get_decay_parameter_names(None, model)  # it looks at nothing of the trainer itself
    assert no_decay_names(model) == {name for name, _ in model.named_parameters()} - set(decayed)


SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
VECTORS: dict[str, tuple[dict[str, Any], str]] = {
    "mamba2": (
        {"hidden_size": 8, "num_hidden_layers": 1, "num_heads": 4, "head_dim": 4, "n_groups": 1, "state_size": 4},
        "layers.0.mixer.A_log",
    ),
    "mamba": ({"hidden_size": 8, "num_hidden_layers": 1, "state_size": 4}, "layers.0.mixer.D"),
    "beit": ({**SIZES, "image_size": 4, "patch_size": 2}, "layers.0.lambda_1"),
    "wav2vec2": ({**SIZES, "num_conv_pos_embedding_groups": 2}, "masked_spec_embed"),
}


@pytest.mark.parametrize("model_type", VECTORS)
def test_vectors_have_no_decay(model_type: str) -> None:
    """Whatever they are called; matrices of the same models do have it."""
    settings, vector = VECTORS[model_type]
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(model_type, **settings))
    shapes = {name: parameter.ndim for name, parameter in model.named_parameters()}
    assert shapes[vector] == 1
    decayed = shapes.keys() - no_decay_names(model)
    assert {shapes[name] for name in decayed} <= {2, 3, 4}
    assert any(name.endswith("weight") for name in decayed)


def test_a_number_has_no_decay() -> None:
    model = nn.Linear(2, 2)
    model.register_parameter("scale", nn.Parameter(torch.tensor(1.0)))
    assert no_decay_names(model) == {"bias", "scale"}


def test_a_model_named_after_its_norms_still_decays() -> None:
    """RobertaPreLayerNorm's modules bear the word in their names, and are no norms for it."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.AutoConfig.for_model("roberta-prelayernorm", vocab_size=20, **sizes)
    model = transformers.AutoModelForQuestionAnswering.from_config(config)
    decayed = {name for name, _ in model.named_parameters()} - no_decay_names(model)
    assert "roberta_prelayernorm.encoder.layer.0.attention.self.query.weight" in decayed
    assert "roberta_prelayernorm.embeddings.word_embeddings.weight" in decayed


class OwnRMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(2))


class DerivedNormWithALongName(OwnRMSNorm):
    """Its own name says nothing, its base's does."""


class ConvNormLayer(nn.Module):
    """Not a norm: a layer with one inside."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))
        self.inner = nn.GroupNorm(1, 2)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.LayerNorm(2), {"x.weight", "x.bias"}),
        (nn.RMSNorm(2), {"x.weight"}),
        (nn.GroupNorm(1, 2), {"x.weight", "x.bias"}),
        (nn.BatchNorm2d(2), {"x.weight", "x.bias"}),
        (nn.SyncBatchNorm(2), {"x.weight", "x.bias"}),
        (nn.InstanceNorm1d(2, affine=True), {"x.weight", "x.bias"}),
        (OwnRMSNorm(), {"x.gain"}),
        (DerivedNormWithALongName(), {"x.gain"}),
        (ConvNormLayer(), {"x.inner.weight", "x.inner.bias"}),
        (nn.Linear(2, 2), {"x.bias"}),
        (nn.MultiheadAttention(2, 1), {"x.in_proj_bias", "x.out_proj.bias"}),
        (nn.Embedding(2, 2), set()),
    ],
)
def test_norms_are_known_by_their_class(module: nn.Module, expected: set[str]) -> None:
    """A norm is what torch or transformers calls one, at any name; a layer that holds one is none."""
    assert no_decay_names(nn.ModuleDict({"x": module})) == expected


def test_the_optimizer_has_the_two_groups() -> None:
    """First what decays, then what does not; frozen parameters are left out and tied ones are there once."""
    model = transformers.BertForMaskedLM(BERT)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    frozen = model.bert.embeddings.position_embeddings.weight.requires_grad_(False)
    optimizer = build_default_optimizer(model, OptimizerKwargs(weight_decay=0.1))
    decayed, plain = optimizer.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert set(names_in(plain, model)) == no_decay_names(model)
    together = names_in(decayed, model) + names_in(plain, model)
    trained = [name for name, parameter in model.named_parameters() if parameter is not frozen]
    assert sorted(together) == sorted(trained)


def test_an_empty_group_is_left_out() -> None:
    """A model without biases and norms has one group."""
    assert len(build_default_optimizer(nn.Linear(2, 2, bias=False), {}).param_groups) == 1


def test_a_frozen_model_is_a_error() -> None:
    """There is nothing to train."""
    with pytest.raises(ConfigError, match="no parameter of the model needs a gradient"):
        build_default_optimizer(tiny().requires_grad_(False), {})


# ---- the optimizer ----


def test_adamw_has_the_settings_asked_for() -> None:
    """Learning rate, betas and epsilon; fused where torch has it for the device."""
    settings = {"learning_rate": 0.5, "adam_beta1": 0.8, "adam_beta2": 0.9, "adam_epsilon": 1e-6}
    before = copy.deepcopy(settings)
    optimizer = build_default_optimizer(tiny(), settings)
    assert type(optimizer) is torch.optim.AdamW
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (0.5, (0.8, 0.9), 1e-6)
    assert group["fused"] is True  # the torch this is tested with has it for CPUs
    assert settings == before


def test_adamw_is_not_fused_where_torch_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is tried on a tensor of the same device and type before fused is asked for."""
    assert not optimizers._has_fused_adamw.__wrapped__(torch.device("cpu"), torch.complex64)
    monkeypatch.setattr(optimizers, "_has_fused_adamw", lambda device, dtype: False)
    optimizer = build_default_optimizer(tiny(), {})
    assert optimizer.param_groups[0]["fused"] is False


def test_fused_adamw_steps_like_the_plain_one() -> None:
    """Two steps by the formula of AdamW (Loshchilov and Hutter 2019, algorithm 2), decay included."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(2.0)
    settings = OptimizerKwargs(learning_rate=0.1, weight_decay=0.5, adam_beta1=0.9, adam_beta2=0.99, adam_epsilon=1e-8)
    optimizer = build_default_optimizer(model, settings)
    weight, mean, square = 2.0, 0.0, 0.0
    for step, gradient in ((1, 3.0), (2, -1.0)):
        model.weight.grad = torch.tensor([[gradient]])
        optimizer.step()
        mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
        update = (mean / (1 - 0.9**step)) / (math.sqrt(square / (1 - 0.99**step)) + 1e-8)
        weight += -0.1 * 0.5 * weight - 0.1 * update
        assert model.weight.item() == pytest.approx(weight, rel=1e-5)


@pytest.mark.parametrize("asked", [{"adafactor": True}, {"optim": "adafactor"}])
def test_adafactor_is_built_by_either_name(asked: dict[str, Any]) -> None:
    """By default it takes the learning rate and scales nothing by itself."""
    optimizer = build_default_optimizer(tiny(), {**asked, "learning_rate": 0.5})
    assert type(optimizer) is transformers.Adafactor
    group = optimizer.param_groups[0]
    assert (group["lr"], group["scale_parameter"], group["relative_step"]) == (0.5, False, False)


def test_adafactor_may_find_its_own_rate() -> None:
    """With relative_step there is no learning rate, and the schedule reports what Adafactor uses: 1e-6 a step."""
    model = tiny()
    settings = OptimizerKwargs(optim="adafactor", relative_step=True, warmup_init=True)
    optimizer = build_default_optimizer(model, settings)
    assert optimizer.param_groups[0]["lr"] is None
    scheduler = build_default_lr_scheduler(optimizer, LRSchedulerKwargs(), num_training_steps=10)
    for step in (1, 2, 3):
        model(torch.ones(1, 2)).square().sum().backward()
        optimizer.step()
        scheduler.step()
        assert scheduler.get_last_lr() == pytest.approx([1e-6 * step] * 2)
