"""Every error this package raises on purpose.

::

    RunnerError
    ├── InvalidInput                 what was given cannot work; nothing was created
    │   ├── NotSupportedYet          a field or method whose effect is not built yet
    │   ├── SecretUnavailable        a secret or variable has no value, or its store cannot be read
    │   └── ArchiveInvalid           no archive of an agent, or one that reaches outside of itself
    ├── NotFoundError
    │   ├── RunnerNotFound           no agent of that id
    │   ├── RunNotFound              no run of that id
    │   └── TaskNotFound             no task of that id
    ├── ConflictError
    │   ├── RunInProgress            the agent has an unfinished run and the caller would not wait
    │   ├── IdempotencyConflict      the key was used with another request
    │   ├── AnswerNotPending         that permission or question waits for nobody (any more)
    │   └── InvalidTransition        a status that may not follow the present one
    ├── RunAborted                   the run was ended before its prompt was sent
    ├── RunTimedOut                  its time was over before its prompt was sent
    ├── ManagerUnusable              closed, not entered, or working in a forked child
    ├── QuotaExceeded                the agent's files take more than its quota
    ├── WorkspaceSeedFailed          a workspace could not be copied or cloned
    ├── MaxContainersReached         every place is taken by an agent at work
    ├── CrashLooping                 the agent's instances crash again and again; no more are started
    ├── BackendError
    │   ├── EngineUnavailable        no engine answers
    │   ├── EnginePermissionDenied   it answers, but not to this user
    │   ├── ImageNotFound            the image is not on the engine
    │   ├── InstanceNotFound         the container is gone
    │   ├── InstanceExited           it ended by itself
    │   │   └── OutOfMemory          it was killed for want of memory
    │   ├── InstanceStartFailed      it could not be created or started
    │   └── InsufficientResources    disk, memory or addresses of the host are used up
    ├── ImageBuildFailed
    ├── ServerError
    │   ├── ServerUnreachable        OpenCode does not answer
    │   ├── ServerNotReady           it answers, but not with data, within the deadline
    │   ├── ServerRefusedPassword
    │   ├── UnsupportedServerVersion
    │   ├── SessionNotFound          OpenCode does not know the session (any more)
    │   └── ServerRejected           it answered a call with an error
    └── StoreError
        ├── StoreBusy                another process holds the database for too long
        ├── StoreTooNew              written by a newer version of this package
        └── LeaseLost                somebody else drives the agent now

``code`` is stable and meant for programs, ``retryable`` says whether the same call may succeed later without a change,
``hint`` says what to do. All three are class properties; a hint may be made more exact when the error is raised.
"""

from __future__ import annotations

from typing import ClassVar


class RunnerError(Exception):
    """Base of all errors of this package."""

    code: ClassVar[str] = "runner_error"
    retryable: ClassVar[bool] = False
    default_hint: ClassVar[str | None] = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint if hint is not None else self.default_hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class InvalidInput(RunnerError, ValueError):
    """What was given cannot work. Raised before anything is created."""

    code = "invalid_input"


class NotSupportedYet(InvalidInput):
    """A field or method whose effect is not built yet. It is refused, never ignored."""

    code = "not_supported_yet"


class SecretUnavailable(InvalidInput):
    """A secret or variable that an agent needs has no value, or its store cannot be read. The message names it, never its value."""

    code = "secret_unavailable"


class SecretWarning(UserWarning):
    """A secret was given in clear. It works, and is kept in the vault; the text names the better way. Made an error, it stores nothing."""


class ArchiveInvalid(InvalidInput):
    """Not an archive of an agent, one of a newer version, or one that would write outside of the agent's folders."""

    code = "archive_invalid"


class NotFoundError(RunnerError):
    """Something named by its id does not exist."""

    code = "not_found"


class RunnerNotFound(NotFoundError):
    """No agent of that id is known to this install."""

    code = "runner_not_found"


class RunNotFound(NotFoundError):
    """No run of that id is in the ledger."""

    code = "run_not_found"


class TaskNotFound(NotFoundError):
    """No task of that id is known, or it was deleted."""

    code = "task_not_found"


class ConflictError(RunnerError):
    """The call does not fit the present state."""

    code = "conflict"


class RunInProgress(ConflictError):
    """The agent has an unfinished run, and the caller asked not to wait."""

    code = "run_in_progress"
    retryable = True


class IdempotencyConflict(ConflictError):
    """The idempotency key was used before, with another request."""

    code = "idempotency_conflict"
    default_hint = "Use a new key for a new request."


class AnswerNotPending(ConflictError):
    """The permission or question waits for nobody: it was answered, its deadline passed, its turn ended, or there never was one."""

    code = "answer_not_pending"
    default_hint = "`cnap-runner answers ls` shows what waits."


class InvalidTransition(ConflictError):
    """A status that may not follow the present one."""

    code = "invalid_transition"


