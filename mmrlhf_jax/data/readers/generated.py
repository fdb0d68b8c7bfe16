"""Pictures that answer a prompt, compared by people: Pick-a-Pic, HPDv2, HPDv3 and ImageRewardDB.

The texts of both sides are empty: what was asked for is the prompt, and each side has its own picture. The
further column `chosen_first` says whether the chosen side stood first.
"""

import dataclasses
from typing import Any

from mmrlhf_jax.data.pictures import Pictures
from mmrlhf_jax.data.preferences import Pair, PreferenceSet, join_pairs
from mmrlhf_jax.data.readers.source import (
    Source,
    combinations,
    fair_coin,
    first_of,
    pair_pictures,
    parse_list,
    parse_number,
    rest,
)
from mmrlhf_jax.data.records import NoJudgement, Row
from mmrlhf_jax.data.texts import parse_text
from mmrlhf_jax.errors import UserError

HPDV2_IMAGES = ("image", "image_path", "file_path")
IMAGEREWARD_RATINGS = ("overall_rating", "image_text_alignment_rating", "fidelity_rating")


def read_pick_a_pic(source: Source) -> PreferenceSet:
    """yuvalkirstain/pickapic_v1 and pickapic_v2: `caption`, the pictures `jpg_0` and `jpg_1` (or, in the
    sets without pictures, `image_0_url` and `image_1_url`), and `label_0` and `label_1`: 1 and 0, or 0.5
    twice for a tie. Pairs with `has_label` false were not judged."""
    return source.pairs(_pick_a_pic, ["caption", "label_0", "label_1"])


def read_hpdv2(source: Source) -> PreferenceSet:
    """ymhao/HPDv2: `prompt`; pictures in `image`, `image_path` or `file_path`; in training files
    `human_preference` (1 for the preferred of two), in test files the `rank` of each: smaller is better.
    Every pair of a ranking is one comparison."""
    return source.pairs(_hpdv2, ["prompt"])


def read_hpdv3(source: Source) -> PreferenceSet:
    """MizzenAI/HPDv3: `prompt`, `path1` and `path2`, of which the first always won; so places are drawn."""
    return source.pairs(_hpdv3, ["prompt", "path1", "path2"])


def read_imagerewarddb(source: Source) -> PreferenceSet:
    """THUDM/ImageRewardDB: one picture a record (`image` or `image_path`), its `prompt` and `prompt_id`, and
    its `rank` among those of the prompt: smaller is better, equal is a tie. Every pair of a prompt is one
    comparison; the pictures' own ratings are carried along as pairs [chosen, rejected]."""
    ranked, skipped = source.read(_imagerewarddb, ["prompt_id", "prompt", "rank"], "ranked picture")
    groups: dict[Any, list[_Ranked]] = {}
    for picture in ranked:
        groups.setdefault(picture.prompt_id, []).append(picture)
    pairs = []
    for group in groups.values():
        for i, j in combinations(len(group)):
            try:
                order = (i, j) if fair_coin(group[i].prompt, i, j) else (j, i)  # they may be sorted by rank
                pairs.append(_compare(*(group[k] for k in order)))
            except NoJudgement as error:
                skipped.append(str(error))
    if not pairs:
        raise UserError(f"{source.files[0]}: no prompt has two pictures, so there is no preference pair")
    return join_pairs(pairs, source.pictures, skipped)


def _pick_a_pic(row: Row, where: str, pictures: Pictures) -> list[Pair]:
    if row.get("has_label", True) in (False, None, "False", "false"):
        raise NoJudgement(f"{where}: nobody judged this pair (has_label is false)")
    labels = [parse_number(row[name], f"{where}, column {name}") for name in ("label_0", "label_1")]
    if sorted(labels) not in ([0.0, 1.0], [0.5, 0.5]):
        raise UserError(f"{where}, columns label_0 and label_1: {labels} are neither 1 and 0 nor 0.5 twice")
    found = [first_of(row, [f"jpg_{i}", f"image_{i}_url"]) for i in range(2)]
    left, right = (pictures.add(value, where, column) for value, column in found)
    prompt = parse_text(row["caption"], f"{where}, column caption")
    used = ["caption", "label_0", "label_1", "has_label", "jpg_0", "jpg_1"]
    ranks = (-labels[0], -labels[1])
    return [pair_pictures((left, right), ranks, prompt, where, rest(row, used))]


def _hpdv3(row: Row, where: str, pictures: Pictures) -> list[Pair]:
    prompt = parse_text(row["prompt"], f"{where}, column prompt")
    names = ("path1", "path2")
    if not fair_coin(prompt, *(row[name] for name in names)):
        names = names[::-1]
    first, second = (pictures.add(row[name], where, name) for name in names)
    ranks = (0, 1) if names[0] == "path1" else (1, 0)
    return [pair_pictures((first, second), ranks, prompt, where, rest(row, ["prompt", *names]))]


def _hpdv2(row: Row, where: str, pictures: Pictures) -> list[Pair]:
    prompt = parse_text(row["prompt"], f"{where}, column prompt")
    values, column = first_of(row, HPDV2_IMAGES)
    values = parse_list(values, f"{where}, column {column}")
    said, judged = first_of(row, ["rank", "human_preference"])
    numbers = [
        parse_number(number, f"{where}, column {judged}")
        for number in parse_list(said, f"{where}, column {judged}", length=len(values))
    ]
    ranks = numbers if judged == "rank" else [-number for number in numbers]
    indices = [pictures.add(value, where, column) for value in values]
    extras = rest(row, ["prompt", *HPDV2_IMAGES, "rank", "human_preference"])
    pairs = []
    for i, j in combinations(len(indices)):
        if judged == "human_preference" and ranks[i] == ranks[j]:
            continue  # only the preferred one was compared with the others
        sides = (indices[i], indices[j])
        pairs.append(pair_pictures(sides, (ranks[i], ranks[j]), prompt, where, extras))
    if not pairs:
        raise NoJudgement(f"{where}: no picture was preferred to another")
    return pairs


@dataclasses.dataclass(frozen=True)
class _Ranked:
    where: str
    prompt_id: Any
    prompt: str
    image: int
    rank: float
    ratings: Row
    extras: Row


def _imagerewarddb(row: Row, where: str, pictures: Pictures) -> _Ranked:
    prompt_id = row["prompt_id"]
    if not isinstance(prompt_id, (str, int)):
        raise UserError(f"{where}, column prompt_id: {repr(prompt_id)[:60]} is no text or number")
    value, column = first_of(row, ["image", "image_path"])
    used = ["image", "image_path", "prompt", "rank", *IMAGEREWARD_RATINGS]
    return _Ranked(
        where,
        row["prompt_id"],
        parse_text(row["prompt"], f"{where}, column prompt"),
        pictures.add(value, where, column),
        parse_number(row["rank"], f"{where}, column rank"),
        {name: row[name] for name in IMAGEREWARD_RATINGS if name in row},
        rest(row, used),
    )


def _compare(one: _Ranked, other: _Ranked) -> Pair:
    """The comparison of two pictures of one prompt; what is said of the prompt is taken from the first."""
    sides, ranks = (one.image, other.image), (one.rank, other.rank)
    pair = pair_pictures(sides, ranks, one.prompt, one.where, one.extras)
    chosen, rejected = (one, other) if pair.image == one.image else (other, one)
    ratings = {name: [chosen.ratings[name], rejected.ratings.get(name)] for name in chosen.ratings}
    return dataclasses.replace(pair, extras=pair.extras | ratings)
