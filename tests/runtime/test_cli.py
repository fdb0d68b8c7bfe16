import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from mmrlhf_jax.config import OptimizerConfig, positive_int
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.runtime import cli


@dataclass(frozen=True)
class ToyConfig:
    """Train a toy."""

    preset: str = ""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    steps: int = 100
    fusion: Literal["concat", "attention"] = "concat"
    run: Path = Path("runs/toy")
    resume: bool = False

    def __post_init__(self):
        positive_int("steps", self.steps)


PRESETS = {"quickstart": ToyConfig(), "smoke": ToyConfig(steps=2, optimizer=OptimizerConfig(b1=0.5))}


@pytest.fixture
def prepared(monkeypatch):
    calls = []
    monkeypatch.setattr(cli, "prepare_jax", lambda: calls.append("jax"))
    return calls


def run(*argv):
    seen = []
    cli.run_cli(seen.append, PRESETS, argv=argv)
    return seen[0]


def exit_status(*argv, main=lambda config: None):
    with pytest.raises(SystemExit) as caught:
        cli.run_cli(main, PRESETS, argv=argv)
    return caught.value.code


def test_the_first_preset_is_the_default(prepared):
    config = run()
    assert config == ToyConfig(preset="quickstart")
    assert prepared == ["jax"]


@pytest.mark.parametrize(
    "argv",
    [
        ("--preset", "smoke", "--optimizer.learning-rate", "0.5"),
        ("--optimizer.learning-rate", "0.5", "--preset=smoke"),
        ("--preset", "quickstart", "--optimizer.learning-rate", "0.5", "--preset", "smoke"),
    ],
)
def test_flags_change_fields_of_the_chosen_preset(prepared, argv):
    config = run(*argv)
    assert (config.preset, config.steps) == ("smoke", 2)
    assert config.optimizer == OptimizerConfig(learning_rate=0.5, b1=0.5)


def test_types_of_flags(prepared):
    config = run("--run", "elsewhere/x", "--resume", "--fusion", "attention", "--steps", "7")
    assert config == ToyConfig(
        "quickstart", steps=7, fusion="attention", run=Path("elsewhere/x"), resume=True
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ("--optimizer.learning-rate", "nan"),
            "learning_rate is nan: give a finite number above 0, e.g. --optimizer.learning-rate 1e-3",
        ),
        (("--steps", "0"), "steps is 0: give a whole number, 1 or above, e.g. --steps 100"),
        (("--preset", "huge"), "no preset 'huge': choose one of quickstart, smoke"),
    ],
)
def test_a_bad_value_is_one_line_and_status_2(prepared, capsys, argv, message):
    assert exit_status(*argv) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"error: {message}\n")
    assert prepared == []


@pytest.mark.parametrize("argv", [("--stepz", "3"), ("--steps", "many"), ("--fusion", "sum"), ("--preset",)])
def test_what_tyro_refuses_is_told_once(prepared, capsys, argv):
    assert exit_status(*argv) == 2
    err = capsys.readouterr().err
    assert err.count("--help") == 1
    assert "Traceback" not in err


def test_help_lists_presets_and_flags(prepared, capsys):
    assert exit_status("--help") == 0
    out = capsys.readouterr().out
    assert "Train a toy." in out
    assert "Presets: quickstart, smoke" in out
    assert "--optimizer.learning-rate" in out
    assert prepared == []


def test_errors_of_main(prepared, capsys):
    def fail(error):
        def main(config):
            raise error

        return main

    assert exit_status(main=fail(UserError("no such file: x.parquet"))) == 2
    assert capsys.readouterr().err == "error: no such file: x.parquet\n"
    assert exit_status(main=fail(KeyboardInterrupt())) == 130
    assert exit_status(main=fail(SystemExit(75))) == 75
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        cli.run_cli(fail(ZeroDivisionError()), PRESETS, argv=[])


def test_parsing_loads_no_heavy_module():
    code = """
        import sys
        from dataclasses import dataclass, field
        from mmrlhf_jax.config import OptimizerConfig
        from mmrlhf_jax.runtime.cli import parse_config

        @dataclass(frozen=True)
        class Config:
            preset: str = ""
            optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

        assert parse_config({"a": Config()}, argv=["--optimizer.b1", "0.5"]).optimizer.b1 == 0.5
        heavy = {"jax", "flax", "numpy", "matplotlib", "pyarrow", "tensorboardX", "torch", "transformers"}
        print(sorted(heavy & sys.modules.keys()))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
