"""Six tasks on two modalities whose answers are known: what a fusion can and cannot do, without a doubt.

Each example shows a label y of 0 or 1, below s = 2 y - 1, through a few numbers of each modality. They
are hidden among dimensions of noise by a rotation, which train and test share.

| Task | The picture shows | The text shows | y |
|---|---|---|---|
| additive | u ~ N(0, 1) | v ~ N(0, 1) | u + v > 0 |
| redundant | s | s | fair coin |
| synergy | a fair sign a | a fair sign b | a b > 0: exclusive or |
| conflict | a message, honest in 70 %, and whether it is | one, honest in the rest, and whether | fair coin |
| missing | s + 0.6 n, absent in 15 % | s + n, absent in 15 % | fair coin |
| shift | s + 0.8 n | a sign that is s in 90 % of training, a coin in the test | fair coin |

A message is signs whose product is s; that of a liar is a coin.
What stands in place of a missing modality is another example's: a model that is not told believes it.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.errors import UserError

FEATURES = 16  # of each modality
NOISE = 0.5  # standard deviation of the dimensions that say nothing
SIGNS = 3  # conflict: their product is a modality's message
HONEST = 0.7  # conflict: how often it is the picture that tells the truth
SPREAD_IMAGE, SPREAD_TEXT = 0.6, 1.0  # missing: noise on what each modality shows
ABSENT = 0.3  # missing: how often one of the two is
SHIFT_SPREAD, AGREEMENT = 0.8, 0.9  # shift: noise on the picture; how often the text agrees in training


class FusionExamples(NamedTuple):
    """N examples of two modalities.

    Attributes:
      image_NxD: float32, features of the picture.
      text_NxD: float32, features of the text; of the first answer where two are compared.
      label_N: float32, 1 or 0; where two are compared 1 means that the first is the better one.
      present_Nx2: bool, whether the picture and the text are there.
      other_NxD: float32, features of the second answer; None where there is none.
      honest_N: float32, 1 where the picture tells the truth and the text does not; None where both do.
    """

    image_NxD: jax.Array
    text_NxD: jax.Array
    label_N: jax.Array
    present_Nx2: jax.Array
    other_NxD: jax.Array | None = None
    honest_N: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the best rule can reach, from the task's definition alone.

    Attributes:
      bayes: the highest accuracy that any rule has on the test.
      nothing, image, text, both: accuracy on the test, with every modality there, of the best rule for the
        training distribution that sees so much. They define the Shapley values.
    """

    bayes: float
    image: float
    text: float
    both: float
    nothing: float = 0.5

    @property
    def picture_shapley(self) -> float:
        """The picture's Shapley value, in accuracy."""
        return (self.image - self.nothing + self.both - self.text) / 2

    @property
    def picture_share(self) -> float:
        """The picture's part of what both together gain; the text's is the rest."""
        return self.picture_shapley / (self.both - self.nothing)


class _Shown(NamedTuple):
    """What the modalities show before it is hidden: a column for each number."""

    image_NxS: np.ndarray
    text_NxS: np.ndarray
    label_N: np.ndarray
    honest_N: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class FusionTask:
    """One task; `show` draws what its modalities show from (generator, count, whether it is the test)."""

    name: str
    show: Callable[[np.random.Generator, int, bool], _Shown]
    answer: Answer
    absent: float = 0.0


def draw_examples(
    task: FusionTask, seed: int, count: int, *, test: bool, complete: bool = False
) -> FusionExamples:
    """`count` examples of the train or the test distribution; the same seed hides them in the same way.

    Args:
      complete: leaves every modality there, in the rows that the same call without it gives.
    """
    hiding, generator = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1 + test])
    shown = task.show(generator, count, test)
    image_NxD = _hide(shown.image_NxS, hiding, generator)
    text_NxD = _hide(shown.text_NxS, hiding, generator)
    present_Nx2 = np.ones((count, 2), bool)
    if task.absent and not complete:
        luck_N = generator.random(count)
        present_Nx2[luck_N < task.absent / 2, 0] = False
        present_Nx2[luck_N >= 1 - task.absent / 2, 1] = False
        image_NxD, text_NxD = (
            np.where(present_Nx2[:, column, None], feature_NxD, np.roll(feature_NxD, 1, axis=0))
            for column, feature_NxD in enumerate((image_NxD, text_NxD))
        )
    return FusionExamples(
        jnp.asarray(image_NxD, jnp.float32),
        jnp.asarray(text_NxD, jnp.float32),
        jnp.asarray(shown.label_N, jnp.float32),
        jnp.asarray(present_Nx2),
        honest_N=None if shown.honest_N is None else jnp.asarray(shown.honest_N, jnp.float32),
    )


def _hide(shown_NxS: np.ndarray, hiding: np.random.Generator, generator: np.random.Generator) -> np.ndarray:
    """The numbers shown beside noise, rotated so that no dimension is theirs alone, (N, FEATURES)."""
    count, size = shown_NxS.shape
    noise = NOISE * generator.normal(size=(count, FEATURES - size))
    rotation_DxD, _ = np.linalg.qr(hiding.normal(size=(FEATURES, FEATURES)))
    return np.concatenate([shown_NxS, noise], axis=1) @ rotation_DxD


