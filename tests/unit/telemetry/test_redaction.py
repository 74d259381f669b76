"""No planted secret survives, in any of its forms; ordinary text stays readable."""

from __future__ import annotations

import base64
import json
import string
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnap_runner.telemetry.known_values import forms_of
from cnap_runner.telemetry.redaction import REPLACEMENT, Redactor, StreamRedactor

SECRETS = st.text(st.characters(codec="utf-8"), min_size=6, max_size=40).filter(
    lambda value: len(value.strip()) >= 6 and value.strip() not in REPLACEMENT
)
NEVER_SECRET = "ABCDEFGH .,!?\n"
"""What surrounds planted secrets: none of the letters secrets here are made of."""
PLANTED = st.text(string.ascii_lowercase + string.digits + "-_/+'\"\\é\n", min_size=6, max_size=30).filter(
    lambda value: len(value.strip()) >= 6 and value.strip() not in REPLACEMENT
)


@given(secret=SECRETS, before=st.text(), after=st.text())
def test_a_known_value_never_survives(secret: str, before: str, after: str) -> None:
    """Whatever stands around it, a known value is gone."""
    assert secret.strip() not in Redactor([secret]).redact(before + secret + after).replace(REPLACEMENT, "\0")


@pytest.mark.parametrize(
    "encode",
    [
        json.dumps,
        lambda value: json.dumps(value, ensure_ascii=False),
        lambda value: quote(value, safe=""),
        quote,
        quote_plus,
        lambda value: quote(value, safe="").lower(),
    ],
)
@given(secret=PLANTED)
def test_encoded_forms_are_known(encode: Any, secret: str) -> None:
    """A value that travels JSON-escaped or URL-encoded is recognized."""
    encoded = encode(secret.strip())
    redacted = Redactor([secret]).redact(f"<{encoded}>")
    assert encoded.strip('"') not in redacted
    assert REPLACEMENT in redacted


@given(secret=PLANTED, user=st.binary(max_size=5), is_url_safe=st.booleans())
def test_base64_is_known_however_it_is_aligned(secret: str, user: bytes, *, is_url_safe: bool) -> None:
    """In the base64 of something longer, as basic authentication has it, the value cannot be read back."""
    encode = base64.urlsafe_b64encode if is_url_safe else base64.b64encode
    encoded = encode(user + secret.strip().encode() + b"!").decode()
    assert REPLACEMENT in Redactor([secret]).redact(f"({encoded})")


WORD = st.text(string.ascii_lowercase + string.digits, min_size=3, max_size=10)


@given(head=WORD, shared=WORD, tail=WORD)
def test_values_that_overlap_leave_no_rest(head: str, shared: str, tail: str) -> None:
    """Where one value runs into another, all characters of both are gone."""
    redactor = Redactor([head + shared, shared + tail])
    assert redactor.redact(f"A {head + shared + tail} Z") == f"A {REPLACEMENT} Z"


def test_the_longest_value_wins() -> None:
    """A value that is the beginning of another does not leave the other's end."""
    assert Redactor(["abcdef", "abcdef-and-more"]).redact("x abcdef-and-more y") == f"x {REPLACEMENT} y"
    assert Redactor(["abcdef1", "def1234"]).redact("abcdef1234") == REPLACEMENT


def test_values_come_and_go() -> None:
    """A value is known from `add` to `remove`, however often it was added."""
    redactor = Redactor()
    redactor.add("the-value", "another-value")
    redactor.add("the-value")
    assert redactor.redact("the-value another-value") == f"{REPLACEMENT} {REPLACEMENT}"
    redactor.remove("the-value", "never added")
    assert redactor.redact("the-value another-value") == f"the-value {REPLACEMENT}"


def test_what_is_known_already_changes_nothing() -> None:
    """A known value is not made ready anew: each call of a server's client adds its password."""
    redactor = Redactor(["the-value"])
    known = redactor.known
    redactor.add("the-value")
    redactor.remove("never added")
    assert redactor.known is known


