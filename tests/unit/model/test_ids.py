"""Ids are safe as names of folders and containers."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnap_runner.errors import InvalidInput
from cnap_runner.model.ids import check_id, new_id


@pytest.mark.parametrize("value", ["a", "alice", "a-1_b.c", "0", "x" * 64])
def test_good_ids_are_returned_unchanged(value: str) -> None:
    """What the rule allows is taken as it is."""
    assert check_id(value) == value


@pytest.mark.parametrize(
    "value",
    ["", "A", "-a", ".a", "_a", "a/b", "a\\b", "..", "a..b", "x" * 65, "a b", "a\n", "ä", "a\x00", "../../etc/passwd"],
)
def test_bad_ids_are_refused_with_the_rule(value: str) -> None:
    """The one error names the id and says what an id is."""
    with pytest.raises(InvalidInput, match="is not an id: use 1 to 64 of"):
        check_id(value)


@given(st.text(max_size=70))
def test_no_accepted_id_leaves_its_folder(value: str) -> None:
    """Whatever is accepted is one plain path part."""
    try:
        check_id(value)
    except InvalidInput:
        return
    path = PurePosixPath("/data/workspace") / value
    assert path.parent == PurePosixPath("/data/workspace")
    assert path.name == value
    assert value not in {".", ".."}


@given(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True))
def test_every_id_of_the_pattern_is_accepted(value: str) -> None:
    """Nothing that follows the rule is refused."""
    assert check_id(value) == value


def test_new_ids_are_ids_and_differ() -> None:
    """Made ids pass their own check and never repeat."""
    made = {new_id("run") for _ in range(1000)}
    assert len(made) == 1000
    assert all(check_id(value).startswith("run-") for value in made)
