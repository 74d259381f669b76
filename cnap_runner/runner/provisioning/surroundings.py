"""What surrounds every agent of an install: proxies, certificate authorities, the author of its commits, its time zone and locale.

All of it is environment and small files, so it reaches every agent without a new image. How each is meant: docs/surroundings.md.
"""

from __future__ import annotations

from pathlib import Path

import certifi

from cnap_runner.model.instance import Layout
from cnap_runner.settings import Settings, read_certificates

GIT_FILE = "gitconfig"
AUTHORITIES_FILE = "ca-certificates.crt"

NEVER_PROXIED = ("localhost", "127.0.0.1", "::1", "host.docker.internal")
"""The agent's own servers, and what the host serves to it: no company proxy knows the way there."""

_AUTHORITIES_VARIABLES = (
    "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
)
"""OpenSSL and what is built on it; Node and Bun, hence OpenCode; Python's requests; curl; git; pip."""


def surrounding_environment(settings: Settings, layout: Layout) -> dict[str, str]:
    """Give the variables that surround every agent. Pure; none is secret. Those of its own network are stronger (`runner.reach`)."""
    variables = {
        "LANG": settings.locale,
        "TZ": settings.timezone or "UTC",
        "GIT_CONFIG_SYSTEM": f"{layout.settings}/{GIT_FILE}",
        **proxy_variables(settings),
    }
    if settings.ca_file is not None:
        variables |= dict.fromkeys(_AUTHORITIES_VARIABLES, f"{layout.settings}/{AUTHORITIES_FILE}")
    return variables


def surrounding_files(settings: Settings) -> dict[str, str]:
    """Give the files those variables name: path below the settings folder → text. None is secret.

    Blocks. Raises `InvalidInput` where ``ca_file`` cannot be used any more.
    """
    files = {GIT_FILE: _git_config(settings)}
    if settings.ca_file is not None:
        # The usual authorities are Mozilla's, as our image has them: the file replaces what a program trusted before.
        usual = Path(certifi.where()).read_text(encoding="utf-8")
        files[AUTHORITIES_FILE] = "\n".join([usual.rstrip("\n"), *read_certificates(settings.ca_file)])
    return files


def proxy_variables(settings: Settings) -> dict[str, str]:
    """Give the variables of the proxy in capitals and in small letters, because each program knows but one of them."""
    if settings.http_proxy is None and settings.https_proxy is None:
        return {}
    direct = (settings.no_proxy or "").split(",")
    hosts = dict.fromkeys([*(host.strip() for host in direct if host.strip()), *NEVER_PROXIED])
    values = {"http_proxy": settings.http_proxy, "https_proxy": settings.https_proxy, "no_proxy": ",".join(hosts)}
    small = {name: value for name, value in values.items() if value}
    return {**{name.upper(): value for name, value in small.items()}, **small}


def _git_config(settings: Settings) -> str:
    """Write git's configuration of the whole system: a repository's own, and the agent's, are stronger.

    The workspace may belong to another user than the agent, as its engine sees it; in a container of its own that is no danger.
    """
    return (
        "[include]\n\tpath = /etc/gitconfig\n"
        f"[user]\n\tname = {_quoted(settings.git_name)}\n\temail = {_quoted(settings.git_email)}\n"
        "[safe]\n\tdirectory = *\n"
    )


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
