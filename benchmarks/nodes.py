"""A media node as a child process of a benchmark, configured for loopback."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import child
from media.specs import NodeConfig

SECRET = "bench"


@dataclass(frozen=True, slots=True)
class RunningNode:
    """What a benchmark needs of a node: ``ready`` is the line that it prints when it listens."""

    pid: int
    config: NodeConfig
    ready: dict[str, Any]

    @property
    def viewer_port(self) -> int:
        return int(self.ready["viewer_port"])


def known(**settings: Any) -> dict[str, Any]:
    """Those of ``settings`` that this version's NodeConfig has."""
    return {name: value for name, value in settings.items() if name in NodeConfig.model_fields}


@contextlib.contextmanager
def running_node(**settings: Any) -> Iterator[RunningNode]:
    """Start a node; RuntimeError when it does not come up. It ends with the block."""
    with tempfile.TemporaryDirectory() as directory:
        config = NodeConfig.model_validate({
            "node_id": "bench", "control": f"unix:{directory}/n.sock", "control_secret": SECRET,
            "media_host": "127.0.0.1", "bind_host": "127.0.0.1", "rtp_port_min": 20000, "rtp_port_max": 25999,
            "webrtc_port_min": 26000, "webrtc_port_max": 29999, "viewer_host": "127.0.0.1", "viewer_port": 0,
            "ticket_secret": SECRET, "log_level": "WARNING", **settings,
        })  # fmt: skip
        command = [sys.executable, "-m", "media.node"]
        with child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(config.model_dump_json().encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"the node ended at its start with status {process.wait(5)}")
            yield RunningNode(process.pid, config, json.loads(line))
