"""Proxies, as settings and environments name them."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from cnap_runner.errors import InvalidInput

_SCHEMES = frozenset({"http", "https"})


def check_proxy(value: str) -> str:
    """Return a proxy's URL unchanged, or raise `InvalidInput`, which never quotes it: it may hold a password.

    Credentials are refused: the URL goes into the environment of each agent, where its processes and ``docker inspect`` show it.
    """
    try:
        url = urlsplit(value)
        has_host = bool(url.hostname) and url.port != 0
    except ValueError as error:
        raise InvalidInput("that is no URL of a proxy, such as http://proxy.example:3128.") from error
    if url.username is not None or url.password is not None:
        raise InvalidInput(
            "a proxy's user and password would be seen by all agents; run a forwarder that adds them, and name it here."
        )
    if url.scheme not in _SCHEMES or not has_host or not _is_bare(url) or not value.isprintable() or " " in value:
        raise InvalidInput("that is no URL of a proxy, such as http://proxy.example:3128.")
    return value


def is_loopback(proxy: str) -> bool:
    """Whether a proxy listens on the loopback interface, which is another one inside of each container."""
    host = urlsplit(proxy if "://" in proxy else f"//{proxy}").hostname or ""
    return host in {"localhost", "::1"} or host.startswith("127.")


def _is_bare(url: SplitResult) -> bool:
    return url.path in {"", "/"} and not url.query and not url.fragment
