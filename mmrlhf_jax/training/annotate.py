"""Having people, or simulated raters, judge: what is asked comes from a policy or a file."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mmrlhf_jax.architecture import PolicyConfig, RewardConfig
from mmrlhf_jax.data.captions import Caption
from mmrlhf_jax.data.images import decode_image
from mmrlhf_jax.data.preferences import PreferenceSet
from mmrlhf_jax.data.tokens import CaptionTokenizer
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.assign import Assigner, disagreement, expected_information
from mmrlhf_jax.feedback.dashboard import overview
from mmrlhf_jax.feedback.desk import Desk
from mmrlhf_jax.feedback.export import export
from mmrlhf_jax.feedback.imports import import_judgements
from mmrlhf_jax.feedback.judged_sets import media_of
from mmrlhf_jax.feedback.media import add_picture
from mmrlhf_jax.feedback.rubric import Rubric
from mmrlhf_jax.feedback.serve import Address, serve
from mmrlhf_jax.feedback.simulate import simulate
from mmrlhf_jax.feedback.source_files import read_groups
from mmrlhf_jax.feedback.sources import Group, make_items
from mmrlhf_jax.feedback.store import Store
from mmrlhf_jax.feedback.tasks import Item
from mmrlhf_jax.hub.folder import load_architecture
from mmrlhf_jax.policy.captioner import Captioner
from mmrlhf_jax.reward.define import input_sizes, load_reward_model
from mmrlhf_jax.runtime.footprint import undone_on_error
from mmrlhf_jax.training.config import AnnotateConfig, StageConfig
from mmrlhf_jax.training.judgements import from_preferences, rewards
from mmrlhf_jax.training.picture_source import picture_source

POLICIES = ("ppo", "sft")  # stages that leave a policy, the last one first


def run(config: AnnotateConfig) -> None:
    """Does what the flags say: serves the page, or exports, imports, backs up; `rounds` is the whole loop."""
    if config.dry_run:
        print(f"annotate: {config.kind} for {config.raters} rater(s), kept in {config.store_path()}")
        return
    if config.rounds:
        from mmrlhf_jax.training.rounds import run_rounds

        run_rounds(config)
        return
    if not config.simulated:  # a wrong address is told before anything is written
        _address(config)
    path = config.store_path()
    reads_only = config.export is not None or config.backup is not None
    if reads_only and not path.is_file():
        raise UserError(f"{path}: there are no judgements yet; give their --policy, --file or --store")
    with undone_on_error(path), Store(path) as store:
        if config.backup is not None:
            store.backup(config.backup)
            return
        if config.export is not None:
            counts = export(store, config.export, beside=config.pictures_beside)
            print(f"{', '.join(f'{count} {name}' for name, count in counts.items())}: {config.export}")
            return
        if config.import_judgements is not None:
            print(f"{import_judgements(store, config.import_judgements)} judgements added to {path}")
            return
        captions = prepare(config, store)
    with Store(path) as store:  # from here on it holds what people said
        judge(config, store, captions)


def prepare(config: AnnotateConfig, store: Store) -> dict[str, Caption]:
    """Puts items and raters into a store that has none, and missing raters into one that has fewer.

    Returns:
      Picture's id → what it shows, where that is known; simulated raters need it.
    """
    captions: dict[str, Caption] = {}
    if config.file is None:
        captions = {picture: caption for picture, caption, _ in _feedback(config, store)}
    if not store.items():
        if config.file is None:
            groups = sample_groups(config, store)
        else:
            groups = answer_groups(config, store, read_groups(config.file, store))
        items = make_items(
            groups,
            config.kind,  # type: ignore[arg-type]  # make_items tells of others
            raters=config.raters,
            overlap=config.overlap,
            checks=config.check_every > 0,
            seed=config.seed,
        )
        store.add_items(prioritise(config, store, items) if config.ensemble else items)
    known = len(store.raters())
    prefix = "simulated" if config.simulated else "rater"
    store.add_raters([f"{prefix}-{number + 1}" for number in range(known, config.raters)])
    return captions


def judge(
    config: AnnotateConfig, store: Store, captions: Mapping[str, Caption], *, once: bool = False
) -> None:
    """People judge on the page (until all is judged, if `once`), or simulated raters without one."""

    def assigner(items: dict[int, Item]) -> Assigner:
        return Assigner(items, strategy=config.choose, check_every=config.check_every, seed=config.seed)

    if config.simulated:
        run = StageConfig(run=config.policy, seed=config.seed)
        rubric = Rubric.from_captions(picture_source(run).all_captions())
        simulate(Desk(store, assigner), rubric, captions, config.seed)
        shown = {
            name: overview(store)[name] for name in ("judgements", "finished", "items", "agreement", "alpha")
        }
        print(f"simulated raters: {json.dumps(shown)}")
        return

    serve(store, assigner, _address(config), until_judged=once)


def sample_groups(config: AnnotateConfig, store: Store) -> list[Group]:
    """The answers of the run's policies to its feedback pictures; `sources` says which wrote which."""
    pictures, _, images = zip(*_feedback(config, store), strict=True)
    sources, written = _write(config, np.stack(images))
    return [
        Group("", texts, picture, extras={"sources": sources})
        for picture, texts in zip(pictures, written, strict=True)
    ]


