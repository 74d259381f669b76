"""For our tests and our users': a scripted model server, fakes named by their failure, builders."""

from cnap_runner.testing.failing_backends import DyingBackend, FlakyBackend, HangingBackend, RefusingBackend
from cnap_runner.testing.fake_backend import FakeBackend

__all__ = ["DyingBackend", "FakeBackend", "FlakyBackend", "HangingBackend", "RefusingBackend"]
