"""One Pascal VOC xml file: its picture's name and size, and its objects. A file that declares a document type is refused."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

_MOST_BYTES = 16 << 20


class VocObject(NamedTuple):
    """A class name, a box as written (xmin, ymin, xmax, ymax; NaN where a number is none) and whether it is difficult."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


class VocFile(NamedTuple):
    """What one file says; height and width are 0 where it does not."""

    filename: str
    height: int
    width: int
    objects: list[VocObject]


class _NoDoctype(ElementTree.TreeBuilder):
    """Entities can only be declared in a document type, which no VOC file needs: with none, none can blow up or read other files."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise ValueError("it declares a document type, which is refused")


def read_voc(file: Path) -> VocFile:
    """The annotation in ``file``.

    Raises:
        ValueError: not xml, damaged, over 16 MiB, with a document type, or without an ``annotation``.
    """
    data = file.read_bytes()
    if len(data) > _MOST_BYTES:
        raise ValueError(f"{len(data):,} bytes are more than an annotation has")
    parser = ElementTree.XMLParser(target=_NoDoctype())
    try:
        parser.feed(data)
        top = parser.close()
    except (ElementTree.ParseError, LookupError) as error:
        raise ValueError(f"not xml, or damaged ({error})") from None
    if top.tag != "annotation":
        raise ValueError(f"its outermost element is {top.tag}, not annotation")
    sides = [_number(top.findtext(f"size/{side}")) for side in ("height", "width")]
    height, width = (int(side) if 0 < side < 2**31 else 0 for side in sides)
    return VocFile((top.findtext("filename") or "").strip(), height, width, [_object(one) for one in top.findall("object")])


def _object(element: ElementTree.Element) -> VocObject:
    left, top, right, bottom = (_number(element.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
    name = (element.findtext("name") or "").strip()
    return VocObject(name, (left, top, right, bottom), _number(element.findtext("difficult")) > 0)


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")
