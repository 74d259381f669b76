"""OpenCode as a child process, for machines without an engine. It keeps agents alive and apart by folders, and isolates nothing."""

from cnap_runner.backends.process.backend import ProcessBackend

__all__ = ["ProcessBackend"]
