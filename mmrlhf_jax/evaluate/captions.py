"""Caption metrics: CIDEr-D, BLEU, distinct-n, exact match, length. Host-side, no accelerator.

Every metric tokenizes with `tokenize`. Candidates are N strings, references N lists of at least one string.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

Ngrams = Counter[tuple[str, ...]]

_CLITIC = re.compile(r"(?<=\w)(n't|'(?:s|re|ve|ll|d|m))\b")
_TOKEN = re.compile(
    r"\d+(?:[.,:]\d+)+"  # numbers and times: 3,000 and 12:30
    r"|'(?:s|re|ve|ll|d|m)\b"  # clitics, split off before: man 's
    r"|[^\W_]+(?:[-'/][^\W_]+)*"  # words, compounds kept whole: medium-dark, o'clock
    r"|\S"  # any other sign stands alone: # & %
)
_PUNCTUATION = frozenset(".,:;?!-'\"`()[]{}«»\u2013\u2014\u201c\u201d\u201e\u2026")


def tokenize(caption: str) -> list[str]:
    """Lower-cased words and symbols of a caption, punctuation dropped.

    Follows the Penn Treebank tokenizer of pycocoevalcap on plain captions: compounds stay whole, clitics are
    split off ("man's" -> "man", "'s"), symbols such as "#" and "%" are tokens. Simpler in four ways: the
    full stop of abbreviations goes ("mrs." -> "mrs"), brackets are dropped rather than spelled "-lrb-",
    typographic apostrophes become plain ones, and words that the treebank divides ("cannot") stay whole.
    """
    text = unicodedata.normalize("NFC", caption).lower().replace("\u2019", "'").replace("\u2018", "'")
    return [token for token in _TOKEN.findall(_CLITIC.sub(r" \1", text)) if token not in _PUNCTUATION]


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """CIDEr-D of each candidate, from 0 to 10.

    10 x the mean over n = 1..4 and over the references r of

        exp(-(|c| - |r|)^2 / (2 sigma^2)) * sum_g min(c_g, r_g) r_g / (||c|| ||r||),    sigma = 6,

    where c_g and r_g are the counts of the n-gram g times log(N / df_g), and df_g is the number of examples
    whose references hold g (at least 1). An n-gram that every example shares weighs nothing, so a single
    example scores 0, and captions of fewer than four words cannot reach 10.

    Returns:
      float64 [N].

    Raises:
      ValueError: no examples, unequal lengths, or an example without references.

    Source: Vedantam et al. 2015, https://arxiv.org/abs/1411.5726; agrees with pycocoevalcap 1.2 to 1e-6.
    """
    candidate_tokens, reference_tokens = _tokenize_all(candidates, references)
    references_ngrams = [[_ngrams(tokens, 4) for tokens in tokens_R] for tokens_R in reference_tokens]
    document_frequency = Counter(ngram for ngrams_R in references_ngrams for ngram in set().union(*ngrams_R))
    log_documents = math.log(len(candidates))

    def weigh(ngrams: Ngrams) -> tuple[dict[tuple[str, ...], float], np.ndarray]:
        weights, squares_4 = {}, np.zeros(4)
        for ngram, count in ngrams.items():
            weight = count * (log_documents - math.log(max(1, document_frequency[ngram])))
            weights[ngram] = weight
            squares_4[len(ngram) - 1] += weight**2
        return weights, np.sqrt(squares_4)

    scores = np.zeros(len(candidates))
    for i, (tokens, tokens_R, ngrams_R) in enumerate(
        zip(candidate_tokens, reference_tokens, references_ngrams, strict=True)
    ):
        weights, norm_4 = weigh(_ngrams(tokens, 4))
        for other_tokens, other_ngrams in zip(tokens_R, ngrams_R, strict=True):
            other_weights, other_norm_4 = weigh(other_ngrams)
            dot_4 = np.zeros(4)
            for ngram in weights.keys() & other_weights.keys():
                dot_4[len(ngram) - 1] += min(weights[ngram], other_weights[ngram]) * other_weights[ngram]
            scale_4 = norm_4 * other_norm_4
            cosine_4 = np.divide(dot_4, scale_4, out=np.zeros(4), where=scale_4 > 0)
            penalty = math.exp(-((len(tokens) - len(other_tokens)) ** 2) / (2 * 6.0**2))
            scores[i] += 10.0 * penalty * cosine_4.mean() / len(tokens_R)
    return scores


def bleu(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    max_order: int = 4,
    smooth: Literal[False, "add-one"] = False,
) -> float:
    """Corpus BLEU, from 0 to 1.

        BP * exp(1/max_order * sum_n log p_n),    BP = min(1, exp(1 - r/c)),

    p_n the clipped n-gram precision over the whole corpus, c the candidates' length, r the sum of the
    reference lengths closest to each candidate's (the shorter one of two equally close).

    Args:
      candidates: N captions.
      references: N lists of captions.
      max_order: the longest n-gram.
      smooth: False is the plain definition: 0 when no n-gram of some order matches, so also when no caption
        has `max_order` words. "add-one" adds one to both counts of p_n for n > 1 (Lin and Och 2004), the
        choice for names of fewer than four words. The two are not comparable: say which one a number is.

    Raises:
      ValueError: no examples, unequal lengths, an example without references, a bad `max_order` or `smooth`.

    Source: Papineni et al. 2002; agrees with sacrebleu 2.6 (smooth_method "none" and "add-k") to 1e-6.
    """
    if max_order < 1:
        raise ValueError(f"max_order must be at least 1, got {max_order}")
    if smooth not in (False, "add-one"):
        raise ValueError(f'smooth must be False or "add-one", got {smooth!r}')
    candidate_tokens, reference_tokens = _tokenize_all(candidates, references)
    matched, total = [0] * max_order, [0] * max_order
    candidate_length = reference_length = 0
    for tokens, tokens_R in zip(candidate_tokens, reference_tokens, strict=True):
        candidate_length += len(tokens)
        reference_length += min((abs(len(other) - len(tokens)), len(other)) for other in tokens_R)[1]
        most = Ngrams()
        for other in tokens_R:
            most |= _ngrams(other, max_order)
        for ngram, count in _ngrams(tokens, max_order).items():
            total[len(ngram) - 1] += count
            matched[len(ngram) - 1] += min(count, most[ngram])
    if matched[0] == 0:
        return 0.0
    if smooth:
        matched[1:] = [count + 1 for count in matched[1:]]
        total[1:] = [count + 1 for count in total[1:]]
    if not all(matched):
        return 0.0
    log_precision = sum(math.log(m / t) for m, t in zip(matched, total, strict=True)) / max_order
    return math.exp(min(0.0, 1 - reference_length / candidate_length) + log_precision)


def distinct_n(candidates: Sequence[str], n: int) -> float:
    """Distinct n-grams over all n-grams of the candidates together, from 0 to 1; 0 when there is none.

    Depends on the number of candidates: compare sets of equal size. Source: Li et al. 2016, arXiv 1510.03055.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    ngrams = Ngrams()
    for candidate in candidates:
        tokens = tokenize(candidate)
        ngrams.update(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
    return len(ngrams) / ngrams.total() if ngrams else 0.0


def exact_match(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Share of candidates that equal one of their references; case and punctuation do not count."""
    candidate_tokens, reference_tokens = _tokenize_all(candidates, references)
    return float(np.mean([c in r for c, r in zip(candidate_tokens, reference_tokens, strict=True)]))


def mean_length(candidates: Sequence[str]) -> float:
    """Mean number of tokens of a candidate. Raises ValueError when there is none."""
    if len(candidates) == 0:
        raise ValueError("mean_length needs at least one candidate")
    return float(np.mean([len(tokenize(candidate)) for candidate in candidates]))


def _ngrams(tokens: Sequence[str], max_order: int) -> Ngrams:
    """Counts of all n-grams of 1 to `max_order` tokens."""
    return Counter(
        tuple(tokens[i : i + n]) for n in range(1, max_order + 1) for i in range(len(tokens) - n + 1)
    )


def _tokenize_all(
    candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[list[str]], list[list[list[str]]]]:
    if len(candidates) == 0:
        raise ValueError("caption metrics need at least one example")
    if len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} candidates but {len(references)} lists of references")
    for i, captions in enumerate(references):
        # A string is a sequence of strings too, and would be scored letter by letter.
        if isinstance(captions, str) or len(captions) == 0:
            raise ValueError(f"references[{i}] must be a list of at least one caption, got {captions!r}")
    return (
        [tokenize(candidate) for candidate in candidates],
        [[tokenize(caption) for caption in captions] for captions in references],
    )
