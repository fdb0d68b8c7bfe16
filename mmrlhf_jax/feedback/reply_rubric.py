"""The noiseless gold rubric of the chatbot: how good an answer is to someone whose feeling is known.

A pure function of the answer's words. Simulated raters judge with noise around it (`feedback/raters.py`).
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmrlhf_jax.data.tone import ToneCase, good_texts
from mmrlhf_jax.data.tone_words import RUDE_WORDS, TONE_WORDS, TOPICS
from mmrlhf_jax.feedback.rubric import INSULTS, adjacent, tokenize
from mmrlhf_jax.feedback.weights import AspectWeights

# An answer without any tone, or about nothing, is not wrong; it is hardly an answer.
_SILENT = 0.25
_REPETITION = 0.5  # each word that comes twice in a row halves the fluency
_CONCISE, _TOO_LONG = 12, 20  # words up to which an answer is concise, and from which it is not at all

_TONES = {word: feeling for feeling, words in TONE_WORDS.items() for word in words.split()}
_FUNCTION_WORDS = frozenset(["the", "your", "my", "our", "this", "that", "new", "last"])
_TOPIC_WORDS = {
    word: topic
    for topic, (asked, answered) in TOPICS.items()
    for noun in (*asked, *answered)
    for word in noun.split()
    if word not in _FUNCTION_WORDS
}
_RUDE = RUDE_WORDS | INSULTS


class ReplyAspects(NamedTuple):
    """What the rubric measures in an answer, each in [0, 1], 1 is best."""

    tone: float
    on_topic: float
    polite: float
    fluent: float
    concise: float


@dataclasses.dataclass(frozen=True)
class ReplyWeights(AspectWeights):
    """How much each aspect counts: to be heard matters most, then to be answered, then to be treated well."""

    tone: float = 0.45
    on_topic: float = 0.2
    polite: float = 0.2
    fluent: float = 0.1
    concise: float = 0.05


@dataclasses.dataclass(frozen=True, eq=False)
class ReplyRubric:
    """Scores answers to cases; build it with `ReplyRubric.of_templates`.

    Attributes:
      pairs: adjacent words that occur in some good answer, with the marks of beginning and end.
    """

    pairs: frozenset[tuple[str, str]]

    @classmethod
    def of_templates(cls) -> "ReplyRubric":
        """Knows as form what the good answers of `data/tone.py` are made of."""
        return cls(frozenset(pair for text in good_texts() for pair in adjacent(tokenize(text))))

    def aspects(self, text: str, case: ToneCase) -> ReplyAspects:
        """All aspects of `text` as an answer in `case`.

        tone: share of the words that carry a tone (TONE_WORDS) that carry the case's; 1/4 without any.
        on_topic: share of the words that name a topic that name the case's; 1/4 without any.
        polite: 0 with a rude word, else 1; 0 for a text without words.
        fluent: share of adjacent words, beginning and end included, that occur in good answers; halved by
          each word that comes twice in a row.
        concise: 1 up to 12 words, then falling linearly to 0 at 20; 0 for a text without words.
        """
        tokens = tokenize(text)
        words = [token for token in tokens if token != ","]
        pairs = adjacent(tokens)
        repeated = sum(first == second for first, second in pairs)
        length = min(max((_TOO_LONG - len(words)) / (_TOO_LONG - _CONCISE), 0.0), 1.0)
        return ReplyAspects(
            tone=_share([_TONES[word] for word in words if word in _TONES], case.feeling),
            on_topic=_share([_TOPIC_WORDS[word] for word in words if word in _TOPIC_WORDS], case.topic),
            polite=float(bool(words) and not _RUDE.intersection(words)),
            fluent=sum(pair in self.pairs for pair in pairs) / len(pairs) * _REPETITION**repeated,
            concise=length if words else 0.0,
        )

    def aspect_table(self, texts: Sequence[str], subjects: Sequence[ToneCase]) -> np.ndarray:
        """`aspects` of each text in the case at the same place: float64, N x 5.

        Raises:
          ValueError: there are not as many cases as texts.
        """
        rows = [self.aspects(text, case) for text, case in zip(texts, subjects, strict=True)]
        return np.array(rows, np.float64).reshape(len(rows), len(ReplyAspects._fields))

    def utilities(
        self, texts: Sequence[str], subjects: Sequence[ToneCase], weights: ReplyWeights = ReplyWeights()
    ) -> np.ndarray:
        """The weighted mean of the aspects of each text, in [0, 1]: float32, N."""
        weight_A = np.array(dataclasses.astuple(weights))
        return (self.aspect_table(texts, subjects) @ weight_A / weight_A.sum()).astype(np.float32)


def _share(said: list[str], wanted: str) -> float:
    return said.count(wanted) / len(said) if said else _SILENT