def answer_groups(config: AnnotateConfig, store: Store, groups: list[Group]) -> list[Group]:
    """A file's groups; those without answers get them from the run's policies, which write about pictures.

    Raises:
      UserError: a group has neither answers nor a picture, or a prompt: these policies read none.
    """
    rows = [row for row, group in enumerate(groups) if not group.answers]
    if not rows:
        return groups
    for row in rows:
        if groups[row].picture is None or groups[row].prompt:
            what = (groups[row].prompt or "a sound")[:60]
            raise UserError(
                f"{config.file}: {what!r} has no answers, and the run's policies write about pictures alone: "
                "give a column answers"
            )
    size = load_architecture(_model(config, _stages(config)[0]), PolicyConfig).vision.image_size
    data = [media_of(store, groups[row].picture or "") for row in rows]
    sources, written = _write(config, np.stack([decode_image(one, size=size) for one in data]))
    answered = list(groups)
    for row, texts in zip(rows, written, strict=True):
        answered[row] = dataclasses.replace(groups[row], answers=texts, extras={"sources": sources})
    return answered


def _write(config: AnnotateConfig, image_NxHxWxC: np.ndarray) -> tuple[list[str], list[tuple[str, ...]]]:
    """Which stage wrote each answer, and for each picture the answers."""
    written: list[list[str]] = []
    for stage in _stages(config):
        captioner = Captioner.load(_model(config, stage))
        written += [
            captioner.caption(
                image_NxHxWxC, temperature=config.temperature, seed=config.seed * config.answers + i
            )
            for i in range(config.answers)
        ]
    return [s for s in _stages(config) for _ in range(config.answers)], list(zip(*written, strict=True))


def _stages(config: AnnotateConfig) -> tuple[str, ...]:
    stages = config.stages or tuple(name for name in POLICIES if _model(config, name).is_dir())[:1]
    if not stages:
        raise UserError(
            f"{config.policy}: no policy in seed_{config.seed}; run experiments/pipeline.py first"
        )
    return stages


def prioritise(config: AnnotateConfig, store: Store, items: list[Item]) -> list[Item]:
    """Comparisons with the priority that the ensemble gives them; other items stay as they are."""
    rows = [
        i for i, item in enumerate(items) if item.kind == "compare" and item.picture and not item.is_check
    ]
    if not rows:
        raise UserError("--ensemble looks at comparisons about pictures, and there are none here")
    asked = [items[i] for i in rows]
    margin_KxN = np.stack([_margins(folder / "model", store, asked) for folder in config.ensemble])
    measure = expected_information if config.choose == "information" else disagreement
    found = dict(zip(rows, measure(margin_KxN).tolist(), strict=True))
    return [dataclasses.replace(item, priority=found.get(i, 0.0)) for i, item in enumerate(items)]


def _margins(folder: Path, store: Store, items: list[Item]) -> np.ndarray:
    """Reward of answer a minus that of b by the reward model in `folder`, (N,)."""
    image_size, max_length = input_sizes(load_architecture(folder, RewardConfig))
    model, params = load_reward_model(folder)
    row_of = {picture: row for row, picture in enumerate(dict.fromkeys(item.picture for item in items))}
    images = []
    for picture in row_of:
        images.append(decode_image(media_of(store, picture or ""), size=image_size))
    pairs = PreferenceSet(
        images_NxHxWxC=np.stack(images),
        image_index_P=np.array([row_of[item.picture] for item in items], np.int32),
        prompts=[item.prompt for item in items],
        chosen=[item.answers[0] for item in items],
        rejected=[item.answers[1] for item in items],
    )
    judgements = from_preferences(pairs, CaptionTokenizer.load(folder), max_length)
    reward_NxS = rewards(model, params, judgements)
    return reward_NxS[:, 0] - reward_NxS[:, 1]


def _feedback(config: AnnotateConfig, store: Store) -> list[tuple[str, Caption, np.ndarray]]:
    """(id in the store, what it shows, pixels) of each picture that policies write about."""
    run = StageConfig(run=config.policy, seed=config.seed, max_pictures=config.pictures)
    feedback = picture_source(run).load("feedback")
    with store.transaction():
        return [
            (add_picture(store, image, caption.name), caption, image)
            for image, caption in zip(feedback.images_NxHxWxC, feedback.captions, strict=True)
        ]


def _address(config: AnnotateConfig) -> Address:
    return Address(config.host, config.port, config.public_url, config.open_to_network)


def _model(config: AnnotateConfig, stage: str) -> Path:
    return config.policy / f"seed_{config.seed}" / stage / "model"
