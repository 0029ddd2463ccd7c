"""A simulated lower platform (type 200): a catalog of three levels, cameras that really stream, alarms, code collisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.answers import AnswerBook
from simulator.camera import chosen
from simulator.device import Channel, DeviceOptions, MediaChoice, SimulatedDevice
from simulator.faults import Faults
from sip.endpoint import Incoming, Reply
from sip.ids import make_code, parse_code
from sip.manscdp import Body, CatalogItem, CatalogQuery, Edition

PLACES = ("school road", "market", "bridge", "bus station", "park", "river bank", "east gate", "west gate")
TOWNS = ("01", "02", "03")
_DIRECTORY = {"directory": True}


@dataclass(frozen=True, slots=True)
class Layout:
    """The codes in the catalog of one :class:`LowerPlatform`, for those who look at what became of them.

    Tree: county division > town divisions; business group > organisations > one organisation below the first;
    the platform itself > a platform below it. ``cameras`` hang under the platform, ``deep`` under the platform below;
    ``shared`` is the camera that hangs in two organisations, ``orphan`` the one whose parents nobody knows.
    """

    county: str
    towns: tuple[str, ...]
    group: str
    organisations: tuple[str, ...]
    inner: str
    below: str
    cameras: tuple[str, ...]
    deep: tuple[str, ...]
    shared: str
    orphan: str
    circle: tuple[str, str]


def layout_of(platform_id: str, cameras: int, deep: int) -> Layout:
    """The codes for a platform: everything lies in its own area, serials follow its own serial."""
    code = parse_code(platform_id)
    if code is None:
        raise ValueError(f"not a code: {platform_id}")
    area, first = code.area, code.serial % 1000 * 1000

    def made(type_code: int, number: int) -> str:
        return make_code(area, type_code, (first + number) % 1_000_000, unit=code.unit)

    own = tuple(made(131, number + 1) for number in range(max(cameras, 2)))
    organisations = tuple(made(216, number + 1) for number in range(2))
    return Layout(
        county=area,
        towns=tuple(area + town for town in TOWNS),
        group=made(215, 1),
        organisations=organisations,
        inner=made(216, 3),
        below=made(200, 1),
        cameras=own,
        deep=tuple(made(131, number + 501) for number in range(deep)),
        shared=own[0],
        orphan=made(131, 901),
        circle=(made(216, 11), made(216, 12)),
    )


class _TreeBook(AnswerBook):
    """Answers catalog queries that name a node with everything below it, not with its children alone."""

    def __init__(self, platform: LowerPlatform) -> None:
        super().__init__(platform)
        self._platform = platform

    def catalog(self, query: CatalogQuery) -> list[Body]:
        if query.device_id in ("", self._platform.device_id):
            return super().catalog(query)
        return list(self._pages(query.sn, query.device_id, self._platform.items_below(query.device_id)))


class LowerPlatform(SimulatedDevice):
    """A platform of another district that registers with us as its upper.

    ``cameras`` hang directly under it, ``deep`` under a platform below it (a third level). ``colliding`` are codes of
    others that it uses for cameras of its own. ``odd`` adds what catalogs get wrong: an entry without known parents, and
    two organisations that are each other's parent. What it is asked, told or made to play with a channel's code is
    answered for that channel, as if the camera stood right behind it.
    """

    def __init__(
        self,
        device_id: str = "41018300002000000002",
        cameras: int = 4,
        deep: int = 2,
        *,
        server: tuple[str, int],
        server_id: str,
        domain: str = "",
        password: str | None = None,
        name: str = "",
        colliding: Sequence[str] = (),
        odd: bool = True,
        transport: str | None = None,
        media: MediaChoice | None = None,
        codec: str | None = None,
        edition: Edition | None = None,
        picture: str | None = None,
        options: DeviceOptions | None = None,
        faults: Faults | None = None,
    ) -> None:
        self.layout = layout_of(device_id, cameras, deep)
        name = name or f"platform {device_id[-4:]}"
        super().__init__(
            device_id,
            _channels(device_id, name, self.layout, colliding, odd=odd),
            server=server,
            server_id=server_id,
            domain=domain,
            password=password,
            name=name,
            options=chosen(
                options, transport=transport, media=media, codec=codec, edition=edition, picture=picture
            ),
            faults=faults,
        )
        self.answers = _TreeBook(self)
        self.asked_paths: list[str] = []
        """``X-PreferredPath`` of the INVITEs that came, "" where there was none."""
        self.users: list[str] = []
        """``Monitor-User-Identity`` of the requests that had one."""

    @property
    def camera_ids(self) -> list[str]:
        """Codes of all channels with pictures, in the order of the catalog."""
        return [code for code, channel in self.channels.items() if channel.has_pictures]

    def items_below(self, code: str) -> list[CatalogItem]:
        """The entry ``code`` and everything that hangs under it: what a query for it brings (2022 annex J)."""
        items = {item.device_id: item for item in self.answers.items()}
        found = {code} if code in items else set()
        grown = True
        while grown:
            more = {
                key
                for key, item in items.items()
                if key not in found
                and (
                    found.intersection((*item.parent_ids, item.business_group_id))
                    or (len(code) < 20 and (key if len(key) < 20 else item.civil_code).startswith(code))
                )
            }
            found |= more
            grown = bool(more)
        return [item for key, item in items.items() if key in found]

    def answer_headers(self, incoming: Incoming) -> list[tuple[str, str]]:
        """We are the end of the path: our own code goes up as the way that was taken (2022 H.3)."""
        headers = incoming.request.headers
        self.asked_paths.append(headers.get("X-PreferredPath"))
        return [("X-RoutePath", self.device_id)]

    async def _handle(self, incoming: Incoming) -> Reply | None:
        user = incoming.request.headers.get("Monitor-User-Identity")
        if user:
            self.users.append(user)
        return await super()._handle(incoming)

    async def move_camera(self, channel_id: str, *parents: str) -> None:
        """Put a camera elsewhere in the tree and tell the subscriber (UPDATE)."""
        channel = self.channels[channel_id]
        channel.parent_ids = parents
        await self.notify_catalog([self.answers.item(channel).model_copy(update={"event": "UPDATE"})])


def _channels(
    platform_id: str, name: str, plan: Layout, colliding: Sequence[str], *, odd: bool
) -> list[Channel]:
    """The catalog in the order in which platforms send it: divisions, groups, organisations, systems, cameras."""
    group = {"business_group_id": plan.group}
    found = [Channel(plan.county, "county", extra=dict(_DIRECTORY))]
    found += [Channel(code, f"town {code[-2:]}", extra=dict(_DIRECTORY)) for code in plan.towns]
    found.append(
        Channel(
            plan.group,
            "public order",
            parent_ids=(platform_id,),
            extra={**_DIRECTORY, "civil_code": plan.county},
        )
    )
    found += [
        Channel(code, f"district {number + 1}", extra={**_DIRECTORY, **group})
        for number, code in enumerate(plan.organisations)
    ]
    found.append(
        Channel(
            plan.inner,
            "old town",
            parent_ids=(plan.organisations[0],),
            extra={**_DIRECTORY, **group},
        )
    )
    found.append(Channel(plan.below, f"{name} below", parent_ids=(platform_id,), extra={"parental": 1}))
    for number, code in enumerate(plan.cameras):
        parents = [platform_id, plan.organisations[number % 2]]
        if code == plan.shared:
            parents = [platform_id, plan.inner, plan.organisations[1]]
        found.append(
            _camera(code, f"{name} {PLACES[number % len(PLACES)]} {number + 1}", parents, plan, number)
        )
    for number, code in enumerate(plan.deep):
        found.append(_camera(code, f"{name} deep {number + 1}", [plan.below], plan, number))
    for number, code in enumerate(colliding):
        found.append(_camera(code, f"{name} own {number + 1}", [platform_id], plan, number + 50))
    if odd:
        unknown = make_code(plan.county, 200, 999_998)
        found.append(Channel(plan.orphan, f"{name} orphan", parent_ids=(unknown,), extra={"civil_code": ""}))
        found += [
            Channel(one, "circle", parent_ids=(other,), extra={**_DIRECTORY, **group})
            for one, other in (plan.circle, plan.circle[::-1])
        ]
    return found


def _camera(code: str, name: str, parents: list[str], plan: Layout, number: int) -> Channel:
    return Channel(
        code,
        name,
        parent_ids=tuple(parents),
        extra={
            "civil_code": plan.towns[number % len(plan.towns)],
            "longitude": 113.3 + number / 100,
            "latitude": 34.5 + number / 100,
            "ptz_type": 1,
        },
    )
