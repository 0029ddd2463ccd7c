"""Recording rules over HTTP: weekly plans and storage classes by channel, device, area and for all; disks and totals."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from gateway.http.errors import Problem, not_found
from gateway.http.routes import Call, Model, View, route
from gateway.http.server import note_audit
from gateway.http.views import AnyCode
from gateway.registry import Registry
from gateway.services.access import Role
from gateway.services.recording_parts import Recording
from gateway.services.recording_plan import Plan, PlanRange, Rule, RuleSettings, Scope, grid_of, plan_of_grid


class RuleKey(Model):
    """What a rule is for."""

    scope: Literal["channel", "device", "area", "default"]
    device_id: AnyCode | None = Field(default=None, description="For channel and device.")
    channel_id: AnyCode | None = Field(default=None, description="For channel.")
    area: str | None = Field(
        default=None, pattern=r"^\d{2,8}$", description="For area: the first digits of the civil code."
    )

    @model_validator(mode="after")
    def _fits(self) -> RuleKey:
        needed = {"channel": {"device_id", "channel_id"}, "device": {"device_id"}, "area": {"area"}}
        wanted = needed.get(self.scope, set())
        given = {name for name in ("device_id", "channel_id", "area") if getattr(self, name) is not None}
        if given != wanted:
            raise ValueError(f"a rule of scope {self.scope} takes {', '.join(sorted(wanted)) or 'no code'}")
        return self

    @property
    def key(self) -> str:
        parts = {
            "channel": f"{self.device_id}/{self.channel_id}",
            "device": self.device_id,
            "area": self.area,
        }
        return parts.get(self.scope) or ""


class RuleBody(RuleKey):
    """null leaves a value to the next wider rule: channel, device, area (longest first), default."""

    grid: list[str] | None = Field(
        default=None,
        min_length=7,
        max_length=7,
        description="Seven rows, Monday first, of 24, 48 or 96 letters: c continuous, e event, . nothing. Beijing time.",
    )
    ranges: list[PlanRange] | None = Field(
        default=None,
        max_length=672,
        description="The same as ranges, minutes from midnight; not together with grid.",
    )
    storage_class: str | None = Field(default=None, description="One of recording.classes.")
    stream: int | None = Field(default=None, ge=0, le=9, description="0 main stream, 1 first sub stream.")


class RuleView(View):
    scope: str
    device_id: str | None = None
    channel_id: str | None = None
    area: str | None = None
    grid: list[str] | None = Field(description="By quarters of an hour; null: not set by this rule.")
    ranges: list[PlanRange] | None
    storage_class: str | None
    stream: int | None


class RuleList(View):
    items: list[RuleView]
    classes: dict[str, int] = Field(description="Storage classes and days.")
    default_class: str


class EffectiveRule(View):
    """What counts for one channel after all rules."""

    device_id: str
    channel_id: str
    grid: list[str]
    ranges: list[PlanRange]
    storage_class: str
    days: int
    stream: int


class DiskView(View):
    disk_id: str
    directory: str
    state: str = Field(description="ok, low, full, missing, read_only or failing.")
    detail: str
    total_bytes: int
    free_bytes: int
    reserve_bytes: int = Field(description="So much is left free.")


class ClassTotal(View):
    storage_class: str
    place: str = Field(description="local or remote.")
    segments: int
    bytes: int


class RecordingOverview(View):
    """Recording as a whole."""

    active: dict[str, int] = Field(description="Channels being recorded, by kind; event: standing by.")
    missing: dict[str, int] = Field(description="Channels that should be recorded and are not, by cause.")
    disks: list[DiskView]
    totals: list[ClassTotal] = Field(description="Counted every half hour.")


class RecordingRuleResource:
    def __init__(self, *, registry: Registry, recording: Recording) -> None:
        self._registry = registry
        self._recording = recording

    @route("GET", "/api/recordings", summary="Recording as a whole", role=Role.VIEWER, tag="recordings")
    async def overview(self, call: Call) -> RecordingOverview:
        service = self._recording.service
        totals = self._recording.coverage.totals or await self._recording.store.totals()
        return RecordingOverview(
            active=dict(service.active()),
            missing=dict(service.missing()),
            disks=[
                DiskView(
                    disk_id=disk.disk_id, directory=str(disk.directory), state=disk.state.value,
                    detail=disk.detail, total_bytes=disk.total_bytes, free_bytes=disk.free_bytes,
                    reserve_bytes=disk.reserve_bytes,
                )
                for disk in self._recording.guard.disks.values()
            ],
            totals=[
                ClassTotal(storage_class=name, place=place, segments=count, bytes=size)
                for (name, place), (count, size) in sorted(totals.items())
            ],
        )  # fmt: skip

    @route("GET", "/api/recordings/rules", summary="List the rules", role=Role.VIEWER, tag="recordings")
    async def list(self, call: Call) -> RuleList:
        settings = self._recording.settings
        rules = self._recording.wishes.rules.all
        return RuleList(
            items=[_view(rule) for rule in rules],
            classes=dict(settings.classes),
            default_class=settings.default_class,
        )

    @route(
        "PUT",
        "/api/recordings/rules",
        summary="Set the rule of a channel, a device, an area or the default",
        role=Role.OPERATOR,
        tag="recordings",
        errors=(404,),
        audited="recording.rule",
    )
    async def put(self, call: Call, body: RuleBody) -> RuleView:
        """Replaces the rule as a whole; it takes effect within seconds."""
        note_audit(call, detail=f"{body.scope} {body.key}")
        self._check(body)
        rule = Rule(body.scope, body.key, RuleSettings(
            plan=_plan(body), storage_class=body.storage_class, stream=body.stream,
        ))  # fmt: skip
        await self._recording.wishes.put_rule(rule)
        return _view(rule)

    @route(
        "DELETE",
        "/api/recordings/rules",
        summary="Remove a rule",
        role=Role.OPERATOR,
        status=204,
        tag="recordings",
        errors=(404,),
        audited="recording.rule",
    )
    async def remove(self, call: Call, query: RuleKey) -> None:
        note_audit(call, detail=f"{query.scope} {query.key}")
        if not await self._recording.wishes.remove_rule(query.scope, query.key):
            raise not_found(f"the rule of {query.scope} {query.key}".rstrip())

    @route(
        "GET",
        "/api/devices/{device_id}/channels/{channel_id}/recording-rule",
        summary="What counts for one channel after all rules",
        role=Role.VIEWER,
        tag="recordings",
        errors=(404,),
    )
    async def effective(self, call: Call, device_id: AnyCode, channel_id: AnyCode) -> EffectiveRule:
        if self._registry.channel(device_id, channel_id) is None and channel_id != device_id:
            raise not_found(f"channel {channel_id} of device {device_id}")
        wanted = self._recording.wishes.of_channel((device_id, channel_id))
        return EffectiveRule(
            device_id=device_id,
            channel_id=channel_id,
            grid=grid_of(wanted.plan),
            ranges=[*wanted.plan.ranges],
            storage_class=wanted.storage_class,
            days=self._recording.retention.days_of(wanted.storage_class),
            stream=wanted.stream,
        )

    def _check(self, body: RuleBody) -> None:
        classes = self._recording.settings.classes
        if body.storage_class is not None and body.storage_class not in classes:
            raise _wrong("storage_class", f"one of {', '.join(classes)}")
        if body.grid is not None and body.ranges is not None:
            raise _wrong("grid", "give grid or ranges, not both")
        if body.scope == "channel" and body.device_id is not None and body.channel_id is not None:
            known = self._registry.channel(body.device_id, body.channel_id) is not None
            if not known and body.channel_id != body.device_id:
                raise not_found(f"channel {body.channel_id} of device {body.device_id}")
        elif body.scope == "device" and body.device_id not in self._registry.devices:
            raise not_found(f"device {body.device_id}")


def _plan(body: RuleBody) -> Plan | None:
    if body.grid is not None:
        try:
            return plan_of_grid(body.grid)
        except ValueError as error:
            raise _wrong("grid", str(error)) from None
    return Plan(ranges=tuple(body.ranges)) if body.ranges is not None else None


def _wrong(field: str, detail: str) -> Problem:
    return Problem(422, f"{field}: {detail}", cause="invalid_input", field=field)


def _view(rule: Rule) -> RuleView:
    settings = rule.settings
    device_id, _, channel_id = rule.key.partition("/")
    scope: Scope = rule.scope
    return RuleView(
        scope=scope,
        device_id=device_id if scope in ("channel", "device") else None,
        channel_id=channel_id if scope == "channel" else None,
        area=rule.key if scope == "area" else None,
        grid=grid_of(settings.plan) if settings.plan is not None else None,
        ranges=[*settings.plan.ranges] if settings.plan is not None else None,
        storage_class=settings.storage_class,
        stream=settings.stream,
    )
