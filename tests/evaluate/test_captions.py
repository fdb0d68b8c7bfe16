"""Caption metrics against pycocoevalcap and sacrebleu: golden/captions.json, by make_caption_goldens.py."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from mmrlhf_jax.evaluate.captions import bleu, cider_d, distinct_n, exact_match, mean_length, tokenize

GOLDEN = json.loads((Path(__file__).parent / "golden" / "captions.json").read_text(encoding="utf-8"))
CANDIDATES, REFERENCES = GOLDEN["candidates"], GOLDEN["references"]


def test_tokens_equal_the_stanford_tokenizer():
    assert [tokenize(caption) for caption in CANDIDATES] == GOLDEN["candidate_tokens"]
    assert [[tokenize(c) for c in captions] for captions in REFERENCES] == GOLDEN["reference_tokens"]


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A button (blood type)", ["a", "button", "blood", "type"]),
        ("Mrs. Claus", ["mrs", "claus"]),
        ("eight o\u2019clock", ["eight", "o'clock"]),
        ("they cannot", ["they", "cannot"]),
        ("face\nwith\thand…", ["face", "with", "hand"]),
        ("n\u0303", ["ñ"]),
        ("?! ...", []),
    ],
)
def test_tokens_where_the_docstring_differs(caption, tokens):
    assert tokenize(caption) == tokens


def test_cider_d_agrees_with_pycocoevalcap():
    np.testing.assert_allclose(cider_d(CANDIDATES, REFERENCES), GOLDEN["cider_d"], rtol=0, atol=1e-6)


def test_cider_d_is_best_for_the_reference_itself():
    own = [captions[0] for captions in REFERENCES]
    single = [[caption] for caption in own]
    best = cider_d(own, single)
    long = np.array([len(tokenize(caption)) >= 4 for caption in own])
    np.testing.assert_allclose(best[long], 10.0, atol=1e-9)
    for shift in range(1, len(own)):
        assert (best >= cider_d(own[shift:] + own[:shift], single) - 1e-12).all()


def test_cider_d_of_a_single_example_is_zero():
    # Every n-gram is in every document: its weight is log(1 / 1).
    assert cider_d(["a red apple on a table"], [["a red apple on a table"]]).tolist() == [0.0]


@pytest.mark.parametrize(
    "case", GOLDEN["bleu"], ids=lambda c: f"{len(c['indices'])}-{c['max_order']}-{c['smooth']}"
)
def test_bleu_agrees_with_sacrebleu(case):
    candidates = [CANDIDATES[i] for i in case["indices"]]
    references = [REFERENCES[i] for i in case["indices"]]
    value = bleu(candidates, references, case["max_order"], case["smooth"])
    assert value == pytest.approx(case["value"], abs=1e-6)


def test_bleu_of_identical_captions_is_one():
    captions = ["dog", "woman judge: dark skin tone", "red apple"]
    assert bleu(captions, [[caption] for caption in captions]) == pytest.approx(1.0)
    assert bleu(["dog", "red apple"], [["dog"], ["red apple"]], smooth="add-one") == pytest.approx(1.0)
    assert bleu(["dog", "red apple"], [["dog"], ["red apple"]]) == 0.0


def test_bleu_brevity_penalty_takes_the_closest_reference():
    # Four words; references of 5 and 8: r = 5, so BLEU-1 = exp(1 - 5/4).
    value = bleu(["a b c d"], [["a b c d e", "a b c d e f g h"]], max_order=1)
    assert value == pytest.approx(math.exp(1 - 5 / 4))
    # 3 and 5 are equally close: the shorter counts, and there is no penalty.
    assert bleu(["a b c d"], [["a b c", "a b c d e"]], max_order=1) == pytest.approx(1.0)


def test_bleu_without_any_match_is_zero_even_when_smoothed():
    assert bleu(["dog"], [["cat"]], smooth="add-one") == 0.0
    assert bleu([""], [["cat"]], smooth="add-one") == 0.0


def test_distinct_n():
    assert distinct_n(["red apple", "red car"], 1) == pytest.approx(3 / 4)
    assert distinct_n(["red apple", "red apple"], 2) == pytest.approx(1 / 2)
    assert distinct_n(["dog", ""], 2) == 0.0


def test_exact_match_ignores_case_and_punctuation():
    candidates = ["Man judge, dark skin tone", "man judge", "dog"]
    references = [["man judge: dark skin tone"], ["woman judge", "man judge"], ["cat"]]
    assert exact_match(candidates, references) == pytest.approx(2 / 3)


def test_mean_length_counts_tokens_not_punctuation():
    assert mean_length(["dog", "woman: medium-dark skin tone", ""]) == pytest.approx(5 / 3)


@pytest.mark.parametrize("metric", [cider_d, bleu, exact_match])
@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ([], [], "at least one example"),
        (["dog"], [["dog"], ["cat"]], "1 candidates but 2"),
        (["dog"], [[]], r"references\[0\]"),
        (["dog"], ["dog"], r"references\[0\]"),
    ],
)
def test_bad_references_are_told(metric, candidates, references, message):
    with pytest.raises(ValueError, match=message):
        metric(candidates, references)


def test_bad_settings_are_told():
    with pytest.raises(ValueError, match="max_order"):
        bleu(["dog"], [["dog"]], max_order=0)
    with pytest.raises(ValueError, match="smooth"):
        bleu(["dog"], [["dog"]], smooth=True)
    with pytest.raises(ValueError, match="n must"):
        distinct_n(["dog"], 0)
    with pytest.raises(ValueError, match="at least one"):
        mean_length([])
