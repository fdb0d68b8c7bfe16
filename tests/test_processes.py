"""Who is started alone, who with others, and who writes. With two real ones: multi_device/."""

import pytest

from mmrlhf_jax import processes
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.files import write_text
from mmrlhf_jax.runtime.metrics import MetricsWriter


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What jax.distributed.initialize is called with; nothing of the machine's own cluster is seen."""
    calls: list[dict] = []
    monkeypatch.setattr("jax.distributed.initialize", lambda **where: calls.append(where))
    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr("jax.process_index", lambda: 0)
    monkeypatch.setattr(processes, "_index", 0)
    monkeypatch.setattr(processes, "_count", 1)
    for name in (processes.PLACE, processes.ADDRESS, *processes._COUNTS, processes._TPU_HOSTS):
        monkeypatch.delenv(name, raising=False)
    return calls


@pytest.mark.parametrize(
    "variables",
    (
        {},
        {"SLURM_STEP_NUM_TASKS": "1"},
        {"OMPI_COMM_WORLD_SIZE": "one"},
        {"TPU_WORKER_HOSTNAMES": "localhost"},
    ),
)
def test_one_that_is_alone_joins_nobody(joined, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    processes.join()
    assert not joined and processes.count() == 1 and processes.is_first()


@pytest.mark.parametrize(
    "variables",
    (
        {"MMRLHF_JAX_PROCESS": "auto"},
        {"SLURM_STEP_NUM_TASKS": "16"},
        {"OMPI_COMM_WORLD_SIZE": "2"},
        {"TPU_WORKER_HOSTNAMES": "host-0,host-1"},
    ),
)
def test_what_a_cluster_starts_asks_jax_for_the_others(joined, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    processes.join()
    assert joined == [{}] and processes.count() == 2


def test_a_place_of_ones_own_counts_more_than_the_cluster(joined, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "16")
    monkeypatch.setenv("MMRLHF_JAX_PROCESS", "1/2")
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "first:1234")
    processes.join()
    (where,) = joined
    assert (where["coordinator_address"], where["num_processes"], where["process_id"]) == ("first:1234", 2, 1)


@pytest.mark.parametrize("place", ("2/2", "1", "-1/2", "a/b", "/"))
def test_a_place_that_is_none_is_told(joined, monkeypatch, place):
    monkeypatch.setenv("MMRLHF_JAX_PROCESS", place)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "first:1234")
    with pytest.raises(UserError, match="INDEX/COUNT"):
        processes.join()


def test_a_place_without_address_is_told(joined, monkeypatch):
    monkeypatch.setenv("MMRLHF_JAX_PROCESS", "0/2")
    with pytest.raises(UserError, match="JAX_COORDINATOR_ADDRESS is not"):
        processes.join()


def test_processes_that_do_not_meet_are_told(joined, monkeypatch):
    def never(**where):
        raise RuntimeError("DEADLINE_EXCEEDED: nobody there\nmore")

    monkeypatch.setattr("jax.distributed.initialize", never)
    monkeypatch.setenv("MMRLHF_JAX_PROCESS", "auto")
    with pytest.raises(UserError, match=r"did not find one another .*nobody there"):
        processes.join()


def test_only_the_first_one_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_index", 1)
    write_text(tmp_path / "text", "by the second")
    with MetricsWriter(tmp_path / "run") as writer:
        assert writer.write(1, {"loss": (6.0, 3.0)}) == {"loss": 2.0}
        writer.truncate(0)
    assert not any(tmp_path.iterdir())


def test_alone_a_look_is_a_look():
    assert processes.of_first(lambda: (1, 2)) == (1, 2)  # a tuple stays one
    with pytest.raises(KeyError):
        processes.of_first(lambda: {}["nothing"])
