"""An agent's rules for permissions, in OpenCode's own configuration, so that what is allowed or rejected costs nothing. Pure.

OpenCode flattens its ``permission`` into rules, key by key in the order of the file, and the last one that matches counts. ``tools`` comes
before all of them there, so that a template that allows everything would undo it (seen on 1.18.33); here it comes after the rule for
everything else. The agent's own rules come last, with what is said of questions, for there each agent is what its spec says. Where OpenCode
cannot keep rules as they are, it is told to ask, and whoever drives the turn replies by all of them (`permissions_of`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cnap_runner.model.agent import Answers, Reply
from cnap_runner.model.answers import ANY, QUESTION, Permissions, Rule, is_match, reply_to_question, rules_of

_ACTIONS: Mapping[Reply, str] = {"allow": "allow", "ask": "ask", "reject": "deny"}
_REPLIES = {action: reply for reply, action in _ACTIONS.items()}
_EDITING = frozenset({"write", "edit", "patch", "multiedit", "apply_patch"})
"""Tools that OpenCode's permission to edit covers."""
_WITHOUT_PATTERNS = frozenset({"doom_loop", "question", "todowrite", "webfetch", "websearch"})
"""Permissions of which OpenCode takes one action alone: patterns make it refuse its configuration (seen on 1.18.33)."""


def with_permissions(config: Mapping[str, Any], answers: Answers) -> dict[str, Any]:
    """Give a configuration with an agent's rules in it. What has a shape that OpenCode does not know stays for it to refuse."""
    present = _present(config)
    if present is None:
        return dict(config)
    experimental = config.get("experimental", {})
    merged = {key: value for key, value in config.items() if key != "tools"}
    merged["permission"] = _grouped([*present, *rules_of(answers), _of_questions(answers)])
    if isinstance(experimental, Mapping):
        # Else one rejection ends the whole turn, in mid-answer.
        merged["experimental"] = {"continue_loop_on_deny": True, **experimental}
    return merged


def permissions_of(config: Mapping[str, Any], answers: Answers, *, home: str) -> Permissions:
    """Tell what decides about what an agent asks: ``config`` is its configuration without its rules, ``home`` where it is at home."""
    own, present = rules_of(answers), _present(config) or []
    told = _flat(_grouped([*present, *own, _of_questions(answers)]))
    meant = [*present, *_asked_by_modes(config), *own]
    at_home = [tuple(rule.at_home(home) for rule in rules) for rules in (own, meant, told)]
    return Permissions(*at_home)


def _is_readable(permission: Any) -> bool:
    if isinstance(permission, str):
        return permission in _REPLIES
    if not isinstance(permission, Mapping):
        return False
    values = [
        rule for value in permission.values() for rule in (value.values() if isinstance(value, Mapping) else [value])
    ]
    return all(isinstance(value, str) and value in _REPLIES for value in values)


def _present(config: Mapping[str, Any]) -> list[Rule] | None:
    """Give what a configuration says by itself; None where that is in no shape to be read."""
    permission, tools = config.get("permission", {}), config.get("tools", {})
    if not _is_readable(permission) or not isinstance(tools, Mapping):
        return None
    return list(_read(permission, tools))


def _read(permission: str | Mapping[str, Any], tools: Mapping[str, Any]) -> Iterator[Rule]:
    entries = {ANY: permission} if isinstance(permission, str) else dict(permission)
    if next(iter(entries), None) == ANY:
        yield from _rules(ANY, entries.pop(ANY))
    for tool, is_on in tools.items():
        yield Rule("edit" if tool in _EDITING else tool, ANY, "allow" if is_on else "reject")
    yield from _flat(entries)


def _flat(permission: Mapping[str, Any]) -> list[Rule]:
    return [rule for name, value in permission.items() for rule in _rules(name, value)]


def _asked_by_modes(config: Mapping[str, Any]) -> Iterator[Rule]:
    """Yield what agents and modes of the configuration ask by themselves. Which of them raised a permission is not known: an ask of one
    counts for all."""
    for group in (config.get("agent"), config.get("mode")):
        for entry in group.values() if isinstance(group, Mapping) else ():
            found = _present(entry) if isinstance(entry, Mapping) else None
            yield from (rule for rule in found or () if rule.reply == "ask")


def _rules(permission: str, value: str | Mapping[str, str]) -> Iterator[Rule]:
    patterns = value if isinstance(value, Mapping) else {ANY: value}
    yield from (Rule(permission, pattern, _REPLIES[action]) for pattern, action in patterns.items())


def _of_questions(answers: Answers) -> Rule:
    return Rule(QUESTION, ANY, "reject" if reply_to_question(answers) == "reject" else "allow")


def _grouped(rules: Iterable[Rule]) -> dict[str, Any]:
    """Put rules, in order, under their permissions' names, as OpenCode reads them.

    It keeps all of one permission together. Where that would change what they say, or where it takes no patterns, it is told to ask, and
    whoever drives the turn replies by the rules as they are.
    """
    groups: dict[str, dict[str, str]] = {}
    asked: set[str] = set()
    for rule in _without_overruled(list(rules)):
        names = list(groups)
        since = names[names.index(rule.permission) + 1 :] if rule.permission in groups else []
        has_no_place = rule.permission in _WITHOUT_PATTERNS and rule.pattern != ANY
        if has_no_place or any(_overlap(name, rule.permission) for name in since):
            asked.add(rule.permission)
        if rule.permission in asked:
            groups.pop(rule.permission, None)
            groups[rule.permission] = {ANY: "ask"}
        else:
            groups.setdefault(rule.permission, {})[rule.pattern] = _ACTIONS[rule.reply]
    return {name: value[ANY] if list(value) == [ANY] else value for name, value in groups.items()}


def _without_overruled(rules: list[Rule]) -> list[Rule]:
    """Leave out the rules that a later one overrules wherever they match."""
    return [
        rule
        for place, rule in enumerate(rules)
        if not any(
            _covers(later.permission, rule.permission) and later.pattern in {ANY, rule.pattern}
            for later in rules[place + 1 :]
        )
    ]


def _covers(name: str, other: str) -> bool:
    """Whether a name matches all that another one does. A question mark is one character, a star's text any number of them."""
    return name == other or (is_match(other, name) and not ("?" in name and "*" in other))


def _overlap(one: str, other: str) -> bool:
    """Whether something may match both names. Of two wildcards that is taken for granted."""
    return (_is_wild(one) and _is_wild(other)) or is_match(one, other) or is_match(other, one)


def _is_wild(name: str) -> bool:
    return "*" in name or "?" in name
