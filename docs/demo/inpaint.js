// Fill masked pixels from their surroundings, step by step as `skipae inpaint` does, whose module describes the method:
// a smooth plate through the known pixels, the network's guess, and a weight between the two that is measured on holes
// of the same shape cut beside the real ones, then kriging. What is deep inside a hole comes from the image at half size.
//
// An image is { height, width, values: Float32Array [height, width, 3] in [0, 1] }, a mask a Uint8Array [height, width].

import { krige, TILE } from "./kriging.js";

const DEPTH = 16; // pixels from a hole's rim that are filled at one scale
const RIM = 2; // of these, pixels that are of one scale alone; the others fade into the coarser one
const CELL = 384; // holes are filled in cells of so many pixels a side
const TENSION = 1;
const STEPS = 80; // of conjugate gradients
const SHIFTS = [9, 13, 21, 31].flatMap((distance) =>
  [[0, 1], [1, 0], [0, -1], [-1, 0], [1, 1], [-1, -1], [1, -1], [-1, 1]].map(([down, right]) => [
    distance * down,
    distance * right,
  ]),
);

/**
 * Fill the masked pixels of an RGBA image of 8 bits; returns a new one, equal outside the mask and opaque inside it.
 * `network` is { restore(values, height, width) -> Promise of values, fill: [r, g, b], halo }.
 */
export async function inpaint(network, pixels, height, width, mask, progress = () => {}) {
  const result = new Uint8ClampedArray(pixels);
  const rgb = new Uint8ClampedArray(3 * height * width);
  for (let i = 0; i < mask.length; i++)
    for (let c = 0; c < 3; c++) rgb[3 * i + c] = mask[i] ? 0 : pixels[4 * i + c];
  await fill(network, { height, width, values: rgb }, mask, progress);
  for (let i = 0; i < mask.length; i++)
    if (mask[i]) {
      for (let c = 0; c < 3; c++) result[4 * i + c] = rgb[3 * i + c];
      result[4 * i + 3] = 255;
    }
  return result;
}

/** Fill an RGB image of 8 bits in place. */
async function fill(network, image, mask, progress) {
  const { height, width, values } = image;
  const margin = Math.max(network.halo, 2 * DEPTH);
  const deep = deepPixels(mask, height, width);
  let band = mask;
  if (deep.some((one) => one)) {
    const box = bounds(deep, width, { top: 0, left: 0, bottom: height, right: width });
    const around = widen(box, 2 * margin, height, width);
    const masked = cutMask(mask, width, around);
    const [small, holes] = halve(cut(image, around, 255), masked);
    // The coarse image is rounded to 8 bits too, as the original is.
    const coarse = { height: small.height, width: small.width, values: Uint8ClampedArray.from(small.values, (v) => 255 * v) };
    await fill(network, coarse, holes, () => {});
    const size = [around.bottom - around.top, around.right - around.left];
    const large = double({ ...coarse, values: Float32Array.from(coarse.values) }, ...size);
    const inside = deepPixels(masked, ...size, RIM);
    for (let y = around.top, from = 0; y < around.bottom; y++)
      for (let x = around.left; x < around.right; x++, from++)
        if (inside[from])
          for (let c = 0; c < 3; c++) values[3 * (y * width + x) + c] = large.values[3 * from + c];
    band = mask.map((one, i) => (one && !deep[i] ? 1 : 0));
  }
  const cells = [];
  for (let top = 0; top < height; top += CELL)
    for (let left = 0; left < width; left += CELL) {
      const limits = { top, left, bottom: Math.min(top + CELL, height), right: Math.min(left + CELL, width) };
      const box = bounds(band, width, limits);
      if (box) cells.push(box);
    }
  for (const [index, box] of cells.entries()) {
    const around = widen(box, margin, height, width);
    const part = cut(image, around, 255);
    const deepPart = cutMask(deep, width, around);
    const hole = cutMask(band, width, around);
    const filled = await fillWindow(network, part, hole, deepPart);
    krige(filled, hole, shifted(box, around), [mod(-around.top, TILE), mod(-around.left, TILE)]);
    const share = coarseShare(cutMask(mask, width, around), deepPart, part.height, part.width);
    for (let i = 0; i < share.length; i++)
      for (let j = 3 * i; j < 3 * i + 3; j++) filled.values[j] += share[i] * (part.values[j] - filled.values[j]);
    for (let y = box.top; y < box.bottom; y++)
      for (let x = box.left; x < box.right; x++)
        if (band[y * width + x])
          for (let c = 0; c < 3; c++)
            values[3 * (y * width + x) + c] =
              255 * filled.values[3 * ((y - around.top) * filled.width + x - around.left) + c];
    await progress((index + 1) / cells.length);
  }
}

