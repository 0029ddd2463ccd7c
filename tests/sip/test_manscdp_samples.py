"""Every command has samples; each is read, written back to the same bytes and valid against the schema."""

from __future__ import annotations

from pathlib import Path

import pytest
from lxml import etree

from sip.manscdp import REGISTRY, Body, CatalogItem, CatalogResponse, Edition, UnknownBody, decode, encode

DATA = Path(__file__).parents[1] / "data"
SAMPLES = sorted((DATA / "manscdp").glob("*.xml"))
EDITIONS = {"2016": Edition.V2016, "2022": Edition.V2022}


def edition_of(sample: Path) -> Edition:
    return EDITIONS[sample.stem.split("-")[2]]


class Schema:
    """The XSD with one element per body and edition."""

    def __init__(self) -> None:
        document = etree.parse(DATA / "xsd" / "manscdp.xsd")
        self.schema = etree.XMLSchema(document)
        self.names = {
            str(element.get("name"))
            for element in document.getroot()
            if str(element.tag).endswith("}element")
        }

    def problem(self, data: bytes, edition: str) -> str:
        root = etree.fromstring(data.decode("gb18030").split("?>", 1)[1])
        name = f"{root.tag}.{root.findtext('CmdType')}"
        root.tag = f"{name}.{edition}" if f"{name}.{edition}" in self.names else name
        return "" if self.schema.validate(root) else str(self.schema.error_log.last_error)


@pytest.fixture(scope="module")
def schema() -> Schema:
    return Schema()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_sample_is_read_and_written_back_to_the_same_bytes(sample: Path) -> None:
    data = sample.read_bytes()
    decoded = decode(data)
    assert not isinstance(decoded.body, UnknownBody)
    assert decoded.faults == []
    assert decoded.body.extras == {}
    assert encode(decoded.body, edition=edition_of(sample)) == data


@pytest.mark.gb("G075")
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_what_is_written_is_valid_in_order_and_content(sample: Path, schema: Schema) -> None:
    edition = sample.stem.split("-")[2]
    data = encode(decode(sample.read_bytes()).body, edition=EDITIONS[edition])
    assert schema.problem(data, edition) == ""


@pytest.mark.gb("G075")
def test_the_schema_notices_a_wrong_order(schema: Schema) -> None:
    sample = next(path for path in SAMPLES if path.stem == "Response-DeviceInfo-2022")
    lines = sample.read_bytes().split(b"\r\n")
    lines[2], lines[3] = lines[3], lines[2]
    assert "SN" in schema.problem(b"\r\n".join(lines), "2022")


@pytest.mark.gb("G075", "G092")
def test_an_item_with_every_field_is_written_for_each_edition(schema: Schema) -> None:
    """The same item, sent to a 2016 and a 2022 peer, carries the fields of that edition and only those."""
    sample = next(path for path in SAMPLES if path.stem == "Response-Catalog-2022")
    body = decode(sample.read_bytes()).body
    assert isinstance(body, CatalogResponse)
    item = next(item for item in body.items if item.grassroots_code)
    rich = item.model_copy(update={"owner": "demo", "safety_way": 0, "use_type": 1, "cert_num": "1"})
    for name, edition in EDITIONS.items():
        data = encode(body.model_copy(update={"items": [rich]}), edition=edition)
        assert schema.problem(data, name) == ""
        text = data.decode("gb18030")
        for field in ("Owner", "SafetyWay", "CertNum", "UseType"):
            assert (f"<{field}>" in text) == (edition is Edition.V2016)
        for field in ("GrassrootsCode", "PointType", "MAC", "SecurityLevelCode"):
            assert (f"<{field}>" in text) == (edition is Edition.V2022)


def test_samples_of_other_hands_are_valid_and_read_without_fault(corpus: Path, schema: Schema) -> None:
    """The schema was written from the text of the standard; messages made apart from it agree with it."""
    for path in sorted((corpus.parent / "examples").glob("*.xml")):
        data = path.read_bytes()
        assert schema.problem(data, "2016" if b"GB2312" in data[:60] else "2022") == "", path.name
        decoded = decode(data)
        assert decoded.faults == [], path.name
        assert not isinstance(decoded.body, UnknownBody), path.name
        assert decoded.body.extras == {}, path.name


def test_captures_are_read(corpus: Path) -> None:
    for path in sorted([*(corpus / "xml").glob("*.xml"), *(corpus / "issues").glob("*.xml")]):
        assert decode(path.read_bytes()).body.cmd_type, path.name


def test_every_model_has_a_sample() -> None:
    named = {tuple(path.stem.split("-")[:2]) for path in SAMPLES}
    missing = [
        model.__name__ for model in set(REGISTRY.values()) if (model.ROOT, model.CMD_TYPE) not in named
    ]
    assert missing == []


@pytest.mark.parametrize("edition", list(Edition))
def test_every_model_is_written_empty_and_read_again(edition: Edition) -> None:
    for model in sorted(set(REGISTRY.values()), key=lambda model: model.__name__):
        body: Body = model(sn=1, device_id="41018300001320000001")
        again = decode(encode(body, edition=edition)).body
        assert type(again) is model
        assert again.sn == 1


def test_reading_equals_building() -> None:
    item = CatalogItem(
        device_id="41018300001320000001", name="x", parent_ids=("41018300001180000001",), longitude=113.5
    )
    body = CatalogResponse(
        sn=7, device_id="41018300001180000001", sum_num=1, items=[item.completed(Edition.V2022)]
    )
    again = decode(encode(body, edition=Edition.V2022)).body
    assert again == body
    assert CatalogResponse.model_validate(again.model_dump()) == body
