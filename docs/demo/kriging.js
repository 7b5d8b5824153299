// Draw what was guessed of holes towards a prediction from the known pixels nearby, by how alike pixels are in that part
// of the picture: ordinary kriging, step by step as skipae/tasks/kriging.py does, which describes it.

export const TILE = 8; // pixels from one square to the next
const OVERLAP = 2; // pixels that a square reaches beyond its tile
const CONTEXT = 4; // pixels around a tile from which its square is predicted
const REACH = 14; // pixels around a tile in which it is measured how alike pixels are
const SPREAD = 6; // of the weight of what is measured there
const GUESSED = 0.7; // weight of a guessed pixel in it
const PRIOR = 0.1; // share of an ordinary picture in it
const NOISE = 0.03; // share of the variance that no neighbor says anything about
const TRUST = 1.6; // weight of the result per share of the variance that is explained

/** Change the values of a guess { height, width, values } in the hole's squares that touch `box`. `grid` is where tiles begin. */
export function krige(guess, hole, box, grid) {
  const { height, width, values } = guess;
  const result = Float32Array.from(values);
  const gray = new Float64Array(height * width);
  for (let i = 0; i < gray.length; i++) gray[i] = (values[3 * i] + values[3 * i + 1] + values[3 * i + 2]) / 3;
  for (const [top, left] of tiles(hole, width, box, grid)) {
    const square = (margin) => ({
      top: Math.max(top - margin, 0),
      left: Math.max(left - margin, 0),
      bottom: Math.min(top + TILE + margin, height),
      right: Math.min(left + TILE + margin, width),
    });
    let known = [];
    let margin = CONTEXT;
    for (; margin < REACH; margin += 3) {
      known = places(hole, width, square(margin), 0);
      if (known.length >= 40) break;
    }
    const likeness = known.length < 10 ? null : alike(gray, hole, width, square(REACH), top, left, TILE + 2 * margin);
    if (!likeness) continue;
    const wanted = places(hole, width, square(OVERLAP), 1);
    const factor = cholesky(known.map((p, i) => Float64Array.from(known.slice(0, i + 1), (q) => likeness(p, q) + (p === q ? NOISE : 0))));
    const ones = solve(factor, new Float64Array(known.length).fill(1));
    const total = sum(ones);
    const solved = [0, 1, 2].map((c) => solve(factor, Float64Array.from(known, ([y, x]) => values[3 * (y * width + x) + c])));
    const means = solved.map((channel) => sum(channel) / total);
    for (const pixel of wanted) {
      const toward = Float64Array.from(known, (other) => likeness(pixel, other));
      const half = lower(factor, toward);
      const explained = half.reduce((all, value) => all + value * value, 0);
      const share = Math.max(0, Math.min(1, TRUST * explained)) * fade(pixel[0] - top) * fade(pixel[1] - left);
      for (let c = 0; c < 3; c++) {
        const i = 3 * (pixel[0] * width + pixel[1]) + c;
        let found = means[c];
        for (let k = 0; k < known.length; k++) found += toward[k] * (solved[c][k] - ones[k] * means[c]);
        result[i] += share * (found - values[i]);
      }
    }
  }
  guess.values = result;
}

/** Top and left of the tiles whose squares have a pixel of the hole in the box. */
function tiles(hole, width, box, [down, right]) {
  const found = new Map();
  for (let y = box.top; y < box.bottom; y++)
    for (let x = box.left; x < box.right; x++)
      if (hole[y * width + x])
        for (const dy of [-OVERLAP, OVERLAP])
          for (const dx of [-OVERLAP, OVERLAP]) {
            const top = Math.floor((y - down + dy) / TILE) * TILE + down;
            const left = Math.floor((x - right + dx) / TILE) * TILE + right;
            found.set(`${top},${left}`, [top, left]);
          }
  return found.values();
}

