"""Wrong names that are nearly right, and plain features of pictures and names."""

import numpy as np
import pytest

from mmrlhf_jax.data.captions import Caption, CaptionSet
from mmrlhf_jax.data.emoji import load_emoji
from mmrlhf_jax.data.fusion_pictures import PlainFeatures, swap_names
from mmrlhf_jax.errors import UserError


@pytest.fixture(scope="module")
def pictures():
    return load_emoji("combinations")


def test_every_name_is_given_once_and_never_to_its_own_picture(pictures):
    given_N = swap_names(pictures.captions, seed=0)
    assert sorted(given_N) == list(range(len(pictures)))
    assert all(pictures.names[row] != pictures.names[i] for i, row in enumerate(given_N))


def test_wrong_names_are_of_the_same_kind(pictures):
    captions = pictures.captions
    given = [captions[row] for row in swap_names(captions, seed=0)]
    same = np.mean([one.subgroup == other.subgroup for one, other in zip(captions, given, strict=True)])
    counts = {caption.subgroup: 0 for caption in captions}
    for caption in captions:
        counts[caption.subgroup] += 1
    alone = sum(count == 1 for count in counts.values())
    assert same >= 1 - 2 * alone / len(captions)
    assert not np.array_equal(swap_names(captions, seed=0), swap_names(captions, seed=1))


def test_names_that_stand_twice_and_names_that_are_alone():
    captions = [
        Caption("cat", (), "animals", "cats"),
        Caption("cat", (), "animals", "cats"),
        Caption("dog", (), "animals", "dogs"),
        Caption("car", (), "things", "cars"),
    ]
    given_N = swap_names(captions, seed=0)
    assert sorted(given_N) == [0, 1, 2, 3]
    assert all(captions[row].name != captions[i].name for i, row in enumerate(given_N))
    with pytest.raises(UserError, match="no wrong name is left for 'cat'"):
        swap_names(captions[:3], seed=0)


def test_components_are_whitened_and_see_what_they_are_shown(pictures):
    part = pictures.take(range(0, 400, 2))
    features = PlainFeatures.fit(part, 12)
    for found_NxD in (features.pictures(part.images_NxHxWxC), features.texts(part.names)):
        assert found_NxD.dtype == np.float32 and found_NxD.shape == (200, 12)
        covariance = found_NxD.T @ found_NxD / 200
        np.testing.assert_allclose(covariance, np.eye(12), atol=0.02)
    # the first component is the direction of most variance, here by the singular values
    small_NxP = part.images_NxHxWxC.reshape(200, 16, 4, 16, 4, 3).mean(axis=(2, 4)).reshape(200, -1) / 255
    left_NxN, *_ = np.linalg.svd(small_NxP - small_NxP.mean(axis=0), full_matrices=False)
    first_N = features.pictures(part.images_NxHxWxC)[:, 0]
    assert abs(np.corrcoef(first_N, left_NxN[:, 0])[0, 1]) > 0.999


def test_words_that_were_never_seen_count_for_nothing(pictures):
    features = PlainFeatures.fit(pictures.take(range(100)), 8)
    known, padded, none = features.texts([pictures.names[3], f"{pictures.names[3]} zzyzx", ""])
    np.testing.assert_allclose(known, padded, atol=1e-5)
    assert np.isfinite(none).all() and np.abs(known - none).max() > 0.1


def test_too_few_pictures_for_the_components(pictures):
    with pytest.raises(UserError, match="12 components need more than 12 pictures"):
        PlainFeatures.fit(CaptionSet(pictures.images_NxHxWxC[:12], pictures.captions[:12]), 12)
