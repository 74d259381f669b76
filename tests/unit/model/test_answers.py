"""What an agent's rules say about what it asks."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cnap_runner.model.agent import Answers
from cnap_runner.model.answers import (
    AnswerKind,
    PendingAnswer,
    Permissions,
    Rule,
    is_match,
    reply_to_question,
    rules_of,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("rules", "permission", "patterns", "reply"),
    [
        ({}, "bash", ["ls"], "ask"),
        ({"bash": "allow"}, "bash", ["ls"], "allow"),
        ({"bash": "allow"}, "edit", ["a.txt"], "ask"),
        ({"*": "reject", "bash": "allow"}, "bash", ["ls"], "allow"),
        ({"bash": "allow", "*": "reject"}, "bash", ["ls"], "reject"),
        ({"bash": "allow", "bash:git push *": "ask"}, "bash", ["git push origin"], "ask"),
        ({"bash": "allow", "bash:git push *": "ask"}, "bash", ["git push"], "ask"),
        ({"bash": "allow", "bash:git push *": "ask"}, "bash", ["git pushes"], "allow"),
        ({"bash": "allow", "bash:rm *": "reject"}, "bash", ["ls", "rm -rf x"], "reject"),
        ({"bash": "allow", "bash:git *": "ask"}, "bash", ["ls", "git log"], "ask"),
        ({"bash:git *": "ask", "bash:rm *": "reject"}, "bash", ["git log", "rm x"], "reject"),
        ({"docs_*": "allow"}, "docs_search", ["*"], "allow"),
        ({"bash": "allow"}, "bash", [], "allow"),
    ],
)
def test_the_last_rule_that_matches_decides_and_the_strictest_subject_counts(
    rules: dict[str, str], permission: str, patterns: list[str], reply: str
) -> None:
    """Order decides between rules; of several subjects one that is rejected or asked decides for all."""
    own = tuple(rules_of(Answers.parse({"permissions": rules})))
    assert Permissions(own, own, own).reply_to(permission, patterns) == reply


def test_what_opencode_was_not_told_to_ask_is_asked_unless_the_agents_own_rules_speak_of_it() -> None:
    """Something stronger made it ask; where it was told to, all rules count."""
    config, own = Rule("*", "*", "allow"), Rule("bash", "ls", "allow")
    told_to_allow = Permissions((own,), (config, own), (config,))
    told_to_ask = Permissions((own,), (config, own), (Rule("*", "*", "ask"),))
    assert [told_to_allow.reply_to("bash", [subject]) for subject in ("ls", "rm x")] == ["allow", "ask"]
    assert [told_to_ask.reply_to("bash", [subject]) for subject in ("ls", "rm x")] == ["allow", "allow"]


@pytest.mark.parametrize(
    ("pattern", "at_home"),
    [
        ("~/x", "/agent/home/x"),
        ("~", "/agent/home"),
        ("$HOME/x", "/agent/home/x"),
        ("$HOME", "/agent/home"),
        ("$HOMES", "/agent/homeS"),
        ("~x", "~x"),
        ("/x/~/y", "/x/~/y"),
        ("*", "*"),
    ],
)
def test_a_pattern_begins_at_home_as_opencodes_do(pattern: str, at_home: str) -> None:
    """Only at its beginning, and a name after the tilde is none of its own."""
    assert Rule("edit", pattern, "ask").at_home("/agent/home") == Rule("edit", at_home, "ask")


@pytest.mark.parametrize(
    ("text", "pattern", "is_matched"),
    [
        ("a/b/c.env", "*.env", True),
        ("a\nb", "a*b", True),
        ("a[1].txt", "a[1].txt", True),
        ("a1.txt", "a[1].txt", False),
        ("a.b", "a?b", True),
        ("axb", "a.b", False),
        ("c:\\x", "c:/x", True),
        ("ls", "ls *", True),
        ("", "*", True),
    ],
)
def test_patterns_are_opencodes(text: str, pattern: str, *, is_matched: bool) -> None:
    """Stars and question marks match anything, line ends too; nothing else is special."""
    assert is_match(text, pattern) is is_matched


def test_no_text_makes_a_pattern_search_for_ever() -> None:
    """What an agent asks for is its own to choose; a pattern of many stars must not hang on it."""
    began = time.process_time()
    assert not is_match("a" * 100_000 + "!", "*a" * 20 + "*b")
    assert time.process_time() - began < 5


def test_a_question_has_an_answer_or_is_asked_or_rejected() -> None:
    """Left out, questions are rejected."""
    assert [reply_to_question(Answers(questions=text)) for text in (None, "ask", "reject", "Take the first.")] == [
        "reject",
        "ask",
        "reject",
        "Take the first.",
    ]


def test_what_waits_is_told_in_a_line() -> None:
    """A permission by its name and subjects, questions by their words."""
    permission = PendingAnswer(
        request_id="r",
        agent_id="a",
        run_id="r",
        instance_id="i",
        kind=AnswerKind.PERMISSION,
        asked={"permission": "bash", "patterns": ["ls", "rm x"]},
        asked_at=NOW,
        deadline_at=NOW + timedelta(minutes=5),
    )
    asked = {"questions": [{"question": "Red?"}, {"question": "Blue?"}]}
    question = replace(permission, kind=AnswerKind.QUESTION, asked=asked)
    assert (permission.text, question.text) == ("bash: ls, rm x", "Red? / Blue?")