/** Rows and columns in a box of what is in the hole, or is not. */
function places(hole, width, box, wanted) {
  const found = [];
  for (let y = box.top; y < box.bottom; y++)
    for (let x = box.left; x < box.right; x++) if ((hole[y * width + x] ? 1 : 0) === wanted) found.push([y, x]);
  return found;
}

/** Weight of a square along one side of its tile; those of the squares there add up to 1. */
function fade(place) {
  return Math.max(0, Math.min(1, (Math.min(place, TILE - 1 - place) + OVERLAP + 0.5) / (2 * OVERLAP)));
}

/** The correlation of two pixels less than `far` apart, as measured in the box around a tile; null where it is flat. */
function alike(gray, hole, width, box, top, left, far) {
  const rows = box.bottom - box.top;
  const columns = box.right - box.left;
  const weight = new Float64Array(rows * columns);
  const part = new Float64Array(rows * columns);
  let all = 0;
  let mean = 0;
  for (let y = 0, i = 0; y < rows; y++)
    for (let x = 0; x < columns; x++, i++) {
      const pixel = (y + box.top) * width + x + box.left;
      const down = y + box.top - top - (TILE - 1) / 2;
      const right = x + box.left - left - (TILE - 1) / 2;
      weight[i] = Math.exp(-(down * down + right * right) / (4 * SPREAD * SPREAD)) * (hole[pixel] ? GUESSED : 1);
      part[i] = gray[pixel];
      all += weight[i];
      mean += weight[i] * part[i];
    }
  for (let i = 0; i < part.length; i++) part[i] = (part[i] - mean / all) * weight[i];
  const side = 2 * far - 1;
  const table = new Float64Array(far * side); // offsets of 0 and more rows; (-dy, -dx) is as (dy, dx)
  for (let dy = 0; dy < Math.min(far, rows); dy++)
    for (let dx = 1 - Math.min(far, columns); dx < Math.min(far, columns); dx++) {
      let product = 0;
      for (let y = 0; y + dy < rows; y++)
        for (let x = Math.max(0, -dx); x < Math.min(columns, columns - dx); x++)
          product += part[y * columns + x] * part[(y + dy) * columns + x + dx];
      table[dy * side + dx + far - 1] = product;
    }
  const power = table[far - 1];
  if (power < 1e-6) return null;
  for (let dy = 0, i = 0; dy < far; dy++)
    for (let dx = 1 - far; dx < far; dx++, i++)
      table[i] = ((1 - PRIOR) / power) * table[i] + PRIOR * Math.exp(-Math.hypot(dy, dx) / 12);
  return (p, q) => {
    const dy = p[0] - q[0];
    const dx = p[1] - q[1];
    return dy < 0 ? table[-dy * side - dx + far - 1] : table[dy * side + dx + far - 1];
  };
}

/** The lower triangle L with L L' = matrix, of which rows up to the diagonal are given; in place. */
function cholesky(rows) {
  for (let i = 0; i < rows.length; i++)
    for (let j = 0; j <= i; j++) {
      let value = rows[i][j];
      for (let k = 0; k < j; k++) value -= rows[i][k] * rows[j][k];
      rows[i][j] = i === j ? Math.sqrt(value) : value / rows[j][j];
    }
  return rows;
}

/** x in L x = values. */
function lower(factor, values) {
  const x = Float64Array.from(values);
  for (let i = 0; i < x.length; i++) {
    for (let k = 0; k < i; k++) x[i] -= factor[i][k] * x[k];
    x[i] /= factor[i][i];
  }
  return x;
}

/** x in L L' x = values. */
function solve(factor, values) {
  const x = lower(factor, values);
  for (let i = x.length - 1; i >= 0; i--) {
    x[i] /= factor[i][i];
    for (let k = 0; k < i; k++) x[k] -= factor[i][k] * x[i];
  }
  return x;
}

function sum(values) {
  return values.reduce((all, value) => all + value, 0);
}