@given(
    values=st.lists(st.text("ab", min_size=6, max_size=12), min_size=1, max_size=6),
    text=st.text("ab", max_size=40),
)
def test_every_place_of_every_value_is_found(values: list[str], text: str) -> None:
    """What is found is what a plain search for each form at each place finds."""
    forms = {form for value in values for form in forms_of(value)}
    hidden = {
        place
        for form in forms
        for at in range(len(text))
        if text.startswith(form, at)
        for place in range(at, at + len(form))
    }
    spans = Redactor(values).known.spans(text)
    assert {place for start, end in spans for place in range(start, end)} == hidden
    assert spans == sorted(spans)


@given(
    values=st.lists(st.text("ab", min_size=6, max_size=12), min_size=1, max_size=8),
    text=st.text("ab", max_size=60),
    data=st.data(),
)
def test_values_that_came_one_after_another_are_found_as_those_that_came_at_once(
    values: list[str], text: str, data: Any
) -> None:
    """What was added to a set leaves that set as it was."""
    redactor = Redactor()
    for value in values:
        before, spans = redactor.known, redactor.known.spans(text)
        redactor.add(value)
        assert before.spans(text) == spans
    end = data.draw(st.integers(0, len(text)))
    assert redactor.known.spans(text) == Redactor(values).known.spans(text)
    assert redactor.known.safe_end(text[:end]) == Redactor(values).known.safe_end(text[:end])


def test_short_values_are_left() -> None:
    """Less than six characters would be found in ordinary words."""
    assert Redactor(["a", "", "12345", "   x   "]).redact("a 12345 x") == "a 12345 x"


def test_lines_of_a_key_file_are_secrets_too() -> None:
    """Logs show a file line by line; each long line of a value is known, its surroundings are not."""
    key = "-----BEGIN THING-----\nline-one-of-the-secret\nline-two-of-the-secret\nshort\n-----END THING-----\n"
    redactor = Redactor([key])
    assert redactor.redact("> line-two-of-the-secret <") == f"> {REPLACEMENT} <"
    assert redactor.redact("-----BEGIN THING----- short") == "-----BEGIN THING----- short"


