"""Fusion-in-Decoder: equal to padded fusion and to the plain model, in every family, and on several ranks."""

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
from fusion_models_for_tests import FAMILIES, LENGTHS, batch_of, build, labels_of
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForSeq2SeqLM
from transformers.modeling_outputs import BaseModelOutput
from watching import watch_encoder

from model_hub_rqa.tasks.fid.model import (
    decoder_start_token_id,
    enable_fusion,
    encode_passages,
    encoder_chunks,
    fusion_generate,
    passage_scores,
    shift_right,
)
from model_hub_rqa.tasks.passages.generation import answer_losses

family = pytest.mark.parametrize("name", FAMILIES)


def padded_inputs(model: Any, batch: dict[str, torch.Tensor], width: int = 16) -> dict[str, Any]:
    """FiD as first published: every passage padded to one width, all positions side by side, the mask flat."""
    lengths, counts = batch["passage_lengths"].tolist(), batch["passage_counts"].tolist()
    most = max(counts)
    ids = torch.full((len(counts), most, width), model.config.pad_token_id)
    mask = torch.zeros_like(ids)
    texts = iter(batch["passage_ids"].split(lengths))
    for row, count in enumerate(counts):
        for place, text in zip(range(count), texts, strict=False):
            ids[row, place, : len(text)], mask[row, place, : len(text)] = text, 1
    reached = mask.clone()
    reached[:, :, 0] = 1  # a passage of padding alone has to attend to something, and is masked afterwards
    states = model.get_encoder()(input_ids=ids.flatten(0, 1), attention_mask=reached.flatten(0, 1))[0]
    fused = BaseModelOutput(last_hidden_state=states.reshape(len(counts), most * width, -1))
    return {"encoder_outputs": fused, "attention_mask": mask.flatten(1)}


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, atol=tolerance, rtol=1e-4), name


# ---- equal to what is known ----


@family
def test_one_passage_gives_the_plain_models_loss(name: str) -> None:
    """A question with a single passage is an ordinary sequence-to-sequence example."""
    model, labels = build(name), labels_of()
    batch = batch_of([7, 12], [1, 1])
    ids = torch.nn.utils.rnn.pad_sequence(batch["passage_ids"].split([7, 12]), batch_first=True)
    mask = (torch.arange(12) < torch.tensor([[7], [12]])).long()
    plain = model(input_ids=ids, attention_mask=mask, labels=labels)
    fused = model(**batch, labels=labels)
    torch.testing.assert_close(fused.loss, plain.loss, atol=1e-5, rtol=0)
    torch.testing.assert_close(fused.logits, plain.logits, atol=1e-4, rtol=1e-5)


def test_an_encoder_that_scales_embeddings_is_given_tokens() -> None:
    """T5's is given embeddings, looked up all at once; comparing both ways leaves its modes as they were."""
    taken = {}
    for name in ("t5", "pegasus", "t5gemma"):
        model = build(name).train()
        next(model.get_encoder().children()).eval()
        calls: list[set[str]] = []
        model.get_encoder().register_forward_pre_hook(
            lambda _, __, kwargs, calls=calls: calls.append(set(kwargs)), with_kwargs=True
        )
        modes = [module.training for module in model.modules()]
        for _ in range(2):
            model(**batch_of(), labels=labels_of())
        assert [module.training for module in model.modules()] == modes
        assert len(calls) == 2 + 2  # compared once, and a chunk a call
        taken[name] = calls[-1] & {"input_ids", "inputs_embeds"}
    assert taken == {"t5": {"inputs_embeds"}, "pegasus": {"input_ids"}, "t5gemma": {"inputs_embeds"}}


@family
def test_equals_padded_fusion(name: str) -> None:
    """Loss, logits, gradients and greedy answers are those of fusion with padding."""
    model, labels, batch = build(name), labels_of(), batch_of()
    padded = model(**padded_inputs(model, batch), labels=labels)
    fused = model(**batch, labels=labels)
    torch.testing.assert_close(fused.loss, padded.loss, atol=1e-5, rtol=0)
    torch.testing.assert_close(fused.logits, padded.logits, atol=1e-4, rtol=1e-5)
    assert_same(gradients(model, fused.loss), gradients(model, padded.loss))
    written = model.generate(**padded_inputs(model, batch), max_new_tokens=6)
    assert torch.equal(fusion_generate(model, batch, max_new_tokens=6), written)


@family
@pytest.mark.parametrize("chunk_size", [1, 2, 4])
def test_chunks_change_nothing(name: str, chunk_size: int) -> None:
    """How many passages are encoded at a time changes neither loss nor gradients."""
    batch, labels = batch_of(), labels_of()
    whole, chunked = build(name), build(name, chunk_size)
    rows: dict[Any, list[int]] = {whole: [], chunked: []}
    for model, calls in rows.items():
        watch_encoder(model, calls)
    expected, found = whole(**batch, labels=labels).loss, chunked(**batch, labels=labels).loss
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert_same(gradients(chunked, found), gradients(whole, expected))
    assert max(rows[chunked]) <= chunk_size < max(rows[whole])


