"""What every fusion keeps to."""

import collections
import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrlhf_jax.architecture import FusionName
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.fusion import METHODS as CLASSES
from mmrlhf_jax.fusion import Fusion, Masks, build_fusion
from mmrlhf_jax.modules import define, params_of
from tests.parameters import draw

pytestmark = pytest.mark.medium  # compiles for long

METHODS = get_args(FusionName)
SINGLE = {"image_only": "image", "text_only": "text"}  # they read one modality
EXCLUDING = (
    "weighted_sum",
    "weighted_sum_learned",
    "weighted_sum_fixed",
    "gated",
    "late",
)  # missing: weight 0
WEIGHING = (*EXCLUDING, "attention", "perceiver", *SINGLE)
NULL_UNHEARD = ("weighted_sum_learned", "weighted_sum_fixed", "late")  # as long as any modality is there
ADDITIVE = ("concat_linear", "late", *SINGLE)  # what one modality says never changes what another means
WIDTHS = {"image": 5, "text": 3, "sound": 4}
SHAPES = {"image": (4, 3, 5), "text": (4, 6, 3), "sound": (4, 4)}  # sound comes as one vector
WIDTH = 8
ALL = np.ones((4, 3), bool)
TRACES: collections.Counter[str] = collections.Counter()


@functools.cache
def fusion(method: str):
    """The definition, its parameters, and the compiled function of (params, features, masks)."""
    definition = define(lambda rngs: build_fusion(method, WIDTHS, width=WIDTH, rngs=rngs))

    def apply(params, *inputs):
        TRACES[method] += 1
        return definition.bind(params)(*inputs)

    return definition, draw(definition.abstract()), jax.jit(apply)


def modalities_read(method: str) -> list[str]:
    return [name for name in WIDTHS if SINGLE.get(method, name) == name]


@functools.cache
def compiled_gradients(method: str):
    """Gradients for parameters and features of a number that every row contributes to."""
    definition = fusion(method)[0]

    def summed(params, features, masks):
        return jnp.sum(jnp.sin(definition.bind(params)(features, masks).vector_BxD))

    return jax.jit(jax.grad(summed, argnums=(0, 1)))


