// Windows of a large image, by the rule of skipae's own tiling module (docs/architecture.md): windows are clipped to the
// image, their starts are multiples of the network's total stride, and of each only what is at least the halo from a cut
// edge is kept. The output then equals one run on the whole image.

export const LUMA = [0.299, 0.587, 0.114]; // ITU-R BT.601
const WINDOW_OVERHEAD = 64 * 64; // pixels' worth of time that a window costs besides its own pixels

/** Changes are stored as 64ths of a gray level, so that strength 0.5 does not start from rounded or clipped values. */
export const CHANGE_SCALE = 64;

function count(axis) {
  return axis.size >= axis.length ? 1 : 1 + Math.ceil((axis.length - axis.size) / axis.step);
}

/** [start of the window, first pixel kept, end of the pixels kept] of each window along an axis. */
export function spans(axis) {
  const total = count(axis);
  const found = [];
  let kept = 0;
  for (let k = 0; k < total; k++) {
    const start = Math.min(k * axis.step, axis.length - axis.size);
    const end = k === total - 1 ? axis.length : start + axis.size - axis.halo;
    found.push([start, kept, end]);
    kept = end;
  }
  return found;
}

/** Every sensible window size along an axis of `length` pixels, largest first; the first is the whole axis. */
export function axes(length, stride, halo) {
  const quotient = Math.floor((length - 2 * halo) / stride);
  const found = [{ length, size: length, step: Math.max(length, 1), halo }];
  let advance = quotient;
  while (advance > 1) {
    const windows = Math.ceil(quotient / (advance - 1));
    advance = Math.ceil(quotient / windows); // the smallest windows that make do with this many
    found.push({ length, size: length - (quotient - advance) * stride, step: advance * stride, halo });
  }
  return found;
}

/**
 * The cheapest windows for an image: { rows, columns, area, count }.
 * `area` is the most pixels in a window, exceeded where the halo leaves no smaller one; `tile`, if not null, is the
 * longest side of a window in pixels and replaces `area`.
 */
export function plan(height, width, { stride, halo, area, tile = null }) {
  let rows = axes(height, stride, halo);
  let columns = axes(width, stride, halo);
  if (tile !== null) {
    rows = rows.filter((axis) => axis.size <= tile);
    columns = columns.filter((axis) => axis.size <= tile);
    if (!rows.length || !columns.length)
      throw new Error(`A tile of ${tile} pixels is too small for this model; use ${2 * halo + 2 * stride - 1} or more.`);
  }
  let plans = rows.flatMap((row) =>
    columns.map((column) => {
      const pixels = row.size * column.size;
      const windows = count(row) * count(column);
      return { rows: row, columns: column, area: pixels, count: windows, cost: windows * (pixels + WINDOW_OVERHEAD) };
    }),
  );
  if (tile === null) {
    const most = Math.max(area, Math.min(...plans.map((one) => one.area)));
    plans = plans.filter((one) => one.area <= most);
  }
  return plans.reduce((best, one) =>
    one.cost < best.cost || (one.cost === best.cost && one.area < best.area) ? one : best,
  );
}

/** Part of an RGBA image of 8 bits as the network's input: Float32Array [3, height, width] in [0, 1]. */
export function toNetwork(pixels, imageWidth, top, left, height, width) {
  const plane = height * width;
  const input = new Float32Array(3 * plane);
  for (let y = 0, i = 0; y < height; y++)
    for (let x = 0, p = 4 * ((top + y) * imageWidth + left); x < width; x++, i++, p += 4) {
      input[i] = pixels[p] / 255;
      input[plane + i] = pixels[p + 1] / 255;
      input[2 * plane + i] = pixels[p + 2] / 255;
    }
  return input;
}

export class NotFinite extends Error {}

/**
 * What the network changes in an RGBA image, window by window: Int16Array [height, width, 3] in 1/64 of a gray level.
 * `run(input, height, width)` resolves to a Float32Array [3, height, width]; `progress(share)` may return a promise and
 * may throw to stop.
 */
export async function changes(run, pixels, height, width, windows, progress = () => {}) {
  const change = new Int16Array(3 * height * width);
  const { rows, columns } = windows;
  let done = 0;
  for (const [top, firstRow, endRow] of spans(rows))
    for (const [left, firstColumn, endColumn] of spans(columns)) {
      const input = toNetwork(pixels, width, top, left, rows.size, columns.size);
      const output = await run(input, rows.size, columns.size);
      const plane = rows.size * columns.size;
      for (let c = 0; c < 3; c++)
        for (let y = firstRow; y < endRow; y++) {
          let i = c * plane + (y - top) * columns.size + (firstColumn - left);
          let to = 3 * (y * width + firstColumn) + c;
          for (let x = firstColumn; x < endColumn; x++, i++, to += 3) {
            const difference = (output[i] - input[i]) * 255 * CHANGE_SCALE;
            if (!Number.isFinite(difference)) throw new NotFinite();
            change[to] = Math.max(-32768, Math.min(32767, Math.round(difference)));
          }
        }
      done += 1;
      await progress(done / windows.count);
    }
  return change;
}

/** Whether an RGBA image has three equal channels, at least where `mask` is 0. */
export function isGray(pixels, mask = null) {
  for (let p = 0; p < pixels.length; p += 4)
    if ((pixels[p] !== pixels[p + 1] || pixels[p] !== pixels[p + 2]) && !mask?.[p / 4]) return false;
  return true;
}

/**
 * The image with a share of the change: of the brightness `luma`, of the color `chroma`, each from 0 to 1. `gray` keeps
 * three equal channels equal. Returns RGBA (Uint8ClampedArray, which rounds to even and clips, as skipae does); alpha
 * stays.
 */
export function blend(pixels, change, luma, chroma, gray = false) {
  const result = new Uint8ClampedArray(pixels);
  for (let p = 0, i = 0; p < pixels.length; p += 4, i += 3) {
    let red = change[i] / CHANGE_SCALE;
    let green = change[i + 1] / CHANGE_SCALE;
    let blue = change[i + 2] / CHANGE_SCALE;
    const brightness = (luma - chroma) * (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue);
    if (gray) red = green = blue = (red + green + blue) / 3;
    result[p] = pixels[p] + chroma * red + brightness;
    result[p + 1] = pixels[p + 1] + chroma * green + brightness;
    result[p + 2] = pixels[p + 2] + chroma * blue + brightness;
  }
  return result;
}
