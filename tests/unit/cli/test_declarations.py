"""Declarations in YAML: what they mean, and where a mistake is."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from cnap_runner.cli.declarations import load
from cnap_runner.cli.yaml_text import YamlRefused, parse, parse_value
from cnap_runner.errors import InvalidInput
from cnap_runner.image.assets import config_templates


def mistakes(tmp_path: Path, text: str) -> str:
    """What is said about a file, without its folder."""
    path = tmp_path / "team.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput) as caught:
        load([str(path)])
    return caught.value.message.replace(f"{tmp_path}/", "")


def test_the_examples_that_are_shipped_can_be_read() -> None:
    """What one copies works."""
    assert [spec.agent_id for spec in load([str(config_templates() / "agents")])] == ["coder", "reviewer", "librarian"]


def test_documents_lists_files_and_folders_are_read_in_order(tmp_path: Path) -> None:
    """However agents are spread over files, all of them count."""
    (tmp_path / "b.yml").write_text("agents:\n  - {agent_id: three, model: a/b}\n  - {agent_id: four, model: a/b}\n")
    (tmp_path / "a.yaml").write_text("agent_id: one\nmodel: a/b\n---\nagent_id: two\nmodel: a/b\n---\n# nothing\n")
    (tmp_path / "notes.txt").write_text("not: [ours")
    (tmp_path / ".hidden.yaml").write_text("not: [ours")
    assert [spec.agent_id for spec in load([str(tmp_path)])] == ["one", "two", "three", "four"]


def test_paths_begin_at_the_declaration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A declaration means the same from whatever folder it is applied."""
    (tmp_path / "prompt.md").write_text("Be brief.\n")
    (tmp_path / "a.yaml").write_text(
        "agent_id: a\nmodel: a/b\nsystem_prompt: {file: prompt.md}\n"
        "opencode_files: {AGENTS.md: {file: ./prompt.md}, x.md: as it is}\nworkspace: {copy: seed}\n"
        "secrets: {K: 'file:name'}\n"
    )
    monkeypatch.chdir("/")
    (spec,) = load([str(tmp_path / "a.yaml")])
    assert spec.system_prompt == "Be brief.\n"
    assert spec.opencode_files == {"AGENTS.md": "Be brief.\n", "x.md": "as it is"}
    assert spec.workspace.copy_from == tmp_path / "seed"
    assert spec.secrets == {"K": "file:name"}


def test_every_mistake_is_named_with_file_line_and_field(tmp_path: Path) -> None:
    """One look shows all there is to mend."""
    text = (
        "agents:\n"
        "  - agent_id: Bad Id\n"
        "    model: x\n"
        "    resources:\n"
        "      memory_mb: 1\n"
        "      nope: 2\n"
        "    mcp:\n"
        "      a:\n"
        "        command: []\n"
        "  - agent_id: ok\n"
        "    model: a/b\n"
        "    system_prompt: {file: missing.md}\n"
        "  - just text\n"
    )
    said = [line.strip() for line in mistakes(tmp_path, text).splitlines()]
    assert [(line.split(": ")[0], line.split(": ")[1]) for line in said[:6]] == [
        ("team.yaml:2", "agent_id"),
        ("team.yaml:3", "model"),
        ("team.yaml:9", "mcp.a.command"),
        ("team.yaml:5", "resources.memory_mb"),
        ("team.yaml:6", "resources.nope"),
        ("team.yaml:12", "system_prompt"),
    ]
    assert said[6].startswith("team.yaml:13: an agent is declared by fields")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("agent_id: a\nmodel: a/b\nmodel: c/d\n", "team.yaml:3: 'model' is given twice."),
        ("agent_id: a\nmodel: a/b\n---\nagent_id: a\nmodel: a/b\n", "team.yaml:4: agent a is declared already, at"),
        ("agent_id: a\nmodel: [\n", "team.yaml:3: "),
        (f"agent_id: a\nmodel: a/b\nopencode: {{n: {'1' * 5000}}}\n", "team.yaml:3: that number is too long."),
        ("agent_id: !!python/object/apply:os.system [x]\n", "team.yaml:1: tags have no meaning here."),
        ("agents: [{agent_id: a, model: a/b}]\nmore: 1\n", "team.yaml:2: beside `agents:`"),
        ("# nothing\n", "No agent is declared"),
        ("8080: x\n", "team.yaml:1: a key has to be text"),
        ("agent_id: a\n", "team.yaml:1: model: field required"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """Nothing is guessed, and nothing is executed."""
    assert said in mistakes(tmp_path, text)


def test_a_missing_file_and_an_empty_folder_are_said(tmp_path: Path) -> None:
    """A wrong path is not an empty declaration."""
    with pytest.raises(InvalidInput, match="cannot be read"):
        load([str(tmp_path / "none.yaml")])
    with pytest.raises(InvalidInput, match="has no file that ends in"):
        load([str(tmp_path)])


def test_values_are_not_quoted_in_mistakes(tmp_path: Path) -> None:
    """A secret beside a mistake does not reach the terminal."""
    said = mistakes(tmp_path, "agent_id: a\nmodel: a/b\nsecrets: {K: [hunter2-hunter2]}\n")
    assert "secrets.K" in said
    assert "hunter2" not in said


def test_only_what_looks_so_is_no_text() -> None:
    """YAML 1.1's surprises are none here."""
    text = "{a: no, b: 1:30, c: 010, d: 2026-01-01, e: 1.5, f: ~, g: true, h: -3, i: 'on'}"
    expected = {
        "a": "no",
        "b": "1:30",
        "c": "010",
        "d": "2026-01-01",
        "e": 1.5,
        "f": None,
        "g": True,
        "h": -3,
        "i": "on",
    }
    assert parse_value(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        "[" * 100_000,
        "\n".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}' if i else 'x'] * 10)}]" for i in range(6)),
        "a: \x00",
        "x" * ((1 << 20) + 1),
    ],
    ids=["holds itself", "deep", "bomb", "control character", "long"],
)
def test_text_made_to_harm_is_refused_at_once(text: str) -> None:
    """A small text cannot take the machine's memory."""
    with pytest.raises(YamlRefused):
        parse(text)


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ("{command: npx}", "team.yaml:3: mcp.x.command: it is a list of words"),
        ("{url: notaurl}", "team.yaml:3: mcp.x.url: it is no address: it begins with http:// or https://."),
    ],
)
def test_a_servers_mistake_is_told_in_plain_words(tmp_path: Path, server: str, said: str) -> None:
    """Not in those of a library."""
    assert said in mistakes(tmp_path, f"agent_id: a\nmodel: a/b\nmcp: {{x: {server}}}\n")


def test_standard_input_has_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong with it."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a: [")))
    with pytest.raises(InvalidInput, match=r"^standard input:1: "):
        load(["-"])
