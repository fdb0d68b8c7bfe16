import math

import numpy as np
import pytest

from mmrlhf_jax.data.captions import Caption
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.rubric import Rubric, RubricWeights, tokenize

JUDGE = Caption("woman judge: dark skin tone", ("justice", "law scales"), "people-body", "person-role")
COUPLE = Caption("kiss: woman, man, light skin tone, dark skin tone")
CORPUS = (
    JUDGE,
    Caption("man judge: light skin tone"),
    Caption("red apple", ("fruit",)),
    Caption("green apple"),
)
RUBRIC = Rubric.from_captions(CORPUS)
ONE, TWO = math.log(5), math.log(2.5)  # weights of a word of one and of two among the four names
WHOLE = 2 * ONE + 3 * TWO  # woman, judge, dark, skin, tone


def aspects(text: str, caption: Caption = JUDGE):
    return RUBRIC.aspects(text, caption)


def test_tokens_are_lower_case_words_and_separators():
    text = "Kiss: Woman\u2019s hat, medium-dark skin tone. (“OK” button)"
    assert tokenize(text) == [
        "kiss",
        ":",
        "woman's",
        "hat",
        ",",
        "medium-dark",
        "skin",
        "tone",
        "ok",
        "button",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "woman judge: dark skin tone",
        "kiss: woman, man, light skin tone, dark skin tone",
        "Japanese “free of charge” button",
        "flag: Bosnia & Herzegovina",
        "woman\u2019s hat",
        "New New: the the",
        "keycap: #",
    ],
)
def test_the_own_name_scores_exactly_one_even_outside_the_corpus(name):
    assert RUBRIC.utility(name, Caption(name)) == 1.0
    assert RUBRIC.utilities([name], [Caption(name)])[0] == 1.0


def test_word_weights_are_inverse_document_frequencies():
    assert RUBRIC.word_weight("woman") == pytest.approx(ONE)
    assert RUBRIC.word_weight("skin") == pytest.approx(TWO)
    assert RUBRIC.word_weight("zeppelin") == pytest.approx(ONE)
    assert RUBRIC.word_weight("with") == pytest.approx(ONE / 4)


def test_accurate_is_the_weighted_f_measure():
    assert aspects("woman judge: light skin tone").accurate == pytest.approx((ONE + 3 * TWO) / WHOLE)
    # Half of the name, all of it right: precision 1.
    recall = (ONE + TWO) / WHOLE
    assert aspects("woman judge").accurate == pytest.approx(2 * recall / (1 + recall))
    # A multiset: the second "judge" is not in the name.
    precision = WHOLE / (WHOLE + TWO)
    assert aspects("woman judge judge: dark skin tone").accurate == pytest.approx(
        2 * precision / (1 + precision)
    )


def test_a_keyword_is_half_right():
    recall = ONE / 2 / WHOLE
    assert aspects("justice").accurate == pytest.approx(2 * 0.5 * recall / (0.5 + recall))
    # A heap of keywords is never more than half right; beside the whole name they do not lift it above 1.
    heap = Caption("apple", ("a1", "a2", "a3", "a4", "a5"))
    assert aspects("a1 a2 a3 a4 a5", heap).accurate == pytest.approx(0.5)
    assert aspects("apple a1 a2", heap).accurate < 1


def test_grounded_is_one_minus_the_share_of_what_nothing_bears_out():
    assert aspects("woman judge: dark skin tone").grounded == 1
    assert aspects("justice scales").grounded == 1
    assert aspects("red judge").grounded == pytest.approx(TWO / (ONE + TWO))
    assert aspects("woman judge red: dark skin tone").grounded == pytest.approx(WHOLE / (WHOLE + ONE))


def test_fluent_counts_known_pairs_and_halves_by_repetition_and_open_form():
    assert aspects("man judge: dark skin tone").fluent == 1
    assert aspects("woman judge:").fluent == pytest.approx(3 / 4)  # ":" never ends a name
    assert aspects("woman zzz: dark skin tone").fluent == pytest.approx(
        5 / 7
    )  # a broken word breaks both pairs
    assert aspects("woman judge judge: dark skin tone").fluent == pytest.approx(7 / 8 / 2)
    assert aspects("red apple (").fluent == pytest.approx(1 / 2)
    assert aspects("judge: dark skin tone: dark skin tone").fluent == pytest.approx((1 - 2 / 10) / 2)


