import dataclasses
import itertools
import re

import numpy as np
import pytest

from mmrlhf_jax.data.captions import Caption
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.agreement import pairwise_agreement, rater_accuracy
from mmrlhf_jax.feedback.raters import SimulatedRater, judge, judge_pairs, simulated_panel
from mmrlhf_jax.feedback.rubric import Aspects, Rubric

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
ROLES = ("judge", "pilot", "cook", "singer", "police officer", "health worker", "office worker", "in tuxedo")
FACES = (
    "grinning face",
    "grinning face with big eyes",
    "cat face",
    "dog face",
    "face with tears of joy",
    "angry face",
)
THINGS = (
    "red apple",
    "green apple",
    "hot dog",
    "french fries",
    "bow and arrow",
    "water pistol",
    "flag: France",
)
OTHER_GENDER = {"man": "woman", "woman": "man"}

CORPUS = (
    *(
        Caption(f"{gender} {role}{tone}", tuple(role.split()), "people", role)
        for gender, role in itertools.product(("person", "man", "woman"), ROLES)
        for tone in ("", *(f": {tone} skin tone" for tone in TONES))
    ),
    *(Caption(name, ("face", "happy"), "smileys", "face") for name in FACES),
    *(Caption(name, (), "objects", "thing") for name in THINGS),
)
RUBRIC = Rubric.from_captions(CORPUS)
# As the captioner of the pipeline errs on new combinations: in the tone most of all, hardly ever in form.
HALF_TRAINED = (0.1, 0.4, 0.15, 0.25, 0.04, 0.03, 0.03)
WELL_TRAINED = (0.25, 0.45, 0.2, 0.07, 0.01, 0.01, 0.01)


def corrupted(caption: Caption, rng: np.random.Generator, shares: tuple[float, ...]) -> str:
    """What a captioner might write: the name itself, or with one of a learner's mistakes."""
    words = caption.name.split()
    neighbours = [other.name for other in CORPUS if other.subgroup == caption.subgroup]
    at = int(rng.integers(len(words)))
    return {
        "right": caption.name,
        "tone": re.sub(r"[\w-]+ skin", f"{rng.choice(TONES)} skin", caption.name),
        "gender": " ".join(OTHER_GENDER.get(word, word) for word in words),
        "neighbour": str(rng.choice(neighbours)),
        "truncated": " ".join(words[: at + 1]),
        "repeated": " ".join(words[: at + 1] + words[at:]),
        "wrong": CORPUS[rng.integers(len(CORPUS))].name,
    }[rng.choice(["right", "tone", "gender", "neighbour", "truncated", "repeated", "wrong"], p=shares)]


def policy_like_pairs(
    num_pairs: int, shares: tuple[float, ...]
) -> tuple[list[str], list[str], list[Caption]]:
    rng = np.random.default_rng(7)
    texts_a, texts_b, captions = [], [], []
    while len(captions) < num_pairs:
        caption = CORPUS[rng.integers(len(CORPUS))]
        a, b = corrupted(caption, rng, shares), corrupted(caption, rng, shares)
        if a != b:
            texts_a.append(a), texts_b.append(b), captions.append(caption)
    return texts_a, texts_b, captions


def level(value: float) -> Aspects:
    return Aspects(*[value] * 5)


@pytest.mark.parametrize("seed, shares", [(0, HALF_TRAINED), (1, HALF_TRAINED), (0, WELL_TRAINED)])
def test_two_raters_agree_as_often_as_people(seed, shares):
    texts_a, texts_b, captions = policy_like_pairs(800, shares)
    judgements = judge_pairs(
        RUBRIC, simulated_panel(seed=seed), texts_a, texts_b, captions, seed=seed, overlap=1.0
    )
    assert 0.70 <= pairwise_agreement(judgements) <= 0.85
    utilities_a, utilities_b = RUBRIC.utilities(texts_a, captions), RUBRIC.utilities(texts_b, captions)
    assert rater_accuracy(judgements, utilities_a, utilities_b) > 0.85
    assert 0.02 < np.mean([judgement.choice == "tie" for judgement in judgements]) < 0.2


def test_choice_follows_the_logistic_model_of_difference_and_position():
    rater = SimulatedRater("simulated-0", noise_scale=0.1, tie_threshold=0.0, position_bias=0.4)
    rng = np.random.default_rng(0)

    def share_first(first: float, second: float) -> float:
        return float(
            np.mean([judge(rater, level(first), level(second), rng) == "first" for _ in range(6000)])
        )

    # sigmoid(0.4), sigmoid(1.4), sigmoid(-0.6): swapping the two does not give the complement.
    assert share_first(0.5, 0.5) == pytest.approx(0.5987, abs=0.02)
    assert share_first(0.6, 0.5) == pytest.approx(0.8022, abs=0.02)
    assert share_first(0.5, 0.6) == pytest.approx(0.3543, abs=0.02)


