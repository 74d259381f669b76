"""Finds known secret values in text, in every form they usually travel in."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

SHORTEST_VALUE = 6
"""Characters. A shorter value would be found all over ordinary text."""

_SHORTEST_LINE = 16
"""Characters of a line of a value of several lines (a key file) above which the line by itself is a secret too."""


def forms_of(value: str) -> frozenset[str]:
    """All texts that give a value away: itself, and JSON-escaped, URL-encoded and base64; none for a value that is too short."""
    value = value.strip()
    if len(value) < SHORTEST_VALUE:
        return frozenset()
    lines = (line.strip() for line in value.splitlines())
    whole = [value, *(line for line in lines if len(line) >= _SHORTEST_LINE and not line.startswith("-----"))]
    return frozenset(form for text in whole for form in _forms_of_one(text))


def _forms_of_one(text: str) -> Iterator[str]:
    yield text
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    raw = text.encode("utf-8", "surrogatepass")
    for encoded in (quote(raw, safe=""), quote(raw), quote_plus(raw)):
        yield encoded
        yield re.sub(r"%..", lambda found: found[0].lower(), encoded)
    for core in _base64_cores(raw):
        yield core
        yield core.translate(_URL_SAFE)


_URL_SAFE = str.maketrans("+/", "-_")


def _base64_cores(raw: bytes) -> Iterator[str]:
    """The characters that base64 of *any* text with these bytes in it must have, for each of the three ways they can be aligned.

    Basic authentication encodes ``user:password``, so the password seldom starts a group of three.
    """
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + raw).decode()
        start = -(-before * 8 // 6)
        end = (before + len(raw)) * 8 // 6
        yield encoded[start:end]


_BLOCK = 3
_STRIDE = SHORTEST_VALUE - _BLOCK + 1
"""Characters from one look at a text to the next: wherever a form stands, one of the looks falls into its first `SHORTEST_VALUE`."""


class KnownValues:
    """An immutable set of forms, ready to be searched for. How many they are hardly matters to the time a search takes."""

    def __init__(self, forms: Iterable[str] = ()) -> None:
        """``forms`` are those that `forms_of` gives; none is shorter than `SHORTEST_VALUE`."""
        self._longest = 0
        self._by_first: dict[str, list[str]] = {}
        self._by_head: dict[str, list[str]] = {}
        self._blocks: set[str] = set()
        self._take(set(forms))

    def also(self, forms: Iterable[str]) -> KnownValues:
        """These and more. Takes far less than making all of them ready anew, however many they are."""
        both = KnownValues()
        both._longest = self._longest
        both._by_first, both._by_head, both._blocks = dict(self._by_first), dict(self._by_head), set(self._blocks)
        both._take(set(forms))
        return both

    def _take(self, forms: set[str]) -> None:
        """Lists are replaced, never changed: another set may have them too."""
        self._longest = max([self._longest, *map(len, forms)])
        for lists, length in ((self._by_first, 1), (self._by_head, SHORTEST_VALUE)):
            fresh: dict[str, set[str]] = {}
            for form in forms:
                fresh.setdefault(form[:length], set()).add(form)
            for beginning, these in fresh.items():
                lists[beginning] = sorted(these.union(lists.get(beginning, ())), key=lambda form: (-len(form), form))
        self._blocks |= {form[at : at + _BLOCK] for form in forms for at in range(_STRIDE)}

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where values stand, in order; those that touch each other's characters are one span."""
        spans: list[tuple[int, int]] = []
        for start, end in self._found(text):
            if spans and start < spans[-1][1]:
                spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
            else:
                spans.append((start, end))
        return spans

    def _found(self, text: str) -> Iterator[tuple[int, int]]:
        """Where forms stand, by where they begin; of those that begin together the longest."""
        blocks = self._blocks
        looks = range(0, len(text) - _BLOCK + 1, _STRIDE) if blocks else ()
        for look in [at for at in looks if text[at : at + _BLOCK] in blocks]:
            for start in range(max(0, look - _STRIDE + 1), look + 1):
                forms = self._by_head.get(text[start : start + SHORTEST_VALUE], ())
                if (form := next((form for form in forms if text.startswith(form, start)), None)) is not None:
                    yield start, start + len(form)

    def replaced(self, text: str, replacement: str) -> str:
        """The text with every span replaced."""
        kept, at = [], 0
        for start, end in self.spans(text):
            kept += [text[at:start], replacement]
            at = end
        return "".join([*kept, text[at:]]) if kept else text

    def safe_end(self, text: str) -> int:
        """Up to where a growing text may be shown: what follows could be the beginning of a value."""
        end = self._begun_at(text)
        return next((start for start, stop in self.spans(text) if start < end < stop), end)

    def _begun_at(self, text: str) -> int:
        for at in range(max(0, len(text) - self._longest + 1), len(text)):
            tail_length = len(text) - at
            for form in self._by_first.get(text[at], ()):
                if len(form) <= tail_length:
                    break  # sorted by length: the rest is shorter still
                if form.startswith(text[at:]):
                    return at
        return len(text)
