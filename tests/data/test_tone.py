"""The set of the chatbot: its splits share nothing that they should not, and half of it needs the face."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from mmrlhf_jax.data.emoji import load_emoji
from mmrlhf_jax.data.tokens import CaptionTokenizer
from mmrlhf_jax.data.tone import (
    FAULTS,
    SPLITS,
    all_texts,
    best_guess_by_words,
    good_answer,
    good_texts,
    held_out_topics,
    load_tone,
    mixed_answer,
)
from mmrlhf_jax.data.tone_faces import FACES, FEELINGS, load_faces
from mmrlhf_jax.data.tone_words import (
    NEUTRAL_SAYINGS,
    OPENERS,
    OPPOSITE,
    REMARKS,
    SAYINGS,
    TONE_WORDS,
    TOPICS,
)
from mmrlhf_jax.errors import UserError


@pytest.fixture(scope="module")
def sets():
    return {split: load_tone(split, cases=640, seed=3) for split in SPLITS}


def test_each_face_stands_in_the_table_once_and_is_a_smiley():
    names = [name for faces in FACES.values() for name in faces]
    smileys = {c.name for c in load_emoji(None).captions if c.group == "smileys-emotion"}
    assert len(names) == len(set(names)) == 78 and set(names) <= smileys


def test_a_face_is_its_picture_halved():
    emoji, faces = load_emoji(None), load_faces()
    whole = emoji.images_NxHxWxC[emoji.names.index("crying face")].astype(float)
    quarter = (whole[0::2, 0::2] + whole[1::2, 0::2] + whole[0::2, 1::2] + whole[1::2, 1::2]) / 4
    half = faces.images_FxHxWxC[faces.names.index("crying face")]
    assert half.shape == (32, 32, 3) and np.abs(half - quarter).max() <= 0.5


def test_every_feeling_has_a_fifth_of_its_faces_held_out():
    faces = load_faces()
    for feeling, names in FACES.items():
        assert len(faces.of(feeling, held_out=True)) == round(0.2 * len(names)) >= 1
    assert faces.held_out_F.sum() == 15


def test_feelings_and_kinds_are_balanced_and_half_of_the_cases_need_the_face(sets):
    for cases in sets.values():
        assert set(Counter(case.feeling for case in cases.cases).values()) == {80}
        kinds = Counter(case.kind for case in cases.cases)
        assert kinds == {"plain": 320, "neutral": 160, "sarcastic": 160}
        told = sum(case.words == case.feeling for case in cases.cases)
        assert told == len(cases) // 2


def test_the_words_are_of_the_feeling_that_they_tell(sets):
    for case in sets["train"].cases:
        assert (
            case.words
            == {"plain": case.feeling, "neutral": None, "sarcastic": OPPOSITE[case.feeling]}[case.kind]
        )
        sayings = NEUTRAL_SAYINGS if case.words is None else SAYINGS[case.words]
        assert case.said in {saying.format(noun) for saying in sayings for noun in TOPICS[case.topic][0]}
        assert case.feeling == load_faces().feelings[case.face]


def test_splits_hold_out_faces_and_pairs_of_topic_and_feeling(sets):
    shown = {split: {case.face for case in cases.cases} for split, cases in sets.items()}
    met = {split: {(case.topic, case.feeling) for case in cases.cases} for split, cases in sets.items()}
    assert not shown["faces"] & (shown["train"] | shown["feedback"] | shown["combinations"])
    assert shown["combinations"] <= shown["train"] and len(shown["faces"]) == 15
    assert not met["combinations"] & (met["train"] | met["feedback"])
    assert met["combinations"] == {(topic, f) for f in FEELINGS for topic in held_out_topics(f)}
    assert {topic for topic, _ in met["train"]} == set(TOPICS) == {topic for topic, _ in met["combinations"]}


def test_the_same_seed_gives_the_same_cases_and_splits_differ():
    once = load_tone("train", cases=64, seed=1).cases
    assert once == load_tone("train", cases=64, seed=1).cases
    assert once != load_tone("train", cases=64, seed=2).cases
    assert once != load_tone("feedback", cases=64, seed=1).cases
    with pytest.raises(UserError, match="no split 'test'"):
        load_tone("test", cases=1)


def test_no_rule_on_the_words_alone_beats_the_bound():
    cases = load_tone("train", cases=16_384, seed=0).cases
    told: dict[object, Counter[str]] = defaultdict(Counter)
    for case in cases:  # the best rule knows these two, the rest of a sentence is chance
        told[case.topic, case.words][case.feeling] += 1
    best = sum(max(counts.values()) for counts in told.values()) / len(cases)
    assert best_guess_by_words() == pytest.approx(0.578, abs=1e-3)
    assert best == pytest.approx(best_guess_by_words(), abs=0.01)


def test_every_part_of_an_answer_carries_the_tone_of_its_feeling_alone():
    tone = {word: feeling for feeling, words in TONE_WORDS.items() for word in words.split()}
    assert len(tone) == sum(len(words.split()) for words in TONE_WORDS.values())  # none has two tones
    for feeling in FEELINGS:
        for part in (*OPENERS[feeling], *REMARKS[feeling]):
            assert {tone[word] for word in part.split() if word in tone} <= {feeling}, part
        assert all(tone.keys() & set(part.split()) for part in OPENERS[feeling])


def test_answers_of_mixed_quality_have_the_faults_that_they_say():
    generator = np.random.default_rng(0)
    cases = load_tone("train", cases=2048).cases
    made = [mixed_answer(case, generator) for case in cases]
    for fault, share in FAULTS.items():
        assert np.mean([f == fault for _, f in made]) == pytest.approx(share, abs=0.03)
    good = set(good_texts())
    for (text, fault), case in zip(made, cases, strict=True):
        assert (text in good) == (fault != "rude")
        if fault == "off topic":
            assert not any(noun in text for noun in TOPICS[case.topic][1])
        if fault == "wrong tone" and case.kind == "sarcastic":
            assert text.split(" , ")[0] in OPENERS[case.words]
    assert good_answer("sad", "pet", generator) in good


def test_words_are_tokens_and_texts_fit_the_policy():
    tokenizer = CaptionTokenizer.train(all_texts(), vocab_size=800)
    texts = all_texts()
    words = [len(text.replace(".", " .").split()) for text in texts]
    assert (tokenizer.count_tokens(texts) == np.array(words) + 1).all()  # and the end token
    assert tokenizer.count_tokens([text for text in texts if text.endswith(".")]).max() <= 12
    assert tokenizer.count_tokens(texts).max() <= 16
