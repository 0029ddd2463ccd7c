"""Writes docs/reference/api.md from the API's own OpenAPI document: one table row per operation."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "reference" / "api.md"

HEAD = """# HTTP API

Written by `tools/api_reference.py` from the OpenAPI 3.1 document that a running gateway serves at `/api/openapi.json`
(with a page to read it at `/api/docs`). Log in with `POST /api/login` (a cookie) or send `Authorization: Bearer gbt_…`
with a token from `POST /api/tokens`. Errors are `application/problem+json` with `status`, `title`, `detail`, `cause` and,
for bad input, the named `field`.
"""


def document() -> dict[str, Any]:
    """The OpenAPI document of a gateway that is built but not started."""
    from config.settings import Settings
    from gateway.app import Gateway

    with tempfile.TemporaryDirectory() as folder:
        gateway = Gateway(Settings.model_validate({"storage": {"directory": folder}}))
        found: dict[str, Any] = gateway.http.server.document
        return found


def render(spec: dict[str, Any]) -> str:
    groups: dict[str, list[str]] = {}
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            if method not in ("get", "post", "put", "patch", "delete"):
                continue
            role = operation.get("x-role", "")
            codes = " ".join(sorted(operation["responses"]))
            row = f"| `{method.upper()} {path}` | {operation['summary']} | {role} | {codes} |"
            groups.setdefault(operation.get("tags", ["other"])[0], []).append(row)
    parts = [HEAD]
    for tag, rows in groups.items():
        parts.append(
            f"\n## {tag.capitalize()}\n\n| operation | what it does | role | answers |\n|---|---|---|---|"
        )
        parts.extend(rows)
    return "\n".join(parts) + "\n"


def main() -> int:
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(render(document()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    raise SystemExit(main())
