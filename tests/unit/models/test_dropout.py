"""Dropout on a CPU: the rates and means of torch's own, its gradients, and nothing else changed."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from transformers import AutoModelForQuestionAnswering, BertConfig, BertForQuestionAnswering
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from model_hub_rqa.models.dropout import (
    ATTENTION,
    TESTED,
    CpuDropout,
    attention_forward,
    kept_elements,
    use_cpu_dropout,
)


@pytest.mark.parametrize("rate", [0.0001, 0.1, 0.5, 0.9])
def test_as_many_are_kept_as_the_rate_says(rate: float) -> None:
    """Of a million elements, to four standard deviations; their factor leaves the mean alone."""
    torch.manual_seed(0)
    kept, factor = kept_elements(torch.Size([1000, 1000]), rate)
    spread = (rate * (1 - rate) / 10**6) ** 0.5
    assert abs((1 - kept.float().mean().item()) - rate) < 4 * spread + 2**-17
    assert factor == pytest.approx(1 / (1 - rate), rel=1e-4)


def test_elements_are_kept_independently() -> None:
    """Elements of one draw, and of two (4 apart), agree as often as chance says."""
    torch.manual_seed(0)
    kept = kept_elements(torch.Size([10**6]), 0.5)[0]
    for distance in (1, 2, 3, 4, 8):
        assert abs((kept[distance:] == kept[:-distance]).float().mean().item() - 0.5) < 0.003


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 1023])
def test_any_number_of_elements(count: int) -> None:
    assert kept_elements(torch.Size([count]), 0.5)[0].shape == (count,)


def test_masks_follow_torchs_seed() -> None:
    """The same seed gives the same mask, the next draw another."""
    torch.manual_seed(3)
    first, second = (kept_elements(torch.Size([64]), 0.5)[0] for _ in range(2))
    torch.manual_seed(3)
    assert kept_elements(torch.Size([64]), 0.5)[0].equal(first)
    assert not first.equal(second)


def test_gradients_flow_through_what_was_kept() -> None:
    """Elements are zero or scaled, their gradients with them; in evaluation nothing happens."""
    torch.manual_seed(0)
    dropout, x = CpuDropout(0.25), torch.ones(400, requires_grad=True)
    out = dropout(x)
    assert sorted(set(out.tolist())) == [0.0, pytest.approx(4 / 3)]
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.equal(out.detach())
    assert dropout.eval()(x) is x


def test_the_edges_are_torchs() -> None:
    """Nothing is dropped at 0 and everything at 1."""
    x = torch.ones(8)
    assert CpuDropout(0.0)(x).equal(x)
    assert CpuDropout(1.0)(x).equal(torch.zeros(8))


def _mask(kind: str) -> torch.Tensor | None:
    allowed = torch.ones(2, 1, 5, 7, dtype=torch.bool)
    allowed[1, :, :, 5:] = False
    if kind == "additive":
        return torch.zeros(2, 1, 5, 7).masked_fill(~allowed, torch.finfo(torch.float32).min)
    return allowed if kind == "boolean" else None


@pytest.mark.parametrize("mask", ["none", "boolean", "additive"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("heads", [4, 2])
def test_attention_is_sdpas_but_for_the_numbers_drawn(mask: str, bias: bool, heads: int) -> None:
    """With everything kept it equals SDPA's, gradients included; grouped keys and positions as well."""
    torch.manual_seed(0)
    module: Any = torch.nn.Module()
    module.num_key_value_groups, module.is_causal = 4 // heads, False
    shapes = [(2, 4, 5, 8), (2, heads, 7, 8), (2, heads, 7, 8)]
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    more = {"scaling": 0.3, "position_bias": torch.randn(1, 4, 5, 7) if bias else None}
    found = []
    for attend, rate in ((attention_forward, 2**-40), (sdpa_attention_forward, 0.0)):
        with pytest.MonkeyPatch.context() as patch:
            everything = lambda shape, _: (torch.ones(shape, dtype=torch.bool), 1.0)  # noqa: E731
            patch.setattr("model_hub_rqa.models.dropout.kept_elements", everything)
            output = attend(module, *inputs, _mask(mask), rate, **more)[0]
        found.append([output, *torch.autograd.grad(output.square().sum(), inputs)])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_causal_module_sees_no_later_key() -> None:
    """Without a mask the module's word decides, as in SDPA."""
    module: Any = torch.nn.Module()
    module.is_causal = True
    torch.manual_seed(0)
    query, key = torch.randn(1, 1, 4, 8), torch.randn(1, 1, 4, 8)
    value = torch.eye(4).expand(1, 1, 4, 4)  # so that the output is the weights
    weights = attention_forward(module, query, key, value, None, 0.5)[0][0, :, 0]
    assert weights.equal(weights.tril())
    assert weights.count_nonzero() > 0


