"""The noiseless gold rubric: how good a caption is for a picture whose name is known.

A caption is measured on five aspects, each in [0, 1], against the name and the keywords that people
gave the picture. Simulated raters judge with noise around it; evaluation reports it without noise.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mmrlhf_jax.data.captions import Caption
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.weights import AspectWeights

BEGIN, END = "<begin>", "<end>"
_TOKEN = re.compile(r"[^\s:,.!?()\"“”]+|[:,]")
_PUNCTUATION = frozenset(":,")
_BRACKETS = (("(", ")"), ("“", "”"))

# They carry form rather than meaning, so they count for a fraction of their rarity.
_FUNCTION_WORDS = frozenset(["a", "an", "and", "at", "for", "in", "of", "on", "the", "to", "with"])
_FUNCTION_WORD_FACTOR = 0.25

# A word that people connect with the picture, but that is not its name, is half right.
_KEYWORD_CREDIT = 0.5

# Each immediate repetition, and a form that does not close, halves the fluency.
_FORM_PENALTY = 0.5

# Each skin tone or gender that the picture does not show costs half of `considerate`.
_MISTAKEN_ATTRIBUTE_COST = 0.5
_GENDERS = frozenset(["man", "men", "boy", "woman", "women", "girl"])
_TONES = frozenset(["light", "medium-light", "medium", "medium-dark", "dark"])

# Insults that no caption needs, whatever the picture: a short list of general ones, which shows the
# mechanism and stays printable. A word in the picture's own name never counts as one.
INSULTS = frozenset(
    [
        "coward",
        "creep",
        "cretin",
        "dumb",
        "filthy",
        "freak",
        "idiot",
        "idiotic",
        "imbecile",
        "jerk",
        "loser",
        "lowlife",
        "moron",
        "pathetic",
        "savage",
        "scum",
        "stupid",
        "subhuman",
        "trashy",
        "ugly",
        "vermin",
        "worthless",
    ]
)


class Aspects(NamedTuple):
    """What the rubric measures in a caption, each in [0, 1], 1 is best."""

    accurate: float
    grounded: float
    fluent: float
    concise: float
    considerate: float


@dataclasses.dataclass(frozen=True)
class RubricWeights(AspectWeights):
    """How much each aspect counts; only the proportions matter.

    Naming the right thing is what a caption is for, so `accurate` weighs nearly half. A claim that the
    picture does not bear out (`grounded`) is the next worst fault. `fluent` matters more than `concise` and
    `considerate`, which nearly every caption satisfies: those two are there to punish those that do not.

    Raises:
      UserError: a weight is negative or not finite, or all are zero.
    """

    accurate: float = 0.45
    grounded: float = 0.2
    fluent: float = 0.15
    concise: float = 0.1
    considerate: float = 0.1


_DEFAULT = RubricWeights()


def tokenize(text: str) -> list[str]:
    """Words in lower case, with ":" and "," as tokens of their own; other sentence marks are dropped."""
    return _TOKEN.findall(text.lower().replace("\u2019", "'"))


class _Reference(NamedTuple):
    """What a picture's name and keywords bear out."""

    name_words: Counter[str]
    keyword_words: frozenset[str]
    pairs: frozenset[tuple[str, str]]
    claims: Counter[str]
    num_words: int


