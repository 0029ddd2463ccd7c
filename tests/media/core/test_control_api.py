"""The middleware of a node's sites: what a client that leaves while it is being answered does to the log."""

from __future__ import annotations

import asyncio
import logging

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from media.control_api import problems


async def test_a_client_that_leaves_before_the_answer_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    failed = asyncio.Event()

    async def late(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()  # as the loop does when the client is gone
        response = web.StreamResponse()
        try:
            await response.prepare(request)
        except ConnectionResetError:
            failed.set()
            raise
        return response

    app = web.Application(middlewares=[problems])
    app.router.add_get("/", late)
    async with TestServer(app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        async with asyncio.timeout(30):
            await failed.wait()
            await reader.read()
        writer.close()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
