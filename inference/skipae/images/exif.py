"""EXIF data, changed where it is: makers' notes hold offsets into the whole, which writing it again would break."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

PREFIX = b"Exif\0\0"
"""What EXIF data begins with in a JPEG, and in :attr:`skipae.images.Metadata.exif`."""

ORIENTATION = 274
EXIF, GPS, INTEROPERABILITY, MAKER_NOTE = 34665, 34853, 40965, 37500

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value by its type."""

_FIRST = ((256, 257), (282, 283))  # size and resolution of an image in the first or second directory
_IN_EXIF = ((0xA002, 0xA003), (0xA20E, 0xA20F))
_IN_INTEROPERABILITY = ((0x1001, 0x1002),)

_MOST_VALUES = 256 << 20  # bytes of all tags that are read of a file
_MOST_TAGS = 10_000
_MOST_NUMBERS = 1 << 16
"""Numbers of one tag that are read, unless more are asked for."""
_MOST_DIRECTORIES = 100_000
_PINNED_BELOW = 60_000  # a maker's note keeps its place up to here, so that all fits in a JPEG's segment
_SELF_CONTAINED = (b"Nikon\0\2", b"FUJIFILM", b"Apple iOS\0", b"OLYMPUS\0", b"OM SYSTEM\0", b"PENTAX \0", b"Ricoh\0")
"""Beginnings of makers' notes whose offsets count from their own start."""
_THUMBNAIL_PIXELS = 1 << 20


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag of a directory as the file has it."""

    number: int
    type: int
    """1 BYTE, 2 ASCII, 3 SHORT, 4 LONG, 5 RATIONAL, 7 UNDEFINED, ..."""
    count: int
    data: bytes
    """All of its values, in the file's byte order."""
    place: int = 0
    """Offset of the values in the file."""
    entry: int = 0
    """Offset of the tag itself in the file."""

    def values(self, order: str, most: int = _MOST_NUMBERS) -> tuple[int, ...]:
        """Return whole numbers; empty for another type.

        Args:
            order: ``<`` or ``>``.
            most: how many there may be: each takes ten times the room that it has in the file.

        Raises:
            ValueError: there are more.
        """
        code = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}.get(self.type)
        if code is None:
            return ()
        if self.count > most:
            raise ValueError(f"the tag {self.number} has {self.count} numbers")
        return struct.unpack(f"{order}{self.count}{code}", self.data)


@dataclass(frozen=True, slots=True)
class Directory:
    """The tags of one picture, or of a part of what is said of it."""

    tags: dict[int, Tag]
    """Tags whose values are in the file, by number."""
    following: int = 0
    """Offset of the next directory, or 0."""
    link: int = 0
    """Offset at which ``following`` is written."""


_Tree = tuple[list[Tag], dict[int, "_Tree"]]
"""Tags of a directory, and the directories below it by the tag that points there."""


