"""Whatever bad input a user gives: a line or two, status 2, no traceback, and nothing is written or lost."""

from pathlib import Path

import pytest

from tests.faults.bad_input import CASES, PAGE, Case, Outcome, as_told, give, row


def cases(*, whole: bool) -> list:
    """The kinds of bad input that need a finished run, or that need none, by name."""
    return [pytest.param(case, id=case.what.replace(" ", "-")) for case in CASES if case.whole == whole]


def check(case: Case, folder: Path, outcome: Outcome, changed: list[str]) -> None:
    error = outcome.error
    assert outcome.status == 2, (outcome.status, error)
    assert error.startswith("error: ") and error.endswith("\n")
    assert "Traceback" not in error + outcome.printed
    assert len(error.splitlines()) <= 2 and len(error) <= 1000
    assert case.told.replace("OWN", str(folder / "own")) in error
    assert changed == []
    assert row(case, as_told(error, folder)) in PAGE.read_text(encoding="utf-8").splitlines(), (
        "docs/errors.md is out of date: python -m tests.faults.bad_input runs/smoke"
    )


@pytest.mark.parametrize("case", cases(whole=False))
def test_bad_flags_and_missing_stages(case: Case, tmp_path: Path):
    check(case, tmp_path, *give(case, tmp_path, None))


@pytest.mark.medium
@pytest.mark.parametrize("case", cases(whole=True))
def test_bad_files_and_damaged_runs(case: Case, tmp_path: Path, smoke_run: Path):
    check(case, tmp_path, *give(case, tmp_path, smoke_run))


def test_the_page_has_a_row_for_each_case_and_no_other():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert len(rows) == len(CASES) + 1
    assert len({case.what for case in CASES}) == len(CASES)
