"""The states of a talk's targets: what each change does to the target, and who is told of it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from gateway.events import EventBus, TalkChanged
from gateway.services.talk_record import Talk, TalkFailed, TalkState, TalkTarget

log = logging.getLogger(__name__)

Audit = Callable[[str, str, str, str, str], None]
"""who, action, target, result, detail."""


class TalkNews:
    """Sets the states, publishes them, logs and audits them."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self.audit: Audit | None = None
        """Set when the audit log is there."""
        self.failures: Counter[str] = Counter()
        """Targets that could not be reached, by cause, for metrics."""

    def talking(self, talk: Talk, target: TalkTarget) -> None:
        """The device hears."""
        target.state = TalkState.TALKING
        target.decided.set()
        self.tell(talk, target)
        self._note(talk, target, "ok", f"{target.form} {target.branches[-1].transport}")

    def over(self, talk: Talk, target: TalkTarget, cause: str) -> None:
        """It ended; who is over or failed already stays as it is."""
        if target.live:
            target.state, target.cause = TalkState.ENDED, cause
            target.decided.set()
            target.answered.set()
            self.tell(talk, target)

    def failed(self, talk: Talk, target: TalkTarget, failure: TalkFailed) -> None:
        """It could not be reached."""
        target.state, target.cause, target.detail = TalkState.FAILED, failure.cause, str(failure)
        target.decided.set()
        target.answered.set()
        self.failures[failure.cause] += 1
        self.tell(talk, target)
        self._note(talk, target, failure.cause, str(failure)[:128])

    def tell(self, talk: Talk, target: TalkTarget) -> None:
        """The present state: event and log."""
        self._bus.publish(
            TalkChanged(
                talk.talk_id,
                target.device_id,
                target.channel_id,
                target.output_id,
                target.state.value,
                target.cause,
                target.detail,
                talk.who,
            )
        )
        log.info(
            "talk %s talk_id=%s device_id=%s output_id=%s form=%s who=%s cause=%s",
            *(target.state, talk.talk_id, target.device_id, target.output_id, target.form, talk.who),
            target.cause,
        )

    def _note(self, talk: Talk, target: TalkTarget, result: str, detail: str) -> None:
        if self.audit is not None:
            self.audit(talk.who, "talk", f"{target.device_id}/{target.channel_id}", result, detail)