class Reader:
    """Directories of a TIFF file, or of EXIF data, which has the same structure."""

    def __init__(self, file: IO[bytes], start: int = 0) -> None:
        """Read the head; offsets count from ``start``.  :class:`ValueError` where there is no such structure."""
        self._file = file
        self._start = start
        head = self.read(0, 16, short=True)
        if head[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") or len(head) < 8:
            raise ValueError("no TIFF structure")
        self.order = "<" if head[:1] == b"I" else ">"
        """``<`` or ``>``."""
        self.is_big = b"+" in head[2:4]
        self.first = self._number(head[8:16] if self.is_big else head[4:8])
        """Offset of the first directory."""
        self._left = _MOST_VALUES

    def read(self, at: int, length: int, *, short: bool = False) -> bytes:
        """Return bytes at an offset; :class:`ValueError` where the file ends before, unless it may be ``short``."""
        try:
            self._file.seek(self._start + at)
            data = self._file.read(length)
        except (OSError, OverflowError) as error:  # an offset beyond what a file can have
            raise ValueError(str(error)) from error
        if len(data) < length and not short:
            raise ValueError("the file ends too early")
        return data

    def directory(self, at: int) -> Directory:
        """Return the directory at an offset; :class:`ValueError` where there is none."""
        head, entry, inline, code = (8, 20, 8, "HHQ") if self.is_big else (2, 12, 4, "HHI")
        count = self._number(self.read(at, head)) if at else 0
        if not 0 < count <= _MOST_TAGS:
            raise ValueError(f"a directory of {count} tags")
        table = self.read(at + head, count * entry)
        tags: dict[int, Tag] = {}
        for k in range(count):
            number, kind, values = struct.unpack_from(self.order + code, table, k * entry)
            length, here = _SIZES.get(kind, 0) * values, at + head + k * entry
            if not 0 < length <= self._left or number in tags:
                continue
            self._left -= length
            end = (k + 1) * entry
            where = here + entry - inline if length <= inline else self._number(table[end - inline : end])
            try:
                tags[number] = Tag(number, kind, values, self.read(where, length), where, here)
            except ValueError:
                continue
        link = at + head + count * entry
        following = self._number(self.read(link, inline, short=True))  # some files end with their directory
        return Directory(tags, following, link)

    def below(self, directory: Directory, pointer: int) -> Directory:
        """Return the directory that a tag gives the place of; empty where there is none."""
        try:
            return self.directory(directory.tags[pointer].values(self.order)[0])
        except (KeyError, IndexError, ValueError):
            return Directory({})

    def count(self) -> int:
        """Return how many directories follow each other from the first."""
        head, entry, inline = (8, 20, 8) if self.is_big else (2, 12, 4)
        seen: set[int] = set()
        at = self.first
        while at and at not in seen and len(seen) < _MOST_DIRECTORIES:
            try:
                tags = self._number(self.read(at, head))
                following = self._number(self.read(at + head + tags * entry, inline, short=True))
            except ValueError:
                break
            seen.add(at)
            at = following
        return len(seen)

    def _number(self, data: bytes) -> int:
        return int.from_bytes(data, "little" if self.order == "<" else "big")


def build(order: str, first: list[Tag], below: dict[int, list[Tag]]) -> tuple[bytes, bool]:
    """Return EXIF data of directories that were read.

    Args:
        order: ``<`` or ``>``, of the tags' values.
        first: tags of the first directory.
        below: tags of the directories :data:`EXIF`, :data:`GPS` and :data:`INTEROPERABILITY`.

    Returns:
        The data; and whether a maker's note that may hold offsets lost its place.
    """
    notes = [tag for tag in below.get(EXIF, []) if tag.number == MAKER_NOTE and len(tag.data) > 4]
    pinned = next((tag for tag in notes if tag.place >= 8 and tag.place + len(tag.data) <= _PINNED_BELOW), None)
    moved = bool(notes) and pinned is None and not notes[0].data.startswith(_SELF_CONTAINED)
    data = bytearray(8)
    if pinned is not None:
        end = pinned.place + len(pinned.data)
        data = data.ljust(end, b"\0")
        data[pinned.place : end] = pinned.data
    free = 8

    def take(length: int) -> int:
        """Return where so many bytes are free."""
        nonlocal free
        start = free + free % 2
        if pinned is not None and start < pinned.place + len(pinned.data) and start + length > pinned.place:
            start = pinned.place + len(pinned.data)
            start += start % 2
        free = start + length
        data.extend(bytes(max(0, free - len(data))))
        return start

    def put(tags: list[Tag], below_it: dict[int, _Tree]) -> int:
        """Write a directory and what is below it."""
        kept = [tag for tag in tags if tag.number not in (EXIF, GPS, INTEROPERABILITY)]
        kept += [Tag(number, 4, 1, bytes(4)) for number in below_it]
        kept.sort(key=lambda tag: tag.number)
        start = take(2 + 12 * len(kept) + 4)
        struct.pack_into(order + "H", data, start, len(kept))
        for k, tag in enumerate(kept):
            entry = start + 2 + 12 * k
            struct.pack_into(order + "HHI", data, entry, tag.number, tag.type, tag.count)
            if tag.number in below_it:
                value = struct.pack(order + "I", put(*below_it[tag.number]))
            elif len(tag.data) <= 4:
                value = tag.data.ljust(4, b"\0")
            else:
                place = tag.place if tag is pinned else take(len(tag.data))
                data[place : place + len(tag.data)] = tag.data
                value = struct.pack(order + "I", place)
            data[entry + 8 : entry + 12] = value
        return start

    tree: dict[int, _Tree] = {number: (below[number], {}) for number in (EXIF, GPS) if below.get(number)}
    if EXIF in tree and below.get(INTEROPERABILITY):
        tree[EXIF][1][INTEROPERABILITY] = (below[INTEROPERABILITY], {})
    struct.pack_into(order + "2sHI", data, 0, b"II" if order == "<" else b"MM", 42, put(first, tree))
    return PREFIX + bytes(data), moved


def complete(exif: bytes | None) -> bytes | None:
    """Return EXIF data with its prefix; None where it is empty."""
    if not exif or exif == PREFIX:
        return None
    return exif if exif.startswith(PREFIX) else PREFIX + exif


def orientation(exif: bytes) -> int:
    """Return 1 to 8, and 0 where it is missing; :class:`ValueError` where the data is damaged at its beginning."""
    reader = _reader(exif)
    found = reader.directory(reader.first).tags.get(ORIENTATION)
    turn = found.values(reader.order)[0] if found and found.values(reader.order) else 0
    return turn if 1 <= turn <= 8 else 0


def resolution(exif: bytes) -> tuple[float, float] | None:
    """Return pixels per inch, of width and height; None where they are not said."""
    try:
        reader = _reader(exif)
        tags = reader.directory(reader.first).tags
        inches = {2: 1.0, 3: 2.54}[tags[296].values(reader.order)[0]]
        pairs = (struct.unpack_from(reader.order + "II", tags[number].data) for number in (282, 283))
        across, down = (inches * numerator / denominator for numerator, denominator in pairs)
    except (ValueError, LookupError, ZeroDivisionError, struct.error):
        return None
    return across, down


def method(turn: int) -> Any:
    """Return Pillow's transposition for an orientation; None for 1."""
    from PIL.Image import Transpose

    return {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(turn)


def turned(exif: bytes, turn: int, size: tuple[int, int]) -> tuple[bytes, bool]:
    """Return EXIF data of an image that was turned upright, changed where it is.

    Args:
        exif: of the image as it was stored.
        turn: the orientation that was applied, 1 to 8.
        size: width and height of the image as it was stored.

    Returns:
        Data of the same length, with orientation 1; where the image was turned on its side, width and height are
        swapped; the thumbnail is turned too.  And whether the thumbnail had to be left out instead.
    """
    reader, data = _reader(exif), bytearray(exif)
    first = reader.directory(reader.first)
    on_side = turn in (5, 6, 7, 8)
    patch = _Patch(reader, data, len(exif) - len(exif.removeprefix(PREFIX)))
    patch.set(first, ORIENTATION, 1)
    if on_side:
        details = reader.below(first, EXIF)
        patch.swap(first, _FIRST)
        patch.swap(details, _IN_EXIF)
        patch.swap(reader.below(details, INTEROPERABILITY), _IN_INTEROPERABILITY)
    try:
        second = reader.directory(first.following)
    except ValueError:  # there is no thumbnail
        return bytes(data), False
    if turn != 1 and not patch.turn_thumbnail(second, turn, size):
        return without_thumbnail(bytes(data)), True
    return bytes(data), False


def without_orientation_number(exif: bytes) -> bytes:
    """Return EXIF data of the same length whose orientation has the number of no tag, so that no library acts on it."""
    data, start = bytearray(exif), len(exif) - len(exif.removeprefix(PREFIX))
    try:
        reader = _reader(exif)
        tag = reader.directory(reader.first).tags[ORIENTATION]
    except (ValueError, KeyError):
        return exif
    struct.pack_into(reader.order + "H", data, start + tag.entry, ORIENTATION + 1)
    return bytes(data)


def without_thumbnail(exif: bytes) -> bytes:
    """Return EXIF data without a link to its second directory, and blank where that has the
    thumbnail; empty if damaged.
    """
    try:
        reader = _reader(exif)
        first = reader.directory(reader.first)
    except ValueError:
        return b""
    data, start = bytearray(exif), len(exif) - len(exif.removeprefix(PREFIX))
    try:
        second = reader.directory(first.following)
    except ValueError:
        second = Directory({})
    for where, length in ((513, 514), (273, 279)):  # of a JPEG, or of strips
        try:
            pair = [second.tags[tag].values(reader.order) for tag in (where, length) if tag in second.tags]
        except ValueError:
            return b""
        parts = zip(*pair, strict=False) if len(pair) == 2 else ()
        places = [slice(*slice(start + at, start + at + size).indices(len(data))) for at, size in parts]
        if sum(place.stop - place.start for place in places) > len(data):  # they overlap
            return b""
        for place in places:
            data[place] = bytes(place.stop - place.start)
    link = start + first.link
    data[link : link + 4] = bytes(len(data[link : link + 4]))
    return bytes(data)


class _Patch:
    """Changes of a few bytes."""

    def __init__(self, reader: Reader, data: bytearray, start: int) -> None:
        self.order = reader.order
        self.data = data
        self.start = start

    def set(self, directory: Directory, number: int, value: int) -> None:
        """Set another number for one that is a SHORT or a LONG."""
        tag = directory.tags.get(number)
        if tag is not None and tag.count == 1 and tag.type in (3, 4):
            struct.pack_into(f"{self.order}{'HI'[tag.type - 3]}", self.data, self.start + tag.place, value)

    def swap(self, directory: Directory, pairs: tuple[tuple[int, int], ...]) -> None:
        """Swap the values of two tags, with their types."""
        for one, other in pairs:
            if one in directory.tags and other in directory.tags:
                first, second = directory.tags[one], directory.tags[other]
                if (first.type, first.data) == (second.type, second.data):
                    continue
                places = [slice(self.start + tag.entry + 2, self.start + tag.entry + 12) for tag in (first, second)]
                self.data[places[0]], self.data[places[1]] = self.data[places[1]], self.data[places[0]]

    def turn_thumbnail(self, second: Directory, turn: int, size: tuple[int, int]) -> bool:
        """Turn a JPEG where it is; whether that went well."""
        try:
            place, length = (second.tags[tag].values(self.order)[0] for tag in (513, 514))
            where = slice(self.start + place, self.start + place + length)
            stored = bytes(self.data[where])
            if len(stored) < length:  # the number may be four billion
                return False
            image = _open_thumbnail(stored)
            on_side = turn in (5, 6, 7, 8)
            if on_side and (size[0] - size[1]) * (image.size[0] - image.size[1]) < 0:
                return True  # it was upright before
            new = _encode_thumbnail(image, turn, length)
        except Exception:  # Pillow raises nearly anything for damaged files
            return False
        if new is None:
            return False
        self.data[where] = new.ljust(length, b"\0")
        self.set(second, 514, len(new))
        self.set(second, ORIENTATION, 1)
        if on_side:
            self.swap(second, _FIRST)
        return True


def _reader(exif: bytes) -> Reader:
    return Reader(io.BytesIO(exif), len(exif) - len(exif.removeprefix(PREFIX)))


def _open_thumbnail(data: bytes) -> Image.Image:
    from PIL.JpegImagePlugin import JpegImageFile

    image = JpegImageFile(io.BytesIO(data))
    if image.size[0] * image.size[1] > _THUMBNAIL_PIXELS:
        raise ValueError("too large for a thumbnail")
    image.load()
    return image


def _encode_thumbnail(image: Any, turn: int, most: int) -> bytes | None:
    """Return a JPEG of the turned image of at most so many bytes; None where there is none."""
    from PIL.JpegImagePlugin import get_sampling

    upright = image.transpose(method(turn))
    upright.info.clear()
    sampling: dict[str, Any] = {"subsampling": max(get_sampling(image), 0)} if image.mode == "RGB" else {}
    same: dict[str, Any] = {"qtables": dict(image.quantization)}
    coarser: list[dict[str, Any]] = [{"quality": quality} for quality in (85, 75, 60, 45, 30)]
    for options in (same, *coarser):
        buffer = io.BytesIO()
        upright.save(buffer, "JPEG", **sampling, **options, optimize=True)
        if len(buffer.getvalue()) <= most:
            return buffer.getvalue()
    return None
