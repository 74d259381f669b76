"""What ``workspace.git`` may name, taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit, urlunsplit

from cnap_runner.errors import InvalidInput

_HINT = (
    "Write https://HOST/PATH, ssh://USER@HOST/PATH, USER@HOST:PATH, or an absolute path of this machine; credentials of https as ${NAME} "
    "of the agent's secrets: https://${USER}:${TOKEN}@HOST/PATH."
)
_SCP_LIKE = re.compile(r"(?:[A-Za-z0-9_.+][A-Za-z0-9_.+-]*@)?[A-Za-z0-9_.][A-Za-z0-9_.-]*:.")
_HELPER = re.compile(r"[A-Za-z0-9_.+-]*::")
"""How git names a program that fetches (gitremote-helpers(7))."""
_PLACEHOLDER = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_WEB = ("https", "http")


@dataclass(frozen=True, slots=True)
class GitSource:
    """Where a repository is, apart from who may read it."""

    url: str
    """As git is told it, and as it stays in ``.git/config``: without credentials."""
    protocol: str
    """By git's name for it: ``https``, ``http``, ``ssh``, ``git``, ``file``."""
    user: str | None = field(default=None, repr=False)
    """Of a URL of the web: text in which ``${NAME}`` may stand."""
    password: str | None = field(default=None, repr=False)

    @property
    def site(self) -> str:
        """Scheme and host of a URL: where its credentials belong."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    def names(self) -> tuple[str, ...]:
        """Give the names whose values are needed."""
        return tuple(_PLACEHOLDER.findall(f"{self.user or ''} {self.password or ''}"))


def parse_git_source(text: str) -> GitSource:
    """Take apart what ``workspace.git`` says; raises `InvalidInput`, which never repeats credentials.

    Refused are transports that run commands (``ext::``), what git would take for an option, and secrets in a place where they would stay.
    """
    if not text or text.startswith("-") or _HELPER.match(text) or any(c.isspace() or not c.isprintable() for c in text):
        raise _refusal("it is neither a URL nor a path that can be cloned")
    if text.startswith("/"):
        return GitSource(text, "file")
    if "://" not in text:
        if not _SCP_LIKE.match(text) or "${" in text:
            raise _refusal("it is neither a URL nor an absolute path")
        return GitSource(text, "ssh")
    try:
        return _parse_url(text)
    except ValueError as error:
        if isinstance(error, InvalidInput):
            raise
        raise _refusal("it is no valid URL") from None


def check_branch(branch: str | None) -> None:
    """Raise `InvalidInput` for a name that git would take for an option, or that no branch can have."""
    if branch is not None and (
        not branch or branch.startswith("-") or any(c.isspace() or not c.isprintable() for c in branch)
    ):
        raise InvalidInput(f"workspace.branch {branch!r} is no name of a branch or tag.")


def fill_in(text: str, values: dict[str, str]) -> str:
    """Put values in the place of ``${NAME}``."""
    return _PLACEHOLDER.sub(lambda match: values[match[1]], text)


def _parse_url(text: str) -> GitSource:
    parts = urlsplit(text)
    userinfo, _, host = parts.netloc.rpartition("@")
    _ = parts.port  # raises ValueError for one that is none
    if parts.scheme not in {*_WEB, "ssh", "git"}:
        raise _refusal(f"{parts.scheme}:// is not among https, http, ssh and git")
    if not host or host.startswith("-") or not parts.path.strip("/"):
        raise _refusal("it lacks a host or a path")
    if parts.query or parts.fragment:
        raise _refusal("a query or fragment would stay in .git/config")
    bare = urlunsplit((parts.scheme, host, parts.path, "", ""))
    if "${" in bare:
        raise _refusal("${NAME} can stand for user and password only")
    if parts.scheme in _WEB:
        user, has_password, password = userinfo.partition(":")
        return GitSource(
            bare, parts.scheme, unquote(user) if userinfo else None, unquote(password) if has_password else None
        )
    if ":" in userinfo or "${" in userinfo or userinfo.startswith("-"):
        raise _refusal(f"{parts.scheme}:// takes no password; ssh uses the keys of this user")
    return GitSource(text, parts.scheme)


def _refusal(reason: str) -> InvalidInput:
    return InvalidInput(f"workspace.git cannot be used: {reason}.", hint=_HINT)
