"""Other words for the same pictures, from the keywords that people gave them."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from mmrlhf_jax.data.captions import Caption
from mmrlhf_jax.data.truths import may_flip, may_recolour

Synonyms = Mapping[str, tuple[str, ...]]

SHORTEST = 3  # letters of a word that counts
FEWEST = 3  # names on which two words must meet
MOST = 2  # synonyms of a word
_WORD = re.compile(r"[^\W\d_]+(?:[-’'][^\W\d_]+)*")  # noqa: RUF001


def find_synonyms(captions: Sequence[Caption], *, likeness: float = 0.6) -> dict[str, tuple[str, ...]]:
    """For words of names, the keywords that people use of nearly the same pictures, likest first.

    Likeness is the Jaccard index of the two sets of names that carry a word, in the name or as a keyword.
    What stands behind a colon ("dark skin tone") is no part of it, so that variants of one name count once;
    flags, sides and colours are left out. Such words are stand-ins ("biking", "cyclist") rather than a
    dictionary's synonyms.
    """
    carried: dict[str, set[str]] = defaultdict(set)
    in_names: set[str] = set()
    for caption in captions:
        if caption.group == "flags":
            continue
        base = caption.name.split(":")[0].lower()
        own = set(_WORD.findall(base))
        in_names |= own
        for word in own | {keyword.lower() for keyword in caption.keywords if _WORD.fullmatch(keyword)}:
            carried[word].add(base)
    usable = {
        word: names for word, names in carried.items() if len(word) >= SHORTEST and len(names) >= FEWEST
    }
    table = {}
    for word in sorted(word for word in in_names & set(usable) if may_flip(word) and may_recolour(word)):
        scores = []
        for other, names in usable.items():
            shared = len(names & usable[word])
            if other != word and shared >= FEWEST and shared / len(names | usable[word]) >= likeness:
                scores.append((-shared / len(names | usable[word]), other))
        if scores:
            table[word] = tuple(other for _, other in sorted(scores)[:MOST])
    return table


def reword(text: str, synonyms: Synonyms, generator: np.random.Generator, *, rate: float) -> str:
    """The text with each word that has synonyms replaced by one of them with probability `rate`."""

    def replace(match: re.Match[str]) -> str:
        others = synonyms.get(match[0].lower(), ())
        if not others or generator.random() >= rate:
            return match[0]
        return others[generator.integers(len(others))]

    return _WORD.sub(replace, text)
