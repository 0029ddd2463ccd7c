"""Kamailio's registrar as the baseline of the SIP benchmarks, where Debian's package is installed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import child, free_port

PASSWORD = "Xm-Demo-0001"
DOMAIN = "4101830000"
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])

CONFIGURATION = """
debug=0
log_stderror=yes
children=1
disable_tcp=yes
auto_aliases=no
listen=udp:127.0.0.1:{port}
loadmodule "sl.so"
loadmodule "pv.so"
loadmodule "auth.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
loadmodule "textops.so"
loadmodule "xlog.so"
modparam("usrloc", "db_mode", 0)
modparam("registrar", "max_contacts", 1)
request_route {{
    if (is_method("REGISTER")) {{
        if (!pv_www_authenticate("{domain}", "{password}", "0")) {{
            www_challenge("{domain}", "0");
            exit;
        }}
        save("location");
        exit;
    }}
    if (is_method("MESSAGE") && search_body("Keepalive")) {{
        sl_send_reply("200", "OK");
        exit;
    }}
    sl_send_reply("405", "Method Not Allowed");
}}
"""


def installed() -> bool:
    return shutil.which("kamailio", path=PATH) is not None


def worker(pid: int) -> int:
    """The UDP worker among the daemon's children: the one that has used CPU for the load. Its pid."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return int(children[0])


@contextlib.contextmanager
def running() -> Iterator[tuple[int, list[int]]]:
    """Start Kamailio on a free loopback port; yields the port and the ids of all its processes."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        configuration = Path(folder) / "kamailio.cfg"
        configuration.write_text(
            CONFIGURATION.format(port=port, domain=DOMAIN, password=PASSWORD), encoding="ascii"
        )
        program = shutil.which("kamailio", path=PATH)
        assert program
        arguments = [program, "-f", str(configuration), "-DD", "-E", "-m", "128", "-M", "16", "-Y", folder]
        with child(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            time.sleep(1.5)
            children = (
                Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
            )
            yield port, [process.pid, *map(int, children)]
