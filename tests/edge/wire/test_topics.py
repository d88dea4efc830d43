"""Topics: what is written is read back, and a name cannot reach beyond its own topic."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.wire import topics

names = st.from_regex(r"\A[a-z0-9-]{1,32}\Z")
OF_DEVICE = (topics.upload, topics.birth, topics.report, topics.command)


@given(names, names, st.sampled_from(OF_DEVICE))
def test_a_device_is_found_in_its_topics(fleet: str, device: str, of_device: Callable[[str, str], str]) -> None:
    topic = of_device(fleet, device)
    assert topics.parse_device(topic) == device
    assert len(topic.encode()) <= 70


def test_the_topics_are_as_documented() -> None:
    assert topics.plan("lab") == "ps/lab/p"
    assert topics.parameters("lab") == "ps/lab/w"
    assert [of_device("lab", "d07") for of_device in OF_DEVICE] == [
        "ps/lab/u/d07",
        "ps/lab/s/d07",
        "ps/lab/m/d07",
        "ps/lab/c/d07",
    ]
    assert topics.every_upload("lab") == "ps/lab/u/+"
    assert topics.every_birth("lab") == "ps/lab/s/+"
    assert topics.every_report("lab") == "ps/lab/m/+"


@pytest.mark.parametrize("name", ["", "+", "#", "a/b", "A", "ü", "x" * 33, "d01\n", "d 1", "$share"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"device .* 1 to 32"):
        topics.upload("lab", name)
    with pytest.raises(ValueError, match=r"fleet .* 1 to 32"):
        topics.plan(name)


@pytest.mark.parametrize(
    "topic", ["ps/lab/p", "ps/lab/u/", "ps/lab/u/a/b", "ps/lab/x/a", "xx/lab/u/a", "ps/lab/u/A", ""]
)
def test_other_topics_belong_to_no_device(topic: str) -> None:
    with pytest.raises(ValueError, match="belongs to no device"):
        topics.parse_device(topic)
