"""Dropout on a CPU at the same rates and a fraction of its cost.

torch draws one random number for each element and, for the dropout of attention, leaves its fused kernel for one that
computes in float32. Here one draw of 64 bits decides on four elements, and attention stays in the precision at hand.
The numbers come from torch's own generator, so that seeding, resuming and gradient checkpointing hold as ever. Other
devices are left alone: their kernels draw inside.
"""

import math
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "sdpa_cpu_dropout"
_STEPS = 2**16  # a rate is kept to one part in so many

TESTED = frozenset(
    {
        "BartForConditionalGeneration",
        "BertForQuestionAnswering",
        "BertForTokenClassification",
        "DistilBertForQuestionAnswering",
        "ElectraForQuestionAnswering",
        "GPT2LMHeadModel",
        "LlamaForCausalLM",
        "MBartForConditionalGeneration",
        "MT5ForConditionalGeneration",
        "RobertaForQuestionAnswering",
        "T5ForConditionalGeneration",
    }
)
"""The classes of transformers that compute the same with `use_cpu_dropout`, but for the numbers drawn. Others may look
at the name of their attention, as deepseek_v32 does, and mask other tokens under a name that they do not know."""


class CpuDropout(torch.nn.Dropout):
    """`torch.nn.Dropout` in all but the numbers drawn."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or not 0 < self.p < 1 or self.inplace or input.device.type != "cpu":
            return super().forward(input)
        kept, scale = kept_elements(input.shape, self.p)
        return input * kept.to(input.dtype).mul_(scale)


def use_cpu_dropout(model: torch.nn.Module) -> None:
    """Gives a model's dropout, of attention where it goes through SDPA and of everything else, the cheap masks.

    Weights, their names, and what the model computes outside of training stay as they are. A model whose class is not
    one of `TESTED`, such as a custom one or a subclass, is left as it is.
    """
    if type(model).__name__ not in TESTED or not type(model).__module__.startswith("transformers.models."):
        return
    for module in model.modules():
        if type(module) is torch.nn.Dropout:
            module.__class__ = CpuDropout
    inner: Any = model
    if getattr(getattr(inner, "config", None), "_attn_implementation", None) == "sdpa":
        AttentionInterface.register(ATTENTION, attention_forward)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        inner.set_attn_implementation(ATTENTION)


def kept_elements(shape: torch.Size, rate: float) -> tuple[torch.Tensor, float]:
    """Which elements a dropout keeps, drawn from torch's generator of the CPU.

    Returns:
        A bool tensor of ``shape``, and the factor that leaves the mean of what is kept as it was.
    """
    count = math.prod(shape)
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
    dropped = min(max(round(rate * _STEPS), 1), _STEPS - 1)
    kept = draws >= dropped - _STEPS // 2
    return kept.view(shape), _STEPS / (_STEPS - dropped)


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers' SDPA computes it, with a cheap dropout of its weights on a CPU.

    Args:
        module: whose attention it is.
        query: [B, heads, Q, D]; key, value: [B, key heads, K, D].
        attention_mask: [B or 1, heads or 1, Q or 1, K]: True where a query may look, or what is added to the scores.
        dropout: the rate; 0 and other devices than a CPU are SDPA's.
        scaling: of the scores; by default 1 / sqrt(D).
        is_causal: whether a query sees no later key, where no mask says so; by default the module's own word.
        position_bias: [1 or B, heads, Q, K], added to the scores.

    Returns:
        [B, Q, heads, D], and None in place of the weights.
    """
    if not 0 < dropout < 1 or query.device.type != "cpu":
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, position_bias, **kwargs
        )
    groups = query.shape[1] // key.shape[1]
    # Heads stand apart in memory after contiguous(): without it, each product copies what it needs, far slower.
    key, value = repeat_kv(key, groups).contiguous(), repeat_kv(value, groups).contiguous()
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    queries, keys = query.shape[2], key.shape[2]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query if scale == 1 else query * scale, key.transpose(2, 3))  # T5 does not scale
    lowest = torch.finfo(scores.dtype).min
    if position_bias is not None:
        scores = scores + position_bias.to(scores.dtype)  # SDPA, too, adds in the precision of the scores
    if attention_mask is None and causal and queries > 1:
        attention_mask = torch.ones(queries, keys, dtype=torch.bool).tril()
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, lowest)
    elif attention_mask is not None:
        scores = scores + attention_mask.clamp(min=lowest).to(scores.dtype)
    weights = scores.softmax(dim=-1)
    kept, factor = kept_elements(weights.shape, dropout)
    output = torch.matmul(weights * kept.to(weights.dtype), value) * factor
    return output.transpose(1, 2).contiguous(), None
