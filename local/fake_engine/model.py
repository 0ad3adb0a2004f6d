"""The fake engine's model: its tokens, and the next token as a pure function of those before.

Tokens are bytes and some frequent words, so that a character outside ASCII takes two to four of them, as it does in
real vocabularies. The next token depends on nothing but the ids so far: every prompt ends with the begin-of-answer
token (it is added if it is missing), the hash of what precedes it selects an answer, and the position in that is the
number of ids behind it. So a completion of `prompt ids + ids[:j]` continues exactly like the interrupted answer, which
is what continuation relies on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

from local.tiny_model import read_stories

EOS = 256
BEGIN = 257
"""Marks where the answer begins. Real vLLM adds nothing to a prompt of ids; this model needs the position."""

_SPECIALS = 3
_FIRST_WORD = 256 + _SPECIALS

_WORDS = (
    " the", " and", " a", " node", " stream", " token", " goes", " on", " is", " was", " in", " of", " to", " it",
    " went", " away", " another", " took", " over", " rain", " night", " train", " river", " light", "Once", " upon",
)  # fmt: skip

_SENTENCES = (
    "Once upon a night the train went over the river. ",
    "The light was on, and another node took the stream. ",
    "Привет, мир! Как дела? ",
    "日本語のテキストです。東京は大きい。",
    "你好，世界！今天天气很好。",
    "naïve café, déjà vu… ",
    "🚀🌍 to the moon 🎉🔥 ",
    "العربية جميلة ",
    "हिन्दी भाषा ",
    "👩‍💻 writes 🐍 and 🦀 code. ",
    "1. one\n2. two\n3. three\n",
    "```python\nprint('hi')\n```\n",
    "한국어 텍스트. ",
)

_QUESTION = re.compile(rb"\b(hello|tell|story|what|who|how|why|write|explain)\b", re.IGNORECASE)
"""Prompts in ASCII with one of these words have an answer in English, all others one in many scripts."""

_BY_LENGTH = sorted(((word.encode(), _FIRST_WORD + i) for i, word in enumerate(_WORDS)), key=lambda w: -len(w[0]))
VOCABULARY_SIZE = _FIRST_WORD + len(_WORDS)


def encode(text: str) -> list[int]:
    """Encode a text: the longest word that fits, else a byte."""
    data, ids, at = text.encode(), [], 0
    while at < len(data):
        for word, token in _BY_LENGTH:
            if data.startswith(word, at):
                ids.append(token)
                at += len(word)
                break
        else:
            ids.append(data[at])
            at += 1
    return ids


def token_bytes(token: int) -> bytes:
    """Return the bytes of a token; special ones have none. Raises ValueError for an id outside the vocabulary."""
    if not 0 <= token < VOCABULARY_SIZE:
        raise ValueError(f"token id {token} is out of vocabulary")
    if token < 256:
        return bytes((token,))
    return _WORDS[token - _FIRST_WORD].encode() if token >= _FIRST_WORD else b""


def decode(ids: Sequence[int]) -> str:
    """Decode ids; incomplete characters become U+FFFD. Raises ValueError for an id outside the vocabulary."""
    return b"".join(map(token_bytes, ids)).decode(errors="replace")


def chat_prompt(messages: Sequence[dict[str, object]]) -> list[int]:
    """Return the ids of a conversation, up to the beginning of its answer."""
    turns = "".join(f"<{m.get('role')}>{_content(m.get('content'))}\n" for m in messages)
    return [*encode(turns), BEGIN]


def completion_prompt(prompt: str | Sequence[int]) -> list[int]:
    """Return the ids of a plain prompt, which is a text or ids."""
    ids = encode(prompt) if isinstance(prompt, str) else list(prompt)
    return ids if BEGIN in ids else [*ids, BEGIN]


def _content(content: object) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def _story(question: str, choice: int) -> str:
    """Return the story that has the question's last word, else one by `choice`."""
    *_, subject = re.findall(r"\w+", question)
    stories = read_stories()
    found = [story for story in stories if subject in story]
    return found[0] if len(found) == 1 else stories[choice % len(stories)]


@lru_cache(maxsize=4096)
def _answer_ids(prompt: tuple[int, ...]) -> tuple[int, ...]:
    """Return an answer's ids without EOS; they repeat if a request needs more (ignore_eos)."""
    digest = hashlib.blake2b(repr(prompt).encode(), digest_size=32).digest()
    question = b"".join(map(token_bytes, (token for token in prompt if token >= 0)))
    if question.isascii() and _QUESTION.search(question):
        return tuple(encode(_story(question.decode(), digest[0])))
    length = 6 + digest[0] % 24
    text = "".join(_SENTENCES[digest[1 + i % 31] % len(_SENTENCES)] for i in range(length))
    return tuple(encode(text))


class TokenSequence:
    """Generates the ids that follow a prompt (which has BEGIN), one at a time. The seed selects another answer."""

    def __init__(self, prompt: Sequence[int], seed: int | None = None) -> None:
        begin = len(prompt) - list(reversed(prompt)).index(BEGIN)
        self._ids = _answer_ids(tuple(prompt[:begin]) + (() if seed is None else (-1, seed)))
        self._position = len(prompt) - begin

    def next(self, ignore_eos: bool) -> int:
        """Return the next id; EOS at the end of the answer unless it is ignored."""
        at, self._position = self._position, self._position + 1
        size = len(self._ids)
        return EOS if at == size and not ignore_eos else self._ids[at % size]
