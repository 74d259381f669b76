"""Values survive the way into the database and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given, settings
from hypothesis import strategies as st

from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.run import Outcome, RunError, RunResult, Usage
from cnap_runner.store.codec import (
    from_micros,
    result_from_text,
    result_to_text,
    spec_to_text,
    to_micros,
)
from cnap_runner.store.specs import spec_from_text

TOKYO = timezone(timedelta(hours=9))
moments = st.integers(1, 250_000_000_000_000_000).map(lambda micros: from_micros(micros).astimezone(TOKYO))
text = st.text(st.characters(exclude_categories=["Cs"]))
json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
durations = st.none() | st.timedeltas(min_value=timedelta(milliseconds=1), max_value=timedelta(days=30))
counts = st.integers(0, 1 << 40)


@given(moment=moments)
def test_moments_keep_their_microseconds(moment: datetime) -> None:
    """A moment comes back as the same one, in UTC."""
    read = from_micros(to_micros(moment))
    assert read == moment
    assert read.tzinfo is UTC


@settings(max_examples=60)
@given(system=st.none() | text, opencode=st.dictionaries(text, json, max_size=3), limit=durations)
def test_specs_come_back_equal(system: str | None, opencode: dict[str, object], limit: timedelta | None) -> None:
    """A spec comes back equal, whatever OpenCode's settings hold; what was left out stays left out."""
    spec = AgentSpec(
        agent_id="a",
        model="f/m",
        system_prompt=system,
        opencode=opencode,
        life={"max_run_time": limit},
        workspace={"copy": "/x"},
        egress={"mode": "allowlist", "allow": ["example.org"]},
    )
    read = spec_from_text(spec_to_text(spec))
    assert read == spec
    assert "resources" not in read.model_fields_set


@settings(max_examples=60)
@given(
    outcome=st.sampled_from(Outcome),
    moment=moments,
    duration=st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=3)),
    output=text,
    error=st.none() | st.builds(RunError, text, text, st.booleans()),
    usage=st.builds(Usage, counts, counts, cost=st.floats(0, 1e6)),
)
def test_results_come_back_equal(
    outcome: Outcome, moment: datetime, duration: timedelta, output: str, error: RunError | None, usage: Usage
) -> None:
    """A result comes back equal."""
    result = RunResult("r", "a", "t", outcome, moment, duration, output=output, error=error, usage=usage)
    assert result_from_text(result_to_text(result)) == result