def draw_features(seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def text_mask(*lengths: int) -> np.ndarray:
    return np.arange(6) < np.array(lengths)[:, None]


MODALITY = np.array([[1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 0]], bool)
TEXT = text_mask(6, 2, 1, 4)


def hidden_values(features, modality, text, filling) -> dict[str, np.ndarray]:
    """The features with `filling` wherever a mask says that nothing is there."""
    changed = {}
    for index, (name, values) in enumerate(features.items()):
        here = modality[:, index].reshape(-1, *[1] * (values.ndim - 1))
        if name == "text":
            here = here & text[..., None]
        changed[name] = np.where(here, values, np.float32(filling))
    return changed


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("filling", [1e4, np.nan, np.inf], ids=["large", "nan", "inf"])
def test_what_is_masked_reaches_neither_output_nor_gradient(method, filling):
    _, params, apply = fusion(method)
    features, masks = draw_features(), Masks(MODALITY, {"text": TEXT})
    clean, dirty = (hidden_values(features, MODALITY, TEXT, value) for value in (0.0, filling))
    jax.tree.map(np.testing.assert_array_equal, apply(params, dirty, masks), apply(params, clean, masks))
    gradients = compiled_gradients(method)
    jax.tree.map(
        np.testing.assert_array_equal, gradients(params, dirty, masks), gradients(params, clean, masks)
    )
    _, feature_grads = gradients(params, dirty, masks)
    assert not feature_grads["image"][1].any() and not feature_grads["text"][2].any()
    assert not feature_grads["text"][1, 2:].any() and not feature_grads["sound"][3].any()


@pytest.mark.parametrize("method", METHODS)
def test_every_present_modality_that_is_read_gets_gradient(method):
    _, params, _ = fusion(method)
    masks = Masks(ALL, {"text": TEXT})
    param_grads, feature_grads = compiled_gradients(method)(params, draw_features(), masks)
    wanted = {"image": np.ones((4, 3), bool), "text": TEXT, "sound": np.ones(4, bool)}
    for name, real in wanted.items():
        real = real & (name in modalities_read(method))
        np.testing.assert_array_equal(np.any(feature_grads[name], axis=-1), real)
    assert not np.any(param_grads["null"]), "nothing is missing"


@pytest.mark.parametrize("method", METHODS)
def test_gradient_reaches_every_parameter(method):
    """With each modality missing somewhere, and all of them in the last row."""
    _, params, _ = fusion(method)
    modality = MODALITY.copy()
    modality[3] = False
    grads, _ = compiled_gradients(method)(params, draw_features(), Masks(modality, {"text": TEXT}))
    if method == "attention":
        del grads["key"]["bias"]  # it moves all scores alike, which a softmax does not see
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert np.abs(leaf).max() > 1e-6, jax.tree_util.keystr(path)
    assert np.all(np.abs(grads["null"]).max(axis=-1) > 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_missing_modality_teaches_its_null_vector(method):
    """Where the fusion uses it at all."""
    _, params, _ = fusion(method)
    modality = ALL.copy()
    modality[:, 1] = False
    grads, _ = compiled_gradients(method)(params, draw_features(), Masks(modality, {"text": TEXT}))
    wanted = [name == "text" and method not in NULL_UNHEARD for name in modalities_read(method)]
    assert np.any(grads["null"], axis=-1).tolist() == wanted


@pytest.mark.parametrize("method", METHODS)
def test_no_masks_mean_that_all_is_there(method):
    _, params, apply = fusion(method)
    features = draw_features()
    bare, full = apply(params, features), apply(params, features, Masks(ALL, {"text": np.ones((4, 6), bool)}))
    np.testing.assert_allclose(bare.vector_BxD, full.vector_BxD, atol=1e-6)
    assert bare.vector_BxD.shape == (4, WIDTH)
    assert (bare.weights_BxM is not None) == (method in WEIGHING)


@pytest.mark.parametrize("method", METHODS)
def test_one_vector_is_one_token(method):
    _, params, apply = fusion(method)
    features = draw_features()
    masks = Masks(MODALITY, {"text": TEXT})
    pooled = apply(params, features, masks)
    tokens = apply(params, features | {"sound": features["sound"][:, None]}, masks)
    np.testing.assert_allclose(tokens.vector_BxD, pooled.vector_BxD, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_rows_do_not_meet(method):
    _, params, apply = fusion(method)
    features, masks = draw_features(), Masks(MODALITY, {"text": TEXT})
    changed = {name: np.concatenate([values[:2], values[2:] + 1]) for name, values in features.items()}
    one, other = apply(params, features, masks).vector_BxD, apply(params, changed, masks).vector_BxD
    np.testing.assert_array_equal(one[:2], other[:2])
    assert np.abs(one[2] - other[2]).max() > 1e-4 or method == "text_only", "which has no text"
    assert np.abs(one[3] - other[3]).max() > 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_rows_may_come_in_any_order(method):
    _, params, apply = fusion(method)
    order = np.array([2, 0, 3, 1])
    inputs = draw_features(), Masks(MODALITY, {"text": TEXT})
    turned = apply(params, *jax.tree.map(lambda leaf: leaf[order], inputs))
    straight = jax.tree.map(lambda leaf: leaf[order], apply(params, *inputs))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), turned, straight)


@pytest.mark.parametrize("method", METHODS)
def test_more_padding_changes_nothing(method):
    _, params, apply = fusion(method)
    features, masks = draw_features(), Masks(MODALITY, {"text": TEXT})
    padded = np.pad(features["text"], ((0, 0), (0, 3), (0, 0)), constant_values=7.0)
    longer = apply(
        params, features | {"text": padded}, Masks(MODALITY, {"text": np.pad(TEXT, ((0, 0), (0, 3)))})
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, longer, apply(params, features, masks))


@pytest.mark.parametrize("method", METHODS)
def test_left_out_empty_or_masked_is_the_same(method):
    """A modality that is not handed over, and a text without a real token, are missing."""
    _, params, apply = fusion(method)
    features, there = draw_features(), ALL.copy()
    there[:, 2] = False
    there[1, 1] = False
    masked = apply(params, features, Masks(there, {"text": TEXT}))
    del features["sound"]
    left_out = apply(params, features, Masks(None, {"text": TEXT & (np.arange(4) != 1)[:, None]}))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, left_out, masked)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_modalities(method, count):
    widths = dict(zip([SINGLE.get(method, "sound"), "a", "b", "c"][:count], (3, 5, 4, 2), strict=False))
    definition = define(lambda rngs: build_fusion(method, widths, width=WIDTH, rngs=rngs))
    generator = np.random.default_rng(count)
    features = {name: generator.normal(size=(3, 2, size)) for name, size in widths.items()}
    features = {name: values.astype(np.float32) for name, values in features.items()}
    there = np.arange(3)[:, None] != np.arange(count)
    apply = jax.jit(lambda params, *inputs: definition.bind(params)(*inputs))
    fused = apply(draw(definition.abstract()), features, Masks(there))
    assert fused.vector_BxD.shape == (3, WIDTH) and np.isfinite(fused.vector_BxD).all()
    assert len(np.unique(np.asarray(fused.vector_BxD), axis=0)) == 3
    if method in WEIGHING:
        assert fused.weights_BxM.shape == (3, count)
        np.testing.assert_allclose(np.sum(fused.weights_BxM, axis=1), 1, atol=1e-6)
    if method in EXCLUDING and count > 1:
        assert not fused.weights_BxM[~there].any() and np.all(fused.weights_BxM[there] > 0)


