"""Exit codes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cnap_runner import errors
from cnap_runner.cli.exits import MEANINGS, ExitCode, code_of_error, code_of_outcome
from cnap_runner.model.run import Outcome


def all_errors(base: type[errors.RunnerError] = errors.RunnerError) -> Iterator[type[errors.RunnerError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from all_errors(kind)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.InvalidInput, 2),
        (errors.NotSupportedYet, 2),
        (errors.EngineUnavailable, 3),
        (errors.ImageNotFound, 3),
        (errors.ImageBuildFailed, 3),
        (errors.ServerNotReady, 3),
        (errors.RunnerNotFound, 4),
        (errors.InstanceNotFound, 4),
        (errors.RunInProgress, 5),
        (errors.IdempotencyConflict, 5),
        (errors.MaxContainersReached, 5),
        (errors.StoreBusy, 5),
        (errors.RunTimedOut, 6),
        (errors.RunAborted, 8),
        (errors.StoreTooNew, 1),
    ],
)
def test_an_error_has_its_exit_code(kind: type[errors.RunnerError], code: int) -> None:
    """A script can tell what to do next from the code alone."""
    assert code_of_error(kind("message")) == code


def test_no_error_looks_like_success() -> None:
    """Whatever is raised, the code is not 0. Kinds that a module keeps to itself may be made differently."""
    public = [kind for kind in all_errors() if kind.__module__ == errors.__name__]
    assert public
    assert all(code_of_error(kind("message")) for kind in public)


def test_only_success_is_zero() -> None:
    """Each outcome has a code of its own."""
    codes = {outcome: code_of_outcome(outcome) for outcome in Outcome}
    assert len(set(codes.values())) == len(Outcome)
    assert [outcome for outcome, code in codes.items() if code == 0] == [Outcome.SUCCEEDED]


def test_every_code_is_explained() -> None:
    """The table that help and docs show is complete."""
    assert set(MEANINGS) == set(ExitCode)
