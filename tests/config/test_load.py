"""The loader: file, environment, and errors that name key and line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from config.load import ConfigurationError, load
from config.settings import Settings

REFERENCE = Path(__file__).parents[2] / "config" / "gateway.yaml"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_reference_file_names_every_key_with_its_default() -> None:
    written = yaml.safe_load(REFERENCE.read_text(encoding="utf-8"))
    expected = {
        section: set(type(getattr(Settings(), section)).model_fields) for section in Settings.model_fields
    }
    assert {section: set(keys) for section, keys in written.items()} == expected
    assert load(REFERENCE, {}) == Settings()


def test_every_line_of_the_reference_file_says_what_it_is_for() -> None:
    silent = {"rtp_port_max", "webrtc_port_max", "port", "enabled"}
    for line in REFERENCE.read_text(encoding="utf-8").splitlines():
        key = line.strip().split(":")[0]
        if line.startswith("  ") and key not in silent:
            assert "#" in line, line


def test_environment_wins_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "sip:\n  port: 5070\nmedia:\n  nodes: 2\n")
    settings = load(path, {"GB_GATEWAY_SIP__PORT": "5080", "HOME": "/root"})
    assert (settings.sip.port, settings.media.nodes) == (5080, 2)


def test_lists_come_as_json_from_the_environment() -> None:
    rules = '[{"network": "10.9.9.0/24", "reason": "lab"}]'
    settings = load(None, {"GB_GATEWAY_REGISTRATION__OPEN_RULES": rules})
    assert str(settings.registration.open_rules[0].network) == "10.9.9.0/24"


@pytest.mark.parametrize(
    ("text", "key", "line", "words"),
    [
        ("sip:\n  prot: 5060\n", "sip.prot", 2, "no such setting"),
        ("sip:\n  port: 70000\n", "sip.port", 2, "65535"),
        ("# c\n\nheartbeat:\n  count: 3\n  interval_s: soon\n", "heartbeat.interval_s", 5, "integer"),
        ("nonsense: {}\n", "nonsense", 1, "no such setting"),
        ("sip:\n  port: 1\n  port: 2\n", "sip.port", 3, "given twice"),
        ("media:\n  rtp_port_min: 20000\n  rtp_port_max: 20000\n", "media", 1, "rtp_port_max"),
        ('sip:\n  server_id: "123"\n', "sip.server_id", 2, "pattern"),
        (
            "registration:\n  open_rules:\n    - network: 10.0.0.0/33\n      reason: lab\n",
            "registration.open_rules.0.network",
            3,
            "network",
        ),
    ],
)
def test_a_fault_names_key_and_line(tmp_path: Path, text: str, key: str, line: int, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(write(tmp_path, text), {})
    problem = caught.value.problems[0]
    assert (problem.key, problem.line) == (key, line)
    assert words in problem.message
    assert f"gateway.yaml:{line}: {key}" in str(caught.value)


def test_a_fault_from_the_environment_names_the_variable() -> None:
    with pytest.raises(ConfigurationError, match="GB_GATEWAY_SIP__PORT"):
        load(None, {"GB_GATEWAY_SIP__PORT": "many"})
    with pytest.raises(ConfigurationError, match="GB_GATEWAY_SPI__PORT: there is no such setting"):
        load(None, {"GB_GATEWAY_SPI__PORT": "5060"})


@pytest.mark.parametrize("text", ["sip: [\n", "- a\n- b\n", "\tsip: 1\n"])
def test_text_that_is_no_configuration(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError):
        load(write(tmp_path, text), {})


def test_a_missing_file_and_wrong_bytes(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load(tmp_path / "none.yaml", {})
    path = tmp_path / "latin.yaml"
    path.write_bytes("sip: {user_agent: 新密}".encode("gb18030"))
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load(path, {})


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    assert load(write(tmp_path, ""), {}) == Settings()


@pytest.mark.gb("G276")
def test_open_mode_needs_an_explicit_network_and_reason() -> None:
    """No switch turns authentication off; only a rule with a network and a reason does."""
    assert Settings().registration.open_rules == []
    assert not [name for name in type(Settings().registration).model_fields if "auth" in name]
    with pytest.raises(ConfigurationError):
        load(None, {"GB_GATEWAY_REGISTRATION__OPEN_RULES": '[{"network": "10.9.9.0/24"}]'})


def test_secrets_are_not_shown() -> None:
    settings = load(None, {"GB_GATEWAY_REGISTRATION__DOMAIN_PASSWORD": "Xm-Demo-0001"})
    assert "Xm-Demo-0001" not in repr(settings)
