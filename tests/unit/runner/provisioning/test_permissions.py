"""An agent's rules for permissions, as OpenCode reads them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnap_runner.model.agent import Answers
from cnap_runner.model.answers import is_match, reply_to_permission, rules_of
from cnap_runner.runner.provisioning.permissions import with_permissions


def rendered(config: dict[str, Any] | None = None, **answers: Any) -> list[tuple[str, Any]]:
    permission = with_permissions({"permission": "allow"} if config is None else config, Answers.parse(answers))[
        "permission"
    ]
    return list(permission.items())


def opencode_says(permission: dict[str, Any], name: str, subject: str) -> str:
    """What OpenCode's own reading of its configuration comes to."""
    flat = [
        (key, pattern, action)
        for key, value in permission.items()
        for pattern, action in (value.items() if isinstance(value, dict) else [("*", value)])
    ]
    return next((a for key, p, a in reversed(flat) if is_match(name, key) and is_match(subject, p)), "ask")


def test_a_plain_agent_is_allowed_all_and_asks_nothing() -> None:
    """The question tool is off, which the template's ``allow`` alone would not say."""
    assert rendered() == [("*", "allow"), ("question", "deny")]


def test_rules_keep_their_order_and_come_after_the_rest() -> None:
    """The install's own permissions first, then the agent's, the patterns of one permission together."""
    config = {"permission": {"*": "allow", "bash": {"*": "ask"}, "edit": "deny"}}
    rules = {"bash:git *": "allow", "bash:git push *": "ask", "webfetch": "reject"}
    assert rendered(config, permissions=rules) == [
        ("*", "allow"),
        ("bash", {"*": "ask", "git *": "allow", "git push *": "ask"}),
        ("edit", "deny"),
        ("webfetch", "deny"),
        ("question", "deny"),
    ]


def test_a_tool_that_is_switched_off_stays_off() -> None:
    """The rule that allows the rest comes before it, and the tools that edit share one permission."""
    config = {"permission": "allow", "tools": {"bash": False, "write": False, "docs_*": True}}
    assert rendered(config) == [
        ("*", "allow"),
        ("bash", "deny"),
        ("edit", "deny"),
        ("docs_*", "allow"),
        ("question", "deny"),
    ]


@pytest.mark.parametrize(
    ("questions", "action"), [(None, "deny"), ("reject", "deny"), ("ask", "allow"), ("yes", "allow")]
)
def test_the_question_tool_is_on_only_where_questions_have_an_answer(questions: str | None, action: str) -> None:
    """Whatever other rules say."""
    assert rendered(permissions={"*": "ask"}, questions=questions) == [("*", "ask"), ("question", action)]


def test_one_rejection_does_not_end_the_turn() -> None:
    """Unless the configuration wants so."""
    assert with_permissions({}, Answers())["experimental"] == {"continue_loop_on_deny": True}
    kept = {"experimental": {"continue_loop_on_deny": False, "other": 1}}
    assert with_permissions(kept, Answers())["experimental"] == kept["experimental"]


@pytest.mark.parametrize("permission", ["maybe", 7, {"bash": "perhaps"}, {"bash": {"*": 1}}, None])
def test_what_opencode_would_refuse_is_left_for_it(permission: Any) -> None:
    """Its own message says best what is wrong."""
    assert with_permissions({"permission": permission}, Answers())["permission"] == permission


_names = st.sampled_from(["*", "bash", "edit", "ba*"])
_patterns = st.sampled_from(["", ":git *", ":rm *", ":*x"])
_rules = st.dictionaries(st.builds(str.__add__, _names, _patterns), st.sampled_from(["allow", "ask", "reject"]))


@given(_rules, st.sampled_from(["bash", "edit"]), st.sampled_from(["git log", "rm x", "ls"]))
def test_opencode_never_allows_more_than_the_rules(rules: dict[str, Any], name: str, subject: str) -> None:
    """Whatever the order of the rules: OpenCode says the same, or asks, and then the rules themselves are read."""
    permission = dict(rendered(permissions=rules))
    said = opencode_says(permission, name, subject)
    answers = Answers.parse({"permissions": rules})
    reply = reply_to_permission(answers, name, [subject])
    is_spoken_of = any(rule.matches(name, subject) for rule in rules_of(answers))
    meant = {"allow": "allow", "ask": "ask", "reject": "deny"}[reply] if is_spoken_of else "allow"
    assert said in {meant, "ask"}