@family
def test_gradient_checkpointing_changes_nothing(name: str) -> None:
    """Activations that are computed twice give the same gradients."""
    batch, labels = batch_of(), labels_of()
    model = build(name).train()
    expected = gradients(model, model(**batch, labels=labels, use_cache=False).loss)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert model.is_gradient_checkpointing
    assert_same(gradients(model, model(**batch, labels=labels, use_cache=False).loss), expected)


@family
def test_passage_order_is_no_matter(name: str) -> None:
    """Cross-attention knows no positions, so the loss of a question does not depend on its passages' order."""
    model, labels, batch = build(name), labels_of(1), batch_of(LENGTHS, [len(LENGTHS)])
    texts = batch["passage_ids"].split(LENGTHS)
    order = [3, 5, 0, 4, 1, 2]
    turned = {
        "passage_ids": torch.cat([texts[i] for i in order]),
        "passage_lengths": batch["passage_lengths"][order],
        "passage_counts": batch["passage_counts"],
    }
    torch.testing.assert_close(
        model(**turned, labels=labels).loss, model(**batch, labels=labels).loss, atol=1e-5, rtol=0
    )


def test_states_stand_in_the_order_of_the_passages() -> None:
    """The fused states of a question are its passages' own, one after another, and padding is masked."""
    model, batch = build("t5", 2), batch_of()
    states, mask = encode_passages(model, batch, encoder_chunk_size=2)
    assert mask.sum(dim=1).tolist() == [10, 30]
    texts = batch["passage_ids"].split(LENGTHS)
    for row, passages in enumerate((texts[:2], texts[2:])):
        expected = torch.cat([model.encoder(input_ids=text[None])[0][0] for text in passages])
        torch.testing.assert_close(states[row][mask[row].bool()], expected, atol=1e-5, rtol=1e-5)


@family
def test_saved_folder_loads_as_the_plain_class(name: str, tmp_path: Path) -> None:
    """save_pretrained writes nothing of fusion, and the Auto class reads it back, every weight in its place."""
    model, labels, batch = build(name), labels_of(), batch_of()
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is type(model)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    enable_fusion(loaded.eval())
    torch.testing.assert_close(loaded(**batch, labels=labels).loss, model(**batch, labels=labels).loss)


def test_the_hook_leaves_other_calls_alone_and_comes_off() -> None:
    """A call with encoder outputs, as generate makes it, passes by; after remove() passages are not taken."""
    torch.manual_seed(0)
    model, batch = FAMILIES["t5"](), batch_of()
    handle = enable_fusion(model)
    given = dict(batch)
    model(**given, labels=labels_of())
    assert given.keys() == batch.keys()
    handle.remove()
    with pytest.raises(ValueError, match="input_ids"):
        model(**batch, labels=labels_of())


# ---- several ranks ----