class RunAborted(RunnerError):
    """The run was ended, by a wish, a stop or a delete, before its prompt was sent."""

    code = "aborted"


class RunTimedOut(RunnerError):
    """The run's time was over before its prompt was sent."""

    code = "timed_out"
    retryable = True
    default_hint = "Give it more time with RunRequest.timeout, or look at what runs before it with `cnap-runner ps`."


class ManagerUnusable(RunnerError):
    """The manager is closed, was not entered with `async with`, or finds itself in a forked child."""

    code = "manager_unusable"


class QuotaExceeded(RunnerError):
    """The agent's workspace, state and home take more than its quota, or the host's disk is nearly full."""

    code = "quota_exceeded"


class WorkspaceSeedFailed(RunnerError):
    """A workspace could not be copied or cloned. Nothing of it is left; the next start tries again."""

    code = "workspace_seed_failed"
    retryable = True


class MaxContainersReached(RunnerError):
    """Every place is taken by an agent at work."""

    code = "max_containers_reached"
    retryable = True
    default_hint = "Stop an agent, or raise CNAP_RUNNER_MAX_CONTAINERS."


class CrashLooping(RunnerError):
    """The agent's instances crashed again and again within ``crash_window``; nothing is started for it until somebody recovers it, or changes its spec."""

    code = "crash_loop"


class BackendError(RunnerError):
    """The place where instances live (engine, process table, cluster) failed."""

    code = "backend_error"


class EngineUnavailable(BackendError):
    """No engine answers."""

    code = "engine_unavailable"
    retryable = True
    default_hint = (
        "Start it (`systemctl start docker`, or `dockerd`), or set DOCKER_HOST; `cnap-runner doctor` tells more."
    )


class EnginePermissionDenied(BackendError):
    """An engine is there, but this user may not talk to it."""

    code = "engine_permission_denied"
    default_hint = "Join its group (`usermod -aG docker $USER`, then log in again), or use a rootless engine."


class ImageNotFound(BackendError):
    """The image is not on the engine."""

    code = "image_not_found"
    default_hint = "Build it with `cnap-runner image build`, or set CNAP_RUNNER_IMAGE to one that exists."


class InstanceNotFound(BackendError):
    """The instance is gone."""

    code = "instance_not_found"


class InstanceExited(BackendError):
    """The instance ended by itself."""

    code = "instance_exited"
    retryable = True


class OutOfMemory(InstanceExited):
    """The instance was killed because it needed more memory than it may have."""

    code = "out_of_memory"
    retryable = False
    default_hint = "Give it more with CNAP_RUNNER_MEMORY_MB, or with the agent's resources.memory_mb."


class InstanceStartFailed(BackendError):
    """The instance could not be created or started."""

    code = "instance_start_failed"
    retryable = True


class InsufficientResources(BackendError):
    """Disk, memory or network addresses of the host are used up."""

    code = "insufficient_resources"
    default_hint = "Free some, or move the data folder; `cnap-runner doctor` shows what is left."


class ImageBuildFailed(RunnerError):
    """The image could not be built."""

    code = "image_build_failed"


class ServerError(RunnerError):
    """The OpenCode server in an instance failed."""

    code = "server_error"


class ServerUnreachable(ServerError):
    """OpenCode does not answer."""

    code = "server_unreachable"
    retryable = True


class ServerNotReady(ServerError):
    """OpenCode did not answer with real data before the deadline."""

    code = "server_not_ready"
    retryable = True
    default_hint = "Its own words: `cnap-runner logs AGENT`. A small CPU limit slows its start."


class ServerRefusedPassword(ServerError):
    """OpenCode does not take the password of this install."""

    code = "server_refused_password"
    default_hint = (
        "The instance was started with another install.key. Stop the agent; its next run starts a new instance."
    )


class UnsupportedServerVersion(ServerError):
    """The OpenCode server's version is outside of what this package was tested with."""

    code = "unsupported_server_version"
    default_hint = "Build the image anew with `cnap-runner image build`."


class SessionNotFound(ServerError):
    """OpenCode does not know the session, or not any more."""

    code = "session_not_found"


class ServerRejected(ServerError):
    """OpenCode answered a call with an error of its own, or with something that cannot be understood."""

    code = "server_rejected"

    def __init__(self, message: str, *, status: int | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        """The HTTP status, where the answer's status was the error."""


class StoreError(RunnerError):
    """The database failed."""

    code = "store_error"


class StoreBusy(StoreError):
    """Another process holds the database for too long."""

    code = "store_busy"
    retryable = True


class StoreTooNew(StoreError):
    """The database was written by a newer version of this package."""

    code = "store_too_new"
    default_hint = "Upgrade cnap-runner, or use another CNAP_RUNNER_DATA_DIR."


class LeaseLost(StoreError):
    """Somebody else drives the agent now; what this manager wanted to write was not written."""

    code = "lease_lost"
