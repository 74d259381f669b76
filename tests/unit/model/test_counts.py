"""What an event adds to which count, and what is read out of the counts again."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cnap_runner.model import counts
from cnap_runner.model.figures import MetricsSnapshot
from cnap_runner.model.journal import Decision, DecisionKind
from cnap_runner.model.run import Outcome, RunError, RunRecord, RunResult, RunState, Usage

AT = datetime(2026, 1, 1, tzinfo=UTC)


def run(*, is_sent: bool = True) -> RunRecord:
    return RunRecord(
        run_id="run-1",
        agent_id="alice",
        task_id="main",
        place=1,
        state=RunState.ENDED,
        owner="m-1",
        fingerprint="f",
        created_at=AT,
        sent_at=AT + timedelta(seconds=2) if is_sent else None,
        ended_at=AT + timedelta(seconds=5),
    )


def result(outcome: Outcome, *, error: RunError | None = None, usage: Usage | None = None) -> RunResult:
    return RunResult(
        "run-1", "alice", "main", outcome, AT, timedelta(seconds=5), error=error, usage=usage or Usage(), model="p/m/x"
    )


def test_a_run_counts_its_outcome_its_times_and_what_it_cost() -> None:
    """Once each; the model's name may hold a slash, and money is kept in millionths."""
    added = counts.of_run(run(), result(Outcome.SUCCEEDED, usage=Usage(input_tokens=10, cost=0.25)), models={"p/m/x"})
    assert counts.RUNS.in_counts(added)["succeeded",] == 1
    assert counts.TOKENS.in_counts(added) == {("p", "m/x", "input"): 10}
    assert counts.COST.in_counts(added) == {("p", "m/x"): 0.25}
    whole, turn = counts.RUN_DURATION.in_counts(added), counts.TURN_DURATION.in_counts(added)
    assert (whole.count, whole.seconds, turn.seconds) == (1, 5.0, 3.0)
    assert counts.ERRORS.in_counts(added) == {}


def test_a_run_that_was_not_sent_counts_no_turn_and_no_error() -> None:
    """What kept it from being sent is raised, and counted where it is."""
    added = counts.of_run(
        run(is_sent=False), result(Outcome.FAILED, error=RunError("not_sent", "it was not")), models=()
    )
    assert counts.TURN_DURATION.in_counts(added).count == 0
    assert counts.ERRORS.in_counts(added) == {}
    assert counts.RUNS.in_counts(added)["failed",] == 1


def test_a_label_s_values_stay_few() -> None:
    """A code that is no plain word, such as a provider's sentence, is ``other``."""
    added = counts.of_run(run(), result(Outcome.FAILED, error=RunError("Oh no: 42 | 43!", "x")), models=())
    assert counts.ERRORS.in_counts(added) == {("other",): 1}


def test_only_models_that_were_asked_for_are_counted_under_their_names() -> None:
    """A server, which its agent can take over, may name another one with each run: all of those are one series."""
    ended = [replace(result(Outcome.SUCCEEDED, usage=Usage(input_tokens=1)), model=f"p/{n}") for n in range(3)]
    added = [counts.of_run(run(), each, models={"p/1", None}) for each in (*ended, replace(ended[0], model=None))]
    named = [labels[1] for each in added for labels in counts.TOKENS.in_counts(each)]
    assert named == ["other", "1", "other", "other"]


@pytest.mark.parametrize("cost", [float("nan"), float("inf"), -1.0, 1e300])
def test_no_figure_of_a_server_keeps_a_run_from_ending(cost: float) -> None:
    """An agent can take over its server, and what is counted is stored with the run's end."""
    ended = result(Outcome.SUCCEEDED, usage=Usage(input_tokens=10**40, output_tokens=-5, cost=cost))
    name = "x" * 1000 + "/\n"
    added = counts.of_run(run(), replace(ended, model=name), models={name})
    assert all(0 < number < 2**60 for number in added.values())
    assert [labels[:2] for labels in counts.TOKENS.in_counts(added)] == [("other", "other")]


@pytest.mark.parametrize(("took", "up_to"), [(0.1, (1, 1, 1)), (0.5, (0, 1, 1)), (3, (0, 0, 1)), (-1, (1, 1, 1))])
def test_a_duration_is_counted_in_every_class_that_holds_it(took: float, up_to: tuple[int, ...]) -> None:
    """A bound belongs to its class; a clock that was set back makes no negative time."""
    histogram = counts.Histogram("x_seconds", "X.", (0.1, 1.0))
    spread = histogram.in_counts(histogram.of(timedelta(seconds=took)))
    assert spread.up_to == up_to
    assert spread.seconds == max(took, 0)


def test_decisions_count_what_their_evidence_tells() -> None:
    """How long a start took, and what an agent was recovered from."""
    started = Decision("alice", DecisionKind.STARTED, "x", AT, {"took_seconds": 2.5})
    recovered = Decision("alice", DecisionKind.RECOVERED, "x", AT, {"cause": "oom_killed"})
    added = {**counts.of_decision(started), **counts.of_decision(recovered)}
    assert counts.START_DURATION.in_counts(added).average_ms == 2500
    assert counts.RECOVERIES.in_counts(added) == {("oom_killed",): 1}
    assert counts.decided(added, (DecisionKind.STARTED, DecisionKind.RECOVERED)) == 2


def test_a_snapshot_of_nothing_has_averages_of_0() -> None:
    """As FR-010 has it: no division by the number of runs there were not."""
    snapshot = MetricsSnapshot.of({})
    assert (snapshot.avg_execution_time_ms, snapshot.avg_container_start_ms, snapshot.tasks_executed) == (0, 0, 0)


def test_no_two_counts_have_one_name() -> None:
    """They are kept in one table, with the kinds of decisions."""
    names = [each.name for each in (*counts.COUNTERS, *counts.HISTOGRAMS)] + [kind.value for kind in DecisionKind]
    assert len(names) == len(set(names))
