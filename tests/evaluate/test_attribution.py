"""Attribution against scores whose additive part, interaction and Shapley values are known."""

import itertools

import numpy as np
import pytest

from mmrlhf_jax.evaluate.attribution import another, attribute, emap_scores, shapley_values, share

GENERATOR = np.random.default_rng(3)
IMAGE_N, TEXT_N = GENERATOR.choice([-1.0, 1.0], 400), GENERATOR.choice([-1.0, 1.0], 400)


def where(present, values, otherwise=0.0):
    return np.where(present, values, otherwise)


def product(image_rows, text_rows, present):
    return where(present.all(axis=1), IMAGE_N[image_rows] * TEXT_N[text_rows])


def text_alone(image_rows, text_rows, present):
    return where(present[:, 1], TEXT_N[text_rows])


def total(image_rows, text_rows, present):
    return where(present[:, 0], 2 * IMAGE_N[image_rows]) + where(present[:, 1], TEXT_N[text_rows])


def test_interaction_is_shared_equally_and_none_of_it_is_additive():
    found = attribute(product, IMAGE_N * TEXT_N > 0)
    assert found.accuracy == 1.0 and found.picture_absent == found.text_absent == found.nothing == 0.5
    assert found.picture_shapley == found.text_shapley == 0.25 and found.picture_share == 0.5
    assert found.emap_full == 1.0 and found.emap < 0.75
    assert 0.4 < found.picture_shuffled < 0.6 and 0.4 < found.text_shuffled < 0.6
    assert found.warning is None


def test_a_picture_that_is_not_looked_at_gets_nothing_and_a_warning():
    found = attribute(text_alone, TEXT_N > 0)
    assert found.picture_shapley == 0.0 and found.picture_share == 0.0 and found.text_shapley == 0.5
    assert found.accuracy == found.picture_shuffled == found.picture_absent == found.emap == 1.0
    assert found.picture_gain.mean == 0.0
    assert found.warning is not None and "adds nothing" in found.warning and "\n" not in found.warning


def test_an_additive_score_is_its_own_additive_part():
    found = attribute(total, IMAGE_N > 0)
    assert found.emap == found.emap_full == found.accuracy == 1.0
    # the text alone knows nothing of the picture's sign, the picture alone everything
    assert found.text_absent == 1.0 and found.picture_share > 0.9


def test_log_likelihood_as_the_value():
    found = attribute(product, IMAGE_N * TEXT_N > 0, value="log_likelihood")
    gain = np.log(2) - np.log1p(np.exp(-1))  # from log-odds 0 to 1 in the right direction
    assert found.picture_shapley == pytest.approx(gain / 2) and found.text_shapley == pytest.approx(gain / 2)


def test_shapley_values_are_means_over_the_orders_of_arrival():
    worth = {(): 0.5, ("image",): 0.7, ("text",): 0.55, ("image", "text"): 0.9}
    gained = {"image": 0.0, "text": 0.0}
    for order in itertools.permutations(gained):
        for place, name in enumerate(order):
            before, after = tuple(sorted(order[:place])), tuple(sorted(order[: place + 1]))
            gained[name] += (worth[after] - worth[before]) / 2
    values = shapley_values(*worth.values())
    assert values == pytest.approx(tuple(gained.values())) and sum(values) == pytest.approx(0.4)


def test_what_gained_nothing_is_not_shared():
    assert np.isnan(share(0.004, -0.003)) and share(0.3, 0.1) == pytest.approx(0.75)


def test_emap_is_the_nearest_additive_function():
    """Against least squares on indicators of rows and columns."""
    scores_IxT = GENERATOR.normal(size=(5, 7))
    image_N, text_N = (axis.ravel() for axis in np.indices(scores_IxT.shape))
    design = np.concatenate([np.eye(5)[image_N], np.eye(7)[text_N]], axis=1)
    fitted = design @ np.linalg.lstsq(design, scores_IxT.ravel(), rcond=None)[0]
    np.testing.assert_allclose(emap_scores(scores_IxT).ravel(), fitted, atol=1e-12)


def test_a_shuffled_picture_is_another_one_and_each_is_given_once():
    label_N = np.array([4, 4, 9, 2, 9, 2, 7])
    row_N = another(label_N, np.random.default_rng(0))
    assert (label_N[row_N] != label_N).all()
    given = {label: label_N[row] for label, row in zip(label_N, row_N, strict=True)}
    assert sorted(given.values()) == [2, 4, 7, 9]


def test_the_interval_draws_pictures_rather_than_rows():
    """Copies of the same examples are no new evidence."""
    few = 40

    def copied(image_rows, text_rows, present):
        return product(image_rows % few, text_rows % few, present)

    label_N = np.tile(IMAGE_N[:few] * TEXT_N[:few] > 0, 25)
    one = attribute(copied, label_N, picture_N=np.tile(np.arange(few), 25)).picture_gain
    naive = attribute(copied, label_N).picture_gain
    assert one.high - one.low > 3 * (naive.high - naive.low)


def test_emap_asks_no_more_than_its_sample():
    asked = []

    def counting(image_rows, text_rows, present):
        asked.append(len(image_rows))
        return product(image_rows, text_rows, present)

    attribute(counting, IMAGE_N * TEXT_N > 0, emap_rows=10)
    assert sorted(asked) == [100, *[400] * 6]


@pytest.mark.parametrize(
    ("label_N", "picture_N"), [([], None), ([0, 2], None), ([0, 1], [0]), ([0.5, 1], None)]
)
def test_labels_that_are_none(label_N, picture_N):
    with pytest.raises(ValueError, match="labels"):
        attribute(product, np.array(label_N), picture_N=picture_N)
