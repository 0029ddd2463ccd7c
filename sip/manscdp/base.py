"""What every MANSCDP body is made of: the field mark that names its XML element, and the registry of commands.

A body is a frozen pydantic model. Each field carries an :class:`Xml` mark with the element's exact spelling;
fields are declared in the order of the schema (GB/T 28181-2022 A.2), which is the order they are written in.
Reading and writing are done by :mod:`sip.manscdp.xml` from these marks alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

Charset = Literal["UTF-8", "GB18030"]
Root = Literal["Control", "Query", "Notify", "Response"]


class Edition(StrEnum):
    """Edition of the standard that a peer speaks; the value is what ``X-GB-Ver`` says (2022 annex I)."""

    V2016 = "2.0"
    V2022 = "3.0"

    @classmethod
    def from_header(cls, value: str | None) -> Edition:
        """Read an ``X-GB-Ver`` value. Absent, unreadable, 1.x and 2.x mean 2016; 3.0 and above mean 2022."""
        major = (value or "").strip().partition(".")[0]
        return (
            cls.V2022
            if major.isdecimal() and major.isascii() and len(major) < 4 and int(major) >= 3
            else cls.V2016
        )


@dataclass(frozen=True, slots=True)
class Xml:
    """How one field looks in XML.

    ``name`` is the exact spelling written; reading ignores letter case and also knows ``also``.
    ``name_2016`` is the spelling written to 2016 peers where it differs. ``edition``: the field is written to
    peers of that edition only. ``group`` is the path of the element around the field (``Info`` or
    ``Info/AlarmTypeParam``), ``group_2016`` the path for 2016 peers where it differs, and ``after_2016`` the
    attribute that it then follows.
    ``items`` names the child of a list: with ``num`` the list sits inside ``name`` with a count attribute,
    otherwise the children repeat directly. ``separator`` joins a tuple into one text. ``flag`` is the fixed
    text of an element that only has to be present. ``always`` writes the element even when it is empty.
    ``limit`` cuts the text on writing. ``read`` normalises a text on reading. ``digits`` is the number of
    decimals of a float.
    """

    name: str
    also: tuple[str, ...] = ()
    name_2016: str = ""
    edition: Edition | None = None
    group: str = ""
    group_2016: str | None = None
    after_2016: str = ""
    items: str = ""
    num: str = ""
    num_2016: str = ""
    separator: str = ""
    flag: str = ""
    always: bool = False
    limit: int = 0
    read: Callable[[str], str] | None = None
    digits: int = 6

    def spelled(self, edition: Edition) -> str:
        return self.name_2016 if self.name_2016 and edition is Edition.V2016 else self.name

    def placed(self, edition: Edition) -> str:
        return self.group_2016 if self.group_2016 is not None and edition is Edition.V2016 else self.group


class Element(BaseModel):
    """Any part of a body. ``extras`` keeps what no field knows: texts by element name, nested elements as dicts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    BY_CHILDREN: ClassVar[bool] = False
    """Read an element of unknown name as the one whose children it has (quirk of some recorders)."""

    extras: dict[str, Any] = Field(default_factory=dict)

    def completed(self, edition: Edition) -> Self:
        """The element with what the edition makes mandatory filled in; called by the writer on every element."""
        del edition
        return self

    def place(self, xml: Xml, edition: Edition) -> str:
        """Path of the group a field is written in; models override it where more than the edition decides."""
        return xml.placed(edition)


SN = Annotated[int, Xml("SN", always=True)]
DeviceIdField = Annotated[str, Xml("DeviceID", always=True)]
ExtraInfo = Annotated[tuple[str, ...], Xml("ExtraInfo", also=("Info",), name_2016="Info", limit=1024)]
"""Free text extension, repeatable, at most 1024 characters each (2022 A.2.1.24; ``Info`` in 2016)."""


class Body(Element):
    """One MANSCDP message. The class line names root and CmdType::

        class KeepaliveNotify(Body, root="Notify", cmd_type="Keepalive", clause="A.2.5.2"): ...

    ``edition`` is set for commands that only one edition has; ``checks`` are the conformance checks it serves.
    """

    ROOT: ClassVar[str] = ""
    CMD_TYPE: ClassVar[str] = ""
    CLAUSE: ClassVar[str] = ""
    EDITION: ClassVar[Edition | None] = None
    CHECKS: ClassVar[tuple[str, ...]] = ()
    SPELLINGS: ClassVar[tuple[str, ...]] = ()

    sn: SN = 0
    device_id: DeviceIdField = ""

    def __init_subclass__(
        cls,
        *,
        root: Root | None = None,
        cmd_type: str = "",
        clause: str = "",
        edition: Edition | None = None,
        checks: tuple[str, ...] = (),
        also: tuple[str, ...] = (),
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)
        if root is None:
            return
        cls.ROOT, cls.CMD_TYPE, cls.CLAUSE, cls.EDITION, cls.CHECKS = root, cmd_type, clause, edition, checks
        cls.SPELLINGS = also
        for spelling in (cmd_type, *also):
            REGISTRY[root.lower(), spelling.lower()] = cls

    @property
    def cmd_type(self) -> str:
        return self.CMD_TYPE

    @property
    def root(self) -> str:
        return self.ROOT

    @property
    def command(self) -> str:
        """The CmdType, or the element that holds the command where one CmdType has many."""
        return self.cmd_type

    @property
    def needs(self) -> Edition | None:
        """The edition without which this very message makes no sense to a peer; None: any (G049)."""
        return self.EDITION


REGISTRY: dict[tuple[str, str], type[Body]] = {}
"""Every command by (root, CmdType), both in lower case."""


class UnknownBody(Body):
    """A well-formed message whose command no model knows; everything is in ``extras``."""

    unknown_root: str = ""
    unknown_cmd_type: str = ""

    @property
    def cmd_type(self) -> str:
        return self.unknown_cmd_type

    @property
    def root(self) -> str:
        return self.unknown_root


@dataclass(frozen=True, slots=True)
class Decoded:
    """A body that was read.

    ``charset`` is the one its bytes proved; ``proven`` is False when they were plain ASCII, so that the label
    had to decide. ``faults`` are data-quality faults that did not stop the reading, one text each.
    """

    body: Body
    charset: Charset
    proven: bool
    faults: list[str]
    raw: bytes


def foreign_fields(element: Element, edition: Edition) -> list[str]:
    """Names of the elements in ``element`` that are set but that ``edition`` does not know, at any depth."""
    found: list[str] = []
    for attribute, info in type(element).model_fields.items():
        value = getattr(element, attribute)
        mark = next((mark for mark in info.metadata if isinstance(mark, Xml)), None)
        if mark is None or value is None or value is False or value == "" or value == () or value == []:
            continue
        if mark.edition is not None and mark.edition is not edition:
            found.append(mark.name)
            continue
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Element):
                found.extend(foreign_fields(part, edition))
    return found