def test_a_rater_without_noise_says_tie_below_the_threshold():
    rater = SimulatedRater("simulated-0", noise_scale=0.0, tie_threshold=0.05)
    rng = np.random.default_rng(0)
    assert judge(rater, level(0.5), level(0.54), rng) == "tie"
    assert judge(rater, level(0.5), level(0.56), rng) == "second"
    assert judge(rater, level(0.56), level(0.5), rng) == "first"


def test_position_bias_shows_in_the_order_on_the_screen_and_not_in_a_or_b():
    caption = CORPUS[-1]
    panel = [SimulatedRater("simulated-0", tie_threshold=0.0, position_bias=1.0)]
    texts_a, texts_b = ["red apple"] * 4000, ["hot dog"] * 4000  # equally wrong
    judgements = judge_pairs(RUBRIC, panel, texts_a, texts_b, [caption] * 4000, seed=0, overlap=0)
    first = np.mean([judgement.choice == judgement.shown_first for judgement in judgements])
    assert first == pytest.approx(0.7311, abs=0.03)  # sigmoid(1)
    assert np.mean([judgement.choice == "a" for judgement in judgements]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([judgement.shown_first == "a" for judgement in judgements]) == pytest.approx(0.5, abs=0.03)


def test_choices_are_of_a_and_b_whichever_stands_first():
    right, wrong = CORPUS[1].name, "red apple"
    exact = [dataclasses.replace(rater, noise_scale=0.0, position_bias=0.0) for rater in simulated_panel(2)]
    pairs = ([right, wrong] * 10, [wrong, right] * 10, [CORPUS[1]] * 20)
    judgements = judge_pairs(RUBRIC, exact, *pairs, seed=3, overlap=0.5)
    assert {judgement.shown_first for judgement in judgements} == {"a", "b"}
    assert all(judgement.choice == "ab"[judgement.pair % 2] for judgement in judgements)


def test_the_stated_share_is_seen_by_two_different_raters():
    texts_a, texts_b, captions = policy_like_pairs(200, HALF_TRAINED)
    judgements = judge_pairs(RUBRIC, simulated_panel(3), texts_a, texts_b, captions, seed=0, overlap=0.25)
    assert len(judgements) == 250
    assert len({(judgement.pair, judgement.rater) for judgement in judgements}) == 250
    assert sorted({judgement.pair for judgement in judgements}) == list(range(200))
    assert [judgement.pair for judgement in judgements] == sorted(judgement.pair for judgement in judgements)
    assert {judgement.rater for judgement in judgements} == {"simulated-0", "simulated-1", "simulated-2"}


def test_the_same_caption_twice_is_a_tie():
    judgements = judge_pairs(
        RUBRIC, simulated_panel(), ["cat face"] * 50, ["cat face"] * 50, CORPUS[:50], seed=0
    )
    assert {judgement.choice for judgement in judgements} == {"tie"}


def test_everything_follows_from_the_seed():
    pairs = policy_like_pairs(100, HALF_TRAINED)
    assert simulated_panel(4, seed=1) == simulated_panel(4, seed=1) != simulated_panel(4, seed=2)
    once = judge_pairs(RUBRIC, simulated_panel(), *pairs, seed=5)
    assert once == judge_pairs(RUBRIC, simulated_panel(), *pairs, seed=5)
    assert once != judge_pairs(RUBRIC, simulated_panel(), *pairs, seed=6)


def test_a_panel_differs_in_taste_but_not_on_average():
    panel = simulated_panel(400)
    weights = np.array([dataclasses.astuple(rater.weights) for rater in panel])
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(weights.mean(axis=0), [0.45, 0.2, 0.15, 0.1, 0.1], atol=0.015)
    assert (weights.std(axis=0) > 0.03).all()


def test_bad_input_is_told():
    with pytest.raises(UserError, match="at least one simulated rater"):
        simulated_panel(0)
    with pytest.raises(UserError, match="noise_scale"):
        SimulatedRater("simulated-0", noise_scale=-1.0)
    with pytest.raises(UserError, match="position_bias"):
        SimulatedRater("simulated-0", position_bias=float("nan"))
    with pytest.raises(UserError, match="cannot overlap"):
        judge_pairs(RUBRIC, simulated_panel(1), ["a"], ["b"], CORPUS[:1], seed=0)
    with pytest.raises(UserError, match="overlap in"):
        judge_pairs(RUBRIC, simulated_panel(), ["a"], ["b"], CORPUS[:1], seed=0, overlap=1.5)
    with pytest.raises(UserError, match="needs raters"):
        judge_pairs(RUBRIC, [], ["a"], ["b"], CORPUS[:1], seed=0, overlap=0)
    with pytest.raises(ValueError, match="2 texts but 1 captions"):
        judge_pairs(RUBRIC, simulated_panel(), ["a"], ["b", "c"], CORPUS[:1], seed=0)
