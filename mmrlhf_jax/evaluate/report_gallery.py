"""Cards of pictures with the captions that the policies gave them."""

import base64
import dataclasses
import io
import math
from collections import Counter

import numpy as np

from mmrlhf_jax.evaluate.report_text import escape, number


@dataclasses.dataclass(frozen=True)
class ScoredCaption:
    """One policy's caption of a picture.

    Attributes:
      label: which policy, e.g. "SFT" or "RL".
      text: the caption.
      gold: utility under the rubric of the simulated raters, without noise.
      terms: reward terms by name.
    """

    label: str
    text: str
    gold: float
    terms: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class GalleryItem:
    """One picture.

    Attributes:
      image_HxWxC: uint8, 0-255, C of 1, 3 or 4.
      name: what people call it.
      split: which held-out part it comes from; the gallery is grouped by it.
      captions: one for each policy.
    """

    image_HxWxC: np.ndarray
    name: str
    split: str
    captions: list[ScoredCaption]

    def __post_init__(self):
        image = self.image_HxWxC
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3, 4):
            raise ValueError(
                f"picture of {self.name!r} must be uint8 HxWxC, C of 1, 3 or 4: {image.dtype} {image.shape}"
            )


def gallery_html(items: list[GalleryItem]) -> str:
    """The cards, grouped by split in order of appearance, each group with its count of better captions."""
    groups: dict[str, list[GalleryItem]] = {}
    for item in items:
        groups.setdefault(item.split, []).append(item)
    return "".join(
        f'<h3>{escape(split)} <span class="tally">{_tally(members)}</span></h3>'
        f'<div class="gallery">{"".join(map(_card, members))}</div>'
        for split, members in groups.items()
    )


def _better(item: GalleryItem) -> int | None:
    """Index of the one caption with the highest gold score; None without one, or with a score missing."""
    scores = [caption.gold for caption in item.captions]
    if len(scores) < 2 or not all(map(math.isfinite, scores)) or scores.count(max(scores)) > 1:
        return None
    return scores.index(max(scores))


def _tally(items: list[GalleryItem]) -> str:
    best = [_better(item) for item in items]
    counts = Counter(
        "no difference" if i is None else f"{item.captions[i].label} better"
        for item, i in zip(items, best, strict=True)
    )
    return escape(
        f"{len(items)} picture{'s' if len(items) > 1 else ''}: "
        + ", ".join(f"{label} {count}" for label, count in counts.most_common())
    )


def _card(item: GalleryItem) -> str:
    better = _better(item)
    captions = "".join(
        f'<li{" class=better" if i == better else ""}><span class="policy">{escape(caption.label)}'
        f"{'<b>better</b>' if i == better else ''}</span>"
        f"<q>{escape(caption.text.strip()) or '<i>(empty)</i>'}</q></li>"
        for i, caption in enumerate(item.captions)
    )
    return (
        f'<article class="card item"><div class="top"><img src="{data_uri(item.image_HxWxC)}" '
        f'alt="{escape(item.name)}"><div class="named">{escape(item.name)}</div></div>'
        f'<ul class="captions">{captions}</ul>{_terms(item.captions)}</article>'
    )


def _terms(captions: list[ScoredCaption]) -> str:
    """A table of one row for each term, one column for each policy; the higher value stands out."""
    names = list(dict.fromkeys(name for caption in captions for name in caption.terms))
    rows = [("gold rubric (simulated raters)", [caption.gold for caption in captions])]
    rows += [(name, [caption.terms.get(name, math.nan) for caption in captions]) for name in names]
    head = "".join(f'<th scope="col">{escape(caption.label)}</th>' for caption in captions)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(_cells(values))}</tr>' for name, values in rows
    )
    return (
        f'<table class="terms"><thead><tr><th scope="col">Term</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _cells(values: list[float]) -> list[str]:
    finite = [value for value in values if math.isfinite(value)]
    high = max(finite) if len(set(finite)) > 1 else None
    return [f"<td>{f'<b>{number(v)}</b>' if v == high else number(v)}</td>" for v in values]


def data_uri(image_HxWxC: np.ndarray) -> str:
    """A uint8 picture of 1, 3 or 4 channels as a PNG in a data URI."""
    from PIL import Image

    image = image_HxWxC[..., 0] if image_HxWxC.shape[-1] == 1 else image_HxWxC
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