def _rank_gradients(rank: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", RANK=str(rank), WORLD_SIZE="2")
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    parts = [batch_of([7, 3], [2]), batch_of(LENGTHS, [len(LENGTHS)])]
    model = build("encoder-decoder", 2).train()
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    labels = labels_of()[rank : rank + 1]
    losses, tokens = answer_losses(wrapped(**parts[rank], decoder_input_ids=shift_right(labels, 2, 0)).logits, labels)
    found = gradients(model, (losses / tokens).mean())
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    del wrapped, losses, tokens  # a reducer that is still there can keep the group from ending
    torch.distributed.destroy_process_group()


def test_two_ranks_have_the_gradients_of_one(tmp_path: Path) -> None:
    """Gradients of half a batch a rank, reduced by DistributedDataParallel, are those of the whole batch on one."""
    torch.multiprocessing.spawn(_rank_gradients, (str(tmp_path),), nprocs=2)
    first, second = batch_of([7, 3], [2]), batch_of(LENGTHS, [len(LENGTHS)])
    joint = {name: torch.cat([first[name], second[name]]) for name in first}
    model, labels = build("encoder-decoder").train(), labels_of()
    losses, tokens = answer_losses(model(**joint, decoder_input_ids=shift_right(labels, 2, 0)).logits, labels)
    expected = gradients(model, (losses / tokens).mean())
    for rank in range(2):
        assert_same(torch.load(tmp_path / f"{rank}.pt"), expected)


def test_an_encoders_pooler_is_frozen() -> None:
    """No gradient ever reaches it, and DistributedDataParallel would wait for one."""
    frozen = [name for name, parameter in build("encoder-decoder").named_parameters() if not parameter.requires_grad]
    assert frozen == ["encoder.pooler.dense.weight", "encoder.pooler.dense.bias"]


# ---- generation and scores ----


@family
@pytest.mark.parametrize("counts", [[6], [2, 4]])
def test_beams_share_what_they_attend_to(name: str, counts: list[int]) -> None:
    """Beam search with keys and values computed once a question writes what transformers' own does."""
    model, batch = build(name), batch_of(LENGTHS, counts)
    settings: dict[str, Any] = {"num_beams": 3, "max_new_tokens": 8, "num_return_sequences": 2}
    own = model.generate(**encode_passages(model, batch).inputs, **settings)
    assert torch.equal(fusion_generate(model, batch, **settings), own)


def test_generation_encodes_once() -> None:
    """The encoder runs once a chunk, however many tokens and beams are written; not at all where states are given."""
    model, batch = build("t5"), batch_of()
    encode_passages(model, batch)  # the first call compares tokens with their embeddings
    calls = []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    fusion_generate(model, batch, num_beams=3, max_new_tokens=8, encoder_chunk_size=3)
    assert len(calls) == 2
    fusion_generate(model, batch, fused=encode_passages(model, batch), num_beams=3, max_new_tokens=4)
    assert len(calls) == 3


def test_scores_are_the_papers_up_to_a_constant() -> None:
    """Differences between passages of a question are those of the attention before its softmax."""
    model, batch = build("t5"), batch_of()
    queries: list[torch.Tensor] = []
    keys: list[torch.Tensor] = []
    for block in model.decoder.block:
        attention = block.layer[1].EncDecAttention
        attention.q.register_forward_hook(lambda _, __, output: queries.append(output))
        attention.k.register_forward_hook(lambda _, __, output: keys.append(output))
    found = passage_scores(model, batch)
    before = torch.zeros(2, 30)
    for query, key in zip(queries, keys, strict=True):
        heads = (query.view(2, 1, 4, 8) * key.view(2, 30, 4, 8)).sum(dim=-1)
        before += heads.mean(dim=-1) / len(queries)
    expected = torch.stack(
        [part.mean() for part in (*before[0, :10].split(LENGTHS[:2]), *before[1].split(LENGTHS[2:]))]
    )
    for question in (slice(0, 2), slice(2, 6)):
        shift = found[question] - expected[question]
        torch.testing.assert_close(shift, shift[:1].expand_as(shift), atol=1e-4, rtol=0)
        assert found[question].std() > 0.01


@family
def test_scores_leave_the_model_as_it_was(name: str) -> None:
    """One finite score a passage; the attention implementation is the same before and after."""
    model, batch = build(name), batch_of()
    usual = [getattr(module.config, "_attn_implementation", None) for module in (model, model.get_decoder())]
    scores = passage_scores(model, batch)
    assert scores.shape == (6,)
    assert scores.isfinite().all()
    now = [getattr(module.config, "_attn_implementation", None) for module in (model, model.get_decoder())]
    assert now == usual


# ---- the parts ----


@pytest.mark.parametrize(
    ("lengths", "max_size", "call_cost", "expected"),
    [
        ([5, 5, 5], 8, 1, [[0, 1, 2]]),  # equal lengths: one group
        ([5, 5, 5], 2, 1, [[0], [1, 2]]),  # no more than two together
        ([9, 1, 9, 1], 8, 4, [[0, 2], [1, 3]]),  # 18 + 2 + 2 * 4 tokens, together 36 + 4
        ([9, 1, 9, 1], 8, 100, [[0, 2, 1, 3]]),  # another call would cost more than the padding
        ([3], 1, 0, [[0]]),
    ],
)
def test_groups(lengths: list[int], max_size: int, call_cost: int, expected: list[list[int]]) -> None:
    """Passages are grouped by like length where that saves more than a call of the encoder costs."""
    assert [group.tolist() for group in encoder_chunks(np.array(lengths), max_size, call_cost)] == expected


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 8), st.integers(0, 40))
def test_groups_are_the_cheapest(lengths: list[int], max_size: int, call_cost: int) -> None:
    """Each passage is in one group, none is too large, and no other cutting of the sorted passages is cheaper."""

    def cost(groups: list[list[int]]) -> int:
        return sum(max(group) * len(group) + call_cost for group in groups)

    found = encoder_chunks(np.array(lengths), max_size, call_cost)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(lengths)))
    assert max(map(len, found)) <= max_size
    ordered = sorted(lengths, reverse=True)
    cheapest = min(
        cost(groups)
        for cuts in itertools.product([False, True], repeat=len(lengths) - 1)
        if max(map(len, groups := cut_at(ordered, cuts))) <= max_size
    )
    assert cost([[lengths[i] for i in group] for group in found]) == cheapest


def cut_at(items: list[int], cuts: tuple[bool, ...]) -> list[list[int]]:
    groups = [items[:1]]
    for item, cut in zip(items[1:], cuts, strict=True):
        if cut:
            groups.append([])
        groups[-1].append(item)
    return groups


@pytest.mark.parametrize("name", ["t5", "mt5", "bart", "encoder-decoder"])
def test_labels_are_shifted_and_scored_as_the_model_does(name: str) -> None:
    """shift_right and answer_losses give the model's own decoder inputs and, over all tokens, its own loss."""
    model, labels, batch = build(name), labels_of(), batch_of()
    start, padding = decoder_start_token_id(model.config), model.config.pad_token_id
    shifted = shift_right(labels, start, padding)
    assert torch.equal(shifted, model.prepare_decoder_input_ids_from_labels(labels))
    losses, tokens = answer_losses(model(**batch, decoder_input_ids=shifted).logits, labels)
    assert tokens.tolist() == [4, 6]
    expected = model(**batch, labels=labels).loss.float()
    torch.testing.assert_close(losses.sum() / tokens.sum(), expected)