@pytest.mark.parametrize("method", METHODS)
def test_modalities_are_told_apart(method):
    """Two modalities of one width, exchanged, give another vector, be their entrances the same.

    Only to equal fixed weights they are then alike.
    """
    widths = {"image": 3, "text": 3}
    definition = define(lambda rngs: build_fusion(method, widths, width=WIDTH, rngs=rngs))
    params = draw(definition.abstract())
    if method not in SINGLE:
        params["project"][1] = params["project"][0]
    a, b = np.random.default_rng(1).normal(size=(2, 4, 3)).astype(np.float32)
    apply = jax.jit(lambda params, features: definition.bind(params)(features).vector_BxD)
    difference = apply(params, {"image": a, "text": b}) - apply(params, {"image": b, "text": a})
    assert (np.abs(difference).max() > 1e-4) == (method != "weighted_sum_fixed")


@pytest.mark.parametrize("method", METHODS)
def test_which_methods_let_modalities_interact(method):
    """f(a, b) - f(a', b) - f(a, b') + f(a', b'), which is 0 for a sum of functions of one modality each."""
    definition, params, apply = fusion(method)
    one, other = draw_features(0), draw_features(1)
    swapped = [one, one | {"text": other["text"]}, other | {"text": one["text"]}, other]
    corners = [
        np.asarray(apply(params, features, Masks(ALL, {"text": TEXT})).vector_BxD) for features in swapped
    ]
    interaction = np.abs(corners[0] - corners[1] - corners[2] + corners[3]).max()
    assert interaction < 1e-4 if method in ADDITIVE else interaction > 1e-2
    assert definition.bind(params).linear_readout == (method in ADDITIVE and method not in SINGLE)


@pytest.mark.medium
@pytest.mark.parametrize("method", METHODS)
def test_half_precision(method):
    """bfloat16 features count as the numbers that they are; bfloat16 parameters make all of it bfloat16."""
    _, params, apply = fusion(method)
    masks = Masks(MODALITY, {"text": TEXT})
    half = {name: jnp.asarray(values, jnp.bfloat16) for name, values in draw_features().items()}
    single = {name: values.astype(jnp.float32) for name, values in half.items()}
    exact, close = apply(params, single, masks), functools.partial(np.testing.assert_allclose, atol=1e-5)
    jax.tree.map(close, apply(params, half, masks), exact)
    with jax.numpy_dtype_promotion("standard"):  # flax's LayerNorm promotes
        rough = apply(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params), half, masks)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(rough))
    scale = float(jnp.abs(exact.vector_BxD).max())
    np.testing.assert_allclose(rough.vector_BxD.astype(np.float32), exact.vector_BxD, atol=0.1 * scale)
    if method in WEIGHING:
        np.testing.assert_allclose(rough.weights_BxM.astype(np.float32).sum(axis=1), 1, atol=0.02)


