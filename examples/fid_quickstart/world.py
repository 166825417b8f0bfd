"""The words of the invented world: things of a colour that stand at a place, and who has to do with each.

A thing is known by its three words alone ("the red lamp of the mill"), and each of them is shared by many others.
"""

from dataclasses import dataclass

COLOURS = (
    *("black", "blue", "brown", "golden", "green", "grey", "orange", "pink"),
    *("purple", "red", "white", "yellow"),
)
THINGS = (
    *("bell", "boat", "carpet", "cart", "chair", "clock", "drum", "flute"),
    *("kettle", "ladder", "lamp", "mirror"),
)
PLACES = (
    *("abbey", "bakery", "bridge", "castle", "chapel", "harbour", "library", "market"),
    *("mill", "school", "station", "tower"),
)


@dataclass(frozen=True)
class Relation:
    """How a relation is stated and asked: "{e}" the colour and the thing, "{p}" the place, "{v}" the person."""

    sentences: tuple[str, ...]
    questions: tuple[str, ...]


# BM25 counts as many words in one sentence as in another (it passes over "was", "by", "there" ...). Were some shorter,
# it would prefer them, and a passage could be told by its phrasing alone.
RELATIONS: dict[str, Relation] = {
    "maker": Relation(
        ("Its {e} was made by {v}.", "Here the {e} was made by {v}.", "The {e} there is one that {v} made."),
        ("Who made the {e} of the {p}?", "The {e} of the {p} was made by whom?"),
    ),
    "buyer": Relation(
        ("Its {e} was bought by {v}.", "Here the {e} was bought by {v}.", "The {e} there is one that {v} bought."),
        ("Who bought the {e} of the {p}?", "The {e} of the {p} was bought by whom?"),
    ),
}

# The people, by first and second names: each pair is a person, and an answer.
FIRST_NAMES = (
    *("Ada", "Amos", "Astrid", "Basil", "Bruno", "Celia", "Daniel", "Diana", "Edgar", "Ella", "Frank", "George"),
    *("Hazel", "Hugo", "Ida", "Iris", "Jasper", "Julia", "Karl", "Linda", "Magnus", "Nina", "Oscar", "Paula"),
)
SECOND_NAMES = (
    *("Adler", "Becker", "Berg", "Brandt", "Dahl", "Ekman", "Falk", "Fischer", "Graf", "Hansen", "Holm", "Jansen"),
    *("Keller", "Krause", "Lang", "Lund", "Meyer", "Nyberg", "Olsen", "Pohl", "Richter", "Strand", "Vogel", "Wolf"),
)
PEOPLE: tuple[str, ...] = tuple(f"{first} {second}" for first in FIRST_NAMES for second in SECOND_NAMES)