RANDOM = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T0"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"Authorization: Bearer {RANDOM}", RANDOM),
        ("db_pwd=/k9x/Fz81", "/k9x/Fz81"),
        ("DB-PWD=/k9x/Fz81", "/k9x/Fz81"),
        ("PWD=hunter2!", "hunter2!"),
        ('{"pwd": "hunter2hunter"}', "hunter2hunter"),
        ("authorization: basic b3BlbmNvZGU6cGFzczEyMzQ=", "b3BlbmNvZGU6cGFzczEyMzQ="),
        (f"using sk-proj-{RANDOM} now", RANDOM),
        (f"sk-ant-api03-{RANDOM}", RANDOM),
        *[(f"remote gh{kind}_{RANDOM}", RANDOM) for kind in "pousr"],
        (f"github_pat_{RANDOM}", RANDOM),
        ("AKIAIOSFODNN7EXAMPLE", "IOSFODNN7EXAMPLE"),
        ("xoxb-123456789012-abcdefABCDEF", "abcdefABCDEF"),
        (f"AIza{RANDOM[:35]}", RANDOM[:35]),
        (f"eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.{RANDOM}", RANDOM),
        ("git clone https://bob:hunter2@example.org/x.git", "hunter2"),
        ("redis://:onlypass@cache:6379/0", "onlypass"),
        ("OPENAI_API_KEY=abc123def456", "abc123def456"),
        ('{"apiKey": "abc123def456"}', "abc123def456"),
        ('"{\\"apiKey\\": \\"abc123def456\\"}"', "abc123def456"),
        ("{'api_key': 'correcthorsebattery'}", "correcthorsebattery"),
        ("password='hunter2'", "hunter2"),
        ("--password=s3cret!", "s3cret!"),
        ("DB_PASSWORD=tr0ub4dor&3", "tr0ub4dor"),
        ("x-api-key: abcd1234efgh", "abcd1234efgh"),
        ("password: hunter2hunter", "hunter2hunter"),
        ("?access_token=abc12345&page=2", "abc12345"),
        ("aws_secret_access_key = wJalrXUtnFEMI7MDENGbPxRfiCY", "wJalrXUtnFEMI7MDENGbPxRfiCY"),
        ("-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkq\n-----END PRIVATE KEY-----", "MIIEvQIBADANBgkq"),
        ("-----BEGIN RSA PRIVATE KEY-----\\nMIIEvQIBADANBgkq\\n-----END RSA PRIVATE KEY-----", "MIIEvQIBADANBgkq"),
        ("-----BEGIN EC PRIVATE KEY-----\nMIIEvQIBADANBgkqbroken off", "MIIEvQIBADANBgkq"),
    ],
)
def test_usual_secrets_are_seen_by_their_looks(text: str, secret: str) -> None:
    """Nobody told us the value, and still it is replaced; a second pass changes nothing."""
    redacted = Redactor().redact(text)
    assert secret not in redacted
    assert REPLACEMENT in redacted
    assert Redactor().redact(redacted) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "token = parse(x)",
        "token=parse2(x)",
        "token = next(tokens)",
        "password: Optional[str] = None",
        "def login(user: str, password: str) -> Token: ...",
        "connect(password=password, token=self.token, api_key=settings.api_key2)",
        'secret = os.environ["SECRET_1"]',
        "const token = await getToken(request2);",
        '"password": "string"',
        'tokenizer = "bert-base-uncased-v2"',
        "max_tokens=128000 pad_token=128000",
        "tokens: 1234567 input, 89 output",
        "primary_key=user_id2_x key: value1234",
        "commit 63bdc0d1c2aa4c39a5f3c2e9d6b7a8f9e0d1c2b3",
        "550e8400-e29b-41d4-a716-446655440000",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "ses_e01723daeffeorn0OEJiiPKIML msg_1fe8dd51a001ysz0ycUI7WqAld",
        '"apiKey": "{file:/run/secrets/OPENAI_API_KEY1}"',
        '"token": "${GH_TOKEN1}"',
        '"GITHUB_TOKEN": "vault:alice/GITHUB_TOKEN.1f2e3d4c"',
        "API_KEY: keyring:team-key-2",
        "TOKEN=file:/run/secrets/token-1",
        'f"postgres://{user}:{password}@{host}"',
        "https://example.org:8080/path?x=1@2",
        "pip install scikit-learn sk-learn-intelex-extension task-runner-1234567890123456",
        "Bearer authentication is used; basic understanding of tokens helps",
        "The secret of a good password: length.",
        "PWD=/workspace\nOLDPWD=/agent/home/2",
        "pwd=/workspace/a1",
        '{"PWD": "/workspace/project-1"}',
        'if "-----BEGIN PRIVATE KEY-----" in text: return "-----END PRIVATE KEY-----"',
        f"api_key={REPLACEMENT}",
    ],
)
def test_ordinary_text_stays_readable(text: str) -> None:
    """Code, hashes, ids, references and prose are no secrets."""
    assert Redactor(["some-known-value"]).redact(text) == text


def test_source_code_stays_readable() -> None:
    """Redacting this package's own sources changes nothing, made-up passwords of stubs aside."""
    package = Path(__file__).parents[3] / "cnap_runner"
    sources = [path for path in package.glob("**/*.py") if "testing" not in path.parts]
    redactor = Redactor()
    assert [path.name for path in sources if redactor.redact(path.read_text()) != path.read_text()] == []


@given(st.text(NEVER_SECRET + "ijklmnop"), st.lists(st.text("0123456789", min_size=6), max_size=3))
def test_text_without_secrets_is_unchanged(text: str, values: list[str]) -> None:
    """What holds no secret is handed back as it came."""
    assert Redactor(values).redact(text) is text