@pytest.mark.parametrize(
    "num_words, expected", [(1, 1.0), (5, 1.0), (6, 1.0), (11, 0.5), (16, 0.0), (40, 0.0)]
)
def test_concise_falls_from_one_word_too_many_to_twice_that_and_four(num_words, expected):
    assert aspects(" ".join(["judge"] * num_words)).concise == pytest.approx(expected)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("woman judge: dark skin tone", 1.0),
        ("judge", 1.0),
        ("person judge", 1.0),
        ("man judge: dark skin tone", 0.5),
        ("woman judge: medium-dark skin tone", 0.5),
        ("man judge: light skin tone", 0.0),
        ("woman judge: dark skin tone, dark skin tone", 0.5),
        ("judge in dark light", 1.0),
        ("Stupid, woman judge: dark skin tone", 0.0),
        ("IDIOT", 0.0),
        ("woman judge: idiotproof", 1.0),
    ],
)
def test_considerate(text, expected):
    assert aspects(text).considerate == expected


def test_considerate_holds_each_of_two_people_to_their_own_tone():
    swapped = "kiss: woman, man, dark skin tone, light skin tone"
    assert aspects(swapped, COUPLE).considerate == 0
    assert aspects("kiss: man, man, light skin tone, dark skin tone", COUPLE).considerate == 0.5
    assert aspects("man\u2019s hat", Caption("woman\u2019s hat")).considerate == 0.5
    assert aspects("ugly duckling", Caption("ugly duckling")).considerate == 1


def test_empty_text_earns_only_being_short_and_harmless():
    for text in ("", " \n", ": , :"):
        assert aspects(text)[:2] == (0, 0)
    assert aspects("") == (0, 0, 0, 1, 1)


def test_better_captions_score_higher():
    corpus = [
        Caption(f"{gender} {role}: {tone} skin tone")
        for gender in ("man", "woman", "person")
        for role in ("judge", "pilot", "cook", "singer", "farmer", "student")
        for tone in ("light", "medium", "dark")
    ]
    rubric = Rubric.from_captions([*corpus, Caption("red apple")])
    texts = [
        "woman judge: dark skin tone",
        "woman judge",  # nothing said of the tone
        "woman judge: light skin tone",
        "man judge: light skin tone",
        "woman pilot: light skin tone",
        "red apple",
        "",
    ]
    scores = [rubric.utility(text, JUDGE) for text in texts]
    assert (np.diff(scores) < -0.05).all(), scores


def test_utility_is_the_weighted_mean():
    # accurate and grounded as above, a tone mistaken: 0.65 * 0.730311 + 0.15 + 0.1 + 0.05
    assert RUBRIC.utility("woman judge: light skin tone", JUDGE) == pytest.approx(0.774702, abs=1e-6)
    only_considerate = RubricWeights(accurate=0, grounded=0, fluent=0, concise=0, considerate=7)
    assert RUBRIC.utility("woman judge: light skin tone", JUDGE, only_considerate) == 0.5


def test_utilities_match_one_by_one():
    texts = ["man judge", "", "red apple", "woman judge: dark", "apple red red"] * 3
    captions = [CORPUS[i % 4] for i in range(len(texts))]
    got = RUBRIC.utilities(texts, captions)
    assert got.dtype == np.float32
    expected = [RUBRIC.utility(text, caption) for text, caption in zip(texts, captions, strict=True)]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert RUBRIC.utilities([], []).shape == (0,)
    with pytest.raises(ValueError, match="15 texts but 1 captions"):
        RUBRIC.utilities(texts, captions[:1])


def test_bad_input_is_told():
    with pytest.raises(UserError, match="at least one caption"):
        Rubric.from_captions([])
    for value in (-0.1, math.nan, math.inf):
        with pytest.raises(UserError, match="not negative"):
            RubricWeights(fluent=value)
    with pytest.raises(UserError, match="not all zero"):
        RubricWeights(0, 0, 0, 0, 0)


def test_of_several_captions_the_one_that_fits_best_counts():
    both = Caption("a red circle", others=("top left: red circle",))
    rubric = Rubric.from_captions([both, Caption("a blue square")])
    assert rubric.num_names == 3 and rubric.document_frequency["red"] == 2
    for text in both.texts:
        assert rubric.utility(text, both) == 1.0
    for text in ("a blue circle", "top left: blue circle", "red red", ""):
        alone = [rubric.aspects(text, Caption(name)) for name in both.texts]
        assert rubric.aspects(text, both) == max(alone, key=RubricWeights().mean)