async function fillWindow(network, image, hole, deep) {
  const smooth = plate(image, hole);
  const decoy = decoyMask(hole.map((one, i) => one | deep[i]), image.height, image.width);
  if (!decoy.some((one) => one)) return smooth;
  const base = plate(smooth, decoy);
  const guess = await restore(network, smooth, decoy);
  let power = 0;
  let overlap = 0;
  for (let i = 0; i < decoy.length; i++)
    if (decoy[i])
      for (let j = 3 * i; j < 3 * i + 3; j++) {
        const change = guess.values[j] - base.values[j];
        power += change * change;
        overlap += change * (smooth.values[j] - base.values[j]);
      }
  const weight = power ? Math.min(overlap / power, 1) : 0;
  if (weight <= 0) return smooth;
  const found = await restore(network, image, hole);
  for (let i = 0; i < hole.length; i++)
    if (hole[i])
      for (let j = 3 * i; j < 3 * i + 3; j++)
        smooth.values[j] += weight * (found.values[j] - smooth.values[j]);
  return smooth;
}

/** The network's guess, with the hole painted in the color that it was trained to fill. */
async function restore(network, { height, width, values }, hole) {
  const painted = values.map((value) => Math.max(0, Math.min(1, value)));
  for (let i = 0; i < hole.length; i++) if (hole[i]) painted.set(network.fill, 3 * i);
  return { height, width, values: await network.restore(painted, height, width) };
}

/** The mask moved to where the most pixels are known, apart from it; the nearest such place. */
function decoyMask(taken, height, width) {
  const free = apartFrom(taken, height, width);
  let best = null;
  let most = -1;
  for (const [down, right] of SHIFTS) {
    const moved = new Uint8Array(taken.length);
    let known = 0;
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++) {
        const from = mod(y - down, height) * width + mod(x - right, width); // rolls over, as numpy's roll
        if (taken[from] && free[y * width + x]) {
          moved[y * width + x] = 1;
          known += 1;
        }
      }
    if (known > most) [best, most] = [moved, known];
  }
  return best;
}

/** 1 where nothing within two pixels is masked. */
function apartFrom(mask, height, width) {
  let apart = mask.map((one) => (one ? 0 : 1));
  for (const down of [true, false]) apart = erode(apart, height, width, 2, down);
  return apart;
}

/** 1 where no pixel within `depth` rows and columns is known. */
function deepPixels(mask, height, width, depth = DEPTH) {
  let deep = mask;
  for (const down of [true, false]) deep = erode(deep, height, width, depth, down);
  return deep;
}

/** The weight of the coarse image, from 0 up to RIM pixels from the rim to 1 beyond DEPTH. */
function coarseShare(mask, deep, height, width) {
  const share = new Float32Array(mask.length);
  if (!deep.some((one) => one)) return share;
  let eroded = deepPixels(mask, height, width, RIM);
  for (let reach = RIM; reach < DEPTH; reach++) {
    for (let i = 0; i < share.length; i++) share[i] += eroded[i] / (DEPTH - RIM);
    eroded = deepPixels(eroded, height, width, 1);
  }
  return share;
}

/** 1 where all pixels within `reach` along one axis are 1; beyond the image all are. */
function erode(mask, height, width, reach, down) {
  const result = new Uint8Array(mask.length);
  const [lines, length, line, step] = down ? [width, height, 1, width] : [height, width, width, 1];
  for (let l = 0; l < lines; l++) {
    let last = -Infinity; // the last 0 seen
    for (let i = 0; i < length + reach; i++) {
      if (i < length && !mask[l * line + i * step]) last = i;
      if (i >= reach) result[l * line + (i - reach) * step] = last < i - 2 * reach ? 1 : 0;
    }
  }
  return result;
}

