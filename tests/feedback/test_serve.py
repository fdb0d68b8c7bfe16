"""Addresses that are safe to serve at, and the extra that serving needs."""

import sys

import pytest

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.assign import Assigner
from mmrlhf_jax.feedback.serve import Address, serve
from mmrlhf_jax.feedback.store import Store


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "0.0.0.0"}, "--open-to-network"),
        ({"host": "0.0.0.0", "open_to_network": True}, "--public-url"),
        ({"host": "example.org"}, "--open-to-network"),
        ({"port": 70_000}, "port"),
        ({"public_url": "judge.example.org"}, "public_url"),
        ({"public_url": "https://judge.example.org/path"}, "public_url"),
    ],
)
def test_addresses_that_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Address(**options)


def test_addresses():
    assert Address().origins(80) == {"http://127.0.0.1:80", "http://localhost:80"}
    assert Address(host="::1").first(5) == "http://[::1]:5"
    behind = Address(public_url="https://Judge.example.org")
    assert behind.origins(5) == {"https://judge.example.org"}


def test_without_the_extra_its_name_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with Store(tmp_path / "store.sqlite") as store, pytest.raises(UserError, match=r"\[serve\]"):
        serve(store, Assigner, Address(port=0))
