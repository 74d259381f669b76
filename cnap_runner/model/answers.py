"""What is replied to the permissions and questions an agent raises: an agent's rules, what they say, and what waits for somebody.

A rule's key is ``PERMISSION`` or ``PERMISSION:PATTERN`` (``bash``, ``bash:git push *``, ``edit:*/secrets/*``, ``*``), matched as OpenCode
matches its own: ``*`` is any text, ``?`` any one character, a trailing `` *`` also nothing, a leading ``~/`` or ``$HOME`` the agent's home. The last rule that
matches counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from fnmatch import translate
from functools import lru_cache
from typing import Any, Literal

from cnap_runner.model.agent import Answers, Reply

ANY = "*"
QUESTION = "question"
"""OpenCode's name for the permission to use the question tool."""

GivenReply = Literal["allow", "always", "reject"]
"""What somebody may reply to a permission; ``always`` holds for what is like it until the instance ends."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What is replied to one permission for what matches a pattern."""

    permission: str
    pattern: str
    reply: Reply

    @classmethod
    def parse(cls, key: str, reply: Reply) -> Rule:
        """Read a key of `Answers.permissions`."""
        permission, _, pattern = key.partition(":")
        return cls(permission, pattern or ANY, reply)

    def matches(self, permission: str, subject: str) -> bool:
        """Whether the rule speaks of this permission for this command, path or address."""
        return is_match(permission, self.permission) and is_match(subject, self.pattern)

    def at_home(self, home: str) -> Rule:
        """Give the rule with its pattern as OpenCode reads it (seen on 1.18.33), where the agent's home is this one."""
        if self.pattern == "~" or self.pattern.startswith("~/"):
            return replace(self, pattern=home + self.pattern.removeprefix("~"))
        if self.pattern.startswith("$HOME"):
            return replace(self, pattern=home + self.pattern.removeprefix("$HOME"))
        return self


class AnswerKind(StrEnum):
    """What an agent waits for."""

    PERMISSION = "permission"
    QUESTION = "question"


@dataclass(frozen=True, slots=True)
class PendingAnswer:
    """A permission or question that waits for somebody's reply."""

    request_id: str
    """OpenCode's id of it; `Runner.answer` takes it."""
    agent_id: str
    run_id: str
    instance_id: str
    kind: AnswerKind
    asked: Mapping[str, Any]
    """``permission`` and ``patterns``, or ``questions`` as OpenCode has them; without known secrets."""
    asked_at: datetime
    deadline_at: datetime
    """From then on the agent's fallback is the reply."""

    @property
    def text(self) -> str:
        """What is asked, in one line: ``bash: git push origin``, or the questions."""
        if self.kind is AnswerKind.QUESTION:
            return " / ".join(str(item.get("question", "")) for item in self.asked.get("questions", ()))
        patterns = ", ".join(map(str, self.asked.get("patterns", ())))
        return f"{self.asked.get('permission', '')}: {patterns}" if patterns else str(self.asked.get("permission", ""))


def rules_of(answers: Answers) -> list[Rule]:
    """Give an agent's rules, in order."""
    return [Rule.parse(key, reply) for key, reply in answers.permissions.items()]


@dataclass(frozen=True, slots=True)
class Permissions:
    """All that decides what is replied to the permissions an agent raises."""

    own: tuple[Rule, ...]
    """The agent's rules. They count whatever made OpenCode ask."""
    meant: tuple[Rule, ...]
    """What OpenCode's configuration says by itself, then the agent's rules: where OpenCode was told to ask because it cannot keep their
    order, all of them count."""
    told: tuple[Rule, ...]
    """What OpenCode was told. Where that is not to ask, something stronger made it ask, and that wants somebody to decide."""

    def reply_to(self, permission: str, subjects: Sequence[str]) -> Reply:
        """Tell what is replied to a permission for several subjects (a command line may hold several commands).

        One that is rejected decides, then one that is to be asked. What no rule speaks of is asked: OpenCode raised it, so somebody is
        to decide.
        """
        found = {self._reply_to(permission, subject) for subject in subjects or (ANY,)}
        return next(reply for reply in ("reject", "ask", "allow") if reply in found)

    def _reply_to(self, permission: str, subject: str) -> Reply:
        is_ours = decided_by(self.told, permission, subject) == "ask"
        return decided_by(self.meant if is_ours else self.own, permission, subject)


def decided_by(rules: Sequence[Rule], permission: str, subject: str) -> Reply:
    """Tell what the last rule that matches says; ask, where none does."""
    return next((rule.reply for rule in reversed(rules) if rule.matches(permission, subject)), "ask")


def reply_to_question(answers: Answers) -> str:
    """Tell what is replied to a question: ``ask``, ``reject``, or the answer itself."""
    return "reject" if answers.questions is None else answers.questions


def is_match(text: str, pattern: str) -> bool:
    """Whether a text matches a pattern as OpenCode's own patterns do. Takes time in proportion to the text, whatever the pattern."""
    return _compiled(pattern).fullmatch(text.replace("\\", "/")) is not None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    pattern = pattern.replace("\\", "/")
    variants = [pattern, pattern[:-2]] if pattern.endswith(" *") else [pattern]
    # `translate` makes each star commit to its first match, so that no text an agent thinks of makes it search for ever.
    return re.compile("|".join(translate(variant.replace("[", "[[]")) for variant in variants))