/** A thin plate under tension through the known pixels: (L L + t L) u = 0 in the hole, L the 5-point Laplacian. */
function plate(image, hole) {
  const { height, width } = image;
  const result = pullPush(image, hole);
  const inner = [];
  for (let i = 0; i < hole.length; i++) if (hole[i]) inner.push(i);
  // Beyond the edge a pixel is its own neighbor: no slope there.
  const around = (i) => {
    const y = Math.floor(i / width);
    const x = i - y * width;
    return [y > 0 ? i - width : i, y < height - 1 ? i + width : i, x > 0 ? i - 1 : i, x < width - 1 ? i + 1 : i];
  };
  // L u is needed in the hole and beside it, u one pixel further.
  const first = grow(inner, around, hole.length);
  const second = grow(first, around, hole.length);
  const place = new Int32Array(hole.length);
  second.forEach((pixel, k) => (place[pixel] = k));
  const innerInSecond = Int32Array.from(inner, (i) => place[i]);
  const firstInSecond = Int32Array.from(first, (i) => place[i]);
  const aroundFirst = Int32Array.from([...first].flatMap((i) => around(i).map((j) => place[j])));
  first.forEach((pixel, k) => (place[pixel] = k));
  const innerInFirst = Int32Array.from(inner, (i) => place[i]);
  const aroundInner = Int32Array.from(inner.flatMap((i) => around(i).map((j) => place[j])));

  const bent = new Float64Array(3 * first.length);
  const apply = (u, into) => {
    for (let k = 0; k < first.length; k++)
      for (let c = 0; c < 3; c++)
        bent[3 * k + c] =
          (4 + TENSION) * u[3 * firstInSecond[k] + c] -
          u[3 * aroundFirst[4 * k] + c] -
          u[3 * aroundFirst[4 * k + 1] + c] -
          u[3 * aroundFirst[4 * k + 2] + c] -
          u[3 * aroundFirst[4 * k + 3] + c];
    for (let k = 0; k < inner.length; k++)
      for (let c = 0; c < 3; c++)
        into[3 * k + c] =
          4 * bent[3 * innerInFirst[k] + c] -
          bent[3 * aroundInner[4 * k] + c] -
          bent[3 * aroundInner[4 * k + 1] + c] -
          bent[3 * aroundInner[4 * k + 2] + c] -
          bent[3 * aroundInner[4 * k + 3] + c];
  };

  const u = new Float64Array(3 * second.length);
  second.forEach((pixel, k) => u.set(result.values.subarray(3 * pixel, 3 * pixel + 3), 3 * k));
  const bend = new Float64Array(3 * inner.length);
  apply(u, bend);
  const residual = bend.map((value) => -value);
  const direction = new Float64Array(u.length);
  innerInSecond.forEach((k, i) => direction.set(residual.subarray(3 * i, 3 * i + 3), 3 * k));
  let size = residual.reduce((sum, value) => sum + value * value, 0);
  for (let step = 0; step < STEPS && size > 1e-7 * inner.length; step++) {
    apply(direction, bend);
    let dot = 0;
    innerInSecond.forEach((k, i) => {
      for (let c = 0; c < 3; c++) dot += direction[3 * k + c] * bend[3 * i + c];
    });
    const far = size / dot;
    for (let i = 0; i < u.length; i++) u[i] += far * direction[i];
    const before = size;
    size = 0;
    for (let i = 0; i < residual.length; i++) {
      residual[i] -= far * bend[i];
      size += residual[i] * residual[i];
    }
    innerInSecond.forEach((k, i) => {
      for (let c = 0; c < 3; c++)
        direction[3 * k + c] = residual[3 * i + c] + (size / before) * direction[3 * k + c];
    });
  }
  inner.forEach((pixel, i) => {
    for (let c = 0; c < 3; c++) result.values[3 * pixel + c] = u[3 * innerInSecond[i] + c];
  });
  return result;
}

/** Indices with their neighbors, sorted, each once. */
function grow(indices, around, length) {
  const taken = new Uint8Array(length);
  for (const i of indices) {
    taken[i] = 1;
    for (const j of around(i)) taken[j] = 1;
  }
  const found = [];
  for (let i = 0; i < length; i++) if (taken[i]) found.push(i);
  return found;
}