@dataclasses.dataclass(frozen=True, eq=False)
class Rubric:
    """Scores captions against names; build it with `Rubric.from_captions`.

    Of a picture with several captions each is a reference like the name, and a text is measured against the
    one that it meets best by the default weights.

    Attributes:
      num_names: how many names the corpus holds.
      document_frequency: word -> in how many names it occurs.
      pairs: adjacent tokens that occur in some name, with the marks of beginning and end.
    """

    num_names: int
    document_frequency: Mapping[str, int]
    pairs: frozenset[tuple[str, str]]

    @classmethod
    def from_captions(cls, captions: Sequence[Caption]) -> "Rubric":
        """Collects the words and the adjacent word pairs of the captions' names.

        Raises:
          UserError: there are no captions.
        """
        if not captions:
            raise UserError("The rubric needs at least one caption to learn words from; got none.")
        names = [tokenize(text) for caption in captions for text in caption.texts]
        frequency = Counter(word for name in names for word in set(name) - _PUNCTUATION)
        return cls(len(names), frequency, frozenset(pair for name in names for pair in adjacent(name)))

    def word_weight(self, word: str) -> float:
        """Inverse document frequency, log((names + 1) / names with the word): always above zero.

        A word of no name counts like one of a single name. "skin" stands in half of all names and so earns
        about a tenth of what "judge" does; function words earn a quarter of their rarity.
        """
        rarity = math.log((self.num_names + 1) / max(self.document_frequency.get(word, 0), 1))
        return rarity * (_FUNCTION_WORD_FACTOR if word in _FUNCTION_WORDS else 1.0)

    def aspects(self, text: str, caption: Caption) -> Aspects:
        """All aspects of `text` as a caption of the picture that `caption` describes.

        accurate: F-measure of the words (a multiset, weighted by `word_weight`) against the name; a word that
          is only a keyword is half right. 0 for a text without words.
        grounded: 1 - the weighted share of words that neither name nor keywords bear out. 0 without words.
        fluent: share of adjacent tokens, beginning and end included, that occur in the corpus of names;
          halved by each immediate repetition and by a second colon or an open bracket.
        concise: 1 up to one word more than the name, then falling linearly to 0 at twice that length + 4.
        considerate: 1 - 1/2 for each skin tone or gender that the name does not show (of two tones, each in
          its place); 0 with an insult.

        The picture's own name scores 1 on each of them.
        """
        return self._best(text, self._references(caption))

    def aspect_table(self, texts: Sequence[str], captions: Sequence[Caption]) -> np.ndarray:
        """`aspects` of each text for the caption at the same place: float64, N x 5.

        Raises:
          ValueError: there are not as many captions as texts.
        """
        if len(texts) != len(captions):
            raise ValueError(f"{len(texts)} texts but {len(captions)} captions")
        references = {caption: self._references(caption) for caption in set(captions)}
        rows = [self._best(text, references[caption]) for text, caption in zip(texts, captions, strict=True)]
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(Aspects._fields))

    def utility(self, text: str, caption: Caption, weights: RubricWeights = RubricWeights()) -> float:
        """The weighted mean of the aspects, in [0, 1]; exactly 1 for the picture's own name."""
        return weights.mean(self.aspects(text, caption))

    def utilities(
        self, texts: Sequence[str], captions: Sequence[Caption], weights: RubricWeights = RubricWeights()
    ) -> np.ndarray:
        """`utility` of each text for the caption at the same place: float32, N."""
        weight_A = np.array(dataclasses.astuple(weights))
        table_NxA = self.aspect_table(texts, captions)
        return (table_NxA @ weight_A / weight_A.sum()).astype(np.float32)

    def _references(self, caption: Caption) -> list[_Reference]:
        keywords = {word for keyword in caption.keywords for word in tokenize(keyword)} - _PUNCTUATION
        return [self._reference(name, keywords) for name in caption.texts]

    def _reference(self, text: str, keywords: set[str]) -> _Reference:
        name = tokenize(text)
        words = Counter(token for token in name if token not in _PUNCTUATION)
        # The own name's pairs are always known, so that it scores 1 even where the corpus lacks it.
        pairs = frozenset(adjacent(name))
        return _Reference(words, frozenset(keywords - words.keys()), pairs, _claims(name), words.total())

    def _best(self, text: str, references: Sequence[_Reference]) -> Aspects:
        return max((self._score(text, reference) for reference in references), key=_DEFAULT.mean)

    def _score(self, text: str, reference: _Reference) -> Aspects:
        tokens = tokenize(text)
        words = Counter(token for token in tokens if token not in _PUNCTUATION)
        return Aspects(
            accurate=self._accurate(words, reference),
            grounded=self._grounded(words, reference),
            fluent=self._fluent(text, tokens, reference),
            concise=_concise(words.total(), reference.num_words),
            considerate=_considerate(tokens, reference),
        )

    def _weight(self, words: Mapping[str, int]) -> float:
        # fsum, so that the order of the words does not change the last bit.
        return math.fsum(count * self.word_weight(word) for word, count in words.items())

    def _accurate(self, words: Counter[str], reference: _Reference) -> float:
        said, wanted = self._weight(words), self._weight(reference.name_words)
        matched = self._weight(words & reference.name_words)
        related = self._weight({word: 1 for word in words if word in reference.keyword_words})
        precision = (matched + _KEYWORD_CREDIT * related) / said if said else 0.0
        # Keywords stand in for what is missing of the name: a heap of them is never more than half right.
        recall = (matched + _KEYWORD_CREDIT * min(related, wanted - matched)) / wanted if wanted else 0.0
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0

    def _grounded(self, words: Counter[str], reference: _Reference) -> float:
        if not words:
            return 0.0
        known = reference.name_words.keys() | reference.keyword_words
        borne_out = {word: count for word, count in words.items() if word in known}
        return self._weight(borne_out) / self._weight(words)

    def _fluent(self, text: str, tokens: list[str], reference: _Reference) -> float:
        pairs = adjacent(tokens)
        unnatural = [pair for pair in pairs if pair not in self.pairs and pair not in reference.pairs]
        faults = sum(first == second for first, second in unnatural)
        faults += tokens.count(":") > 1
        faults += any(text.count(left) != text.count(right) for left, right in _BRACKETS)
        return (1 - len(unnatural) / len(pairs)) * _FORM_PENALTY**faults


def adjacent(tokens: list[str]) -> list[tuple[str, str]]:
    """Neighbours in a text, its beginning and end included."""
    return list(zip([BEGIN, *tokens], [*tokens, END], strict=True))


def _claims(tokens: list[str]) -> Counter[str]:
    """The genders and skin tones that a text names.

    Where a name lists two tones, their order says whose each is, so a tone is claimed for its place.
    """
    genders = [word for token in tokens if (word := token.removesuffix("'s")) in _GENDERS]
    tones = [
        tokens[i]
        for i in range(len(tokens) - 2)
        if tokens[i] in _TONES and tokens[i + 1 : i + 3] == ["skin", "tone"]
    ]
    return Counter(genders + [f"{place} {tone}" for place, tone in enumerate(tones)])


def _concise(num_words: int, num_name_words: int) -> float:
    limit = num_name_words + 1
    end = 2 * limit + 4
    return min(max((end - num_words) / (end - limit), 0.0), 1.0)


def _considerate(tokens: list[str], reference: _Reference) -> float:
    if any(token in INSULTS and token not in reference.name_words for token in tokens):
        return 0.0
    mistaken = (_claims(tokens) - reference.claims).total()
    return max(1.0 - _MISTAKEN_ATTRIBUTE_COST * mistaken, 0.0)
