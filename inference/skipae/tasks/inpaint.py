"""Fill masked pixels from their surroundings.

A hole is estimated twice.  The first estimate is a thin plate under tension: the smooth surface that meets the known
pixels around the hole in value and slope (see :func:`_plate`).  The second is the network's output for a hole painted
in the color that the network was trained to fill; the network does not know the mask, so it may miss parts of it.  The
weight of the second is measured on the image itself: holes of the same shapes are cut next to the real ones, where
the truth is known, and the weight with the least squared error there is used.  A network that fills well dominates;
one that does not, on this picture, has no effect.

Both are smooth, so the result is then moved toward a third estimate, which continues edges, stripes and textures, by
how much of the picture it explains there (:mod:`skipae.tasks.kriging`).

Holes wider than the blocks that the network was trained on are filled from coarse to fine: pixels deeper than
:data:`DEPTH` come from the same procedure on the image at half size, and the band around them is then filled with
known pixels outside and the coarse result inside.  The band fades into the coarse result, so that the scales do not
show as frames.  Only regions around holes are computed, so a small hole in a large photo is fast and memory is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from skipae import images
from skipae.engine.net import Net
from skipae.engine.tiling import check_range, is_gray
from skipae.errors import ImageError
from skipae.tasks import kriging
from skipae.tasks.masks import Mask, check_mask, load_mask, opaque, transparent
from skipae.tasks.pixels import Progress, Restore, on_array, on_planes

if TYPE_CHECKING:
    from PIL.Image import Image

Floats = NDArray[np.float32]

DEPTH = 16
"""Pixels from a hole's rim that are filled at one scale: half the side of the largest blocks in training."""

WIDE = 64
"""Pixels across a hole above which a note says that its filling is smooth."""

RIM = 2
"""Pixels from a hole's rim that are of one scale alone; from there to :data:`DEPTH` it fades into the coarser one."""

CELL = 384
"""Holes are filled in cells of so many pixels a side, each with what is around it."""

TENSION = 1.0
"""Tension of the plate, per pixel squared: 0 overshoots in wide holes, a large one gives plain diffusion."""

STEPS = 80
"""Steps of conjugate gradients; more change the PSNR by less than 0.01 dB in holes of up to 32 pixels."""

_SHIFTS = tuple(
    (distance * down, distance * right)
    for distance in (9, 13, 21, 31)
    for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1))
)
"""Distances, in pixels, from real holes to where they are tried out.  One place, and a near one: several, or farther
ones, say less about the hole (their pixels differ more from its surroundings), and gave 0.2 dB less in single small
holes."""


def inpaint(
    net: Net,
    image: NDArray[Any] | Image | images.Picture | images.Source,
    mask: NDArray[Any] | Image | images.Picture | images.Source | None = None,
    *,
    max_pixels: int = images.MAX_PIXELS,
    progress: Progress | None = None,
) -> NDArray[Any] | Image | images.Picture:
    """Fill the masked pixels of an image of any kind; see :meth:`skipae.Model.inpaint`."""
    holes, said = None, None
    if mask is not None:
        holes, faint = load_mask(mask, max_pixels=max_pixels)
        said = faint and f"mask: {faint}"
    if isinstance(image, np.ndarray):
        return _inpaint_array(net, image, holes, said, progress)
    picture = images.to_picture(image, max_pixels=max_pixels)
    _inpaint_picture(net, picture, holes, said, progress)
    return picture.to_pil() if images.is_pil(image) else picture


