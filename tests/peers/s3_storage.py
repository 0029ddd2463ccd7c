"""A small S3 on loopback: one process's memory, path-style addresses, signatures of requests and of addresses checked."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from xml.etree import ElementTree

from aiohttp import ClientSession, web
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from yarl import URL


class S3Storage:
    """``objects`` by bucket/key. ``refuse``: so many of the next requests are answered 503.

    ``fetched``: the names of objects that were read whole, in order. ``slow``: while it is set, such an answer stops in
    the middle until it is cleared.
    """

    ACCESS, SECRET = "AKIATESTTESTTEST0001", "test-secret-key-of-forty-characters-0001"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.refuse = 0
        self.fetched: list[str] = []
        self.slow = False
        self.parts_seen = 0
        self.url = ""
        self._uploads: dict[str, dict[int, bytes]] = {}
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> S3Storage:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{name:.+}", self._serve)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def get(self, url: str, wanted: str) -> bytes | None:
        """What a stranger with an address gets; None when he is refused."""
        async with (
            ClientSession() as session,
            session.get(URL(url, encoded=True), headers={"Range": wanted}) as answer,
        ):
            return await answer.read() if answer.status < 300 else None

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if self.refuse:
            self.refuse -= 1
            return web.Response(status=503)
        if not await asyncio.to_thread(self._signed, request, body):
            return web.Response(status=403, text="<Error><Code>SignatureDoesNotMatch</Code></Error>")
        name, query = request.match_info["name"], request.query
        handler = getattr(self, f"_{request.method.lower()}", None)
        if handler is None:
            return web.Response(status=405)
        if request.method == "GET" and "Range" not in request.headers and name in self.objects:
            return await self._whole(name, request)
        answer: web.StreamResponse = handler(name, query, body, request)
        return answer

    async def _whole(self, name: str, request: web.Request) -> web.StreamResponse:
        data = self.objects[name]
        self.fetched.append(name)
        answer = web.StreamResponse()
        answer.content_length = len(data)
        await answer.prepare(request)
        await answer.write(data[: len(data) // 2])
        while self.slow:
            await asyncio.sleep(0.02)
        await answer.write(data[len(data) // 2 :])
        await answer.write_eof()
        return answer

    def _put(self, name: str, query: Any, body: bytes, request: web.Request) -> web.Response:
        if "uploadId" in query:
            self.parts_seen += 1
            self._uploads[query["uploadId"]][int(query["partNumber"])] = body
        else:
            self.objects[name] = body
        return web.Response(headers={"ETag": f'"{len(body)}"'})

    def _post(self, name: str, query: Any, body: bytes, request: web.Request) -> web.Response:
        if "uploads" in query:
            upload_id = f"u{len(self._uploads)}"
            self._uploads[upload_id] = {}
            text = f"<InitiateMultipartUploadResult><UploadId>{upload_id}</UploadId></InitiateMultipartUploadResult>"
            return web.Response(text=text, content_type="application/xml")
        parts = self._uploads.pop(query["uploadId"])
        numbers = [
            int(e.text or 0) for e in ElementTree.fromstring(body).iter() if e.tag.endswith("PartNumber")
        ]
        self.objects[name] = b"".join(parts[number] for number in numbers)
        text = "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>"
        return web.Response(text=text, content_type="application/xml")

    def _get(self, name: str, query: Any, body: bytes, request: web.Request) -> web.Response:
        data = self.objects.get(name)
        if data is None:
            return web.Response(status=404)
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        if match is None:
            return web.Response(body=data)
        return web.Response(status=206, body=data[int(match[1]) : int(match[2]) + 1])

    def _delete(self, name: str, query: Any, body: bytes, request: web.Request) -> web.Response:
        if "uploadId" in query:
            self._uploads.pop(query["uploadId"], None)
        else:
            self.objects.pop(name, None)
        return web.Response(status=204)

    def _signed(self, request: web.Request, body: bytes) -> bool:
        """Sign the same request ourselves and compare."""
        credentials = Credentials(self.ACCESS, self.SECRET)
        if "X-Amz-Signature" in request.query:
            bare = {k: v for k, v in request.query.items() if k != "X-Amz-Signature"}
            auth = S3SigV4QueryAuth(credentials, "s3", "us-east-1")
            wanted = AWSRequest("GET", f"{self.url}{request.rel_url.raw_path}", params=bare)
            wanted.headers["host"] = request.headers["Host"]
            wanted.context["timestamp"] = request.query["X-Amz-Date"]
            text = auth.string_to_sign(wanted, auth.canonical_request(wanted))
            return auth.signature(text, wanted) == request.query["X-Amz-Signature"]
        given = request.headers.get("Authorization", "")
        match = re.search(r"SignedHeaders=([^,]+), ?Signature=(\w+)", given)
        if match is None or f"Credential={self.ACCESS}/" not in given:
            return False
        headers = {name: request.headers[name] for name in match[1].split(";")}
        auth = S3SigV4Auth(credentials, "s3", "us-east-1")
        wanted = AWSRequest(
            request.method, f"{self.url}{request.rel_url.raw_path_qs}", headers=headers, data=body
        )
        wanted.context["timestamp"] = request.headers["X-Amz-Date"]
        text = auth.string_to_sign(wanted, auth.canonical_request(wanted))
        return auth.signature(text, wanted) == match[2]
