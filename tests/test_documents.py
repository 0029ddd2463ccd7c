"""The documents follow the code: the API reference, the readmes' commands and links."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tools"))


def test_the_api_reference_is_what_the_code_serves() -> None:
    """``python tools/api_reference.py`` renews it."""
    import api_reference

    written = api_reference.TARGET.read_text(encoding="utf-8")
    assert written == api_reference.render(api_reference.document())


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_links_inside_the_project_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_both_readmes_name_the_same_commands_and_ports() -> None:
    english, chinese = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md")
    )
    for pattern in (
        r"make [a-z]+",
        r"\b\d{4,5}(?:–\d{4,5})?\b(?= (?:UDP|TCP))",
        r"`(?:sip|registration)\.[a-z_]+`",
    ):
        assert sorted(set(re.findall(pattern, english))) == sorted(set(re.findall(pattern, chinese))), pattern


def test_the_ports_of_the_readme_are_the_defaults() -> None:
    from config.settings import Settings

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    settings = Settings()
    expected = [
        f"| {settings.sip.port} UDP + TCP |",
        f"| {settings.media.rtp_port_min}–{settings.media.rtp_port_max} UDP + TCP |",
        f"| {settings.http.port} TCP |",
        f"| {settings.media.viewer_port} TCP ",
        f"| {settings.media.rtsp_port} TCP ",
        f"| {settings.media.webrtc_port} UDP ",
        f"| {settings.metrics.port} TCP, on {settings.metrics.host} |",
    ]
    assert [row for row in expected if row not in text] == []


def test_each_decision_says_when_and_what_state() -> None:
    for path in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        assert re.match(r"# \d{4}: ", text), path.name
        assert re.search(r"Date: \d{4}-\d{2}-\d{2}\. State: (proposed|accepted|replaced)", text), path.name
