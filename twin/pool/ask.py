"""An advisor that asks a language model: any endpoint that speaks OpenAI's chat completions over HTTP.

A question has a thread of its own, and a timer that breaks its connection when the time is over, whatever the server
does meanwhile: a limit for each read would let a server that drips bytes go on for ever. `http.client` is used because
it follows no redirect and looks for no proxy, so that the key goes where the scenario says and nowhere else. What a
server answers never gets into a message, because it might repeat the key.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Literal
from urllib.parse import urlsplit

import numpy as np

from twin.pool.advisor import LONGEST_TIME_LIMIT_MS, Counts, WordFacts, check_order
from twin.pool.errors import PoolInputError

ANSWER_BYTES = 1 << 20
"""The longest answer that is read."""
PATIENCE = 3
"""So many troubles in a row, and questions are left out: first one, then two, four, up to `LONGEST_PAUSE`."""
LONGEST_PAUSE = 64

_INSTRUCTION = (
    "You lay out the words of a program in memory. Words that are used together or often shall lie side by side, the "
    "hottest first. The facts are JSON: `words` is how many there are, `block_bytes` the size of each, and entry w of "
    "`tier` (0 hot, 1 warm, 2 cold, 3 frozen), `heat` (executions, decayed) and `slot` (where it lies now) is about "
    'word w. Answer with one JSON object and nothing else: {"order": [...]}, the word for slot 0, for slot 1 and so '
    "on. Name each word from 0 to words - 1 exactly once."
)
_FENCE = re.compile(r"\A```[A-Za-z]*[ \t]*\r?\n(.*?)\r?\n?```\Z", re.DOTALL)


@dataclass(frozen=True)
class _Outcome:
    """What became of a question: a good one has an order, another a reason, a dropped one nothing."""

    kind: Literal["good", "bad", "late", "failed", "dropped"]
    reason: str = ""
    order: list[int] | None = None


class _Question:
    """One question. The first who ends it - its thread, its timer, or `close` - decides what became of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self.outcome: _Outcome | None = None
        self.thread_done = False

    def connected(self, connection: socket.socket) -> bool:
        """The thread has a connection: keep a handle of our own to break it by. False when the question is over."""
        with self._lock:
            if self.outcome is not None:
                return False
            # A descriptor of our own: the thread may close its one, and the number be another file's, at any moment.
            self._connection = socket.socket(fileno=os.dup(connection.fileno()))
            return True

    def end(self, outcome: _Outcome) -> None:
        """Say what became of it, unless it had ended, and break the connection, which wakes whoever waits on it."""
        with self._lock:
            if self.outcome is None:
                self.outcome = outcome
            if self._connection is not None:
                with contextlib.suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)
                self._connection.close()
                self._connection = None


class ChatAdvisor:
    """Asks the model `model` at `url` (`/chat/completions` is added) for an order, one question at a time.

    `key_variable` names the environment variable with the key, "" when the endpoint wants none. A question that has no
    answer `time_limit_ms` (1..600,000) after `ask` is late. An answer that is late or wrong changes nothing.
    """

    def __init__(self, url: str, model: str, key_variable: str, time_limit_ms: int) -> None:
        """Raises `PoolInputError` for a URL, model, key or time limit that cannot work."""
        self.name = "http"
        self.counts = Counts()
        if type(time_limit_ms) is not int or not 1 <= time_limit_ms <= LONGEST_TIME_LIMIT_MS:
            raise PoolInputError(
                f"layout advisor: a time limit of {time_limit_ms!r} ms; allowed are 1 to {LONGEST_TIME_LIMIT_MS}"
            )
        if not model:
            raise PoolInputError("layout advisor: no model is named; name one that the endpoint has")
        self._model = model
        self._limit_s = time_limit_ms / 1_000
        self._connect, self._path = _endpoint(url, self._limit_s)
        self._headers = {"Content-Type": "application/json", "Accept": "application/json", "Connection": "close"}
        if key_variable:
            self._headers["Authorization"] = f"Bearer {_key(key_variable)}"
        self._question: _Question | None = None
        self._timer: threading.Timer | None = None
        self._heard: list[int] | None = None
        self._troubles = 0
        self._pause = 0
        self._closed = False

    def ask(self, cycle: int, words: WordFacts) -> None:
        """Begin a question, unless one is under way or too many in a row came to nothing."""
        self._hear()
        if self._closed:
            return
        if self._question is not None and not (self._question.outcome is not None and self._question.thread_done):
            self.counts.skipped += 1
            return
        if self._pause > 0:
            self._pause -= 1
            self.counts.skipped += 1
            return
        self.counts.asked += 1
        question = _Question()
        timer = threading.Timer(self._limit_s, question.end, [_Outcome("late", self._late())])
        # Neither may keep the program from ending.
        timer.daemon = True
        thread = threading.Thread(target=self._run, args=(question, timer, words), name="layout advisor", daemon=True)
        try:
            timer.start()
            thread.start()
        except RuntimeError:
            timer.cancel()
            question.thread_done = True
            question.end(_Outcome("failed", "the system gives no more threads"))
        self._question, self._timer = question, timer

    def answer(self, cycle: int) -> list[int] | None:
        """The order that has come since the last call; None when nothing new did."""
        self._hear()
        order, self._heard = self._heard, None
        return order

    def close(self) -> None:
        """Break the connection of a question under way; its thread ends by itself. A second call does nothing."""
        self._closed = True
        self._heard = None
        if self._timer is not None:
            self._timer.cancel()
        if self._question is not None:
            self._question.end(_Outcome("dropped"))
            self._question = None

    def _late(self) -> str:
        return f"no answer within {self._limit_s:g} s"

    def _hear(self) -> None:
        """Count what became of the question, once."""
        question = self._question
        if question is None or question.outcome is None or (self._timer is None):
            return
        outcome = question.outcome
        self._timer.cancel()
        self._timer = None
        counts = self.counts
        if outcome.kind == "good":
            counts.good += 1
            self._heard = outcome.order
            self._troubles = 0
            return
        counts.bad += outcome.kind == "bad"
        counts.late += outcome.kind == "late"
        counts.failed += outcome.kind == "failed"
        counts.reason = outcome.reason
        self._troubles += 1
        if self._troubles >= PATIENCE:
            self._pause = min(1 << min(self._troubles - PATIENCE, 30), LONGEST_PAUSE)

    # --- in the question's thread -----------------------------------------------------------------------------------

    def _run(self, question: _Question, timer: threading.Timer, words: WordFacts) -> None:
        try:
            outcome = self._talk(question, words)
        except TimeoutError:
            outcome = _Outcome("late", self._late())
        except OSError as error:
            outcome = _Outcome("failed", error.strerror or type(error).__name__)
        except HTTPException as error:
            # Its text may hold what the server said.
            outcome = _Outcome("failed", f"what came is not HTTP ({type(error).__name__})")
        except Exception as error:
            outcome = _Outcome("failed", f"unforeseen {type(error).__name__}")
        timer.cancel()
        # Before the end, so that whoever sees the outcome may ask again.
        question.thread_done = True
        question.end(outcome)

    def _talk(self, question: _Question, words: WordFacts) -> _Outcome:
        connection = self._connect()
        try:
            connection.connect()
            if not question.connected(connection.sock):
                return _Outcome("late", self._late())
            connection.request("POST", self._path, _request(self._model, words), self._headers)
            with connection.getresponse() as response:
                if 300 <= response.status < 400:
                    return _Outcome("failed", f"HTTP {response.status}, a redirect, which is not followed")
                if response.status != 200:
                    return _Outcome("failed", f"HTTP {response.status}")
                body = response.read(ANSWER_BYTES + 1)
                if len(body) > ANSWER_BYTES:
                    return _Outcome("bad", f"more than {ANSWER_BYTES} bytes")
                if response.length:
                    return _Outcome("failed", f"the answer ended {response.length} bytes early")
            order, wrong = read_answer(body, len(words))
            return _Outcome("good", order=order) if order is not None else _Outcome("bad", wrong)
        finally:
            connection.close()


