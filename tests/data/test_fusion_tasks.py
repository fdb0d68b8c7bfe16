"""The tasks' answers against simulation with the rules that are best by definition."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.data import fusion_tasks
from mmrlhf_jax.data.fusion_tasks import TASKS, draw_examples, find_task
from mmrlhf_jax.errors import UserError

COUNT = 20_000
TOLERANCE = 0.012  # above three standard errors of a share of COUNT


@functools.cache
def shown(name, test=True):
    return TASKS[name].show(np.random.default_rng(5), COUNT, test)


def log_odds(name, given):
    """Log-odds of the label by the training distribution, from what each modality shows."""
    image_N, text_N = given.image_NxS[:, 0], given.text_NxS[:, 0]
    match name:
        case "redundant":
            return image_N, text_N, image_N + text_N
        case "synergy":
            return 0 * image_N, 0 * text_N, image_N * text_N
        case "additive":
            return image_N, text_N, image_N + text_N
        case "conflict":  # a liar's sign is a coin's
            image_N, text_N = (
                np.where(shown_NxS[:, -1] > 0, np.prod(shown_NxS[:, :-1], axis=1), 0.0)
                for shown_NxS in (given.image_NxS, given.text_NxS)
            )
        case "missing":
            image_N, text_N = image_N / 0.6**2, text_N / 1.0**2
        case "shift":
            image_N, text_N = 2 * image_N / 0.8**2, np.log(0.9 / 0.1) * text_N
    return image_N, text_N, image_N + text_N


def accuracy(odds_N, label_N):
    return np.mean(np.where(odds_N == 0, 0.5, (odds_N > 0) == (label_N > 0)))


@pytest.mark.parametrize("name", TASKS)
def test_accuracies_of_the_best_rules(name):
    given, answer = shown(name), TASKS[name].answer
    image, text, both = (accuracy(odds_N, given.label_N) for odds_N in log_odds(name, given))
    measured = (image, 0.5 if name == "shift" else text, both)
    if name == "shift":
        assert abs(text - 0.5) < TOLERANCE
    np.testing.assert_allclose(measured, (answer.image, answer.text, answer.both), atol=TOLERANCE)
    assert abs(np.mean(given.label_N) - answer.nothing) < TOLERANCE


def test_picture_shares():
    shares = {name: task.answer.picture_share for name, task in TASKS.items()}
    assert shares["additive"] == shares["redundant"] == shares["synergy"] == 0.5
    assert shares["conflict"] == pytest.approx(0.7)  # how often the picture is honest
    assert 0.5 < shares["missing"] < 0.7 and shares["shift"] > 1  # a text that misleads has a negative share


def test_under_the_shift_the_text_agrees_in_training_alone():
    for test, agreement in ((False, 0.9), (True, 0.5)):
        given = shown("shift", test)
        assert np.mean(given.text_NxS[:, 0] == 2 * given.label_N - 1) == pytest.approx(
            agreement, abs=TOLERANCE
        )
    assert TASKS["shift"].answer.bayes > TASKS["shift"].answer.both + 0.05


def test_the_best_accuracy_where_modalities_are_missing():
    task = TASKS["missing"]
    examples = draw_examples(task, 0, COUNT, test=True)
    present_Nx2 = np.asarray(examples.present_Nx2)
    np.testing.assert_allclose(np.mean(~present_Nx2, axis=0), [0.15, 0.15], atol=TOLERANCE)
    assert present_Nx2.any(axis=1).all()
    given = task.show(np.random.default_rng([0, 2]), COUNT, True)
    np.testing.assert_array_equal(given.label_N, examples.label_N)
    image_N, text_N, _ = log_odds("missing", given)
    odds_N = np.sum(present_Nx2 * np.stack([image_N, text_N], axis=1), axis=1)
    assert accuracy(odds_N, np.asarray(examples.label_N)) == pytest.approx(task.answer.bayes, abs=TOLERANCE)


def test_a_missing_modality_holds_another_examples_features():
    whole, holed = (
        draw_examples(TASKS["missing"], 1, 500, test=True, complete=complete) for complete in (True, False)
    )
    assert np.asarray(whole.present_Nx2).all()
    for column, name in enumerate(("image_NxD", "text_NxD")):
        there_N = np.asarray(holed.present_Nx2)[:, column]
        full_NxD, part_NxD = np.asarray(getattr(whole, name)), np.asarray(getattr(holed, name))
        np.testing.assert_array_equal(part_NxD[there_N], full_NxD[there_N])
        np.testing.assert_array_equal(part_NxD[~there_N], np.roll(full_NxD, 1, axis=0)[~there_N])


def test_features_hide_what_is_shown_without_losing_it():
    """One rotation for train and test: least squares on the one finds the sign in the other."""
    train, test = (draw_examples(TASKS["redundant"], 2, 2000, test=test) for test in (False, True))
    for name in ("image_NxD", "text_NxD"):
        train_NxD, test_NxD = np.asarray(getattr(train, name)), np.asarray(getattr(test, name))
        weight_D, *_ = np.linalg.lstsq(train_NxD, 2 * np.asarray(train.label_N) - 1, rcond=None)
        assert np.mean((test_NxD @ weight_D > 0) == (np.asarray(test.label_N) > 0)) == 1.0
        assert np.abs(weight_D).max() < 0.9 * np.linalg.norm(weight_D)
        # lengths are kept: one sign, and noise of half its size in the other dimensions
        assert np.mean(np.sum(train_NxD**2, axis=1)) == pytest.approx(1 + 15 * 0.25, rel=0.03)


def test_examples_depend_on_the_seed_and_nothing_else():
    one, same = (draw_examples(TASKS["conflict"], 3, 50, test=False) for _ in range(2))
    other = draw_examples(TASKS["conflict"], 4, 50, test=False)
    np.testing.assert_array_equal(one.image_NxD, same.image_NxD)
    assert not np.array_equal(np.asarray(one.image_NxD), np.asarray(other.image_NxD))
    assert jnp.mean(draw_examples(TASKS["conflict"], 3, 4000, test=False).honest_N) == (
        pytest.approx(fusion_tasks.HONEST, abs=0.03)
    )


def test_unknown_tasks_are_named():
    with pytest.raises(UserError, match="no task 'xor': choose one of additive, "):
        find_task("xor")
