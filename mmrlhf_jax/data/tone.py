"""A made set for a chatbot that hears the tone: a user's words with the user's face, and answers to them.

Half of the cases can be told by the words alone ("plain": "i am afraid of my exam." with a fearful face).
In a quarter the words tell nothing ("neutral") and in a quarter the opposite of what is felt ("sarcastic"),
so that only the face tells. Sarcasm uses the very sentences that others mean. Splits:

- "train" and "feedback": other cases of the same faces, and of topics and feelings that occur together.
- "combinations": faces that training shows, with topics that it never shows together with their feeling.
- "faces": pictures of faces that training never shows.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from mmrlhf_jax.data.tone_faces import FEELINGS, Faces, load_faces
from mmrlhf_jax.data.tone_words import (
    NEUTRAL_SAYINGS,
    OPENERS,
    OPPOSITE,
    REMARKS,
    RUDE_REMARKS,
    SAYINGS,
    TOPICS,
)
from mmrlhf_jax.errors import UserError

SPLITS = ("train", "feedback", "combinations", "faces")
KINDS = ("plain", "neutral", "sarcastic")
_KIND_CYCLE = ("plain", "neutral", "plain", "sarcastic")
_APART = 5  # each feeling's two held-out topics lie so far apart in the order of TOPICS

# What an answer of the mixed-quality lessons is, and how often.
FAULTS = {"none": 0.55, "wrong tone": 0.22, "off topic": 0.13, "rude": 0.1}


class ToneCase(NamedTuple):
    """One thing that a user said.

    Attributes:
      face: number of the picture.
      said: the user's words.
      feeling: what the user feels, of FEELINGS: the face tells.
      topic: of TOPICS.
      kind: of KINDS.
      words: the feeling that the words alone tell; None where they tell none.
    """

    face: int
    said: str
    feeling: str
    topic: str
    kind: str
    words: str | None


@dataclasses.dataclass(frozen=True)
class ToneSet:
    """N cases over F faces."""

    faces: Faces
    cases: tuple[ToneCase, ...]

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def images_NxHxWxC(self) -> np.ndarray:
        """The face of each case, uint8."""
        return self.faces.images_FxHxWxC[[case.face for case in self.cases]]

    @property
    def said(self) -> list[str]:
        """The words of each case."""
        return [case.said for case in self.cases]


def held_out_topics(feeling: str) -> frozenset[str]:
    """The topics that training never shows together with `feeling`."""
    first, topics = FEELINGS.index(feeling), list(TOPICS)
    return frozenset(topics[(first + step) % len(topics)] for step in (0, _APART))


def load_tone(split: str, *, cases: int, seed: int = 0) -> ToneSet:
    """`cases` cases of one split; feelings and kinds take turns, so that all are equally frequent.

    Raises:
      UserError: there is no such split.
    """
    if split not in SPLITS:
        raise UserError(f"there is no split {split!r} of the tone set; choose one of {', '.join(SPLITS)}")
    faces = load_faces()
    generator = np.random.default_rng([seed, SPLITS.index(split)])
    made = []
    for number in range(cases):
        feeling = FEELINGS[number % len(FEELINGS)]
        kind = _KIND_CYCLE[number // len(FEELINGS) % len(_KIND_CYCLE)]
        apart = held_out_topics(feeling)
        topics = [topic for topic in TOPICS if (topic in apart) == (split == "combinations")]
        face = int(generator.choice(faces.of(feeling, held_out=split == "faces")))
        made.append(_case(face, feeling, topics[generator.integers(len(topics))], kind, generator))
    return ToneSet(faces, tuple(made))


def _case(face: int, feeling: str, topic: str, kind: str, generator: np.random.Generator) -> ToneCase:
    words = {"plain": feeling, "neutral": None, "sarcastic": OPPOSITE[feeling]}[kind]
    sayings = NEUTRAL_SAYINGS if words is None else SAYINGS[words]
    return ToneCase(
        face,
        _pick(sayings, generator).format(_pick(TOPICS[topic][0], generator)),
        feeling,
        topic,
        kind,
        words,
    )


def best_guess_by_words() -> float:
    """How often the best guess of the feeling is right that knows the words of training but no face.

    Exact, of the distribution that "train" is drawn from: the bound of every rule that reads the words alone.
    """
    chance: dict[tuple[str, str | None], dict[str, float]] = {}
    for feeling in FEELINGS:
        topics = [topic for topic in TOPICS if topic not in held_out_topics(feeling)]
        for topic in topics:
            for kind in _KIND_CYCLE:
                words = {"plain": feeling, "neutral": None, "sarcastic": OPPOSITE[feeling]}[kind]
                told = chance.setdefault((topic, words), {})
                share = 1 / (len(FEELINGS) * len(topics) * len(_KIND_CYCLE))
                told[feeling] = told.get(feeling, 0.0) + share
    return sum(max(told.values()) for told in chance.values())


def good_answer(feeling: str, topic: str, generator: np.random.Generator) -> str:
    """An answer in the tone that fits, on topic and polite."""
    return f"{_pick(OPENERS[feeling], generator)} , {_remark(REMARKS[feeling], topic, generator)}"


def mixed_answer(case: ToneCase, generator: np.random.Generator) -> tuple[str, str]:
    """An answer as a careless crowd would write it, and its fault, drawn by FAULTS.

    One of the wrong tone mostly fits the words instead of the face.
    """
    fault = str(generator.choice(list(FAULTS), p=list(FAULTS.values())))
    if fault == "wrong tone":
        others = [feeling for feeling in FEELINGS if feeling != case.feeling]
        misheard = case.words if case.words in others else _pick(others, generator)
        return good_answer(str(misheard), case.topic, generator), fault
    if fault == "off topic":
        others = [topic for topic in TOPICS if topic != case.topic]
        return good_answer(case.feeling, _pick(others, generator), generator), fault
    if fault == "rude":
        remark = _remark(RUDE_REMARKS, case.topic, generator)
        opener = _pick(OPENERS[case.feeling], generator)
        return (remark if generator.random() < 0.5 else f"{opener} , {remark}"), fault
    return good_answer(case.feeling, case.topic, generator), fault


def naming(feeling: str) -> str:
    """What one says to a face alone."""
    return f"you look {feeling}"


def all_texts() -> list[str]:
    """Every sentence that the templates can make, for the tokenizer and the rubric's knowledge of form."""
    asked = [*NEUTRAL_SAYINGS, *(saying for sayings in SAYINGS.values() for saying in sayings)]
    texts = [saying.format(noun) for saying in asked for nouns, _ in TOPICS.values() for noun in nouns]
    return (
        texts
        + good_texts()
        + [naming(feeling) for feeling in FEELINGS]
        + [r.format(n) for r in RUDE_REMARKS for _, nouns in TOPICS.values() for n in nouns]
    )


def good_texts() -> list[str]:
    """Every good answer."""
    return [
        f"{opener} , {remark.format(noun)}"
        for feeling in FEELINGS
        for opener in OPENERS[feeling]
        for remark in REMARKS[feeling]
        for _, nouns in TOPICS.values()
        for noun in nouns
    ]


def _remark(remarks: tuple[str, ...], topic: str, generator: np.random.Generator) -> str:
    return _pick(remarks, generator).format(_pick(TOPICS[topic][1], generator))


def _pick(choices: tuple[str, ...] | list[str], generator: np.random.Generator) -> str:
    return choices[int(generator.integers(len(choices)))]