def read_answer(body: bytes, words: int) -> tuple[list[int] | None, str]:
    """The order in the body of a chat completion, or None and what is wrong with it.

    The message is a JSON object with an `order` that names each word once, bare or in one Markdown code fence.
    """
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, RecursionError):
        return None, "the answer is not JSON"
    except (LookupError, TypeError):
        return None, "the answer is not a chat completion"
    if not isinstance(content, str):
        return None, "the answer has no text"
    content = content.strip()
    fenced = _FENCE.match(content)
    try:
        advice = json.loads(fenced[1] if fenced else content)
    except (ValueError, RecursionError):
        return None, "the message is not JSON"
    if not isinstance(advice, dict) or not isinstance(advice.get("order"), list):
        return None, "the message is not an object with a list `order`"
    order: list[int] = advice["order"]
    wrong = check_order(order, words)
    return (None, f"the order has {wrong}") if wrong else (order, "")


def _request(model: str, words: WordFacts) -> bytes:
    facts = {
        "words": len(words),
        "block_bytes": words.block_bytes,
        "tier": words.tier.tolist(),
        "heat": np.right_shift(words.heat_q48, 16).tolist(),
        "slot": words.slot.tolist(),
    }
    body = {
        "model": model,
        "temperature": 0,
        "response_format": {"type": "json_object"},
        "messages": [
            {"role": "system", "content": _INSTRUCTION},
            {"role": "user", "content": json.dumps(facts, separators=(",", ":"))},
        ],
    }
    return json.dumps(body).encode()


def _endpoint(url: str, limit_s: float) -> tuple[Callable[[], HTTPConnection], str]:
    """What opens a connection to the endpoint, and the path to ask there."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    plain = re.fullmatch(r"[!-~]+", url) is not None
    if not plain or parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        shown = "with a password" if "@" in url else repr(url[:200])
        raise PoolInputError(
            f"layout advisor: the URL {shown} cannot be asked; give one like https://host:port/v1, without spaces, "
            "query and fragment"
        )
    if "@" in parts.netloc:
        raise PoolInputError(
            "layout advisor: the URL has a user or password in it; leave them out, and put the key into an environment "
            "variable"
        )
    path = parts.path.rstrip("/") + "/chat/completions"
    if parts.scheme == "http":
        return lambda: HTTPConnection(host, port, timeout=limit_s), path
    context = ssl.create_default_context()
    return lambda: HTTPSConnection(host, port, timeout=limit_s, context=context), path


def _key(variable: str) -> str:
    """The key in the environment. Neither message says anything of it."""
    key = os.environ.get(variable, "")
    if not key:
        raise PoolInputError(
            f"layout advisor: the environment variable {variable} with the key is not there or empty; set it, or name "
            "none for an endpoint that wants no key"
        )
    if not re.fullmatch(r"[!-~]+", key):
        raise PoolInputError(
            f"layout advisor: what is in the environment variable {variable} is no key: it has spaces, line ends or "
            "letters beyond ASCII; set it again"
        )
    return key
