"""The composite reward: named terms in units of their spread under the reference policy, weighted and summed.

A term is a function of the judges, the pictures' views and the completions with one number a completion; to
add one, write it here and name it in `TERMS`. docs/rewards.md has the formulas in one place.
"""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmrlhf_jax.data.tokens import BEGIN_ID
from mmrlhf_jax.encoders.clip import CLIP, unit_length
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.language.decoder import Decoder
from mmrlhf_jax.language.likelihood import mean_logprob
from mmrlhf_jax.masked import whiten
from mmrlhf_jax.policy.sampling import join_prompts
from mmrlhf_jax.reward.model import Judged, RewardModel, Seen
from mmrlhf_jax.reward.text import TextTerm
from mmrlhf_jax.reward.wording import WordTable, count_listed
from mmrlhf_jax.types import Completions, Prompts, RewardLedger


class Rules(NamedTuple):
    """What the terms without a network go by.

    Attributes:
      words: the words that a completion must not use.
      shortest: tokens, end token included, that cost nothing at least; () float32.
      longest: at most.
    """

    words: WordTable
    shortest: jax.Array
    longest: jax.Array


class Judges(NamedTuple):
    """What scores completions: frozen networks, rules, and a function of the text where there is one.

    A run without a language model or a CLIP has None in their place, and no terms that need them.
    """

    language_model: Decoder | None
    clip: CLIP | None
    reward_model: RewardModel
    rules: Rules
    text: TextTerm | None = None


class Views(NamedTuple):
    """What the frozen picture towers say of each picture; computed once, since they never change.

    Attributes:
      policy_NxPxD: picture tokens as the policy's decoder reads them; P is 0 for one that sees no picture.
      reward_model: as the reward model sees it, rows (N, ...); without `captioner_BxPxD` where its captioner
        is the reference policy: then that is `policy_NxPxD`.
      clip_NxD: CLIP's embedding, of length 1.
      baseline: mean of each raw term over completions by the reference policy for this picture, (N,) by name.
        Some pictures earn more than others whatever is said of them; what counts is to say it better.
        Empty: the normaliser's mean over all pictures stands in.
      references_NxRxD: CLIP's embeddings, of length 1, of what people said of each picture; 0 where there are
        fewer than R. None where nothing is known.
      prompts: what was said with each picture, rows (N, L); a picture then comes once for each saying. None:
        nothing, as a captioner's pictures.
    """

    policy_NxPxD: jax.Array
    reward_model: Seen
    clip_NxD: jax.Array | None
    baseline: Mapping[str, jax.Array] = {}
    references_NxRxD: jax.Array | None = None
    prompts: Prompts | None = None


class Normaliser(NamedTuple):
    """Mean (over all pictures, or (B,) for each) and spread of each term under the reference policy."""

    mean: Mapping[str, jax.Array]
    std: Mapping[str, jax.Array]


Term = Callable[[Judges, Views, Completions], jax.Array]


def fluency(judges: Judges, views: Views, completions: Completions) -> jax.Array:
    """Mean log-likelihood (B,) of a completion under a frozen language model, in nats a token."""
    assert judges.language_model is not None
    return mean_logprob(judges.language_model, *completions, begin_id=BEGIN_ID)


def image_accuracy(judges: Judges, views: Views, completions: Completions) -> jax.Array:
    """CLIPScore (B,) = 2.5 max(cos, 0) of picture and text (Hessel et al. 2021, arXiv:2104.08718, eq. 1)."""
    assert judges.clip is not None and views.clip_NxD is not None
    text_BxD = unit_length(judges.clip.encode_text(*completions))
    return 2.5 * jnp.maximum(jnp.sum(views.clip_NxD * text_BxD, axis=-1), 0.0)


def preference(judges: Judges, views: Views, completions: Completions) -> jax.Array:
    """The learned reward (B,): what the raters would choose."""
    return judge_preference(judges, views, completions).reward_B


def judge_preference(judges: Judges, views: Views, completions: Completions) -> Judged:
    """All that the reward model says of completions, which it reads behind their prompts."""
    seen = views.reward_model
    if seen.captioner_BxPxD is None:
        seen = seen._replace(captioner_BxPxD=views.policy_NxPxD)
    read = completions if views.prompts is None else join_prompts(views.prompts, completions)
    return judges.reward_model.judge(seen, *read)


def reference_accuracy(judges: Judges, views: Views, completions: Completions) -> jax.Array:
    """RefCLIPScore (B,): harmonic mean of CLIPScore and max(cos, 0) of the text and the nearest reference.

    Hessel et al. 2021, section 3. 0 where the picture has no reference.
    """
    score_B = image_accuracy(judges, views, completions)
    if views.references_NxRxD is None:
        return jnp.zeros_like(score_B)
    assert judges.clip is not None
    text_BxD = unit_length(judges.clip.encode_text(*completions))
    nearest_B = jnp.max(jnp.sum(views.references_NxRxD * text_BxD[:, None], axis=-1), axis=-1)
    nearest_B = jnp.maximum(nearest_B, 0.0)
    return 2 * score_B * nearest_B / jnp.maximum(score_B + nearest_B, 1e-12)


def considerate_wording(judges: Judges, views: Views, completions: Completions) -> jax.Array:
    """-(words on a list of insults) (B,), whatever the picture shows.

    It knows the words of the list and understands nothing: an insult in other words costs nothing.
    """
    return -count_listed(judges.rules.words, *completions)


