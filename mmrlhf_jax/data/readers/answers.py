"""Pairs of answers about one picture: RLHF-V, RLAIF-V and VL-RewardBench."""

import json

from mmrlhf_jax.data.pictures import Pictures
from mmrlhf_jax.data.preferences import TEXT_COLUMNS, Pair, PreferenceSet, parse_pair
from mmrlhf_jax.data.readers.source import Source, first_of, parse_list, rest
from mmrlhf_jax.data.records import NoJudgement, Row
from mmrlhf_jax.data.texts import parse_text
from mmrlhf_jax.errors import UserError

IMAGES = ("image", "image_path")  # the second where the pictures were left out of the file


def read_rlhf_v(source: Source) -> PreferenceSet:
    """openbmb/RLHF-V-Dataset: `text` is a JSON string with question, chosen and rejected; `image` or
    `image_path`."""
    return source.pairs(_rlhf_v, ["text"])


def read_rlaif_v(source: Source) -> PreferenceSet:
    """openbmb/RLAIF-V-Dataset: `question`, `chosen`, `rejected`; `image` or `image_path`."""
    return source.pairs(_rlaif_v, ["question", "chosen", "rejected"])


def read_trl(source: Source) -> PreferenceSet:
    """trl-lib/rlaif-v and others in TRL's columns: `prompt`, `chosen`, `rejected` and `images`, flat or as
    conversations."""
    return source.pairs(lambda row, where, pictures: [parse_pair(row, where, pictures)], TEXT_COLUMNS)


def read_vl_rewardbench(source: Source) -> PreferenceSet:
    """MMInstruction/VL-RewardBench: `query`, two texts in `response`, and in `human_ranking` the rank of
    each: [0, 1] prefers the first."""
    return source.pairs(_vl_rewardbench, ["query", "response", "human_ranking", "image"])


def _rlhf_v(row: Row, where: str, pictures: Pictures) -> list[Pair]:
    said = row["text"]
    if isinstance(said, str):
        try:
            said = json.loads(said)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}, column text: not JSON ({error})") from error
    names = ("question", "chosen", "rejected")
    if not isinstance(said, dict) or not all(name in said for name in names):
        raise UserError(f"{where}, column text: {repr(said)[:60]} has no question, chosen and rejected")
    texts = [parse_text(said[name], f"{where}, column text, {name}") for name in names]
    return [_pair(row, texts, where, pictures, rest(row, ["text", *IMAGES]))]


def _rlaif_v(row: Row, where: str, pictures: Pictures) -> list[Pair]:
    names = ("question", "chosen", "rejected")
    texts = [parse_text(row[name], f"{where}, column {name}") for name in names]
    return [_pair(row, texts, where, pictures, rest(row, [*names, *IMAGES]))]


def _vl_rewardbench(row: Row, where: str, pictures: Pictures) -> list[Pair]:
    answers = [
        parse_text(answer, f"{where}, column response")
        for answer in parse_list(row["response"], f"{where}, column response", length=2)
    ]
    ranking = parse_list(row["human_ranking"], f"{where}, column human_ranking", length=2)
    if sorted(map(str, ranking)) != ["0", "1"]:
        raise UserError(f"{where}, column human_ranking: {ranking} is neither [0, 1] nor [1, 0]")
    first = str(ranking[0]) == "0"
    chosen, rejected = answers if first else answers[::-1]
    extras = rest(row, ["query", "response", "human_ranking", "image"]) | {"chosen_first": first}
    query = parse_text(row["query"], f"{where}, column query")
    return [_pair(row, [query, chosen, rejected], where, pictures, extras)]


def _pair(row: Row, texts: list[str], where: str, pictures: Pictures, extras: Row) -> Pair:
    prompt, chosen, rejected = texts
    if chosen == rejected:
        raise NoJudgement(f"{where}: both answers are equal ({chosen[:60]!r})")
    value, column = first_of(row, IMAGES)
    return Pair(pictures.add(value, where, column), prompt, chosen, rejected, extras)
