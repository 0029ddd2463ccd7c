"""Catalog: the channels and directory nodes of a device or platform (2022 A.2.4.3, A.2.6.4, A.2.1.9, 9.5, 9.11.4)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import Field

from sip.ids import TypeKind, kind_of
from sip.manscdp.base import Body, DeviceIdField, Edition, Element, ExtraInfo, Xml
from sip.manscdp.types import no_null, on_off, upper

V16, V22 = Edition.V2016, Edition.V2022
DIRECTORY = frozenset({TypeKind.DIVISION, TypeKind.BUSINESS_GROUP, TypeKind.VIRTUAL_ORGANISATION})


class CatalogItem(Element):
    """One entry. Directory nodes carry only some fields; what a device must have is filled on writing.

    ``parent_ids`` is ParentID as a set (``/`` list, 2022 annex J). ``event`` is set in notifications only:
    ON, OFF, VLOST, DEFECT, ADD, DEL or UPDATE. Fields of both editions are here; the writer picks.
    """

    device_id: DeviceIdField = ""
    event: Annotated[str, Xml("Event", read=upper)] = ""
    name: Annotated[str, Xml("Name")] = ""
    manufacturer: Annotated[str, Xml("Manufacturer")] = ""
    model: Annotated[str, Xml("Model")] = ""
    owner: Annotated[str, Xml("Owner", edition=V16)] = ""
    civil_code: Annotated[str, Xml("CivilCode", read=no_null)] = ""
    block: Annotated[str, Xml("Block", read=no_null)] = ""
    address: Annotated[str, Xml("Address")] = ""
    parental: Annotated[int | None, Xml("Parental")] = None
    parent_ids: Annotated[tuple[str, ...], Xml("ParentID", separator="/", read=no_null)] = ()
    safety_way: Annotated[int | None, Xml("SafetyWay", edition=V16)] = None
    register_way: Annotated[int | None, Xml("RegisterWay")] = None
    cert_num: Annotated[str, Xml("CertNum", edition=V16)] = ""
    certifiable: Annotated[int | None, Xml("Certifiable", edition=V16)] = None
    err_code: Annotated[int | None, Xml("ErrCode", edition=V16)] = None
    end_time: Annotated[datetime | None, Xml("EndTime", edition=V16)] = None
    security_level_code: Annotated[str, Xml("SecurityLevelCode", edition=V22)] = ""
    secrecy: Annotated[int | None, Xml("Secrecy")] = None
    ip_address: Annotated[str, Xml("IPAddress")] = ""
    port: Annotated[int | None, Xml("Port")] = None
    password: Annotated[str, Xml("Password")] = ""
    status: Annotated[str, Xml("Status", read=on_off)] = ""
    longitude: Annotated[float | None, Xml("Longitude")] = None
    latitude: Annotated[float | None, Xml("Latitude")] = None
    business_group_id: Annotated[
        str, Xml("BusinessGroupID", group_2016="Info", after_2016="resolution", read=no_null)
    ] = ""
    ptz_type: Annotated[int | None, Xml("PTZType", group="Info")] = None
    position_type: Annotated[int | None, Xml("PositionType", group="Info", edition=V16)] = None
    photoelectric_imaging_type: Annotated[
        tuple[str, ...], Xml("PhotoelectricImagingType", group="Info", separator="/", edition=V22)
    ] = ()
    capture_position_type: Annotated[str, Xml("CapturePositionType", group="Info", edition=V22)] = ""
    room_type: Annotated[int | None, Xml("RoomType", group="Info")] = None
    use_type: Annotated[int | None, Xml("UseType", group="Info", edition=V16)] = None
    supply_light_type: Annotated[int | None, Xml("SupplyLightType", group="Info")] = None
    direction_type: Annotated[int | None, Xml("DirectionType", group="Info")] = None
    resolution: Annotated[tuple[str, ...], Xml("Resolution", group="Info", separator="/")] = ()
    stream_numbers: Annotated[
        tuple[str, ...], Xml("StreamNumberList", group="Info", separator="/", edition=V22)
    ] = ()
    download_speed: Annotated[tuple[str, ...], Xml("DownloadSpeed", group="Info", separator="/")] = ()
    svc_space_support_mode: Annotated[int | None, Xml("SVCSpaceSupportMode", group="Info")] = None
    svc_time_support_mode: Annotated[int | None, Xml("SVCTimeSupportMode", group="Info")] = None
    ssvc_ratio_support: Annotated[
        tuple[str, ...], Xml("SSVCRatioSupportList", group="Info", separator="/", edition=V22)
    ] = ()
    mobile_device_type: Annotated[int | None, Xml("MobileDeviceType", group="Info", edition=V22)] = None
    horizontal_field_angle: Annotated[
        float | None, Xml("HorizontalFieldAngle", group="Info", edition=V22, digits=2)
    ] = None
    vertical_field_angle: Annotated[
        float | None, Xml("VerticalFieldAngle", group="Info", edition=V22, digits=2)
    ] = None
    max_view_distance: Annotated[
        float | None, Xml("MaxViewDistance", group="Info", edition=V22, digits=2)
    ] = None
    grassroots_code: Annotated[str, Xml("GrassrootsCode", group="Info", edition=V22, read=no_null)] = ""
    point_type: Annotated[int | None, Xml("PointType", group="Info", edition=V22)] = None
    point_name: Annotated[str, Xml("PointCommonName", group="Info", edition=V22)] = ""
    mac: Annotated[str, Xml("MAC", group="Info", edition=V22)] = ""
    function_types: Annotated[
        tuple[str, ...], Xml("FunctionType", group="Info", separator="/", edition=V22)
    ] = ()
    encode_type: Annotated[str, Xml("EncodeType", group="Info", edition=V22)] = ""
    install_time: Annotated[datetime | None, Xml("InstallTime", group="Info", edition=V22)] = None
    management_unit: Annotated[str, Xml("ManagementUnit", group="Info", edition=V22)] = ""
    contact_info: Annotated[str, Xml("ContactInfo", group="Info", edition=V22)] = ""
    record_save_days: Annotated[int | None, Xml("RecordSaveDays", group="Info", edition=V22)] = None
    industrial_classification: Annotated[str, Xml("IndustrialClassification", group="Info", edition=V22)] = ""

    @property
    def kind(self) -> TypeKind:
        return kind_of(self.device_id)

    def place(self, xml: Xml, edition: Edition) -> str:
        """The group of a virtual organisation stands beside its name in both editions (2016 annex O)."""
        if xml.name == "BusinessGroupID" and self.kind is TypeKind.VIRTUAL_ORGANISATION:
            return ""
        return xml.placed(edition)

    def completed(self, edition: Edition) -> Self:
        """Fill what the edition asks of devices and systems: RegisterWay 1, Secrecy 0, and so on (A.2.1.9).

        Directory nodes and short notification entries (ON, OFF, DEL ...) stay as they are.
        """
        if self.kind in DIRECTORY or self.event not in ("", "ADD", "UPDATE"):
            return self
        missing: dict[str, Any] = {}
        if self.register_way is None:
            missing["register_way"] = 1
        if self.secrecy is None:
            missing["secrecy"] = 0
        if self.parental is None and self.kind is not TypeKind.SYSTEM:
            missing["parental"] = 0
        if not self.status:
            missing["status"] = "OFF"
        for name in ("manufacturer", "model", "address") + (("owner",) if edition is V16 else ()):
            if not getattr(self, name):
                missing[name] = "Unknown"
        if edition is V22 and self.kind is TypeKind.CAMERA and not self.grassroots_code:
            missing["grassroots_code"] = "000000"
        return self.model_copy(update=missing) if missing else self


class CatalogQuery(Body, root="Query", cmd_type="Catalog", clause="A.2.4.3", checks=("G082",)):
    """Ask for a catalog (MESSAGE) or subscribe to it (SUBSCRIBE). The window selects entries added in it."""

    start_time: Annotated[datetime | None, Xml("StartTime")] = None
    end_time: Annotated[datetime | None, Xml("EndTime")] = None


class CatalogResponse(Body, root="Response", cmd_type="Catalog", clause="A.2.6.4", checks=("G086", "G095")):
    """One part of a catalog: ``sum_num`` counts all parts together, ``items`` are those of this message."""

    sum_num: Annotated[int, Xml("SumNum", always=True)] = 0
    items: Annotated[list[CatalogItem], Xml("DeviceList", items="Item", num="Num")] = Field(
        default_factory=list
    )
    extra_info: ExtraInfo = ()


class CatalogNotify(Body, root="Notify", cmd_type="Catalog", clause="A.2.5", checks=("G108", "G111")):
    """Changes of a catalog: ``sum_num`` equals the number of items of this message."""

    sum_num: Annotated[int, Xml("SumNum", always=True)] = 0
    items: Annotated[list[CatalogItem], Xml("DeviceList", items="Item", num="Num")] = Field(
        default_factory=list
    )
    extra_info: ExtraInfo = ()

    def completed(self, edition: Edition) -> Self:
        """SumNum counts this message's items, whatever was said."""
        del edition
        return (
            self if self.sum_num == len(self.items) else self.model_copy(update={"sum_num": len(self.items)})
        )
