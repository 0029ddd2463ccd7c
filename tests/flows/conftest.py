"""One media node for all live flows: started once, because importing its codecs takes seconds."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from live_house import node_plan

from gateway.services.nodes import Nodes


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def nodes() -> AsyncIterator[Nodes]:
    """A running node; tests that use it share the session's event loop (``asyncio(loop_scope="session")``)."""
    running = Nodes(node_plan(), heartbeat_s=0.3)
    await running.start()
    assert running.handles(), "the media node did not start"
    yield running
    await running.close()
