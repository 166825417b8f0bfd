"""Reduction by id: the same metrics from one rank and from several, in whatever order values arrive."""

from hypothesis import given
from hypothesis import strategies as st

from model_hub_rqa.trials.reducers import ByIdReducer


def mean_and_ids(values: dict) -> dict:
    return {"mean": sum(values.values()) / len(values), "count": len(values), "first": next(iter(values))}


def reduced(shards: list[dict], is_chief: bool = True) -> dict:
    slots = []
    for shard in shards:
        reducer = ByIdReducer(mean_and_ids)
        for key, value in shard.items():
            reducer.update({key: value})
        slots.append(reducer.per_slot_reduce())
    return ByIdReducer(mean_and_ids, is_chief).cross_slot_reduce(slots)


def test_overlapping_shards_count_an_id_once() -> None:
    """Id 2 is on both ranks and counts once; the mean is over ids and not over ranks."""
    assert reduced([{1: 1.0, 2: 3.0}, {2: 3.0, 0: 2.0}]) == {"mean": 2.0, "count": 3, "first": 0}


@given(st.dictionaries(st.integers(), st.floats(-100, 100), min_size=1), st.integers(1, 4), st.randoms())
def test_any_division_gives_the_same_numbers(values: dict, ranks: int, random: object) -> None:
    """To the last bit, since values reach the metric sorted by id."""
    items = list(values.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    assert reduced([dict(items[rank::ranks]) for rank in range(ranks)]) == reduced([values])


def test_only_the_chief_computes() -> None:
    """Other ranks report nothing of their own."""
    assert reduced([{1: 1.0}], is_chief=False) == {}


def test_reset_forgets_the_last_validation() -> None:
    """Each validation begins with no values."""
    reducer = ByIdReducer(mean_and_ids)
    reducer.update({1: 1.0})
    reducer.reset()
    assert reducer.per_slot_reduce() == {}
