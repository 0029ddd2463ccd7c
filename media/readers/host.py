"""What the readers need of the node they run in."""

from __future__ import annotations

from typing import Protocol

from media.pump import Pump
from media.specs import NodeConfig
from media.stream import Stream


class ReaderHost(Protocol):
    """The node's side that readers see; `media.node.Node` is one, tests bring their own."""

    @property
    def config(self) -> NodeConfig: ...

    @property
    def pump(self) -> Pump: ...

    def stream(self, stream_id: str) -> Stream:
        """The open stream of that id, or the error that becomes a 404."""
        ...

    def viewer_opened(self, stream: Stream, viewer_id: str, kind: str) -> None:
        """A viewer has been admitted: the stream is in use."""
        ...

    def viewer_closed(self, stream: Stream, viewer_id: str, cause: str) -> None:
        """The viewer of `viewer_opened` is gone. Called once per viewer."""
        ...
