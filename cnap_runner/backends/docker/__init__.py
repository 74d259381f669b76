"""Instances as containers of a Docker Engine.

`backend` is the implementation of the contract; what it asks the engine for is decided by plain functions (`options`,
`facts`), what the engine says is read by plain functions (`reports`, `framing`, `trouble`), and `engine` is the one place
that talks to it.
"""

from cnap_runner.backends.docker.backend import DockerBackend

__all__ = ["DockerBackend"]
