"""Manifests: canonical text, digests, and what is refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.wire.manifest import Manifest, Tensor, parse_manifest

MANIFEST = Manifest(
    format=1,
    name="mlp-2",
    labels=("cat", "dög"),
    input_shape=(1, 8, 8),
    batch=32,
    predict_batch=64,
    optimiser="momentum",
    parameters=(Tensor(name="w", shape=(64, 2)), Tensor(name="b", shape=(2,))),
    optimiser_state=(Tensor(name="v", shape=(130,)),),
    files={"train.onnx": "00" * 32},
)


def test_counts_and_digests() -> None:
    assert (MANIFEST.sample_size, MANIFEST.parameter_count, MANIFEST.state_count) == (64, 130, 260)
    assert MANIFEST.schema == hashlib.sha256('["cat", "dög"]'.encode()).digest()[:4]
    assert MANIFEST.digest == hashlib.sha256(MANIFEST.to_json().encode()).digest()[:4]


def test_a_manifest_survives_its_text() -> None:
    assert parse_manifest(MANIFEST.to_json()) == MANIFEST


@pytest.mark.parametrize("field", ["name", "labels", "batch", "files"])
def test_every_field_changes_the_digest(field: str) -> None:
    other = {"name": "mlp-3", "labels": ("dog", "cat"), "batch": 16, "files": {}}[field]
    assert replace(MANIFEST, **{field: other}).digest != MANIFEST.digest  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", 2),
        ("name", "a/b"),
        ("name", ""),
        ("labels", ["one"]),
        ("labels", ["one", "one"]),
        ("optimiser", "magic"),
        ("batch", 0),
        ("input_shape", [8, 0]),
        ("input_shape", [1e400]),
        ("input_shape", None),
        ("parameters", [{"name": "w"}]),
        ("parameters", {"name": "w"}),
        ("files", {"../x": "00"}),
        ("files", {".hidden": "00"}),
        ("surprise", 1),
    ],
)
def test_wrong_manifests_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_manifest(json.dumps({**json.loads(MANIFEST.to_json()), field: value}))


@given(st.text())
def test_any_text_is_answered(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_manifest(text)


def test_nested_text_is_answered() -> None:
    with pytest.raises(ValueError, match="not a program manifest"):
        parse_manifest("[" * 1_000_000)