def test_the_mean_of_attention_stays() -> None:
    """Over many masks the output is that without dropout."""
    torch.manual_seed(0)
    module: Any = torch.nn.Module()
    module.is_causal = False
    query, key, value = (torch.randn(1, 2, 4, 8) for _ in range(3))
    whole = sdpa_attention_forward(module, query, key, value, None)[0]
    many = [torch.cat([one] * 4000) for one in (query, key, value)]
    mean = attention_forward(module, *many, None, 0.2)[0].mean(dim=0)
    assert torch.allclose(mean, whole[0], atol=0.05)


TINY: dict[str, Any] = {
    **{"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    **{"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "encoder_layers": 2, "decoder_layers": 2},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32},
    **{"dim": 16, "hidden_dim": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "max_position_embeddings": 64},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}


def built(name: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    return kind(kind.config_class(**{**TINY, **changes}))


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(5, 23).view(2, 9)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    more = {"decoder_input_ids": ids[:, :4]} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        result = model(input_ids=ids, attention_mask=mask, **more)
    return result.start_logits if hasattr(result, "start_logits") else result.logits


@pytest.mark.parametrize("name", sorted(TESTED))
def test_a_model_changes_in_its_training_alone(name: str) -> None:
    """Its state, its saved config and its evaluation are as before, and its training at a rate of 0."""
    model = built(name).eval()
    names, before, config = list(model.state_dict()), logits(model), model.config.to_json_string()
    use_cpu_dropout(model)
    assert model.config._attn_implementation == ATTENTION
    assert list(model.state_dict()) == names
    assert model.config.to_json_string() == config
    assert torch.allclose(logits(model), before, atol=1e-6)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for rate in ("dropout", "attention_dropout", "dropout_prob"):
            if isinstance(getattr(module, rate, None), float):
                setattr(module, rate, 0.0)
    assert torch.allclose(logits(model.train()), before, atol=1e-6)


class Subclass(BertForQuestionAnswering):
    """A model of a user's own, by inheritance."""


DEEPSEEK = {
    **{"num_key_value_heads": 2, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4},
    **{"v_head_dim": 8, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 3, "n_routed_experts": 4},
    **{
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
    },
}


@pytest.mark.parametrize("name", ["DeepseekV32ForCausalLM", "GlmMoeDsaForCausalLM"])
def test_a_model_that_looks_at_the_name_of_its_attention_is_left_alone(name: str) -> None:
    """Under another name it masks other tokens: its logits were others."""
    model = built(name, **DEEPSEEK).eval()
    before = logits(model)
    use_cpu_dropout(model)
    assert logits(model).equal(before)


def test_models_of_ones_own_are_left_alone() -> None:
    """A module, and a subclass of a class that is tested."""
    own = torch.nn.Sequential(torch.nn.Dropout(0.5), built("BertForQuestionAnswering"))
    sub = Subclass(BertConfig(**TINY))
    for model in (own, sub):
        before = [type(module) for module in model.modules()]
        use_cpu_dropout(model)
        assert [type(module) for module in model.modules()] == before
    assert sub.config._attn_implementation == "sdpa"


def test_dropout_is_in_force_in_training() -> None:
    """Attention's and the layers' rates both act: with either alone, training differs from evaluation."""
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ids = torch.arange(5, 14)[None]
    for rates in ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5)):
        torch.manual_seed(0)
        names = ("hidden_dropout_prob", "attention_probs_dropout_prob")
        config = BertConfig(vocab_size=50, **shape, **dict(zip(names, rates, strict=True)))
        model = BertForQuestionAnswering(config)
        use_cpu_dropout(model)
        assert model.config._attn_implementation == ATTENTION
        trained, evaluated = model.train()(ids).start_logits, model.eval()(ids).start_logits
        assert torch.allclose(trained, evaluated, atol=1e-6) == (rates == (0.0, 0.0))


def test_checkpoints_do_not_know_of_it(tmp_path: Path) -> None:
    """A model saved with it loads with transformers alone, and attends by SDPA."""
    folder = tiny.model_folder(tmp_path / "model")
    model = AutoModelForQuestionAnswering.from_pretrained(folder)
    use_cpu_dropout(model)
    model.save_pretrained(tmp_path / "saved")
    assert ATTENTION not in (tmp_path / "saved/config.json").read_text(encoding="utf-8")
    loaded = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "saved")
    assert loaded.config._attn_implementation == "sdpa"
