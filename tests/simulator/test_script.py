"""Scripts of simulated devices: mistakes are named with line and field; what is said is done."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from simulator.script import ScriptError, read
from simulator.script_run import ScriptRun
from sip.endpoint import Endpoint, Identity, Incoming, Reply
from sip.flow import Target
from sip.manscdp import CONTENT_TYPE, CatalogQuery, DeviceInfoQuery, Edition, decode, encode
from sip.message import Response

SERVER = "41018300002000000001"
DEVICE = "41018300001320000001"


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        ("device:\n  colour: red\n", 2, "device.colour"),
        ("steps:\n  - keepalives: 0\n", 2, "steps.0.keepalives"),
        ("steps:\n  - log: a\n  - log: a\n    end: 0\n", 3, "one of alarm"),
        ("steps:\n  - after: NOSUCH\n    log: a\n", 2, "no such event"),
        ("answers:\n  Catalogue: {status: 200}\n", 1, "no such event"),
        ("device:\n  faults: {lose_rpt: 1}\n", 2, "no such faults: lose_rpt"),
        ("device:\n  faults: {stream: [nothing]}\n", 2, "nothing"),
        ("steps:\n\n  - notify: {cmd_type: Alarm, fields: {colour: red}}\n", 3, "has no colour"),
        ("steps:\n  - on: MESSAGE\n    at_s: 1\n    log: a\n", 2, "reaction"),
        ("device: [\n", 2, "line"),
        ("- a\n", 1, "script"),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, line: int, field: str) -> None:
    with pytest.raises(ScriptError) as error:
        read(text, "my.yaml")
    assert f"line {line}:" in str(error.value)
    assert field in str(error.value)


def test_words_of_the_standard_are_no_truth_values() -> None:
    script = read(
        f"device:\n  device_id: {DEVICE}\n  edition: 2016\n  channels: [{{channel_id: {DEVICE}, status: OFF}}]\n"
        "steps:\n  - on: INVITE\n    state: {41018300001320000001: ON}\n"
    )
    assert script.device.device_id == DEVICE
    assert script.device.edition == "2016"
    assert script.device.channels[0].status == "OFF"
    assert script.steps[0].on == "INVITE"
    assert script.steps[0].state == {DEVICE: "ON"}


def test_an_empty_script_is_a_camera() -> None:
    assert read("").steps == []


class Server:
    """Accepts every registration and asks what it is told to."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.calls: list[Incoming] = []
        self.flow: Any = None
        self.endpoint = Endpoint(
            Identity(SERVER, SERVER[:10]), host="127.0.0.1", port=0, handler=self._handle
        )

    def _handle(self, incoming: Incoming) -> Reply:
        self.calls.append(incoming)
        self.flow = incoming.flow
        if incoming.request.body:
            self.bodies.append(decode(incoming.request.body).body)
        return Reply(200, (("Expires", "3600"),) if incoming.request.method == "REGISTER" else ())

    async def ask(self, body: Any) -> Response:
        target = Target.of_flow(f"sip:{DEVICE}@127.0.0.1", self.flow)
        return await self.endpoint.request(
            "MESSAGE",
            target,
            to=f"sip:{DEVICE}@x",
            body=encode(body, edition=Edition.V2022),
            content_type=CONTENT_TYPE,
        )

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.01)


async def played(text: str, *work: Any) -> tuple[int, Server, str]:
    server, lines, stop = Server(), [], asyncio.Event()
    await server.endpoint.start()
    run = ScriptRun(
        read(text),
        server=("127.0.0.1", server.endpoint.port),
        server_id=SERVER,
        device_id=DEVICE,
        say=lines.append,
    )
    task = asyncio.create_task(run.play(stop))
    try:
        await server.until(lambda: server.calls)
        for one in work:
            await one(server)
        if work:
            stop.set()
        async with asyncio.timeout(30):
            code = await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await server.endpoint.close(0.1)
    return code, server, "\n".join(lines)


async def test_answers_are_as_the_script_says() -> None:
    text = """
answers:
  DeviceInfo: {fields: {manufacturer: Odd}, times: 1}
  Catalog: {status: 488}
"""

    async def work(server: Server) -> None:
        assert (await server.ask(CatalogQuery(sn=1, device_id=DEVICE))).status == 488
        for sn in (2, 3):
            assert (await server.ask(DeviceInfoQuery(sn=sn, device_id=DEVICE))).status == 200
            await server.until(
                lambda sn=sn: any(b.sn == sn and b.cmd_type == "DeviceInfo" for b in server.bodies)
            )
        infos = [body for body in server.bodies if body.cmd_type == "DeviceInfo"]
        assert [body.manufacturer for body in infos] == ["Odd", "Simulator"]

    code, _, log = await played(text, work)
    assert code == 0, log


async def test_steps_come_in_their_order_and_the_verdict_is_the_scripts() -> None:
    text = f"""
steps:
  - after: registered
    keepalives: 2
  - sip: |
      MESSAGE sip:{{server_id}}@{{domain}} SIP/2.0
      Via: SIP/2.0/UDP {{host}}:{{port}};rport;branch={{branch}}
      From: <sip:{{device_id}}@{{domain}}>;tag={{tag}}
      To: <sip:{{server_id}}@{{domain}}>
      Call-ID: {{call_id}}
      CSeq: 1 MESSAGE
      Content-Type: Application/MANSCDP+xml
      Max-Forwards: 70
      Content-Length: {{length}}

      <?xml version="1.0"?><Notify><CmdType>Keepalive</CmdType><SN>4242</SN><DeviceID>{{device_id}}</DeviceID></Notify>
  - xml: |
      <?xml version="1.0"?><Notify><CmdType>MediaStatus</CmdType><SN>{{sn}}</SN><DeviceID>{DEVICE}</DeviceID>
      <NotifyType>121</NotifyType></Notify>
  - notify: {{cmd_type: Keepalive, fields: {{status: ERROR}}}}
  - expect: {{event: INVITE, within_s: 0.2, none: true}}
  - end: 7
"""
    code, server, log = await played(text)
    assert code == 7, log
    await server.until(lambda: len(server.bodies) == 5)
    kinds = [body.cmd_type for body in server.bodies]
    assert kinds == ["Keepalive", "Keepalive", "Keepalive", "MediaStatus", "Keepalive"]
    assert server.bodies[2].sn == 4242, "the raw message, with its braces filled in"


async def test_what_does_not_come_in_time_fails_the_script() -> None:
    code, _, log = await played("steps:\n  - expect: {event: MESSAGE:Catalog, within_s: 0.3}\n  - end: 0\n")
    assert code == 1
    assert "MESSAGE:Catalog did not come within 0.3 s" in log


async def test_a_reaction_comes_each_time() -> None:
    async def work(server: Server) -> None:
        for sn in (1, 2):
            await server.ask(CatalogQuery(sn=sn, device_id=DEVICE))
        await server.until(lambda: sum(b.cmd_type == "Keepalive" for b in server.bodies) == 2)

    code, _, log = await played("steps:\n  - on: Catalog\n    keepalives: 1\n", work)
    assert code == 0, log


async def test_a_moved_device_registers_from_another_port() -> None:
    async def work(server: Server) -> None:
        await server.until(
            lambda: len({c.flow.port for c in server.calls if c.request.method == "REGISTER"}) == 2
        )

    code, _, log = await played("steps:\n  - after: registered\n    move: {}\n", work)
    assert code == 0, log