def length(judges: Judges, views: Views, completions: Completions) -> jax.Array:
    """-(tokens by which a completion is shorter or longer than the target range) (B,)."""
    tokens_B = jnp.sum(completions.mask_BxT, axis=1, dtype=jnp.float32)
    short_B, long_B = judges.rules.shortest - tokens_B, tokens_B - judges.rules.longest
    return -jnp.maximum(jnp.maximum(short_B, long_B), 0.0)


def repetition(judges: Judges, views: Views, completions: Completions) -> jax.Array:
    """-(share of the pairs of neighbouring tokens that came before in the same completion) (B,)."""
    return -repeated_ngrams(*completions, n=2)


def repeated_ngrams(ids_BxT: jax.Array, mask_BxT: jax.Array, *, n: int) -> jax.Array:
    """1 - (distinct n-grams) / (n-grams) of each row, (B,) in [0, 1); 0 for rows without n-grams.

    seq-rep-n of Welleck et al. 2019 (arXiv:1908.04319), over token ids. Sorted, equal n-grams are neighbours.
    """
    count = ids_BxT.shape[1] - n + 1
    if count < 2:
        return jnp.zeros(ids_BxT.shape[0])
    # A mask is True up to the end, so an n-gram is real where its last token is; others sort to the front.
    real_BxN = mask_BxT[:, n - 1 :]
    grams = tuple(jnp.where(real_BxN, ids_BxT[:, i : i + count], -1) for i in range(n))
    grams = jax.lax.sort(grams, dimension=1, num_keys=n)
    same_BxN = grams[0][:, 1:] >= 0
    for part in grams:
        same_BxN &= part[:, 1:] == part[:, :-1]
    total_B = jnp.sum(real_BxN, axis=1, dtype=jnp.float32)
    return jnp.sum(same_BxN, axis=1, dtype=jnp.float32) / jnp.maximum(total_B, 1.0)


TERMS: dict[str, Term] = {
    "fluency": fluency,
    "image_accuracy": image_accuracy,
    "preference": preference,
    "reference_accuracy": reference_accuracy,
    "considerate_wording": considerate_wording,
    "length": length,
    "repetition": repetition,
}

# The network of the stage `pretrain` without which a term cannot be had, by its name in `Judges`.
NEEDS = {"fluency": "language_model", "image_accuracy": "clip", "reference_accuracy": "clip"}

# A fault that the reference policy never commits has no spread there: this much counts as one, in the term's
# own unit, or else the first such fault would outweigh all that was ever learned.
_LEAST_SPREAD = {"considerate_wording": 0.5, "length": 1.0, "repetition": 0.1}


def term_names(text: TextTerm | None, absent: Collection[str] = ()) -> tuple[str, ...]:
    """The names of the terms that can be had, in the order in which they are summed.

    Args:
      absent: networks that the run does not have, see `NEEDS`.
    """
    names = [name for name in TERMS if NEEDS.get(name) not in absent]
    return tuple(names) if text is None else (*names, "text")


def require_terms(weights: Mapping[str, float], names: Collection[str]) -> None:
    """Raises UserError where a term has a weight but is not among `names`, those that can be had."""
    for name, weight in weights.items():
        if weight and name not in names:
            network = NEEDS.get(name, "text scorer").replace("_", " ")
            raise UserError(
                f"weights.{name} is {weight}, but this run has no {network}: run the stage pretrain first, "
                f"or give --weights.{name.replace('_', '-')} 0"
            )


def raw_terms(judges: Judges, views: Views, completions: Completions) -> dict[str, jax.Array]:
    """Every term in its own unit, (B,) each; `views` holds the rows of the completions' pictures."""
    networks = {"clip": judges.clip, "language_model": judges.language_model}
    absent = [name for name, network in networks.items() if network is None]
    raw = {name: TERMS[name](judges, views, completions) for name in term_names(None, absent)}
    return raw if judges.text is None else raw | {"text": judges.text(completions)}


def fit_normaliser(raw: Mapping[str, jax.Array]) -> Normaliser:
    """Mean and spread of samples of the reference policy."""
    return Normaliser(
        {name: jnp.mean(values) for name, values in raw.items()},
        {name: jnp.maximum(jnp.std(values), _LEAST_SPREAD.get(name, 1e-6)) for name, values in raw.items()},
    )


def compose(
    raw: Mapping[str, jax.Array],
    normaliser: Normaliser,
    weights: Mapping[str, jax.Array],
    *,
    whitened: jax.Array | bool = False,
) -> RewardLedger:
    """total = sum over terms of weight (raw - mean) / std, kept term by term.

    Args:
      whitened: brings each term to mean 0 and variance 1 over the B completions before it is weighted, so
        that none drowns the others whatever its spread has become in training: GDPO (Liu et al. 2026,
        arXiv:2601.05242), with the reference policy's mean for each picture in the place of the group's.
    """
    normalised, weighted = {}, {}
    for name, values in raw.items():
        mean, std = normaliser.mean[name], normaliser.std[name]
        normalised[name] = (values - mean) / std
        white = whiten(normalised[name], jnp.ones(values.shape, bool))
        weighted[name] = jnp.where(whitened, weights[name] * white, weights[name] * (values - mean) / std)
    total_B = sum(weighted[name] for name in raw)
    return RewardLedger(dict(raw), normalised, weighted, jnp.asarray(total_B))
