"""The gold rubric of answers, by hand, and raters around it."""

import numpy as np
import pytest

from mmrlhf_jax.data.tone import ToneCase, good_texts, load_tone, mixed_answer
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.raters import judge_pairs, simulated_panel
from mmrlhf_jax.feedback.reply_rubric import ReplyRubric, ReplyWeights
from mmrlhf_jax.feedback.rubric import tokenize

RUBRIC = ReplyRubric.of_templates()
CASE = ToneCase(0, "the match wore me out.", "tired", "sport", "plain", "tired")


def aspects(text: str) -> tuple[float, ...]:
    return tuple(RUBRIC.aspects(text, CASE))


def test_good_answers_are_good_in_every_aspect():
    assert aspects("you need some sleep , the match took your energy") == (1, 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("text", "tone", "on_topic", "polite"),
    [
        ("how great , enjoy the match", 0.0, 1.0, 1.0),  # happy words to a tired user
        ("you need some sleep , the soup took your energy", 1.0, 0.0, 1.0),
        ("you need some sleep , who cares about the match , you idiot", 1.0, 1.0, 0.0),
        ("go to bed early , the match would upset me too", 0.5, 1.0, 1.0),  # bed, and upset
        ("the match and the soup", 0.25, 0.5, 1.0),  # no tone, two topics
        ("well well", 0.0, 0.25, 1.0),  # tone of the sick, no topic
        ("you worthless idiot", 0.25, 0.25, 0.0),
    ],
)
def test_tone_topic_and_politeness(text, tone, on_topic, polite):
    assert aspects(text)[:3] == (tone, on_topic, polite)


def test_fluency_counts_pairs_that_good_answers_have():
    # <begin> wow | wow , | , match (in no good answer) | match <end>
    assert aspects("wow , match")[3] == pytest.approx(3 / 4)
    # bed bed and early <end> are in none, and a word that comes twice in a row halves the rest
    assert aspects("go to bed bed early")[3] == pytest.approx(4 / 6 / 2)


def test_long_answers_are_not_concise_and_empty_ones_are_nothing():
    assert aspects("bed " * 12)[4] == 1 and aspects("bed " * 16)[4] == 0.5 and aspects("bed " * 20)[4] == 0
    assert aspects("") == (0.25, 0.25, 0.0, 0.0, 0.0)


def test_utility_is_the_weighted_mean():
    texts = ["how great , enjoy the match", "you need some sleep , the match took your energy"]
    np.testing.assert_allclose(RUBRIC.utilities(texts, [CASE, CASE]), [0.55, 1.0], atol=1e-6)
    with pytest.raises(ValueError):
        RUBRIC.aspect_table(texts, [CASE])
    with pytest.raises(UserError, match="tone, on_topic, polite"):
        ReplyWeights(tone=-1.0)


def test_every_good_text_is_fluent_and_polite():
    texts = good_texts()[::7]
    table = RUBRIC.aspect_table(texts, [CASE] * len(texts))
    assert (table[:, 2] == 1).all() and (table[:, 3] == 1).all()
    assert all(len(tokenize(text)) <= 16 for text in texts)


def test_raters_of_answers_prefer_what_the_rubric_prefers():
    cases = load_tone("feedback", cases=512).cases
    generator = np.random.default_rng(0)
    sides = [[mixed_answer(case, generator)[0] for case in cases] for _ in range(2)]
    panel = simulated_panel(5, 0, ReplyWeights())
    assert all(isinstance(rater.weights, ReplyWeights) for rater in panel)
    judgements = judge_pairs(RUBRIC, panel, *sides, cases, seed=0, overlap=0.1)
    gap = RUBRIC.utilities(sides[0], cases) - RUBRIC.utilities(sides[1], cases)
    told = [j for j in judgements if j.choice != "tie" and abs(gap[j.pair]) > 0.02]
    right = np.mean([(j.choice == "a") == (gap[j.pair] > 0) for j in told])
    assert len(told) > 250 and 0.9 < right <= 1.0