/** Fill the hole from the same image at half size. */
function pullPush(image, hole) {
  const values = Float32Array.from(image.values);
  // An image without a known pixel, far down, is left as it is: the whole has one.
  if (hole.some((one) => one) && !hole.every((one) => one)) {
    const large = double(pullPush(...halve(image, hole)), image.height, image.width);
    for (let i = 0; i < hole.length; i++)
      if (hole[i]) values.set(large.values.subarray(3 * i, 3 * i + 3), 3 * i);
  }
  return { ...image, values };
}

/** Half size: means of the known among 2 x 2 pixels, and a mask of where none is known. */
function halve({ height, width, values }, hole) {
  const small = { height: (height + 1) >> 1, width: (width + 1) >> 1 };
  small.values = new Float32Array(3 * small.height * small.width);
  const holes = new Uint8Array(small.height * small.width);
  for (let y = 0; y < small.height; y++)
    for (let x = 0; x < small.width; x++) {
      const to = y * small.width + x;
      let known = 0;
      for (let below = 2 * y; below < Math.min(2 * y + 2, height); below++)
        for (let beside = 2 * x; beside < Math.min(2 * x + 2, width); beside++) {
          const from = below * width + beside;
          if (hole[from]) continue;
          known += 1;
          for (let c = 0; c < 3; c++) small.values[3 * to + c] += values[3 * from + c];
        }
      holes[to] = known ? 0 : 1;
      for (let c = 0; c < 3; c++) small.values[3 * to + c] /= Math.max(known, 1);
    }
  return [small, holes];
}

/** The bilinear enlargement to height x width, of which the image is half, rounded up. */
function double({ height: smallHeight, width: smallWidth, values }, height, width) {
  const large = { height, width, values: new Float32Array(3 * height * width) };
  const pair = (i, length) => {
    const near = i >> 1;
    return [near, Math.max(0, Math.min(length - 1, near + (i & 1 ? 1 : -1)))];
  };
  for (let y = 0, to = 0; y < height; y++) {
    const [nearRow, farRow] = pair(y, smallHeight);
    for (let x = 0; x < width; x++) {
      const [near, far] = pair(x, smallWidth);
      for (let c = 0; c < 3; c++, to++) {
        const at = (row, column) => values[3 * (row * smallWidth + column) + c];
        large.values[to] =
          0.75 * (0.75 * at(nearRow, near) + 0.25 * at(nearRow, far)) +
          0.25 * (0.75 * at(farRow, near) + 0.25 * at(farRow, far));
      }
    }
  }
  return large;
}

/** The smallest box within `limits` that holds all that is masked, or null. */
function bounds(mask, width, limits) {
  const box = { top: Infinity, left: Infinity, bottom: -1, right: -1 };
  for (let y = limits.top; y < limits.bottom; y++)
    for (let x = limits.left; x < limits.right; x++)
      if (mask[y * width + x]) {
        box.top = Math.min(box.top, y);
        box.left = Math.min(box.left, x);
        box.bottom = y + 1;
        box.right = Math.max(box.right, x + 1);
      }
  return box.right < 0 ? null : box;
}

function widen({ top, left, bottom, right }, margin, height, width) {
  return {
    top: Math.max(top - margin, 0),
    left: Math.max(left - margin, 0),
    bottom: Math.min(bottom + margin, height),
    right: Math.min(right + margin, width),
  };
}

/** The box in the coordinates of the one around it. */
function shifted({ top, left, bottom, right }, around) {
  return {
    top: top - around.top,
    left: left - around.left,
    bottom: bottom - around.top,
    right: right - around.left,
  };
}

/** Part of an image of values from 0 to `scale` as floats in [0, 1]. */
function cut({ width, values }, box, scale) {
  const part = { height: box.bottom - box.top, width: box.right - box.left };
  part.values = new Float32Array(3 * part.height * part.width);
  for (let y = 0, to = 0; y < part.height; y++)
    for (let i = 3 * ((box.top + y) * width + box.left), end = i + 3 * part.width; i < end; i++, to++)
      part.values[to] = values[i] / scale;
  return part;
}

function cutMask(mask, width, box) {
  const part = new Uint8Array((box.bottom - box.top) * (box.right - box.left));
  for (let y = box.top, to = 0; y < box.bottom; y++)
    for (let x = box.left; x < box.right; x++, to++) part[to] = mask[y * width + x];
  return part;
}

function mod(value, length) {
  return ((value % length) + length) % length;
}
