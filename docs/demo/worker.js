// The picture and the model are here, so that the page stays responsive. One request runs at a time; the page asks with
// { type, ... } and is answered with { type: "backend" | "loading" | "progress" | "picture" | "failed", ... }.

import { NotFinite, blend, changes, isGray, plan } from "./tiling.js";
import { bytesPerPixel, modelFile, totalStride } from "./checkpoint.js";
import { inpaint } from "./inpaint.js";

const CHECKPOINT = "checkpoint/";
const MEMORY = 512 * 2 ** 20; // bytes that the layers of one window may take
const STILL_ALIVE = 50; // milliseconds between two looks at incoming messages

class Stopped extends Error {}
/** A text for people. */
class Failure extends Error {}

let model = null; // { session, config, backend, area }
let gpuFailed = false;
let picture = null; // { original, current, change, width, height, gray }, pixels as RGBA
let stop = false;

const requests = {
  /** Load the model, so that it is stored for use without a network. */
  async load() {
    await loadModel();
  },

  open({ pixels, width, height }) {
    picture = { original: pixels, current: pixels, change: null, width, height, gray: isGray(pixels) };
  },

  async denoise({ luma, chroma, tile }) {
    const { current, width, height } = picture;
    picture.change = await onNetwork(async ({ config, area }) => {
      const rule = { stride: totalStride(config), halo: config.halo, tile };
      for (let most = area; ; most /= 2) {
        const windows = plan(height, width, { ...rule, area: most });
        try {
          return await changes(run, current, height, width, windows, report);
        } catch (error) {
          // Out of memory, or a GPU that refuses the size: smaller windows, while there are any.
          const smaller = plan(height, width, { ...rule, area: most / 2 });
          if (error instanceof Stopped || error instanceof NotFinite || smaller.area >= windows.area) throw error;
        }
      }
    });
    requests.blend({ luma, chroma });
  },

  /** Show the picture with another share of the change. */
  blend({ luma, chroma }) {
    show(blended(luma, chroma));
  },

  async inpaint({ mask, luma, chroma }) {
    const { width, height } = picture;
    const before = blended(luma, chroma);
    const gray = isGray(before, mask);
    const filled = await onNetwork(({ config }) => {
      const network = {
        restore: (values, rows, columns) => restore(values, rows, columns, gray),
        fill: config.preprocessing.fill,
        halo: config.halo,
      };
      return inpaint(network, before, height, width, mask, report);
    });
    Object.assign(picture, { current: filled, change: null, gray });
    show(filled);
  },

  /** Undo everything. */
  reset() {
    const { original } = picture;
    Object.assign(picture, { current: original, change: null, gray: isGray(original) });
    show(original);
  },
};

let last = Promise.resolve();
onmessage = ({ data: request }) => {
  if (request.type === "stop") stop = true;
  else last = last.then(() => answer(request));
};

async function answer(request) {
  stop = false;
  try {
    await requests[request.type](request);
    postMessage({ type: "done", request: request.type });
  } catch (error) {
    if (!(error instanceof Failure || error instanceof Stopped)) console.error(error);
    const text = error instanceof Failure ? error.message : `The model stopped with an error: ${error.message ?? error}`;
    postMessage({ type: "failed", request: request.type, stopped: error instanceof Stopped, text });
  }
}

function blended(luma, chroma) {
  const { current, change, gray } = picture;
  return change ? blend(current, change, luma, chroma, gray) : current;
}

function show(pixels) {
  const copy = new Uint8ClampedArray(pixels);
  postMessage({ type: "picture", pixels: copy }, [copy.buffer]);
}

let looked = 0;
async function report(share) {
  postMessage({ type: "progress", share });
  if (performance.now() - looked > STILL_ALIVE) {
    await new Promise((resolve) => setTimeout(resolve)); // lets a message to stop in
    looked = performance.now();
  }
  if (stop) throw new Stopped();
}

/** Do something with the model; where the GPU fails at it, once more without. */
async function onNetwork(work) {
  const loaded = await loadModel();
  try {
    return await work(loaded);
  } catch (error) {
    if (error instanceof Stopped) throw error;
    if (loaded.backend === "webgpu") {
      console.warn(error);
      gpuFailed = true;
      model = null;
      return onNetwork(work);
    }
    if (error instanceof NotFinite)
      throw new Failure("The model returned values that are not finite numbers. Please report this photo as a bug.");
    if (/memory|alloc/i.test(`${error.message ?? error}`))
      throw new Failure("The browser ran out of memory. Close other tabs, or use the skipae command for this photo.");
    throw error;
  }
}