@pytest.mark.medium
@pytest.mark.parametrize("method", METHODS)
def test_seeds_in_one_program(method):
    """Drawn and applied under vmap, each seed is what it is alone."""
    definition, _, apply = fusion(method)
    features, masks = draw_features(), Masks(MODALITY, {"text": TEXT})

    def init(key):
        return params_of(definition.build(nnx.Rngs(key)))

    keys = jax.random.split(jax.random.key(0), 2)
    many = jax.vmap(init)(keys)  # neither is compiled as a whole, which would take far longer
    alone = init(keys[1])
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda together, one: close(together[1], one), many, alone)
    fused = jax.jit(jax.vmap(apply, in_axes=(0, None, None)))(many, features, masks)
    jax.tree.map(lambda together, one: close(together[1], one), fused, apply(alone, features, masks))
    vectors = np.asarray(fused.vector_BxD)
    assert np.isfinite(vectors).all() and np.abs(vectors[0] - vectors[1]).max() > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_one_trace_for_each_shape(method):
    _, params, apply = fusion(method)
    apply(params, draw_features(), Masks(MODALITY, {"text": TEXT}))
    before = TRACES[method]
    changed = jax.tree.map(lambda leaf: leaf + 1, params)
    apply(changed, draw_features(5), Masks(~MODALITY, {"text": text_mask(1, 2, 3, 4)}))
    assert TRACES[method] == before
    apply(params, {name: values[:3] for name, values in draw_features().items()})
    assert TRACES[method] == before + 1


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(
    present=st.lists(st.tuples(*[st.booleans()] * 3), min_size=4, max_size=4),
    tokens=st.lists(st.tuples(*[st.booleans()] * 6), min_size=4, max_size=4),
    seed=st.integers(0, 9),
)
def test_any_masks(method, present, tokens, seed):
    """Empty texts, texts with holes and rows without any modality included."""
    _, params, apply = fusion(method)
    modality, text = np.array(present), np.array(tokens)
    features, masks = draw_features(seed), Masks(modality, {"text": text})
    dirty = hidden_values(features, modality, text, np.nan)
    fused = apply(params, dirty, masks)
    assert np.isfinite(fused.vector_BxD).all()
    np.testing.assert_array_equal(fused.vector_BxD, apply(params, features, masks).vector_BxD)
    gradients = compiled_gradients(method)(params, dirty, masks)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    if fused.weights_BxM is not None:
        weights = np.asarray(fused.weights_BxM)
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
        assert weights.min() >= 0
    if method in EXCLUDING:
        there = modality & np.stack([np.ones(4, bool), text.any(axis=1), np.ones(4, bool)], axis=1)
        some = there.any(axis=1)
        assert not weights[some][~there[some]].any()


def test_names_and_classes():
    assert list(CLASSES) == list(METHODS)
    for method in METHODS:
        definition, params, _ = fusion(method)
        module = definition.bind(params)
        assert isinstance(module, Fusion) and module.names == tuple(WIDTHS)
        wanted = "unimodal" if method in SINGLE else method.replace("_", "")
        assert type(module).__name__.removesuffix("Fusion").lower() == wanted
        assert list(module.read) == modalities_read(method)


@pytest.mark.parametrize(
    ("changes", "modality", "message"),
    [
        ({"smell": np.ones((4, 2), np.float32)}, None, "smell.*image, text, sound"),
        ({"sound": np.ones((4, 9), np.float32)}, None, "sound are 9 wide: give 4"),
        ({}, np.ones((4, 2), bool), r"\(4, 2\): give \(4, 3\)"),
    ],
)
def test_wrong_inputs_are_refused(changes, modality, message):
    definition, params, _ = fusion("concat")
    with pytest.raises(UserError, match=message):
        jax.eval_shape(definition.bind(params), draw_features() | changes, Masks(modality))
    with pytest.raises(UserError, match="give some of image, text, sound"):
        definition.bind(params)({})


@pytest.mark.parametrize(
    ("method", "widths", "width", "message"),
    [
        ("sum", {"image": 2}, 4, "'sum': choose one of concat"),
        ("concat", {}, 4, "without modalities"),
        ("text_only", {"image": 2, "sound": 3}, 4, "no text: choose one of image, sound"),
        (
            "tensor",
            {"image": 2, "text": 2, "sound": 2},
            128,
            r"\(128 \+ 1\)\^3 x 128 = 274,776,192.*low_rank",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(method, widths, width, message):
    with pytest.raises(UserError, match=message):
        define(lambda rngs: build_fusion(method, widths, width=width, rngs=rngs))
