"""A device's profile: what it needs, in five layers, and what it was seen to do differently.

Default < vendor (config/vendors.yaml) < model (what holds for all devices of its model) < learned (from what worked) <
operator. The fields of :class:`Profile` are the values that hold now; :meth:`Profile.settle` works them out of the layers,
and :meth:`Profile.origin` says where one came from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from config.vendors import ProfileSettings

Origin = Literal["default", "vendor", "model", "learned", "operator"]

OBSERVED = {
    "answer_ssrc": ("chose another SSRC in its answer", 27),
    "rtp_ssrc": ("sent RTP with another SSRC than agreed", 27),
    "media_mismatch": ("sent media that do not match the SDP", 46),
    "foreign_media": ("its media came from an address that it had not named", 27),
    "no_sdp": ("answered INVITE without SDP", 41),
    "no_setup": ("answered TCP without a setup line", 30),
    "udp_words": ("answered RTP/AVP to TCP/RTP/AVP", 30),
    "no_final_answer": ("answered INVITE with 100 and nothing after it", 43),
    "busy": ("refused a further stream", 34),
    "bye_unanswered": ("did not answer a BYE", 33),
    "body_in_answer": ("put its answer into the 200 to our MESSAGE", 45),
    "foreign_from": ("put another code than its own into From", 23),
    "query_refused": ("refused a query with an error status", 48),
    "rebound": ("went on from another port without registering", 11),
}
"""What may be observed: words for people, and the number of the field quirk."""
SAVE_EVERY_S = 60.0
"""A count that only grows is saved at most so often."""


@dataclass(slots=True)
class Observation:
    """How often something was seen, and when last."""

    count: int = 0
    last_at: datetime | None = None
    detail: str = ""
    saved_mono: float = field(default=0.0, compare=False)


@dataclass(slots=True)
class Layers:
    """What each layer says; a setting that a layer does not name is left to the one below."""

    vendor: dict[str, Any] = field(default_factory=dict, compare=False)
    """From the data files at this start; not stored."""
    model: dict[str, Any] = field(default_factory=dict, compare=False)
    """What its model learned or was told (gateway.services.profiles_models); not stored here."""
    learned: dict[str, Any] = field(default_factory=dict)
    operator: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Profile:
    """What one device needs now. Settings given to the constructor count as the operator's."""

    media_transport: str | None = None
    """udp | tcp_passive | tcp_active, tried first. None: the gateway's default."""
    media_ladder: tuple[str, ...] | None = None
    """Ways that may be tried. None: all."""
    sdp_form: str = "standard"
    """standard | long | plain (no y= and f=)."""
    charset: str | None = None
    ssrc: str = "learn"
    """learn | strict | own."""
    send_date: bool | None = None
    heartbeat_revives: bool | None = None
    edition: str | None = None
    """Spoken with it whatever X-GB-Ver it sends. None: what it says."""
    max_streams: int | None = None
    """None: no limit is known."""
    stream_number_dialect: str = "streamnumber"
    record_query_hours: int | None = None
    talk_mode: str = "auto"
    """auto | broadcast | talk."""
    talk_audio: str = "raw"
    """raw | ps."""
    audio_output: str = "auto"
    """auto | yes | no: whether it has a loudspeaker; auto: when its catalog names a 137 Item (9.12.1.1)."""
    allowed_networks: tuple[str, ...] = ()
    """Networks (CIDR) it may register from; empty: any (G277)."""
    local: bool = False
    """A virtual device of our own that holds inputs: no SIP peer stands behind it, nobody may register as it."""
    said_edition: str = ""
    """X-GB-Ver of its last REGISTER, as read; differs from the device's edition where the profile names one."""
    observed: dict[str, Observation] = field(default_factory=dict)
    layers: Layers = field(default_factory=Layers)

    def __post_init__(self) -> None:
        if not self.layers.operator and not self.layers.learned:
            given = {name: getattr(self, name) for name in SETTINGS}
            self.layers.operator = {name: value for name, value in given.items() if value != DEFAULTS[name]}

    def settle(self) -> tuple[str, ...]:
        """Work the settings out of the layers; returns the names of those that changed."""
        layers = self.layers
        values = DEFAULTS | layers.vendor | layers.model | layers.learned | layers.operator
        changed = tuple(name for name in SETTINGS if getattr(self, name) != values[name])
        for name in changed:
            setattr(self, name, values[name])
        return changed

    def origin(self, name: str) -> Origin:
        """Which layer the setting's value comes from."""
        if name in self.layers.operator:
            return "operator"
        if name in self.layers.learned:
            return "learned"
        if name in self.layers.model:
            return "model"
        return "vendor" if name in self.layers.vendor else "default"

    def order(self, **settings: Any) -> tuple[str, ...]:
        """An operator's word: a value, or None to take it back. Returns what changed. KeyError for no setting."""
        return self._write(self.layers.operator, settings)

    def learn(self, **settings: Any) -> bool:
        """What the device turned out to need, or None to forget it. True when the learned layer changed."""
        before = dict(self.layers.learned)
        self._write(self.layers.learned, settings)
        return before != self.layers.learned

    def forget(self, names: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Drop what was learned about these settings (all, and the observations, without names). Returns the names."""
        gone = tuple(name for name in self.layers.learned if not names or name in names)
        for name in gone:
            del self.layers.learned[name]
        if not names:
            self.observed.clear()
        self.settle()
        return gone

    def _write(self, layer: dict[str, Any], settings: dict[str, Any]) -> tuple[str, ...]:
        for name, value in settings.items():
            if name not in DEFAULTS:
                raise KeyError(name)
            if value is None:
                layer.pop(name, None)
            else:
                layer[name] = value
        return self.settle()

    def observe(self, name: str, now: datetime, mono: float, detail: str = "") -> bool:
        """Count something it does differently (a key of :data:`OBSERVED`). True when it should be saved now."""
        seen = self.observed.get(name)
        if seen is None:
            if name not in OBSERVED:
                raise KeyError(name)
            seen = self.observed[name] = Observation(saved_mono=mono - SAVE_EVERY_S)
        seen.count += 1
        seen.last_at, seen.detail = now, detail[:128]
        if mono - seen.saved_mono < SAVE_EVERY_S:
            return False
        seen.saved_mono = mono
        return True

    # -- storage ---------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: everything but the layers of make and model and what follows from the layers."""
        return {
            "operator": self.layers.operator,
            "learned": self.layers.learned,
            "observed": {
                name: [seen.count, seen.last_at.isoformat() if seen.last_at else None, seen.detail]
                for name, seen in self.observed.items()
            },
            "allowed_networks": list(self.allowed_networks),
            "local": self.local,
            "said_edition": self.said_edition,
        }

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Profile:
        """Inverse of :meth:`to_dict`; also reads the flat form of earlier versions. ValueError for a damaged record."""
        if "operator" not in stored:
            return cls._from_flat(stored)
        profile = cls(
            allowed_networks=tuple(stored.get("allowed_networks", ())),
            local=bool(stored.get("local", False)),
            said_edition=str(stored.get("said_edition", "")),
            layers=Layers(learned=_checked(stored.get("learned", {})), operator=_checked(stored["operator"])),
        )
        for name, (count, last_at, detail) in stored.get("observed", {}).items():
            if name in OBSERVED:
                at = datetime.fromisoformat(last_at) if last_at else None
                profile.observed[name] = Observation(int(count), at, str(detail))
        profile.settle()
        return profile

    @classmethod
    def _from_flat(cls, stored: dict[str, Any]) -> Profile:
        told = {name: value for name, value in stored.items() if name in DEFAULTS and value != DEFAULTS[name]}
        learned: dict[str, Any] = {}
        if stored.get("media_transport_learned"):
            learned = {name: told.pop(name) for name in ("media_transport", "sdp_form") if name in told}
        profile = cls(
            allowed_networks=tuple(stored.get("allowed_networks", ())),
            local=bool(stored.get("local", False)),
            layers=Layers(learned=_checked(learned), operator=_checked(told)),
        )
        profile.settle()
        return profile


SETTINGS: tuple[str, ...] = tuple(ProfileSettings.model_fields)
DEFAULTS: dict[str, Any] = {
    name: item.default for name, item in Profile.__dataclass_fields__.items() if name in SETTINGS
}


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """A stored layer without settings that no longer exist. ValueError (of pydantic) for values that are none."""
    known = {name: value for name, value in values.items() if name in DEFAULTS}
    return ProfileSettings.model_validate(known).said()
