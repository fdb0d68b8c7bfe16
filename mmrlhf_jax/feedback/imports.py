"""Judgements that were collected elsewhere: our own export, and Label Studio's and Argilla's JSON exports."""

import datetime
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.media import add_picture, add_sound, beside
from mmrlhf_jax.feedback.store import Conflict, Lease, Store
from mmrlhf_jax.feedback.tasks import Choice, Item, Kind
from mmrlhf_jax.files import read_json

IMPORTED = "imported"  # what stands in place of a strategy

_SIDES = {"left": "a", "right": "b", "a": "a", "b": "b", "1": "a", "2": "b"}
_TIES = ("tie", "equal", "both", "same", "none")


class Imported(NamedTuple):
    """A judgement from elsewhere; `picture` and `sound` are paths beside the file."""

    kind: Kind
    prompt: str
    answers: tuple[str, ...]
    picture: str | None
    shown: tuple[int, ...]
    rater: str
    answer: dict[str, Any]
    seconds: float
    time: float
    expected: Choice | None = None
    extras: Mapping[str, Any] = MappingProxyType({})
    sound: str | None = None


def import_judgements(store: Store, path: Path) -> int:
    """Adds the judgements of a file to the store, with their items and raters; those that are there are not
    added again.

    - judgements.jsonl of an export.
    - Label Studio's JSON: `pairwise` results and `choices` are comparisons of the task's two text fields.
    - Argilla's JSON (records of 2.x): the answers to a question about two text fields besides the prompt.

    Returns:
      How many were added.

    Raises:
      UserError: another kind of file, or one without a judgement that can be used.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    found = list(_read(path))
    if not found:
        raise UserError(f"{path}: there is no judgement in this file that could be used")
    with store.transaction():
        adder = _Adder(store, path)
        return sum(adder.add(one) for one in found)


def _read(path: Path) -> Iterator[Imported]:
    if path.suffix == ".jsonl":
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            yield _own(line, f"{path}, line {number}")
        return
    records = read_json(path)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise UserError(f"{path}: a JSON export of Label Studio or Argilla is a list of records")
    for number, record in enumerate(records, start=1):
        where = f"{path}, record {number}"
        if "annotations" in record and isinstance(record.get("data"), dict):
            yield from _label_studio(record, where)
        elif isinstance(record.get("fields"), dict) and "responses" in record:
            yield from _argilla(record, where)
        else:
            raise UserError(f"{where}: neither Label Studio's (data, annotations) nor Argilla's (fields)")


def _own(line: str, where: str) -> Imported:
    try:
        record = json.loads(line)
        return Imported(
            record["kind"],
            record["prompt"],
            tuple(record["answers"]),
            record["picture"],
            tuple(record["shown"]),
            record["rater"],
            record["answer"],
            record["seconds"],
            _seconds_since_1970(record["time"]),
            record["expected"],
            dict(record["extras"]),
            record.get("sound"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: not a judgement of an export ({error})") from error


def _label_studio(record: dict[str, Any], where: str) -> Iterator[Imported]:
    prompt, answers, picture = _fields(record["data"])
    if answers is None:
        return
    for annotation in record["annotations"]:
        if annotation.get("was_cancelled"):
            continue
        choice = None
        for result in annotation.get("result", []):
            value = result.get("value", {})
            said = value.get("selected", value.get("choices"))
            choice = _choice(said[0] if isinstance(said, list) and said else said, record["data"], answers)
            if choice is not None:
                break
        if choice is None:
            continue
        by = annotation.get("completed_by", "")
        by = by.get("id", "") if isinstance(by, dict) else by
        yield Imported(
            "compare",
            prompt,
            answers,
            picture,
            (0, 1),
            f"label-studio-{by}",
            {"choice": choice},
            float(annotation.get("lead_time") or 0.0),
            _seconds_since_1970(annotation.get("created_at")),
        )


def _argilla(record: dict[str, Any], where: str) -> Iterator[Imported]:
    prompt, answers, picture = _fields(record["fields"])
    responses = record["responses"]
    if answers is None or not responses:
        return
    if not isinstance(responses, dict):
        raise UserError(f"{where}: responses are not by question; export with Argilla 2 (records.to_json)")
    seen = set()
    for of_question in responses.values():
        for response in of_question:
            choice = _choice(_argilla_value(response.get("value")), record["fields"], answers)
            rater = str(response.get("user_id", ""))
            if choice is None or rater in seen or response.get("status", "submitted") != "submitted":
                continue
            seen.add(rater)
            yield Imported(
                "compare",
                prompt,
                answers,
                picture,
                (0, 1),
                f"argilla-{rater[:8]}",
                {"choice": choice},
                0.0,
                _seconds_since_1970(response.get("updated_at")),
            )


def _argilla_value(value: Any) -> Any:
    """A label as it is; of a ranking, the name on rank 1, or a tie where two share it."""
    if not isinstance(value, list):
        return value
    ranked = [one for one in value if isinstance(one, dict)]
    if not ranked:
        return value[0] if value else None
    first = [one.get("value") for one in ranked if one.get("rank") in (None, 1)]
    return first[0] if len(first) == 1 or ranked[0].get("rank") is None else "tie"


def _fields(data: dict[str, Any]) -> tuple[str, tuple[str, str] | None, str | None]:
    """(prompt, the two answers or None, the picture's name or None) of a record's fields."""
    texts = {name: value for name, value in data.items() if isinstance(value, str)}
    picture = next((texts.pop(name) for name in ("image", "picture") if name in texts), None)
    prompt = next((texts.pop(n) for n in ("prompt", "instruction", "question") if n in texts), "")
    numbered = [texts[name] for name in sorted(texts) if name.endswith(("1", "2", "A", "B", "_a", "_b"))]
    if len(numbered) != 2:
        numbered = list(texts.values())
    answers = (numbered[0], numbered[1]) if len(numbered) == 2 else None
    return prompt, answers, picture


def _choice(said: Any, data: dict[str, Any], answers: tuple[str, str]) -> str | None:
    """a, b or tie, from a side, a field's name, its number, or words for a tie; None for anything else."""
    if not isinstance(said, (str, int)):
        return None
    word = str(said).strip().lower()
    if word in _SIDES:
        return _SIDES[word]
    if any(word.startswith(tie) for tie in _TIES):
        return "tie"
    named = data.get(str(said))
    return {answers[0]: "a", answers[1]: "b"}.get(named) if isinstance(named, str) else None


def _seconds_since_1970(text: Any) -> float:
    """An ISO time as a number, now where there is none."""
    if not isinstance(text, str):
        return time.time()
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except ValueError:
        return time.time()


class _Adder:
    """Puts judgements into a store whose items, raters and keys are looked up once."""

    def __init__(self, store: Store, path: Path):
        self.store, self.path = store, path
        self.items = {
            (item.kind, item.prompt, item.answers, item.picture, item.sound): number
            for number, item in store.items().items()
        }
        self.raters = {rater.name: rater.id for rater in store.raters()}
        self.keys = set(store.keys())
        self.pictures: dict[str, str] = {}

    def add(self, one: Imported) -> bool:
        what = [one.kind, one.prompt, one.answers, one.picture, one.rater, one.answer]
        what += [one.sound] if one.sound else []
        key = f"import-{hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:48]}"
        if key in self.keys:
            return False
        item = Item(
            one.kind,
            one.prompt,
            one.answers,
            self._picture(one.picture),
            self._sound(one.sound),
            expected=one.expected,
            extras=dict(one.extras),
        )
        if one.rater not in self.raters:
            self.raters[one.rater] = self.store.add_raters([one.rater])[0]
        found = (item.kind, item.prompt, item.answers, item.picture, item.sound)
        if found not in self.items:
            self.items[found] = self.store.add_items([item])[0]
        rater = self.raters[one.rater]
        lease = Lease(self.items[found], rater, one.shown, IMPORTED, 0.0)
        try:
            with self.store.transaction():
                self.store.lease(lease)
                self.store.judge(key, rater, item, lease, one.answer, one.seconds, one.time)
        except Conflict:  # this rater's first judgement of the item stands
            return False
        self.keys.add(key)
        return True

    def _picture(self, name: str | None) -> str | None:
        if name is None:
            return None
        if name not in self.pictures:
            # What was uploaded to Label Studio goes by another path there.
            local = name.rsplit("/", 1)[-1] if "/data/upload/" in name else name
            where = f"{self.path}: {local}"
            self.pictures[name] = add_picture(self.store, beside(self.path, local, str(self.path)), where)
        return self.pictures[name]

    def _sound(self, name: str | None) -> str | None:
        if name is None:
            return None
        where = f"{self.path}: {name}"
        return add_sound(self.store, beside(self.path, name, str(self.path)), where)
