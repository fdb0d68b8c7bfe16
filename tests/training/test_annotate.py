"""Annotation from the command line: sources, export, and the closed loop with simulated raters."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmrlhf_jax.data.emoji import load_emoji
from mmrlhf_jax.data.preferences import PreferenceSet, read_preferences, write_preferences
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback import simulation
from mmrlhf_jax.feedback.sources import Group
from mmrlhf_jax.feedback.store import Store
from mmrlhf_jax.training.annotate import answer_groups, prepare, run
from mmrlhf_jax.training.config import AnnotateConfig
from tests.annotation import train_reward

ROOT = Path(__file__).resolve().parents[2]


def annotate(*arguments: object, environment: dict[str, str], status: int = 0) -> str:
    command = [sys.executable, "experiments/annotate.py", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == status, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "options",
    [
        {"raters": 0},
        {"overlap": 1.5},
        {"choose": "disagreement"},
        {"file": Path("x.csv"), "rounds": 1},
        {"file": Path("x.csv"), "simulated": True},
    ],
)
def test_senseless_flags_are_told(options):
    with pytest.raises(UserError):
        AnnotateConfig(**options)


def test_where_judgements_are_kept():
    assert AnnotateConfig(policy=Path("r")).store_path() == Path("r/annotate/judgements.sqlite")
    assert AnnotateConfig(file=Path("d/x.csv")).store_path() == Path("d/x.csv.judgements/judgements.sqlite")
    assert AnnotateConfig(store=Path("s")).store_path() == Path("s")


def test_without_judgements_there_is_nothing_to_export(tmp_path):
    for flag in ("export", "backup"):
        with pytest.raises(UserError, match="no judgements yet"):
            run(AnnotateConfig(policy=tmp_path, **{flag: tmp_path / "out"}))
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    run(AnnotateConfig(policy=tmp_path, raters=3, dry_run=True))
    assert "3 rater(s)" in capsys.readouterr().out and list(tmp_path.iterdir()) == []


def test_judgements_go_from_store_to_store(tmp_path, capsys):
    fields = {"prompt": "p", "response_a": "x", "response_b": "y"}
    said = [{"value": "response_a", "user_id": f"user-{i}", "status": "submitted"} for i in range(3)]
    (tmp_path / "argilla.json").write_text(json.dumps([{"fields": fields, "responses": {"q": said}}]))
    store = tmp_path / "s" / "store.sqlite"
    run(AnnotateConfig(store=store, import_judgements=tmp_path / "argilla.json"))
    run(AnnotateConfig(store=store, backup=tmp_path / "copy.sqlite"))
    run(AnnotateConfig(store=tmp_path / "copy.sqlite", export=tmp_path / "out"))
    told = capsys.readouterr().out
    assert "3 judgements added" in told and "3 preferences" in told
    assert read_preferences(tmp_path / "out" / "preferences.parquet", 8).chosen == ["x"] * 3


@pytest.mark.slow
def test_the_loop_closes_with_simulated_raters(smoke_run, tmp_path, user_environment):
    folder = tmp_path / "run"
    shutil.copytree(smoke_run, folder)
    arguments = ("--preset", "smoke", "--policy", folder, "--simulated", "--raters", 3, "--answers", 3)
    chosen = ("--pictures", 64, "--choose", "information", "--ensemble", folder / "seed_0" / "reward")
    said = annotate(*arguments, *chosen, "--rounds", 2, environment=user_environment)
    assert "round 1:" in said and "round 2:" in said
    for number in (1, 2):
        here = folder / "rounds" / str(number)
        assert (here / "seed_0" / "ppo" / "result.json").is_file()
        with Store(here / "annotate" / "judgements.sqlite") as store:
            rows, items = store.standing(), store.items()
            assert {rater.name for rater in store.raters()} == {f"simulated-{i}" for i in (1, 2, 3)}
        asked = [number for number, item in items.items() if not item.is_check]
        assert {row.item for row in rows} >= set(asked)
        assert {row.strategy for row in rows} == {"information", "check"}
        # a second rater for a fifth of the items, and every rater passed the checks
        assert sum(items[row.item].expected is None for row in rows) == len(asked) + round(0.2 * len(asked))
        assert all(
            row.answer["choice"] == items[row.item].expected for row in rows if items[row.item].is_check
        )
        pairs = read_preferences(here / "judged" / "preferences.parquet", 64)
        assert len(pairs) == sum(
            row.answer["choice"] in ("a", "b") for row in rows if not items[row.item].is_check
        )
    assert (folder / "rounds" / "2" / "seed_0" / "sft" / "model").resolve() == (
        folder / "rounds" / "1" / "seed_0" / "ppo" / "model"
    ).resolve()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rate", "list", "compare"])
def test_every_kind_of_judgement_trains_a_reward_model(smoke_run, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(simulation, "BAR", 0.2)  # else nobody clicks on what so young a policy writes
    file, measure = {
        "rate": ("ratings", "spearman"),
        "list": ("clicks", "ndcg"),
        "compare": ("preferences", "accuracy"),
    }[kind]
    shared = {"preset": "smoke", "policy": smoke_run, "store": tmp_path / "store.sqlite"}
    run(AnnotateConfig(**shared, kind=kind, simulated=True, raters=2, pictures=24, answers=3, check_every=0))
    run(AnnotateConfig(**shared, export=tmp_path / "judged"))
    result = train_reward(smoke_run, tmp_path / "run", tmp_path / "judged" / f"{file}.parquet")
    assert any(name.startswith(measure) for name in result["held_out"]), result["held_out"]


@pytest.mark.slow
def test_the_policy_writes_about_pictures_without_answers(smoke_run, tmp_path):
    for number, image in enumerate(load_emoji("feedback").images_NxHxWxC[:4]):
        Image.fromarray(image).resize((100, 90)).save(tmp_path / f"{number}.png")
    lines = [json.dumps({"image": f"{number}.png"}) for number in range(4)]
    (tmp_path / "pictures.jsonl").write_text("\n".join(lines))
    config = AnnotateConfig(file=tmp_path / "pictures.jsonl", policy=smoke_run, kind="rate", check_every=0)
    with Store(tmp_path / "store.sqlite") as store:
        prepare(config, store)
        items = list(store.items().values())
        assert len({item.picture for item in items}) == 4 and all(item.answers[0] for item in items)
        assert {tuple(item.extras["sources"]) for item in items} == {("ppo",)}
        with pytest.raises(UserError, match="has no answers"):
            answer_groups(config, store, [Group("Who?", (), items[0].picture)])


@pytest.mark.medium
def test_users_mistakes_end_in_one_line(tmp_path, user_environment):
    said = annotate("--file", tmp_path / "none.csv", environment=user_environment, status=2)
    assert said.startswith("error: ") and "no such file" in said
    said = annotate("--host", "0.0.0.0", "--file", _pairs(tmp_path), environment=user_environment, status=2)
    assert "--open-to-network" in said and len(said.strip().splitlines()) == 1


def _pairs(folder: Path) -> Path:
    images = np.zeros((2, 8, 8, 3), np.uint8)
    images[1] += 9
    pairs = PreferenceSet(images, np.array([0, 1], np.int32), ["", ""], ["a", "b"], ["c", "d"])
    write_preferences(folder / "pairs.jsonl", pairs)
    return folder / "pairs.jsonl"
