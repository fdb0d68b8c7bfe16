import numpy as np
import pytest

from mmrlhf_jax.evaluate.bootstrap import Interval, bootstrap_mean


def test_width_matches_the_normal_approximation():
    values = np.random.default_rng(0).normal(2.0, 3.0, size=400)
    interval = bootstrap_mean(values)
    half_width = 1.96 * values.std() / np.sqrt(400)
    assert interval.mean == pytest.approx(values.mean())
    assert (interval.high - interval.low) / 2 == pytest.approx(half_width, rel=0.05)


def test_covers_the_true_mean_at_the_nominal_rate():
    # 400 samples of 60 from an exponential of mean 1: binomial standard error 1.1 %; the percentile bootstrap
    # of a skewed mean is a little short of 95 %.
    samples = np.random.default_rng(1).exponential(size=(400, 60))
    intervals = [bootstrap_mean(sample, num_samples=400, seed=i) for i, sample in enumerate(samples)]
    coverage = np.mean([interval.low <= 1.0 <= interval.high for interval in intervals])
    assert 0.90 <= coverage <= 0.97


def test_copies_in_a_cluster_add_no_information():
    values = np.random.default_rng(2).normal(size=100)
    pictures = np.arange(100)
    once = bootstrap_mean(values)
    copied = np.tile(values, 4)
    naive = bootstrap_mean(copied)
    clustered = bootstrap_mean(copied, clusters=np.tile(pictures, 4))
    assert naive.high - naive.low == pytest.approx((once.high - once.low) / 2, rel=0.1)
    # The same draws of the same pictures: the interval of the pictures themselves.
    assert clustered.low == pytest.approx(once.low)
    assert clustered.high == pytest.approx(once.high)


def test_clusters_of_unequal_size_weigh_by_their_values():
    # Means of two clusters drawn with replacement: 0 (1/4), 0.75 (1/2: 3 ones of 4), 1 (1/4).
    interval = bootstrap_mean(
        np.array([0.0, 1.0, 1.0, 1.0]), clusters=np.array(["a", "b", "b", "b"]), level=0.4
    )
    assert (interval.mean, interval.low, interval.high) == (0.75, 0.75, 0.75)
    wide = bootstrap_mean(np.array([0.0, 1.0, 1.0, 1.0]), clusters=np.array(["a", "b", "b", "b"]))
    assert (wide.low, wide.high) == (0.0, 1.0)


def test_seed_decides_the_interval():
    values = np.random.default_rng(3).normal(size=50)
    assert bootstrap_mean(values, seed=5) == bootstrap_mean(values, seed=5)
    assert bootstrap_mean(values, seed=5) != bootstrap_mean(values, seed=6)


def test_level_widens_the_interval():
    values = np.random.default_rng(4).normal(size=50)
    narrow, wide = bootstrap_mean(values, level=0.5), bootstrap_mean(values, level=0.99)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_drawing_in_parts_keeps_the_statistics(monkeypatch):
    values = np.random.default_rng(5).normal(size=50)
    whole = bootstrap_mean(values)
    monkeypatch.setattr("mmrlhf_jax.evaluate.bootstrap._DRAWS_AT_ONCE", 777)
    assert bootstrap_mean(values) == whole


def test_constant_and_non_finite_values():
    assert bootstrap_mean(np.ones(5)) == Interval(1.0, 1.0, 1.0)
    broken = bootstrap_mean(np.array([1.0, np.nan]))
    assert np.isnan([broken.mean, broken.low, broken.high]).all()


def test_prints_as_a_table_cell():
    assert str(Interval(0.25, 0.1, 0.4)) == "0.250 [0.100, 0.400]"


def test_bad_input_is_told():
    with pytest.raises(ValueError, match="N >= 1"):
        bootstrap_mean(np.zeros(0))
    with pytest.raises(ValueError, match="differ in shape"):
        bootstrap_mean(np.zeros(3), clusters=np.zeros(2))
    with pytest.raises(ValueError, match="level"):
        bootstrap_mean(np.zeros(3), level=95)
    with pytest.raises(ValueError, match="num_samples"):
        bootstrap_mean(np.zeros(3), num_samples=0)
