"""Answers and captions with ratings: VLFeedback, Polaris, Nebula and Flickr8k-Expert."""

import ast
import contextlib
import dataclasses
from typing import Any

from mmrlhf_jax.data.pictures import Pictures
from mmrlhf_jax.data.ratings import RatedAnswer, RatingSet, check_rating
from mmrlhf_jax.data.readers.source import Source, first_of, parse_list, parse_number, rest
from mmrlhf_jax.data.records import NoJudgement, Row
from mmrlhf_jax.data.texts import parse_text
from mmrlhf_jax.errors import UserError

VLFEEDBACK_LEVELS = {
    "Helpfulness": (1.0, 5.0),
    "Visual Faithfulness": (1.0, 5.0),
    "Ethical Considerations": (1.0, 5.0),
}
NOT_RATED = ("N/A", "NA", "", None)
IMAGES = ("image", "img_path")
SCORE = "score"
POLARIS_LEVELS = {SCORE: (0.0, 1.0)}
FLICKR8K_LEVELS = {SCORE: (1.0, 4.0)}
FLICKR8K_FILES = ("ExpertAnnotations.txt", "Flickr8k.token.txt")


def read_vlfeedback(source: Source) -> RatingSet:
    """MMInstruction/VLFeedback: `prompt`, `img_path` (or `image`), and `completions`, each with a response
    and, for each of three aspects, a Rating from "1" to "5" as text, or "N/A"."""
    return source.ratings(_vlfeedback, ["prompt", "completions"], VLFEEDBACK_LEVELS)


def read_polaris(source: Source) -> RatingSet:
    """yuwd/Polaris and Ka2ukiMatsuda/Nebula: the caption `cand` of the picture `img`, its `human_score` from
    0 to 1, and in `refs` a list of references, which is carried along as `references`."""
    return source.ratings(_polaris, ["refs", "cand", "img", "human_score"], POLARIS_LEVELS)


def read_flickr8k_expert(source: Source) -> RatingSet:
    """Flickr8k's ExpertAnnotations.txt: a picture, the number of a caption, and three experts' scores from 1
    to 4, between tabs and without names; with the captions in Flickr8k.token.txt beside it. Each score is one
    record; the further column `expert` numbers those of a caption."""
    folder = source.files[0].parent
    judged, texts = (dataclasses.replace(source, files=[folder / name]) for name in FLICKR8K_FILES)
    lines, _ = texts.read(lambda row, where, pictures: (row["0"], row["1"]), ["0", "1"], "caption")
    captions = dict(lines)
    return judged.ratings(
        lambda row, where, pictures: _flickr8k(row, where, pictures, captions), "01234", FLICKR8K_LEVELS
    )


def _vlfeedback(row: Row, where: str, pictures: Pictures) -> list[RatedAnswer]:
    prompt = parse_text(row["prompt"], f"{where}, column prompt")
    value, column = first_of(row, IMAGES)
    extras = rest(row, ["prompt", "completions", "models", *IMAGES])
    answers = []
    for number, said in enumerate(_completions(row["completions"], f"{where}, column completions"), start=1):
        here = f"{where}, column completions, number {number}"
        ratings = _aspects(said.get("annotations"), here)
        if ratings:
            answer = parse_text(said.get("response"), here)
            answers.append((answer, ratings, extras | {"model": said.get("model")}))
    if not answers:
        raise NoJudgement(f"{where}: no answer was rated")
    image = pictures.add(value, where, column)
    return [RatedAnswer(image, prompt, *answer) for answer in answers]


def _completions(value: Any, where: str) -> list[Row]:
    """The answers one by one; in parquet they stand as one struct of lists."""
    if isinstance(value, dict) and all(isinstance(column, list) for column in value.values()):
        value = [dict(zip(value, cells, strict=False)) for cells in zip(*value.values(), strict=False)]
    if not isinstance(value, list) or not all(isinstance(said, dict) for said in value):
        raise UserError(f"{where}: a list of answers is needed, not {repr(value)[:60]}")
    return value


def _aspects(annotations: Any, where: str) -> dict[str, float]:
    if not isinstance(annotations, dict):
        raise UserError(f"{where}: annotations are {repr(annotations)[:60]}, not an object of aspects")
    ratings = {}
    for aspect, levels in VLFEEDBACK_LEVELS.items():
        rating = (annotations.get(aspect) or {}).get("Rating")
        rating = rating.strip() if isinstance(rating, str) else rating
        if rating not in NOT_RATED:
            here = f"{where}, {aspect}"
            ratings[aspect] = check_rating(parse_number(rating, here), levels, here)
    return ratings


def _polaris(row: Row, where: str, pictures: Pictures) -> list[RatedAnswer]:
    here = f"{where}, column human_score"
    score = check_rating(parse_number(row["human_score"], here), POLARIS_LEVELS[SCORE], here)
    references = [parse_text(text, f"{where}, column refs") for text in _references(row["refs"], where)]
    answer = parse_text(row["cand"], f"{where}, column cand")
    image = pictures.add(row["img"], where, "img")
    extras = rest(row, ["refs", "cand", "img", "human_score"]) | {"references": references}
    return [RatedAnswer(image, "", answer, {SCORE: score}, extras)]


def _references(value: Any, where: str) -> list[Any]:
    """A list of texts; in a table it stands as JSON, or as Python writes a list."""
    if isinstance(value, str) and value.startswith("["):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):  # perhaps it is JSON
            value = ast.literal_eval(value)
    return parse_list(value, f"{where}, column refs")


def _flickr8k(row: Row, where: str, pictures: Pictures, captions: dict[str, str]) -> list[RatedAnswer]:
    name, caption_id, *scores = (row[cell] for cell in "01234")
    if caption_id not in captions:
        raise UserError(f"{where}: {FLICKR8K_FILES[1]} has no caption {caption_id!r}")
    numbers = [check_rating(parse_number(score, where), FLICKR8K_LEVELS[SCORE], where) for score in scores]
    image = pictures.add(name, where, "0")
    return [
        RatedAnswer(
            image, "", captions[caption_id], {SCORE: score}, {"caption": caption_id, "expert": expert}
        )
        for expert, score in enumerate(numbers, start=1)
    ]
