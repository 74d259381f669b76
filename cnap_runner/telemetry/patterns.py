"""Finds what is secret by its looks: tokens of well-known makes, credentials in addresses, private keys, assignments to telling names.

Every repetition in a pattern is bounded, so that no text, however long and strange, takes more than linear time.

False alarms cost too: logs show code. So an assignment counts only if its value does not look like a word, a call, an attribute or a
reference such as ``${NAME}`` or ``vault:NAME``, and what has no telling mark (a git hash, a UUID) is left alone.
"""

from __future__ import annotations

import re

_NAMES = (
    "api[_-]?key", "access[_-]?key", "secret[_-]?(?:access[_-]?)?key", "signing[_-]?key", "private[_-]?key",
    "token", "secret", "password", "passwd", "passphrase", "pwd",
)  # fmt: skip

SECRET_NAME = re.compile(rf".*(?:{'|'.join(_NAMES)}|authorization|cookie|credentials?)", re.IGNORECASE)
"""Names of fields whose value is a secret, whatever it looks like; they only have to end so."""

_SOURCES = "(?:env|file|keyring|vault):"
"""What a reference in an agent's ``secrets`` begins with."""

REFERENCE = re.compile(rf"\s*(?:(?:Bearer|Basic|token) )?(?:\$\{{\w+\}}|\{{(?:file|env):[^}}]*\}}|{_SOURCES}\S+)\s*")
"""A value that says where a secret is, not what it is."""

_FOLDER_NAMES = ("PWD", "OLDPWD", "pwd", "oldpwd")
"""A shell's names of the folder it is in; not the ends of others, such as ``db_pwd``."""


def is_shell_folder(name: str, value: str) -> bool:
    """Whether an assignment says which folder a shell is in: ``PWD=/workspace``."""
    return name in _FOLDER_NAMES and value.startswith("/")


def _any_case(pattern: str) -> str:
    return re.sub("[a-z]", lambda letter: f"[{letter[0]}{letter[0].upper()}]", pattern)


def _name() -> str:
    """A name in any case. It begins with one set of letters, which the engine searches for several times faster than for alternatives."""
    firsts = "".join(sorted({name[0] for name in _NAMES}))
    rests = "|".join(f"(?<={_any_case(name[0])}){_any_case(name[1:])}" for name in _NAMES)
    return f"[{firsts}{firsts.upper()}](?:{rests})"


def _no_shell_folder() -> str:
    """What must not follow a name: it is one of a shell's folder, and the value is a path."""
    names = "|".join(rf"(?<=(?<![\w-]){name})" for name in _FOLDER_NAMES)
    return rf"""(?!(?:{names}) \\?["']?[ \t]{{0,4}}[:=][ \t]{{0,4}}\\?["']?/)"""


_TOKENS = re.compile(
    r"""(?<![A-Za-z0-9])(?:
        # These two may fail after all of their characters, so they begin only where such characters do: each is looked at once.
        (?<![_-])(?:
            sk-(?=[A-Za-z0-9_-]{0,256}\d)[A-Za-z0-9_-]{16,}
          | eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}
        )
      | gh[pousr]_[A-Za-z0-9]{20,}
      | github_pat_[A-Za-z0-9_]{20,}
      | glpat-[A-Za-z0-9_-]{20,}
      | A[KS]IA[0-9A-Z]{16}(?![0-9A-Z])
      | xox[baprs]-[A-Za-z0-9-]{10,}
      | AIza[0-9A-Za-z_-]{30,}
      | npm_[A-Za-z0-9]{36}
      | hf_[A-Za-z0-9]{30,}
    )""",
    re.VERBOSE,
)
_PRIVATE_KEY = re.compile(
    r"""-----BEGIN\ [A-Z\ ]{0,30}PRIVATE\ KEY-----
        [A-Za-z0-9+/=:,.\s\\-]{16,}?
        (?:-----END\ [A-Z\ ]{0,30}PRIVATE\ KEY-----|(?![A-Za-z0-9+/=:,.\s\\-]))""",
    re.VERBOSE,
)
_ADDRESS = re.compile(r"(?P<kept>://[^\s/:@\"']{0,256}:)(?![${<%\[])[^\s/@\"']{1,512}(?=@)")
_SCHEME = re.compile(
    r"(?P<kept>(?:Bearer|bearer|BEARER|Basic|basic|BASIC)\s+)(?:(?=[\w.~+/=-]{0,256}\d)[\w.~+/=-]{8,}|[\w.~+/=-]{24,})"
)
_ASSIGNMENT = re.compile(
    rf"""(?P<kept>
        {_name()} {_no_shell_folder()} \\?["']?   # the name, or its end; quoted in JSON and dictionaries
        (?: # in quotes: has a digit or is long, and refers to nothing
            [ \t]{{0,4}}[:=][ \t]{{0,4}} \\?["'] (?![${{<%\[]|{_SOURCES}) (?=[^"'\\\s]{{6}})
            (?=[^"'\\\s\d]{{0,256}}\d[^"'\\\s]{{0,256}}\\?["'] | [^"'\\\s]{{12,512}}\\?["'])
          | # as in a shell or an address: has a digit or a sign, and is no number, attribute or call
            = (?!{_SOURCES}) (?=[^\s"'`,;&()\[\]{{}}<>$]{{0,256}}[\d!\#%*+/?@^~]) (?!\d{{1,32}}\b) (?!(?:[A-Za-z_]\w{{0,64}}\.){{1,8}}[A-Za-z_]\w{{0,64}}(?:[\s,;)]|$))
            (?=[^\s"'`,;&()\[\]{{}}<>$]{{6,512}}(?:[\s"'`,;&)\]}}]|$))
          | # as in a header or YAML: up to the end of the line
            :[ \t]{{1,4}} (?!{_SOURCES}) (?=\S{{0,256}}\d) (?=\S{{0,256}}[A-Za-z]) (?=[^\s"'`,;&()\[\]{{}}<>$]{{8,512}}[ \t\r]{{0,8}}$)
          | # as in an INI file: looks random
            [ \t]{{1,4}}=[ \t]{{1,4}} (?=\S{{0,256}}[A-Z]) (?=\S{{0,256}}[a-z]) (?=\S{{0,256}}\d) (?=[A-Za-z0-9+/=_-]{{20,512}}[ \t\r]{{0,8}}$)
        )
    )
    [^\s"'`,;&()\[\]{{}}<>$\\]{{1,4096}}""",
    re.VERBOSE | re.MULTILINE,
)

_RULES: tuple[tuple[tuple[str, ...], re.Pattern[str], str], ...] = (
    (("private key-----",), _PRIVATE_KEY, ""),
    (("sk-", "gh", "github_pat_", "glpat-", "akia", "asia", "xox", "aiza", "npm_", "hf_", "eyj"), _TOKENS, ""),
    (("://",), _ADDRESS, r"\g<kept>"),
    (("bearer", "basic"), _SCHEME, r"\g<kept>"),
    (("key", "token", "secret", "pass", "pwd"), _ASSIGNMENT, r"\g<kept>"),
)
"""Each pattern, with what of its match stays, and lower-case texts of which one stands in each match: plain searches are far faster."""


def redact_patterns(text: str, replacement: str) -> str:
    """The text with everything replaced that looks like a secret; names, schemes and user names stay."""
    lowered = text.lower()
    for marks, pattern, kept in _RULES:
        if any(mark in lowered for mark in marks):
            text = pattern.sub(kept + replacement, text)
    return text
