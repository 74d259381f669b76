"""An agent's rules for permissions, as OpenCode reads them."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnap_runner.model.agent import Answers
from cnap_runner.model.answers import decided_by, is_match
from cnap_runner.runner.provisioning.permissions import permissions_of, with_permissions

HOME = "/agent/home"


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


def happens(config: dict[str, Any], answers: Answers, name: str, subject: str) -> str:
    """What becomes of a permission: OpenCode decides, or asks whoever drives the turn."""
    said = opencode_says(with_permissions(config, answers)["permission"], name, subject)
    if said != "ask":
        return {"allow": "allow", "deny": "reject"}[said]
    return permissions_of(config, answers, home=HOME).reply_to(name, [subject])


def test_f13_what_the_configuration_says_still_counts_where_opencode_cannot_keep_the_order() -> None:
    """It is told to ask of everything, then, and the install's own rules are read with the agent's."""
    answers = Answers.parse({"permissions": {"bash": "allow", "*:*secret*": "reject"}, "fallback": "allow"})
    config: dict[str, Any] = {"permission": {"*": "allow", "webfetch": "deny"}}
    asked = [("read", "a.py"), ("bash", "ls"), ("read", "secret.txt"), ("webfetch", "http://x")]
    assert [happens(config, answers, *one) for one in asked] == ["allow", "allow", "reject", "reject"]
    git = Answers.parse({"permissions": {"*:*secret*": "reject", "bash:git *": "allow"}, "fallback": "allow"})
    config = {"permission": {"*": "allow", "bash": {"rm -rf *": "deny"}}}
    assert [happens(config, git, "bash", line) for line in ("rm -rf /", "git log")] == ["reject", "allow"]


def test_what_an_agent_of_the_configuration_asks_is_asked_though_the_rest_is_allowed() -> None:
    """Who raised a permission is not known, so that no install's ``allow`` replies to it; the spec's own rules do."""
    config = {"permission": "allow", "agent": {"build": {"permission": {"edit": "ask", "bash": {"ls *": "allow"}}}}}
    answers = Answers.parse({"permissions": {"bash": "allow", "*:*secret*": "reject", "edit:a.txt": "allow"}})
    permissions = permissions_of(config, answers, home=HOME)
    asked = [("edit", "b.txt"), ("edit", "a.txt"), ("bash", "ls"), ("read", "b.txt")]
    assert [permissions.reply_to(name, [subject]) for name, subject in asked] == ["ask", "allow", "allow", "allow"]


def test_a_pattern_of_what_takes_none_in_opencode_is_seen_to_by_us() -> None:
    """OpenCode refuses its whole configuration otherwise (seen on 1.18.33)."""
    answers = Answers.parse({"permissions": {"webfetch:*evil*": "reject"}})
    config = {"permission": "allow"}
    assert dict(rendered(config, permissions=answers.permissions))["webfetch"] == "ask"
    assert [happens(config, answers, "webfetch", url) for url in ("http://evil", "http://x")] == ["reject", "allow"]


def test_a_pattern_begins_at_the_agents_home() -> None:
    """As OpenCode reads it: what is to be asked of a folder below it is not allowed by the rule for the rest."""
    rules = {"external_directory": "allow", "external_directory:~/private/*": "ask"}
    permissions = permissions_of({}, Answers.parse({"permissions": rules}), home=HOME)
    subjects = [f"{HOME}/private/*", "/root/private/*", "~/private/*"]
    assert [permissions.reply_to("external_directory", [subject]) for subject in subjects] == ["ask", "allow", "allow"]


@pytest.mark.parametrize(
    ("rules", "subject"),
    [
        ({"web*:*x*": "allow", "*fetch": "allow", "web*:*evil*": "reject"}, "evil"),
        ({"we*": "reject", "we?": "allow"}, "x"),
    ],
)
def test_two_wildcards_may_mean_the_same_permission(rules: dict[str, Any], subject: str) -> None:
    """Though neither matches the other's name: what is rejected stays rejected."""
    assert happens({}, Answers.parse({"permissions": rules}), "webfetch", subject) == "reject"


_names = st.sampled_from(["*", "webfetch", "edit", "we*", "*fetch", "*e*", "we?"])
_patterns = st.sampled_from(["*", "git *", "rm *", "*x"])
_replies = st.sampled_from(["allow", "ask", "reject"])
_rules = st.dictionaries(st.builds("{}:{}".format, _names, _patterns), _replies)
_permission = st.dictionaries(
    _names, st.dictionaries(_patterns, st.sampled_from(["allow", "ask", "deny"]), min_size=1), max_size=4
)


@settings(deadline=None)
@given(_permission, _rules, st.sampled_from(["webfetch", "edit", "web"]), st.sampled_from(["git log", "rm x", "ls"]))
def test_what_happens_is_what_the_rules_say(
    permission: dict[str, Any], rules: dict[str, Any], name: str, subject: str
) -> None:
    """Whatever their order: OpenCode says the same, or asks, and then all rules are read."""
    config, answers = {"permission": permission}, Answers.parse({"permissions": rules})
    meant = permissions_of(config, answers, home=HOME).meant
    assert happens(config, answers, name, subject) == decided_by(meant, name, subject)
