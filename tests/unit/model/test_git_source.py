"""What ``workspace.git`` may name."""

import pytest

from cnap_runner.errors import InvalidInput
from cnap_runner.model.git_source import check_branch, parse_git_source


@pytest.mark.parametrize(
    ("text", "url", "protocol", "user", "password"),
    [
        ("https://host/o/r.git", "https://host/o/r.git", "https", None, None),
        ("https://${U}:${P}@host:8443/r", "https://host:8443/r", "https", "${U}", "${P}"),
        ("https://${TOKEN}@host/r", "https://host/r", "https", "${TOKEN}", None),
        ("https://me%40x:${P}@host/r", "https://host/r", "https", "me@x", "${P}"),
        ("http://[::1]:8080/r", "http://[::1]:8080/r", "http", None, None),
        ("ssh://git@host:22/r", "ssh://git@host:22/r", "ssh", None, None),
        ("git@host:o/r.git", "git@host:o/r.git", "ssh", None, None),
        ("git@host:/srv/r.git", "git@host:/srv/r.git", "ssh", None, None),
        ("git://host/r", "git://host/r", "git", None, None),
        ("/srv/repos/r.git", "/srv/repos/r.git", "file", None, None),
    ],
)
def test_a_url_is_parted_from_its_credentials(
    text: str, url: str, protocol: str, user: str | None, password: str | None
) -> None:
    """What git is told, and what stays in ``.git/config``, holds none."""
    source = parse_git_source(text)
    assert (source.url, source.protocol, source.user, source.password) == (url, protocol, user, password)
    assert "${" not in repr(source)


@pytest.mark.parametrize(
    "text",
    [
        *("", "-u", "--upload-pack=touch /tmp/x", "ext::sh -c id", "ext::sh", "fd::3", "::x", "a b", "https://h/a\nb"),
        *("file:///etc", "ftp://h/r", "repo", "./repo", "../repo", "https://", "https://host", "https:///r"),
        *("ssh://-oProxyCommand=id/r", "-oProxyCommand=id:r", "git@-oProxyCommand=id:r", "ssh://-x@host/r"),
        *(
            "ssh://u:${P}@host/r",
            "ssh://${U}@host/r",
            "https://host/${TOKEN}/r",
            "https://${H}/r",
            "https://h/r?t=secret",
        ),
        *("https://host:port/r", "https://[::1/r", "${U}@host:r", "ssh://u:planted@host/r", "https://h/r#planted"),
    ],
)
def test_what_could_run_commands_or_keep_secrets_is_refused(text: str) -> None:
    """With one clear error, which repeats nothing of what was given."""
    with pytest.raises(InvalidInput, match=r"workspace\.git cannot be used") as caught:
        parse_git_source(text)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize("branch", ["", "-b", "--upload-pack=x", "a b", "a\nb"])
def test_a_branch_cannot_be_an_option(branch: str) -> None:
    """Git would take it for one."""
    with pytest.raises(InvalidInput):
        check_branch(branch)


def test_usual_branches_are_taken() -> None:
    """None too: what the remote's HEAD names."""
    for branch in (None, "main", "feature/x-1", "v1.0"):
        check_branch(branch)
