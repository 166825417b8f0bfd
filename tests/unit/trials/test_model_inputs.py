"""What of a batch reaches the model, and what the trial alone sees."""

from types import SimpleNamespace
from typing import Any

import torch
from transformers import BertConfig, BertForTokenClassification

from model_hub_rqa.models.signature import filter_kwargs, forward_names
from model_hub_rqa.trials.task_trial import TaskTrial


class Own(torch.nn.Module):
    def forward(self, x: torch.Tensor, *, labels: torch.Tensor | None = None) -> Any:
        return SimpleNamespace(loss=x.sum(), logits=x)


class Anything(torch.nn.Module):
    def forward(self, **batch: torch.Tensor) -> Any:
        return batch


class Wrapper(torch.nn.parallel.DistributedDataParallel):
    """Without a process group."""

    def __init__(self, module: torch.nn.Module) -> None:
        torch.nn.Module.__init__(self)
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


class HasModule(torch.nn.Module):
    """A model with a child that is called as DistributedDataParallel's is."""

    def __init__(self) -> None:
        super().__init__()
        self.module = Own()

    def forward(self, ids: torch.Tensor) -> Any:
        return self.module(ids)


def test_the_arguments_of_forward_decide() -> None:
    """Also behind DistributedDataParallel; options after named arguments are no columns; **batch alone takes all."""
    assert forward_names(Own()) == {"x", "labels"}
    assert forward_names(Wrapper(Wrapper(Own()))) == {"x", "labels"}
    assert forward_names(HasModule()) == forward_names(Wrapper(HasModule())) == {"ids"}
    assert forward_names(Anything()) is None
    tiny = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    names = forward_names(BertForTokenClassification(tiny))
    assert names is not None
    assert {"input_ids", "attention_mask", "labels"} <= names
    assert not names & {"kwargs", "example_index"}
    batch = {"x": 1, "example_index": 2}
    assert filter_kwargs(frozenset({"x", "labels"}), batch) == {"x": 1}
    assert filter_kwargs(None, batch) == batch


class Kept:
    def __init__(self) -> None:
        self.values: dict[Any, Any] = {}
        self.update = self.values.update


def test_the_default_steps_see_every_column() -> None:
    """compute_loss and evaluate_batch get all; the model only its own; labels and include_inputs are handed on."""

    class Trial(TaskTrial):
        include_inputs = ("weight",)

        def compute_metrics(self, values: Any) -> dict[str, float]:
            return {}

        def autocast(self) -> Any:
            return torch.autocast("cpu", torch.bfloat16)

    trial: Any = object.__new__(Trial)
    trial.model, trial.reducer = Own(), Kept()
    batch = {
        "x": torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.bfloat16),
        "labels": torch.tensor([1, 0]),
        "weight": torch.tensor([0.5, 2.0]),
        "unseen": torch.tensor([7, 7]),
        "example_index": torch.tensor([5, 3]),
    }
    assert trial.compute_loss(batch).item() == 10
    assert trial.evaluate_batch(batch, 0) == {}
    values = trial.reducer.values
    assert list(values) == [5, 3]
    assert {name: column.tolist() for name, column in values[5].items()} == {
        "logits": [1.0, 2.0],
        "labels": 1,
        "weight": 0.5,
    }


class Peeking(torch.nn.Module):
    """Its logits are other ones where it sees the labels."""

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        return SimpleNamespace(logits=x if labels is None else x * 0 + labels[:, None])


class Popping(TaskTrial):
    """Computes its loss as transformers' documentation shows it: the labels are taken out of the batch."""

    def autocast(self) -> Any:
        return torch.autocast("cpu", enabled=False)

    def compute_loss(self, batch: dict[str, Any]) -> torch.Tensor:
        labels = batch.pop("labels")
        return (self.model(**self.model_inputs(batch)).logits.mean(1) - labels).square().mean()


def popping(kind: type[TaskTrial] = Popping) -> tuple[Any, dict[str, torch.Tensor]]:
    trial: Any = object.__new__(kind)
    trial.model, trial.reducer = Wrapper(Peeking()), Kept()
    x, labels = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.tensor([1.5, 2.5, 9.5])
    return trial, {"x": x, "labels": labels, "example_index": torch.tensor([5, 3, 4])}


def test_the_default_predict_does_not_show_the_labels() -> None:
    trial, batch = popping()
    assert trial.predict(batch)["logits"].tolist() == batch["x"].tolist()


def test_the_default_validation_reports_the_loss() -> None:
    """Through compute_loss, and each example counts once: ((0 + 1) / 2 * 2 + 16) / 3 in batches of two and one."""
    trial, batch = popping()
    wrapped = trial.model
    for rows in (slice(0, 2), slice(2, 3)):
        assert trial.evaluate_batch({name: column[rows] for name, column in batch.items()}, 0) == {}
    assert trial.model is wrapped
    assert trial.reducer.values == {5: 0.5, 3: 0.5, 4: 16.0}
    metrics = trial.compute_metrics(trial.reducer.values)
    assert metrics == {"eval_loss": 17 / 3, "loss": 17 / 3}


def test_a_loss_that_pops_the_labels_leaves_the_batch_whole() -> None:
    """With and without an objective, which may ask for the same loss twice."""

    class WithMetrics(Popping):
        def compute_metrics(self, values: Any) -> dict[str, float]:
            return {}

    trial, batch = popping(WithMetrics)
    once = trial.training_loss(batch).item()
    trial.objective = lambda task, batch: task.loss(batch) + task.loss(batch)
    assert trial.training_loss(batch).item() == 2 * once
    assert list(batch) == ["x", "labels", "example_index"]
    trial.evaluate_batch(batch, 0)
    assert trial.reducer.values[4]["labels"] == 9.5
    assert trial.reducer.values[4]["logits"].tolist() == [5, 6]