def _inpaint_picture(
    net: Net, picture: images.Picture, mask: Mask | None, said: str | None, progress: Progress | None
) -> None:
    """Fill the masked pixels of a picture; without a mask those that are not opaque, which become so.

    What is partly transparent is laid over what was filled.  ``said`` of the mask becomes one of the picture's notes.
    """
    from PIL import Image

    alpha = None if mask is not None or picture.alpha is None else np.array(picture.alpha)
    holes = transparent(picture.alpha, picture.size) if mask is None else mask
    count = check_mask(holes, picture.size, said)
    if said is not None:
        picture.notes.append(said)
    if not count:
        return
    if _deep(holes, WIDE // 2).any():
        picture.notes.append(
            f"a hole is wider than {WIDE} pixels: it is filled smoothly, no objects or textures are invented"
        )

    on_planes(picture, _filler(net, holes, alpha), progress)
    picture.drop_thumbnails()
    if alpha is not None:
        alpha[holes] = np.iinfo(alpha.dtype).max
        picture.alpha = Image.fromarray(alpha)
        partial = int((alpha != np.iinfo(alpha.dtype).max).sum())
        if partial:
            picture.notes.append(f"{partial} pixels stay partly transparent: none is opaque to fill them from")


def _inpaint_array(
    net: Net, image: NDArray[Any], mask: Mask | None, said: str | None, progress: Progress | None
) -> NDArray[Any]:
    images.check_array(image)
    alpha = image[..., 3] if mask is None and image.ndim == 3 and image.shape[2] == 4 else None
    size = image.shape[1], image.shape[0]
    holes = transparent(alpha, size) if mask is None else mask
    check_mask(holes, size, said)
    one = _filler(net, holes, alpha)
    result = on_array(image, lambda plane: one(plane, progress))
    if alpha is not None:
        result[holes, 3] = opaque(alpha)
    return result


def _filler(net: Net, holes: Mask, alpha: NDArray[Any] | None) -> Restore:
    """Return what fills the holes of one plane; with ``alpha``, what is partly transparent is laid over it."""

    def one(plane: NDArray[Any], progress: Progress | None) -> NDArray[Any]:
        filled = fill(net, plane, holes, progress)
        if alpha is not None:
            _lay_over(filled, plane, alpha, holes)
        return filled

    return one


def _lay_over(filled: NDArray[Any], pixels: NDArray[Any], alpha: NDArray[Any], holes: Mask) -> None:
    """Lay what was there, by its alpha, over what was filled, in place."""
    soft = holes & (alpha > 0)
    if not soft.any():
        return
    weight = alpha[soft].astype(np.float32) / opaque(alpha)
    if pixels.ndim == 3:
        weight = weight[:, None]
    mixed = weight * pixels[soft].astype(np.float32) + (1 - weight) * filled[soft].astype(np.float32)
    filled[soft] = mixed if filled.dtype.kind == "f" else np.rint(mixed)


def fill(net: Net, pixels: NDArray[Any], mask: Mask, progress: Progress | None = None) -> NDArray[Any]:
    """Fill masked pixels of one plane.

    Args:
        net: of a checkpoint that restores images.
        pixels: [H, W] (gray) or [H, W, 3] (RGB) of uint8, uint16 or float in [0, 1].
        mask: bool [H, W]; at least one pixel is known.
        progress: is called with the share done, in (0, 1].

    Returns:
        A new array of the same shape and dtype, equal outside the mask; where the known pixels have three equal
        channels, so have all.

    Raises:
        ImageError: memory runs out.
        UsageError: known pixels are floats far out of [0, 1].
    """
    try:
        result = np.array(pixels, order="C")
    except MemoryError:
        height, width = mask.shape
        raise ImageError(f"not enough memory for the result of {width} x {height} pixels") from None
    result[mask] = 0  # what is there, NaN too, is not known
    check_range(result)
    if mask.any():
        if is_gray(result):
            gray = np.ascontiguousarray(result[..., 0])
            _fill(net, gray, mask, progress)
            result[...] = gray[..., None]
        else:
            _fill(net, result, mask, progress)
    return result


def _fill(net: Net, pixels: NDArray[Any], mask: Mask, progress: Progress | None = None) -> None:
    """Fill ``pixels`` in place."""
    margin = max(net.config.halo, 2 * DEPTH)
    deep = _deep(mask)
    if deep.any():
        rows, columns = _bounds(deep, 2 * margin)
        part = pixels[rows, columns]
        small, holes = _half_size(part, mask[rows, columns])
        _fill(net, small, holes)
        _write_upscaled(small, part, _deep(mask[rows, columns], RIM))
        band = mask & ~deep
    else:
        band = mask
    scale = np.float32(np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1)
    cells = list(_cells(band))
    for done, (rows, columns) in enumerate(cells, 1):
        around = _widen(rows, margin, mask.shape[0]), _widen(columns, margin, mask.shape[1])
        values = pixels[around].astype(np.float32) / scale
        flat = values.reshape(*values.shape[:2], -1)
        filled = _fill_window(net, flat, band[around], deep[around])
        inside = (
            slice(rows.start - around[0].start, rows.stop - around[0].start),
            slice(columns.start - around[1].start, columns.stop - around[1].start),
        )
        grid = -around[0].start % kriging.TILE, -around[1].start % kriging.TILE
        filled[inside] = kriging.krige(filled, band[around], inside, grid)
        coarse = _coarse_share(mask[around], deep[around])[..., None]
        filled += coarse * (flat - filled)
        new = _to_type(filled.reshape(values.shape)[inside], pixels.dtype)
        cell = band[rows, columns]
        pixels[rows, columns][cell] = new[cell]
        if progress is not None:
            progress(done / len(cells))


def _fill_window(net: Net, values: Floats, hole: Mask, deep: Mask) -> Floats:
    """Fill ``hole`` in float32 [H, W, C]; decoys are cut neither there nor in ``deep``, which is a guess itself."""
    smooth = _plate(values, hole)
    decoy = _decoy(hole | deep)
    if not decoy.any():
        return smooth
    # The network's output for similar holes where the truth is known.
    base = _plate(smooth, decoy)
    change = (_guess(net, smooth, decoy) - base)[decoy]
    error = (smooth - base)[decoy]
    power = float((change * change).sum())
    weight = min(float((change * error).sum()) / power, 1.0) if power else 0.0
    if weight <= 0:
        return smooth
    blended = smooth + np.float32(weight) * (_guess(net, values, hole) - smooth)
    return np.where(hole[..., None], blended, smooth)


def _guess(net: Net, values: Floats, hole: Mask) -> Floats:
    """Return the network's estimate, with the hole painted in the color it was trained to fill."""
    color = np.array(net.config.preprocessing.fill, np.float32)
    restored = net.restore(np.where(hole[..., None], color, np.clip(values, 0, 1)))
    return cast("Floats", restored if values.shape[2] == 3 else restored.mean(axis=2, keepdims=True))


def _decoy(taken: Mask) -> Mask:
    """Return the mask moved to where the most pixels are known, apart from it; the nearest such place."""
    free = _apart_from(taken)
    return max((np.roll(taken, shift, (0, 1)) & free for shift in _SHIFTS), key=lambda moved: int(moved.sum()))


def _apart_from(mask: Mask) -> Mask:
    """Return True where nothing within two pixels is masked."""
    apart = ~mask
    for axis in (0, 1):
        apart &= _moved(apart, 2, axis) & _moved(apart, 1, axis) & _moved(apart, -1, axis) & _moved(apart, -2, axis)
    return apart


def _plate(values: Floats, hole: Mask) -> Floats:
    """Return a thin plate under tension through the known pixels: (L L + t L) u = 0 in the hole,
    L the 5-point Laplacian.

    Solved by :data:`STEPS` of conjugate gradients from :func:`_pull_push`, on the hole's pixels alone.
    """
    guess = _pull_push(values, hole)
    height, width, channels = values.shape
    padded = np.pad(np.arange(height * width).reshape(height, width), 1, mode="edge")
    # Beyond the edge a pixel is its own neighbor: no slope there.
    around = np.stack([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]).reshape(4, -1)
    inner = np.flatnonzero(hole)
    # L u is needed in the hole and beside it, u one pixel further.
    first = np.unique(np.append(inner, around[:, inner]))
    second = np.unique(np.append(first, around[:, first]))
    place = np.zeros(height * width, np.intp)
    place[second] = np.arange(len(second))
    inner_in_second, first_in_second, around_first = place[inner], place[first], place[around[:, first]]
    place[first] = np.arange(len(first))
    inner_in_first, around_inner = place[inner], place[around[:, inner]]

    def apply(u: Floats) -> Floats:
        at = u[first_in_second]
        bent = (4 + np.float32(TENSION)) * at - sum(u[index] for index in around_first)
        return cast("Floats", 4 * bent[inner_in_first] - sum(bent[index] for index in around_inner))

    u = guess.reshape(-1, channels)[second]
    residual = -apply(u)
    direction = np.zeros_like(u)
    direction[inner_in_second] = residual
    size = float((residual * residual).sum())
    for _ in range(STEPS):
        if size <= 1e-7 * len(inner):
            break
        bent = apply(direction)
        step = size / float((direction[inner_in_second] * bent).sum())
        u += np.float32(step) * direction
        residual -= np.float32(step) * bent
        before, size = size, float((residual * residual).sum())
        direction[inner_in_second] = residual + np.float32(size / before) * direction[inner_in_second]
    result = values.copy()
    result.reshape(-1, channels)[inner] = u[inner_in_second]
    return result


def _pull_push(values: Floats, hole: Mask) -> Floats:
    """Fill the hole from the same at half size."""
    if not hole.any():
        return values
    if hole.all():
        return values  # an image with no known pixel: never the whole, which has one
    return np.where(hole[..., None], _double(_pull_push(*_halve(values, hole)), hole.shape), values)


def _halve(values: Floats, hole: Mask) -> tuple[Floats, Mask]:
    """Halve the size: means of the known among 2 x 2 pixels, and where none is known."""
    height, width, channels = values.shape
    pad = ((0, height % 2), (0, width % 2))
    known = np.pad(~hole, pad).reshape((height + 1) // 2, 2, (width + 1) // 2, 2)
    blocks = np.pad(values, (*pad, (0, 0))).reshape(*known.shape, channels)
    count = known.sum(axis=(1, 3), dtype=np.float32)
    means = (blocks * known[..., None]).sum(axis=(1, 3)) / np.maximum(count, 1)[..., None]
    return means, count == 0


def _double(values: Floats, shape: tuple[int, ...], rows: slice = slice(None)) -> Floats:
    """Return ``rows`` of the bilinear enlargement of [h, w, C] to ``shape``, of which h x w is half, rounded up."""
    from PIL import Image

    top, bottom, _ = rows.indices(shape[0])
    box = (0, top / 2, shape[1] / 2, bottom / 2)
    planes = (Image.fromarray(np.ascontiguousarray(plane)) for plane in values.transpose(2, 0, 1))  # (H, W, C) -> C
    sizes = (shape[1], bottom - top)
    return np.dstack([np.asarray(plane.resize(sizes, Image.Resampling.BILINEAR, box)) for plane in planes])


def _half_size(pixels: NDArray[Any], mask: Mask) -> tuple[NDArray[Any], Mask]:
    """Return :func:`_halve` of pixels of any type, in strips, so that no float copy of the whole is made."""
    height, width = mask.shape
    small = np.empty(((height + 1) // 2, (width + 1) // 2, *pixels.shape[2:]), pixels.dtype)
    holes = np.empty(small.shape[:2], bool)
    scale = np.float32(np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1)
    for top in range(0, height, CELL):
        strip = slice(top, min(top + CELL, height))
        values = pixels[strip].astype(np.float32).reshape(strip.stop - top, width, -1) / scale
        half = slice(top // 2, (strip.stop + 1) // 2)
        means, holes[half] = _halve(values, mask[strip])
        small[half] = _to_type(means, pixels.dtype).reshape(small[half].shape)
    return small, holes


def _write_upscaled(small: NDArray[Any], pixels: NDArray[Any], where: Mask) -> None:
    """Write ``small``, enlarged twice, into ``pixels`` in place, in strips."""
    height, width = where.shape
    for top in range(0, height, CELL):
        strip = slice(top, min(top + CELL, height))
        if not where[strip].any():
            continue
        first, last = max(top // 2 - 2, 0), min((strip.stop + 1) // 2 + 2, len(small))
        part = small[first:last].astype(np.float32).reshape(last - first, small.shape[1], -1)
        shape = (min(2 * last, height) - 2 * first, width)
        large = _double(part, shape, slice(top - 2 * first, strip.stop - 2 * first))
        new = large if pixels.dtype.kind == "f" else np.rint(large)
        pixels[strip][where[strip]] = new.reshape(pixels[strip].shape)[where[strip]]


def _to_type(values: Floats, dtype: np.dtype[Any]) -> NDArray[Any]:
    values = np.clip(values, 0, 1)
    if dtype.kind == "f":
        return values.astype(dtype)
    values *= np.float32(np.iinfo(dtype).max)
    return np.rint(values, out=values).astype(dtype)


def _coarse_share(mask: Mask, deep: Mask) -> Floats:
    """Return the weight of the coarse result: 0 up to :data:`RIM` pixels from the rim to 1 beyond :data:`DEPTH`."""
    share = np.zeros(mask.shape, np.float32)
    if deep.any():
        eroded = _deep(mask, RIM)
        for _ in range(RIM, DEPTH):
            share += eroded
            eroded = _deep(eroded, 1)
    share /= DEPTH - RIM
    return share


def _deep(mask: Mask, depth: int = DEPTH) -> Mask:
    """Return where no pixel within ``depth`` rows and columns is known."""
    deep = mask.copy()
    reach = 0
    while reach < depth:
        step = min(reach + 1, depth - reach)
        for axis in (0, 1):
            deep &= _moved(deep, step, axis) & _moved(deep, -step, axis)
        reach += step
    return deep


def _moved(mask: Mask, step: int, axis: int) -> Mask:
    """Return the mask moved along an axis; true where nothing is moved to."""
    moved = np.ones_like(mask)
    target: list[slice] = [slice(None)] * 2
    source: list[slice] = [slice(None)] * 2
    target[axis], source[axis] = (
        (slice(step, None), slice(None, -step))
        if step > 0
        else (
            slice(None, step),
            slice(-step, None),
        )
    )
    moved[tuple(target)] = mask[tuple(source)]
    return moved


def _cells(mask: Mask) -> Iterator[tuple[slice, slice]]:
    """Yield rows and columns of what is masked, cell by cell."""
    height, width = mask.shape
    for top in range(0, height, CELL):
        for left in range(0, width, CELL):
            cell = mask[top : top + CELL, left : left + CELL]
            if cell.any():
                rows, columns = _bounds(cell)
                yield slice(top + rows.start, top + rows.stop), slice(left + columns.start, left + columns.stop)


def _bounds(mask: Mask, margin: int = 0) -> tuple[slice, slice]:
    """Return the rows and columns that hold all that is masked, from even starts where there is a margin."""
    found = []
    for axis in (1, 0):
        there = np.flatnonzero(mask.any(axis=axis))
        span = slice(int(there[0]), int(there[-1]) + 1)
        found.append(_widen(span, margin, mask.shape[1 - axis]))
    return found[0], found[1]


def _widen(span: slice, margin: int, length: int) -> slice:
    return slice(max(span.start - margin, 0), min(span.stop + margin, length))
