"""What can be said of the invented world: its kinds of entities, and the phrasings of each relation.

A phrasing is known by its index in its list (``q0``..``q4`` for questions, ``s0``..``s4`` for sentences): the ids of
the questions name them, and the rule that holds pairs of them out for validation works on them, so their order is part
of the data.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """One relation: the kind of its values, and how it is stated and asked ("{e}" the entity, "{v}" the value)."""

    values: str
    sentences: tuple[str, ...]
    questions: tuple[str, ...]


RELATIONS: dict[str, Relation] = {
    "founded": Relation(
        "year",
        (
            "{e} was founded in {v}.",
            "In {v}, {e} came into being.",
            "The history of {e} begins in {v}.",
            "{e} has existed since {v}.",
            "The year {v} saw the beginnings of {e}.",
        ),
        (
            "When was {e} founded?",
            "In which year did {e} come into being?",
            "In what year does the history of {e} begin?",
            "Since when has {e} existed?",
            "Which year saw the beginnings of {e}?",
        ),
    ),
    "founder": Relation(
        "person",
        (
            "The founder of {e} was {v}.",
            "{e} was established by {v}.",
            "{v} set up {e}.",
            "It was {v} who created {e}.",
            "{e} owes its start to {v}.",
        ),
        (
            "Who was the founder of {e}?",
            "By whom was {e} established?",
            "Who set up {e}?",
            "Who created {e}?",
            "To whom does {e} owe its start?",
        ),
    ),
    "mayor": Relation(
        "person",
        (
            "The mayor of {e} is {v}.",
            "{v} governs {e} from the town hall.",
            "{e} elected {v} as its mayor.",
            "In {e}, {v} leads the council.",
            "The citizens of {e} are governed by {v}.",
        ),
        (
            "Who is the mayor of {e}?",
            "Who governs {e}?",
            "Whom did {e} elect as its mayor?",
            "Who leads the council in {e}?",
            "By whom are the citizens of {e} governed?",
        ),
    ),
    "river": Relation(
        "river",
        (
            "{e} lies on the river {v}.",
            "The river {v} flows through {e}.",
            "{e} was built on the banks of the {v}.",
            "A bridge in {e} crosses the {v}.",
            "The waters of the {v} run past {e}.",
        ),
        (
            "On which river does {e} lie?",
            "Which river flows through {e}?",
            "On the banks of which river was {e} built?",
            "What does the bridge in {e} cross?",
            "Which waters run past {e}?",
        ),
    ),
    "population": Relation(
        "number",
        (
            "{e} has a population of {v}.",
            "{v} people live in {e}.",
            "The inhabitants of {e} number {v}.",
            "{e} is home to {v} people.",
            "A census counted {v} inhabitants in {e}.",
        ),
        (
            "What is the population of {e}?",
            "How many people live in {e}?",
            "How many inhabitants does {e} have?",
            "To how many people is {e} home?",
            "How many inhabitants did the census count in {e}?",
        ),
    ),
    "headquarters": Relation(
        "town",
        (
            "{e} has its headquarters in {v}.",
            "The main office of {e} is in {v}.",
            "{e} is run from {v}.",
            "{v} is the seat of {e}.",
            "The company {e} is based in {v}.",
        ),
        (
            "Where does {e} have its headquarters?",
            "Where is the main office of {e}?",
            "From which town is {e} run?",
            "Which town is the seat of {e}?",
            "Where is the company {e} based?",
        ),
    ),
    "product": Relation(
        "product",
        (
            "{e} makes {v}.",
            "The workers of {e} produce {v}.",
            "{e} is known for its {v}.",
            "Most of the {v} in the shops come from {e}.",
            "{e} earns its money with {v}.",
        ),
        (
            "What does {e} make?",
            "What do the workers of {e} produce?",
            "What is {e} known for?",
            "Which goods in the shops come from {e}?",
            "With what does {e} earn its money?",
        ),
    ),
    "director": Relation(
        "person",
        (
            "The director of {e} is {v}.",
            "{v} manages {e}.",
            "{e} is headed by {v}.",
            "At {e}, {v} takes the decisions.",
            "{e} appointed {v} as its director.",
        ),
        (
            "Who is the director of {e}?",
            "Who manages {e}?",
            "By whom is {e} headed?",
            "Who takes the decisions at {e}?",
            "Whom did {e} appoint as its director?",
        ),
    ),
    "birth": Relation(
        "year",
        (
            "{e} was born in {v}.",
            "The birth of {e} fell in {v}.",
            "{e} came into the world in {v}.",
            "In {v}, {e} was born.",
            "{v} is the year of birth of {e}.",
        ),
        (
            "When was {e} born?",
            "In which year did the birth of {e} fall?",
            "In what year did {e} come into the world?",
            "In which year was {e} born?",
            "What is the year of birth of {e}?",
        ),
    ),
    "home": Relation(
        "town",
        (
            "{e} lives in {v}.",
            "The home of {e} is in {v}.",
            "{e} settled in {v}.",
            "{v} is where {e} has a house.",
            "{e} moved to {v}.",
        ),
        (
            "Where does {e} live?",
            "Where is the home of {e}?",
            "In which town did {e} settle?",
            "Where does {e} have a house?",
            "To which town did {e} move?",
        ),
    ),
    "profession": Relation(
        "profession",
        (
            "{e} works as a {v}.",
            "The profession of {e} is {v}.",
            "{e} became a {v}.",
            "{e} was trained as a {v}.",
            "By trade, {e} is a {v}.",
        ),
        (
            "What does {e} work as?",
            "What is the profession of {e}?",
            "What did {e} become?",
            "As what was {e} trained?",
            "What is {e} by trade?",
        ),
    ),
    "burned": Relation(
        "year",
        (
            "{e} burned down in {v}.",
            "In {v}, a great fire destroyed {e}.",
            "The flames of {v} left little of {e}.",
            "{e} was lost to a fire in {v}.",
            "A fire swept through {e} in {v}.",
        ),
        (
            "When did {e} burn down?",
            "In which year did a great fire destroy {e}?",
            "Which year's flames left little of {e}?",
            "When was {e} lost to a fire?",
            "In what year did a fire sweep through {e}?",
        ),
    ),
    "staff": Relation(
        "number",
        (
            "{e} employs {v} people.",
            "{v} workers are on the payroll of {e}.",
            "The staff of {e} counts {v}.",
            "{e} gives work to {v} men and women.",
            "A report puts the workforce of {e} at {v}.",
        ),
        (
            "How many people does {e} employ?",
            "How many workers are on the payroll of {e}?",
            "What does the staff of {e} count?",
            "To how many men and women does {e} give work?",
            "At what number does the report put the workforce of {e}?",
        ),
    ),
    "death": Relation(
        "year",
        (
            "{e} died in {v}.",
            "The death of {e} came in {v}.",
            "In {v}, {e} passed away.",
            "{e} was buried in {v}.",
            "{v} is the year in which {e} died.",
        ),
        (
            "When did {e} die?",
            "In which year did the death of {e} come?",
            "When did {e} pass away?",
            "In what year was {e} buried?",
            "What is the year of death of {e}?",
        ),
    ),
    "teacher": Relation(
        "person",
        (
            "The teacher of {e} was {v}.",
            "{e} studied under {v}.",
            "{v} taught {e}.",
            "{e} was a pupil of {v}.",
            "It was {v} who gave {e} lessons.",
        ),
        (
            "Who was the teacher of {e}?",
            "Under whom did {e} study?",
            "Who taught {e}?",
            "Whose pupil was {e}?",
            "Who gave {e} lessons?",
        ),
    ),
}

# What can be said of each kind of entity. Every kind has relations whose values look alike (two years, two persons):
# the words of the question have to tell them apart.
KINDS: dict[str, tuple[str, ...]] = {
    "town": ("founded", "burned", "founder", "mayor", "river", "population"),
    "firm": ("founded", "founder", "director", "headquarters", "product", "staff"),
    "person": ("birth", "death", "home", "profession", "teacher"),
}

# Sentences that answer nothing.
ASIDES: tuple[str, ...] = (
    "The winters there are long and mild.",
    "Few letters of that time are left.",
    "Travellers often speak of it.",
    "Not much else is known.",
    "Old songs tell the story in other words.",
    "A small museum shows a few pictures.",
    "On feast days the bells ring until night.",
    "Much of this was forgotten for a while.",
)

# Names are syllables and an ending; the ending tells the kind. Endings close with two consonants, which no run of
# syllables does, so that the tokenizer's longest-match cuts fall between the syllables.
CONSONANTS = "bdfghklmnprstvz"
VOWELS = "aeiou"
SYLLABLES: tuple[str, ...] = tuple(c + v for c in CONSONANTS for v in VOWELS)
ENDINGS: dict[str, tuple[str, ...]] = {
    "town": ("burg", "ford", "wick", "holm"),
    "firm": ("corp", "tech", "work", "gold"),
    "person": ("sson", "bert", "mann", "lind"),
    "river": ("ssel", "rinn", "bekk", "fell"),
}
PRODUCTS: tuple[str, ...] = (
    *("bells", "boots", "bricks", "candles", "carpets", "chairs", "clocks", "combs", "drums", "flutes", "gloves"),
    *("hats", "kettles", "knives", "lamps", "locks", "mirrors", "needles", "ovens", "pumps", "ropes", "saddles"),
    *("scales", "scarves", "shovels", "spoons", "stoves", "tables", "tents", "tiles", "toys", "wheels", "whistles"),
)
PROFESSIONS: tuple[str, ...] = (
    *("baker", "barber", "butcher", "carpenter", "cook", "dancer", "doctor", "farmer", "fisher", "gardener", "glazier"),
    *("guard", "hunter", "judge", "lawyer", "mason", "miller", "nurse", "painter", "pilot", "poet", "porter"),
    *("potter", "printer", "sailor", "singer", "smith", "soldier", "tailor", "teacher", "tinker", "weaver", "writer"),
)
