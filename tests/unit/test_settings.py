"""Settings come from arguments, variables and a file, and are checked."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cnap_runner.errors import InvalidInput
from cnap_runner.settings import Settings, read_certificates


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"CNAP_RUNNER_{name.upper()}", raising=False)


def test_arguments_win_over_variables_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearer to the call, the stronger."""
    (tmp_path / "cnap-runner.toml").write_text('image = "file"\nmax_containers = 3\ncpus = 1.0\n')
    monkeypatch.setenv("CNAP_RUNNER_IMAGE", "variable")
    monkeypatch.setenv("CNAP_RUNNER_MAX_CONTAINERS", "4")
    settings = Settings(image="argument")
    assert (settings.image, settings.max_containers, settings.cpus) == ("argument", 4, 1.0)


def test_durations_are_read_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """``CNAP_RUNNER_STOP_TIMEOUT=1m30s`` means what it says."""
    monkeypatch.setenv("CNAP_RUNNER_STOP_TIMEOUT", "1m30s")
    assert Settings().stop_timeout == timedelta(seconds=90)


def test_the_data_folder_is_absolute(tmp_path: Path) -> None:
    """An engine needs absolute paths, and a later change of folder must not move the install."""
    assert Settings(data_dir="x").data_dir == tmp_path / "x"


@pytest.mark.parametrize("fields", [{"max_containers": 0}, {"memory_mb": 100}, {"backend": "vm"}, {"no_such": 1}])
def test_bad_settings_are_named(fields: dict[str, object]) -> None:
    """One error of ours names the field."""
    with pytest.raises(InvalidInput, match=f"CNAP_RUNNER_{next(iter(fields)).upper()}: "):
        Settings(**fields)


def test_a_missing_file_that_was_named_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name given on purpose is not passed over."""
    monkeypatch.setenv("CNAP_RUNNER_CONFIG", "nowhere.toml")
    with pytest.raises(InvalidInput, match=r"nowhere\.toml"):
        Settings()


def test_an_unknown_name_in_the_file_is_an_error(tmp_path: Path) -> None:
    """A misspelt name would otherwise have no effect in silence."""
    (tmp_path / "cnap-runner.toml").write_text("max_container = 3\n")
    with pytest.raises(InvalidInput, match="CNAP_RUNNER_MAX_CONTAINER: there is no such field"):
        Settings()


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    """The error tells the file and the place in it."""
    (tmp_path / "cnap-runner.toml").write_text("max_containers = = 3\n")
    with pytest.raises(InvalidInput, match=r"cnap-runner\.toml is not TOML: .*line 1"):
        Settings()


@pytest.mark.parametrize(
    "fields",
    [
        {"http_proxy": "proxy:3128"},
        {"https_proxy": "http://127.0.0.1:3128"},
        {"timezone": "Mars/Olympus"},
        {"locale": "de DE"},
        {"git_name": "two\nlines"},
        {"git_email": "<a@b>"},
        {"ca_file": "no-such-file.pem"},
    ],
)
def test_surroundings_that_cannot_work_are_refused(fields: dict[str, str]) -> None:
    """Before any agent meets them."""
    with pytest.raises(InvalidInput):
        Settings(**fields)


def test_a_proxy_on_loopback_will_do_without_containers() -> None:
    """The process backend's agents see the machine's own loopback interface."""
    assert Settings(backend="process", http_proxy="http://127.0.0.1:3128").http_proxy == "http://127.0.0.1:3128"


def test_a_file_of_authorities_holds_certificates_and_no_key(tmp_path: Path, authority: Any) -> None:
    """The file reaches every agent; words around the certificates do not."""
    noted = tmp_path / "noted.pem"
    noted.write_text(f"# Our root\n{authority.ca_file.read_text()}")
    assert read_certificates(noted) == (authority.ca_file.read_text(),)
    for path in (authority.chain, tmp_path / "empty.pem"):
        path.touch()
        with pytest.raises(InvalidInput, match=r"private key|no certificates"):
            Settings(ca_file=path)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("FOO", ("FOO",)),
        ("OPENAI_*, CI_TOKEN", ("OPENAI_*", "CI_TOKEN")),
        ('["OPENAI_*"]', ("OPENAI_*",)),
        ("[]", ()),
        ("", ()),
    ],
)
def test_a_list_in_a_variable_has_two_forms(given: str, read: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Names with commas between them, or JSON."""
    monkeypatch.setenv("CNAP_RUNNER_ENV_ALLOW", given)
    assert Settings().env_allow == read


def test_an_object_in_a_variable_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """What OpenCode reads, as it is written for OpenCode."""
    monkeypatch.setenv("CNAP_RUNNER_OPENCODE", '{"share": "disabled"}')
    assert Settings().opencode == {"share": "disabled"}


@pytest.mark.parametrize(
    ("field", "given", "said"),
    [
        ("env_allow", "[FOO", r"write a list, for example '\[\"OPENAI_\*\"\]'"),
        ("env_allow", "[1]", "string"),
        ("opencode", "{0451", "write an object"),
        ("opencode", "[]", "dictionary"),
        ("git_email", "x y", "signs that do not belong"),
        ("git_email", "someone", "signs that do not belong"),
        ("no_proxy", "a b", "separated by commas"),
    ],
)
def test_what_a_variable_cannot_mean_is_said(
    field: str, given: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One error of ours names the variable and the form, and quotes no value."""
    monkeypatch.setenv(f"CNAP_RUNNER_{field.upper()}", given)
    with pytest.raises(InvalidInput, match=f"CNAP_RUNNER_{field.upper()}.*{said}") as caught:
        Settings()
    assert "0451" not in str(caught.value)