/** One run of the network: Float32Array [3, height, width] in and out, in [0, 1] but for what the output exceeds. */
async function run(values, height, width) {
  const { session, Tensor } = model;
  const input = new Tensor("float32", values, [1, 3, height, width]);
  const outputs = await session.run({ [session.inputNames[0]]: input });
  return outputs[session.outputNames[0]].data;
}

/** The same with values [height, width, 3], clipped to [0, 1]; `gray` makes the channels equal. */
async function restore(values, height, width, gray) {
  const plane = height * width;
  const planes = new Float32Array(3 * plane);
  for (let i = 0; i < plane; i++) for (let c = 0; c < 3; c++) planes[c * plane + i] = values[3 * i + c];
  const found = await run(planes, height, width);
  const result = new Float32Array(3 * plane);
  for (let i = 0; i < plane; i++)
    for (let c = 0; c < 3; c++) {
      const value = found[c * plane + i];
      if (!Number.isFinite(value)) throw new NotFinite();
      result[3 * i + c] = value;
    }
  if (gray)
    for (let i = 0; i < 3 * plane; i += 3) result.fill((result[i] + result[i + 1] + result[i + 2]) / 3, i, i + 3);
  for (let i = 0; i < 3 * plane; i++) result[i] = Math.max(0, Math.min(1, result[i]));
  return result;
}

async function loadModel() {
  if (model) return model;
  const config = JSON.parse(new TextDecoder().decode(await download(`${CHECKPOINT}config.json`)));
  const gpu = gpuFailed ? null : await navigator.gpu?.requestAdapter().catch(() => null);
  const file = modelFile(config, Boolean(gpu));
  let bytes = await download(`${CHECKPOINT}${file}`, "model");
  await check(bytes, config.files[file], file);
  const start = async (backend) => {
    const ort = await runtime(backend);
    const session = await ort.InferenceSession.create(bytes, { executionProviders: [backend], logSeverityLevel: 3 });
    const threads = backend === "wasm" ? ort.env.wasm.numThreads : 0;
    model = { session, config, Tensor: ort.Tensor, backend, area: Math.floor(MEMORY / bytesPerPixel(config)) };
    postMessage({ type: "backend", backend, threads, gpuFailed, name: config.name, file });
    return model;
  };
  if (gpu) {
    try {
      return await start("webgpu");
    } catch (error) {
      if (error instanceof Failure) throw error;
      console.warn(error);
      gpuFailed = true;
      return loadModel();
    }
  }
  return start("wasm");
}

async function runtime(backend) {
  const here = new URL("ort/", import.meta.url);
  const bundle = backend === "webgpu" ? "ort.webgpu.bundle.min.mjs" : "ort.wasm.bundle.min.mjs";
  const wasm = backend === "webgpu" ? "ort-wasm-simd-threaded.asyncify.wasm" : "ort-wasm-simd-threaded.wasm";
  const binary = await download(`ort/${wasm}`, "runtime");
  const ort = await import(new URL(bundle, here)).catch(() => {
    throw lostNetwork(bundle);
  });
  ort.env.wasm.wasmBinary = binary;
  ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 8) : 1;
  return ort;
}

function lostNetwork(file) {
  return new Failure(
    `Could not download ${file}: the network connection is lost or the server does not answer. Check the connection and choose Retry. Your photo stays open.`,
  );
}

/** Bytes of a file of this site; the service worker keeps it for use without a network. */
async function download(path, what = null) {
  const url = new URL(path, import.meta.url);
  let response;
  try {
    response = await fetch(url);
  } catch {
    throw lostNetwork(path);
  }
  if (!response.ok) throw new Failure(`The server answered ${response.status} for ${path}, which this page needs.`);
  const parts = [];
  let size = 0;
  const total = Number(response.headers.get("Content-Length")) || 0;
  try {
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      size += value.length;
      if (what) postMessage({ type: "loading", what, share: total ? Math.min(size / total, 1) : null });
    }
  } catch {
    throw lostNetwork(path);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function check(bytes, expected, file) {
  if (!globalThis.crypto?.subtle || !expected) return; // pages without https have no crypto.subtle
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (found !== expected) throw new Failure(`${file} is damaged: its sha256 is ${found.slice(0, 12)}..., not the checkpoint's. Reload the page.`);
}
