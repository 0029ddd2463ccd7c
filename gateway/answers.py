"""Questions to devices that wait for their answers: matched by peer, command and SN, ended by a deadline."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, OrderedDict
from collections.abc import Iterator

from gateway.errors import QueryTimedOut
from sip.manscdp import Body

MAX_SN = 99_999_999
REMEMBERED = 20_000
"""Ended questions that are remembered, to tell a late answer from an unasked one."""

QuestionKey = tuple[str, str]


class Question:
    """One query that is open: its parts arrive in a bounded queue. Use as a context manager, or close it."""

    def __init__(self, desk: AnswerDesk, peer_id: str, cmd_type: str, sn: int, size: int) -> None:
        self._desk = desk
        self.peer_id = peer_id
        self.cmd_type = cmd_type
        self.sn = sn
        self.matched = 0
        """Parts that carried our SN."""
        self.guessed = 0
        """Parts of another SN, taken because no other question was open (quirk 15)."""
        self.accepted = ""
        """What the peer answered to the question itself, e.g. ``200 OK``."""
        self._parts: asyncio.Queue[Body] = asyncio.Queue(size)

    async def next(self, timeout_s: float) -> Body:
        """The next part. Raises QueryTimedOut when none comes within ``timeout_s``."""
        try:
            return await asyncio.wait_for(self._parts.get(), timeout_s)
        except TimeoutError:
            failure = QueryTimedOut(
                f"{self.peer_id} sent no answer to {self.cmd_type} SN {self.sn} in {timeout_s:g} s"
            )
            failure.device_response = self._desk.said_last(self.peer_id)
            raise failure from None

    def put(self, body: Body) -> bool:
        """False when the queue is full."""
        if self._parts.full():
            return False
        self._parts.put_nowait(body)
        return True

    def close(self) -> None:
        self._desk.end(self)

    def __enter__(self) -> Question:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class AnswerDesk:
    """All open questions. ``counts``: matched, guessed, late, unasked, full."""

    def __init__(self) -> None:
        self._open: dict[QuestionKey, dict[int, Question]] = {}
        self._ended: OrderedDict[tuple[str, str, int], None] = OrderedDict()
        self._serial: dict[str, int] = {}
        self._statuses: OrderedDict[str, str] = OrderedDict()
        self._results: OrderedDict[str, str] = OrderedDict()
        self._first = random.randrange(1, 10_000)  # a restart must not meet late answers of the earlier life
        self.counts: Counter[str] = Counter()

    def next_sn(self, peer_id: str) -> int:
        """The next SN toward this peer: positive, rising, starting anew after 99,999,999; never one still open (G078)."""
        sn = self._serial.get(peer_id, self._first)
        while True:
            sn = sn + 1 if sn < MAX_SN else 1
            if not any(sn in questions for questions in self._of_peer(peer_id)):
                self._serial[peer_id] = sn
                return sn

    def _of_peer(self, peer_id: str) -> Iterator[dict[int, Question]]:
        return (questions for (peer, _), questions in self._open.items() if peer == peer_id)

    def ask(self, peer_id: str, cmd_type: str, sn: int, *, size: int = 10_000) -> Question:
        """Open a question; close it in any case."""
        question = Question(self, peer_id, cmd_type, sn, size)
        self._open.setdefault((peer_id, cmd_type.lower()), {})[sn] = question
        return question

    def end(self, question: Question) -> None:
        """The SN is free again; what comes now is late (G131). May be called again."""
        key = (question.peer_id, question.cmd_type.lower())
        questions = self._open.get(key)
        if questions is None or questions.get(question.sn) is not question:
            return
        del questions[question.sn]
        if not questions:
            del self._open[key]
        if len(self._ended) >= REMEMBERED:
            self._ended.popitem(last=False)
        self._ended[(*key, question.sn)] = None

    def heard(self, peer_id: str, status: str) -> None:
        """Remember a peer's final answer to one of our MESSAGEs, as ``200 OK to DeviceInfo``."""
        _remember(self._statuses, peer_id, status)

    def said_last(self, peer_id: str) -> str:
        """The peer's last SIP answer and the last Result it gave, for people who ask why nothing happens."""
        status, result = self._statuses.get(peer_id, ""), self._results.get(peer_id, "")
        return "; last Result ".join(part for part in (status or "no SIP answer yet", result) if part)

    def answer(self, peer_id: str, body: Body) -> str:
        """Hand an answer to its question. Returns matched, guessed, late, unasked, or full (not taken)."""
        result = getattr(body, "result", "")
        if result:
            _remember(self._results, peer_id, f"{result} to {body.cmd_type} SN {body.sn}")
        key = (peer_id, body.cmd_type.lower())
        verdict = self._answer(key, body)
        self.counts[verdict] += 1
        return verdict

    def _answer(self, key: QuestionKey, body: Body) -> str:
        questions = self._open.get(key, {})
        question = questions.get(body.sn)
        if question is not None:
            if not question.put(body):
                return "full"
            question.matched += 1
            return "matched"
        if (*key, body.sn) in self._ended:
            return "late"
        if len(questions) == 1:
            (only,) = questions.values()
            if only.matched == 0:  # it does not echo our SN (quirk 15)
                if not only.put(body):
                    return "full"
                only.guessed += 1
                return "guessed"
        return "unasked"

    @property
    def open_count(self) -> int:
        return sum(len(questions) for questions in self._open.values())

    def forget(self, peer_id: str) -> None:
        """The peer was removed."""
        for memory in (self._serial, self._statuses, self._results):
            memory.pop(peer_id, None)


def _remember(memory: OrderedDict[str, str], peer_id: str, text: str) -> None:
    memory[peer_id] = text[:200]
    memory.move_to_end(peer_id)
    while len(memory) > REMEMBERED:
        memory.popitem(last=False)