def _signs(generator: np.random.Generator, count: int, plus: float = 0.5) -> np.ndarray:
    return np.where(generator.random((count, 1)) < plus, 1.0, -1.0)


def _label(sign_Nx1: np.ndarray) -> np.ndarray:
    return (sign_Nx1[:, 0] > 0).astype(np.float32)


def _additive(generator: np.random.Generator, count: int, test: bool) -> _Shown:
    shown_Nx2 = generator.normal(size=(count, 2))
    return _Shown(shown_Nx2[:, :1], shown_Nx2[:, 1:], _label(shown_Nx2.sum(axis=1, keepdims=True)))


def _redundant(generator: np.random.Generator, count: int, test: bool) -> _Shown:
    sign_Nx1 = _signs(generator, count)
    return _Shown(sign_Nx1, sign_Nx1, _label(sign_Nx1))


def _synergy(generator: np.random.Generator, count: int, test: bool) -> _Shown:
    image_Nx1, text_Nx1 = _signs(generator, count), _signs(generator, count)
    return _Shown(image_Nx1, text_Nx1, _label(image_Nx1 * text_Nx1))


def _conflict(generator: np.random.Generator, count: int, test: bool) -> _Shown:
    """To read a message takes a layer: one that weighs first reads once, one that cannot must read both."""
    sign_Nx1, lie_Nx1 = _signs(generator, count), _signs(generator, count)
    honest_Nx1 = _signs(generator, count, HONEST)

    def message(said_Nx1: np.ndarray) -> np.ndarray:
        others_NxS = np.concatenate([_signs(generator, count) for _ in range(SIGNS - 1)], axis=1)
        return np.concatenate([others_NxS, said_Nx1 * others_NxS.prod(axis=1, keepdims=True)], axis=1)

    image_NxS = message(np.where(honest_Nx1 > 0, sign_Nx1, lie_Nx1))
    text_NxS = message(np.where(honest_Nx1 > 0, lie_Nx1, sign_Nx1))
    return _Shown(
        np.concatenate([image_NxS, honest_Nx1], axis=1),
        np.concatenate([text_NxS, -honest_Nx1], axis=1),
        _label(sign_Nx1),
        _label(honest_Nx1),
    )


def _missing(generator: np.random.Generator, count: int, test: bool) -> _Shown:
    sign_Nx1 = _signs(generator, count)
    image_Nx1 = sign_Nx1 + SPREAD_IMAGE * generator.normal(size=(count, 1))
    text_Nx1 = sign_Nx1 + SPREAD_TEXT * generator.normal(size=(count, 1))
    return _Shown(image_Nx1, text_Nx1, _label(sign_Nx1))


def _shift(generator: np.random.Generator, count: int, test: bool) -> _Shown:
    sign_Nx1 = _signs(generator, count)
    agrees_Nx1 = _signs(generator, count, 0.5 if test else AGREEMENT)
    image_Nx1 = sign_Nx1 + SHIFT_SPREAD * generator.normal(size=(count, 1))
    return _Shown(image_Nx1, sign_Nx1 * agrees_Nx1, _label(sign_Nx1))


def _normal_cdf(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2


def _missing_answer() -> Answer:
    """Evidence adds up: s + c1 n and s + c2 n together are s + c n with 1 / c^2 = 1 / c1^2 + 1 / c2^2."""
    image, text = _normal_cdf(1 / SPREAD_IMAGE), _normal_cdf(1 / SPREAD_TEXT)
    both = _normal_cdf(math.hypot(1 / SPREAD_IMAGE, 1 / SPREAD_TEXT))
    return Answer((1 - ABSENT) * both + ABSENT / 2 * (image + text), image, text, both)


def _shift_answer() -> Answer:
    """In training log-odds are 2 x / c^2 for the picture and +-log(p / (1 - p)) for the text."""
    trust = math.log(AGREEMENT / (1 - AGREEMENT)) * SHIFT_SPREAD**2 / 2
    ways = [_normal_cdf((1 + agrees * trust) / SHIFT_SPREAD) for agrees in (1, -1)]
    image = _normal_cdf(1 / SHIFT_SPREAD)
    return Answer(bayes=image, image=image, text=0.5, both=sum(ways) / 2)


TASKS = {
    task.name: task
    for task in (
        # alone each is right where it has the sum's sign: 3 times in 4, for jointly normal u and u + v
        FusionTask("additive", _additive, Answer(bayes=1.0, image=0.75, text=0.75, both=1.0)),
        FusionTask("redundant", _redundant, Answer(bayes=1.0, image=1.0, text=1.0, both=1.0)),
        FusionTask("synergy", _synergy, Answer(bayes=1.0, image=0.5, text=0.5, both=1.0)),
        # alone each is right where it is honest, and in half of the other examples
        FusionTask("conflict", _conflict, Answer(1.0, (1 + HONEST) / 2, (2 - HONEST) / 2, 1.0)),
        FusionTask("missing", _missing, _missing_answer(), absent=ABSENT),
        FusionTask("shift", _shift, _shift_answer()),
    )
}


def find_task(name: str) -> FusionTask:
    """The task of that name.

    Raises:
      UserError: there is none.
    """
    if name not in TASKS:
        raise UserError(f"there is no task {name!r}: choose one of {', '.join(TASKS)}")
    return TASKS[name]
