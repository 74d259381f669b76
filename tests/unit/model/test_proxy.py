"""Which proxies can be named."""

from __future__ import annotations

import pytest

from cnap_runner.errors import InvalidInput
from cnap_runner.model.proxy import check_proxy, is_loopback


@pytest.mark.parametrize("url", ["http://proxy.example:3128", "https://10.0.0.1:8443/", "http://proxy"])
def test_a_url_with_a_host_is_a_proxy(url: str) -> None:
    """It is taken as it is written."""
    assert check_proxy(url) == url


@pytest.mark.parametrize(
    "url",
    ["proxy:3128", "http://", "socks5://proxy:1080", "http://proxy:99999", "http://proxy/path", "http://a b:1", ""],
)
def test_anything_else_is_refused(url: str) -> None:
    """A word for each program to misunderstand in its own way is no setting."""
    with pytest.raises(InvalidInput, match="no URL of a proxy"):
        check_proxy(url)


def test_credentials_are_refused_without_being_told() -> None:
    """They would be in every agent's environment; the error itself does not spread them either."""
    with pytest.raises(InvalidInput, match="seen by all agents") as caught:
        check_proxy("http://user:hunter2@proxy.example:3128")
    assert "hunter2" not in str(caught.value)


def test_the_loopback_interface_is_told_from_others() -> None:
    """With and without a scheme."""
    assert is_loopback("http://127.0.0.1:3128")
    assert is_loopback("localhost:3128")
    assert is_loopback("http://[::1]:3128")
    assert not is_loopback("http://host.docker.internal:3128")
