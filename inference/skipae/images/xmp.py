"""XMP data that promises what a file no longer has, such as a gain map, is corrected; the rest stays byte for byte."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from xml.parsers import expat

_GAIN_MAP, _VIDEO, _PICTURES = "a gain map (HDR)", "a motion photo's video", "further pictures"
_EXTENDED = "extended XMP data"

_PROMISES = {
    ("http://ns.adobe.com/hdr-gain-map/1.0/", None): _GAIN_MAP,
    ("http://ns.apple.com/HDRGainMap/1.0/", None): _GAIN_MAP,
    ("http://ns.google.com/photos/1.0/container/", "Directory"): _PICTURES,
    ("http://ns.google.com/photos/dd/1.0/device/", "Container"): _PICTURES,
    ("http://ns.google.com/photos/1.0/camera/", "MotionPhoto"): _VIDEO,
    ("http://ns.google.com/photos/1.0/camera/", "MotionPhotoVersion"): _VIDEO,
    ("http://ns.google.com/photos/1.0/camera/", "MotionPhotoPresentationTimestampUs"): _VIDEO,
    ("http://ns.google.com/photos/1.0/camera/", "MicroVideo"): _VIDEO,
    ("http://ns.google.com/photos/1.0/camera/", "MicroVideoVersion"): _VIDEO,
    ("http://ns.google.com/photos/1.0/camera/", "MicroVideoOffset"): _VIDEO,
    ("http://ns.google.com/photos/1.0/camera/", "MicroVideoPresentationTimestampUs"): _VIDEO,
}
"""Elements and attributes, by namespace and name (None: all of it), that speak of other parts of the file."""

_EXTENDED_NOTE = ("http://ns.adobe.com/xmp/note/", "HasExtendedXMP")

_WORDS = {
    b"hdrgm:Version": _GAIN_MAP,
    b"GainMap": _GAIN_MAP,
    b"MotionPhoto": _VIDEO,
    b"MicroVideo": _VIDEO,
}
"""What shows a promise in a list of parts, or in data that cannot be read as XML."""

_ATTRIBUTE = re.compile(rb"""\s+([^\s=<>"'/]+)\s*=\s*("[^"]*"|'[^']*')""")
_NAME = re.compile(rb"<[^\s/>]*")
_EMPTY = re.compile(rb"\s*/>")
_MOST = 4 << 20  # bytes that are read as XML
_ORIENTATION = re.compile(rb'\s?tiff:Orientation="[1-8]"|<tiff:Orientation>[1-8]</tiff:Orientation>')
_THUMBNAILS_END = b"</xmp:Thumbnails>"


@dataclass
class Corrected:
    """XMP data without what it promised."""

    data: bytes
    promised: list[str] = field(default_factory=list)
    """What it spoke of, each once, in words for people."""
    is_corrected: bool = True
    """True if that was taken out, which is impossible in data that is not XML."""


def correct(xmp: bytes, *, extended: bool = False) -> Corrected:
    """Return XMP data without promises of other pictures, a gain map or a video in the same file.

    Args:
        xmp: a packet.
        extended: whether the promise of extended XMP data is taken out too.
    """
    if len(xmp) > _MOST or b"<!" in xmp.replace(b"<!--", b"").replace(
        b"<![CDATA[", b""
    ):  # a document type, which XMP has not
        return _by_words(xmp)
    finder = _Finder(xmp, extended)
    try:
        finder.run()
    except (expat.ExpatError, ValueError, RecursionError):
        return _by_words(xmp)
    if not finder.cuts:
        return Corrected(xmp)
    kept, at = [], 0
    for start, end in sorted(finder.cuts):
        if start >= at:
            kept.append(xmp[at:start])
        at = max(at, end)
    return Corrected(b"".join([*kept, xmp[at:]]), list(dict.fromkeys(finder.promised)))


def orientation(xmp: bytes) -> int:
    """Return 1 to 8, and 0 where it is missing."""
    found = re.search(rb'tiff:Orientation(?:="|>)([1-8])', xmp)
    return int(found[1]) if found else 0


def without_orientation(xmp: bytes) -> bytes:
    """Return XMP data of an image that was turned upright."""
    return _ORIENTATION.sub(b"", xmp)


def without_thumbnails(xmp: bytes) -> bytes:
    """Return XMP data without its small copies, in time linear in its length."""
    kept, at = [], 0
    for element in re.finditer(rb"<xmp:Thumbnails\b", xmp):
        if element.start() < at:  # inside the one before
            continue
        end = xmp.find(_THUMBNAILS_END, element.end())
        if end < 0:
            break
        kept.append(xmp[at : element.start()])
        at = end + len(_THUMBNAILS_END)
    return b"".join([*kept, xmp[at:]])


def _by_words(xmp: bytes) -> Corrected:
    promised = list(dict.fromkeys(what for word, what in _WORDS.items() if word in xmp))
    return Corrected(xmp, promised, is_corrected=not promised)


class _Finder:
    """Finds where promises begin and end."""

    def __init__(self, xmp: bytes, extended: bool) -> None:
        self.xmp = xmp.rstrip(b"\0")
        self.promises = _PROMISES | ({_EXTENDED_NOTE: _EXTENDED} if extended else {})
        self.cuts: list[tuple[int, int]] = []
        self.promised: list[str] = []
        self.names: dict[str, list[str]] = {"xml": ["http://www.w3.org/XML/1998/namespace"]}
        self.depth = 0
        self.inside: int | None = None
        """Depth of the element that is cut."""
        self.begin, self.promise = 0, ""
        self.empty_until = 0
        """Offset at which the element ends, if it has no content."""
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.namespace_prefixes = True
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.StartNamespaceDeclHandler = lambda prefix, uri: self.names.setdefault(prefix or "", []).append(uri)
        self.parser.EndNamespaceDeclHandler = lambda prefix: self.names[prefix or ""].pop()

    def run(self) -> None:
        """Parse all of the data."""
        self.parser.Parse(self.xmp, True)

    def what(self, uri: str, name: str) -> str | None:
        """Return the promise, if it is one."""
        return self.promises.get((uri, name)) or self.promises.get((uri, None))

    def start(self, name: str, _: dict[str, str]) -> None:
        self.depth += 1
        if self.inside is not None:
            return
        parts, place = name.split(" "), self.parser.CurrentByteIndex
        promise = self.what(parts[0], parts[1]) if len(parts) > 1 else None
        if promise is not None:
            self.inside, self.begin, self.promise = self.depth, place, promise
            attributes = self.attributes(place)
            last = _NAME.match(self.xmp, place) if not attributes else attributes[-1]
            empty = _EMPTY.match(self.xmp, last.end()) if last else None
            self.empty_until = empty.end() if empty else 0
            return
        for attribute in self.attributes(place):
            prefix, colon, local = attribute[1].decode().partition(":")
            uris = self.names.get(prefix) if colon else None
            promise = self.what(uris[-1], local) if uris else None
            if promise is not None:
                self.promised.append(promise)
                self.cuts.append(attribute.span())

    def end(self, _: str) -> None:
        """Cut what ends here."""
        if self.inside == self.depth:
            end = self.empty_until or self.xmp.index(b">", self.parser.CurrentByteIndex) + 1
            words = {what for word, what in _WORDS.items() if word in self.xmp[self.begin : end]}
            self.promised += sorted(words) if self.promise == _PICTURES and words else [self.promise]
            self.cuts.append((self.begin, end))
            self.inside = None
        self.depth -= 1

    def attributes(self, place: int) -> list[re.Match[bytes]]:
        """Return the attributes of the tag that starts at a place."""
        name = _NAME.match(self.xmp, place)
        found, at = [], name.end() if name else place
        while (attribute := _ATTRIBUTE.match(self.xmp, at)) is not None:
            found.append(attribute)
            at = attribute.end()
        return found