BAITS = (
    "://",
    "://a:",
    "token=",
    "token=a.",
    "password: ",
    "token = ",
    "eyJaaaaaaaa.",
    "eyJ-",
    "Bearer ",
    "sk-",
    "-----BEGIN PRIVATE KEY-----",
    "a" * 50,
)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("bait", BAITS)
def test_no_text_makes_the_patterns_run_away(bait: str) -> None:
    """Provocations by the hundred kilobytes are through at once; with one unbounded repetition they take minutes."""
    text = bait * (200_000 // len(bait))
    redacted = Redactor(["known-value-" + "a" * 50]).redact(text)
    assert len(redacted) <= len(text)


DATA: Any = {
    "provider": {"options": {"apiKey": "plain", "baseURL": "https://bob:pw1@host/v1", "timeout": 3}},
    "env": ["known-value", ("TOKEN=abc12345x", b"known-value", None, 1.5, True)],
    "known-value": 1,
    "password": None,
    "DB_PASSWORD": 123456,
    "auth_token": ["a", {"b": "c"}],
    "Authorization": "x",
    "secret": "{file:/run/secrets/x}",
    "clientSecret": "${NAME}",
    "cookie": "vault:alice/COOKIE.1f2e3d4c",
    "authorization": "Bearer ${NAME}",
    "has_token": True,
    5: "five",
}


def test_data_is_redacted_at_every_depth() -> None:
    """Keys that name secrets hide their values whole, references stay, everything else is searched; the original is not changed."""
    before = repr(DATA)
    assert Redactor(["known-value"]).redact_data(DATA) == {
        "provider": {"options": {"apiKey": REPLACEMENT, "baseURL": f"https://bob:{REPLACEMENT}@host/v1", "timeout": 3}},
        "env": [REPLACEMENT, [f"TOKEN={REPLACEMENT}", REPLACEMENT, None, 1.5, True]],
        REPLACEMENT: 1,
        "password": None,
        "DB_PASSWORD": REPLACEMENT,
        "auth_token": REPLACEMENT,
        "Authorization": REPLACEMENT,
        "secret": "{file:/run/secrets/x}",
        "clientSecret": "${NAME}",
        "cookie": "vault:alice/COOKIE.1f2e3d4c",
        "authorization": "Bearer ${NAME}",
        "has_token": True,
        5: "five",
    }
    assert repr(DATA) == before


def streamed(stream: StreamRedactor, pieces: list[str]) -> str:
    return "".join([*map(stream.feed, pieces), stream.flush()])


@given(values=st.lists(PLANTED, min_size=1, max_size=3), around=st.text(NEVER_SECRET), data=st.data())
def test_a_stream_says_what_the_whole_would(values: list[str], around: str, data: st.DataObject) -> None:
    """However the text is cut, no value gets through, and the pieces make up the redacted whole."""
    whole = around.join(["", *values, ""])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    redactor = Redactor(values)
    shown = streamed(redactor.stream(), pieces)
    assert shown.replace(REPLACEMENT, "") == redactor.known.replaced(whole, "")
    assert not any(value.strip() in shown for value in values)


def test_a_stream_holds_back_only_what_may_be_a_beginning() -> None:
    """Text goes on at once, the beginning of a value waits until it is decided."""
    stream = Redactor(["secret-value"]).stream()
    fed = [stream.feed(piece) for piece in ("hello ", "sec", "ond ", "the secret-", "value", " end s")]
    assert fed == ["hello ", "", "second ", "the ", REPLACEMENT, " end "]
    assert stream.flush() == "s"
    assert stream.flush() == ""


def test_a_stream_learns_new_values() -> None:
    """A value that is added while the stream runs is known from then on."""
    redactor = Redactor()
    stream = redactor.stream()
    assert stream.feed("new-value ") == "new-value "
    redactor.add("new-value")
    assert stream.feed("new-value ") == f"{REPLACEMENT} "


def test_a_shells_folder_is_no_secret_in_data_either() -> None:
    """An environment as a mapping stays readable; a password of that name does not."""
    data = {"PWD": "/workspace", "OLDPWD": "/agent/home", "pwd": "hunter2", "db_pwd": "/workspace"}
    assert Redactor().redact_data(data) == data | {"pwd": REPLACEMENT, "db_pwd": REPLACEMENT}
