"""What the server's OpenAPI document allows, and what it forbids: no request finds an internal error."""

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

pytest.importorskip("schemathesis", reason="schemathesis (extra dev) makes up the requests")
pytest.importorskip("uvicorn")

import schemathesis

from mmrlhf_jax.feedback.media import add_picture
from mmrlhf_jax.feedback.openapi import describe
from mmrlhf_jax.feedback.store import Store
from mmrlhf_jax.feedback.tasks import KINDS, Item
from tests.annotation import running

schema = schemathesis.openapi.from_dict(describe())
CHECKS = [
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.status_code_conformance,
    schemathesis.checks.content_type_conformance,
    schemathesis.checks.response_schema_conformance,
]


@pytest.fixture(scope="module")
def rater(tmp_path_factory):
    with Store(tmp_path_factory.mktemp("fuzz") / "store.sqlite") as store:
        store.add_raters(["one"])
        picture = add_picture(store, np.full((8, 8, 3), 200, np.uint8), "grey")
        counts = {"compare": 2, "rate": 1, "list": 3, "correct": 1}
        store.add_items([Item(kind, "?", ("x", "y", "z")[: counts[kind]], picture) for kind in KINDS] * 10)
        with running(store) as server:
            yield server.client(1)


@pytest.mark.medium
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the library's own dependencies
@schema.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_no_request_is_an_internal_error(case, rater):
    headers = {"Origin": rater.origin, "Cookie": rater.cookie, "X-CSRF-Token": rater.csrf}
    case.call_and_validate(base_url=rater.origin, headers=headers, checks=CHECKS)
