// The page: opens photos, shows them, draws masks, and asks worker.js for everything that takes time.

const LIMIT = 40e6; // pixels; more would need several gigabytes of memory in a browser tab
const $ = (id) => document.getElementById(id);
const canvas = { before: $("before"), after: $("after"), mask: $("mask") };
const context = Object.fromEntries(
  Object.entries(canvas).map(([name, one]) => [name, one.getContext("2d", { willReadFrequently: true })]),
);
// ?tile=256 limits the side of a window in pixels, as the option of skipae denoise.
const tile = Number(new URLSearchParams(location.search).get("tile")) || null;

let worker = null;
let photo = null; // { name, width, height, edit: "denoised" | "inpainted" | null }
let busy = null; // the type of the request that runs
let failed = null; // the request to repeat
let backend = "";
let cursor = { x: 0, y: 0 }; // of the mask editor, in pixels of the photo
let maskedSomething = false;

// ---------------------------------------------------------------------------------------------- messages

function say(text) {
  $("status").textContent = text;
}

function complain(text, retry = null) {
  $("alert").hidden = !text;
  $("alert-text").textContent = text;
  failed = retry;
  $("retry").hidden = !retry;
}

function update() {
  $("drop").hidden = Boolean(photo);
  $("viewer").hidden = !photo;
  $("tools").disabled = !photo || Boolean(busy);
  $("file").disabled = $("sample").disabled = Boolean(busy && busy !== "load");
  $("work").hidden = !busy;
  $("stop").hidden = busy === "load";
  document.body.dataset.state = busy ?? (worker && backend ? "ready" : "idle");
}

// ---------------------------------------------------------------------------------------------- worker

/** What the status says while a request runs. */
const WORDS = {
  load: "Loading the model.",
  denoise: "Removing noise.",
  inpaint: "Filling the mask.",
  reset: "Back to the original.",
  open: "Opening the photo.",
  blend: "",
};

function ask(request, transfer = []) {
  busy = request.type;
  complain("");
  if (WORDS[busy]) say(WORDS[busy]);
  $("progress").removeAttribute("value");
  update();
  worker.postMessage(request, transfer);
}

const answers = {
  backend({ backend: kind, threads, gpuFailed, name }) {
    const cpu = `the CPU (WebAssembly, ${threads === 1 ? "1 thread" : `${threads} threads`})`;
    const why = gpuFailed ? "the GPU failed at this model" : "this browser has no WebGPU";
    backend = kind === "webgpu" ? `${name} runs on the GPU (WebGPU).` : `${name} runs on ${cpu}: ${why}.`;
  },
  loading({ what, share }) {
    if (share !== null) $("progress").value = share;
    say(`Loading the ${what}${share === null ? "" : `, ${Math.round(100 * share)} %`}.`);
  },
  progress({ share }) {
    $("progress").value = share;
    say(`${WORDS[busy]} ${Math.round(100 * share)} %`);
  },
  picture({ pixels }) {
    context.after.putImageData(new ImageData(pixels, photo.width, photo.height), 0, 0);
  },
  done({ request }) {
    const finished = {
      load: `Ready. ${backend}${navigator.serviceWorker?.controller ? " The page now works offline." : ""}`,
      open: `${photo?.name}, ${photo?.width} x ${photo?.height} pixels, is open.`,
      denoise: `Noise removed. ${backend}`,
      inpaint: `Mask filled. ${backend}`,
      reset: "This is the original photo.",
    }[request];
    if (finished) say(finished);
    if (photo && request === "denoise") photo.edit ??= "denoised";
    if (photo && request === "inpaint") photo.edit = "inpainted";
    if (photo && request === "reset") photo.edit = null;
    if (request === "inpaint") clearMask();
    busy = null;
    update();
    if (request === "blend") blendAgain();
  },
  failed({ request, stopped, text }) {
    busy = null;
    if (stopped) say("Stopped. Nothing was changed.");
    else {
      say("");
      const again = { load: start, denoise: removeNoise, inpaint: fillMask }[request];
      complain(text, again ?? null);
    }
    update();
  },
};

function newWorker() {
  worker?.terminate();
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data }) => answers[data.type](data);
  worker.onerror = (event) => {
    event.preventDefault();
    worker = null;
    answers.failed({
      request: "load",
      text: "A part of this page could not be downloaded: the network connection is lost or the server does not answer. Check the connection and choose Retry.",
    });
  };
}

function start() {
  if (!worker) {
    newWorker();
    if (photo) {
      sendPhoto();
      return;
    }
  }
  ask({ type: "load" });
}

// ---------------------------------------------------------------------------------------------- photos

async function open(file) {
  if (busy && busy !== "load") return;
  complain("");
  const url = URL.createObjectURL(file);
  try {
    const image = new Image();
    const loaded = new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = reject;
    });
    image.src = url;
    try {
      await loaded;
    } catch {
      throw new Error(
        `${file.name} is not a picture that this browser can open. Choose a JPEG, PNG, WebP, AVIF, GIF or BMP file; convert HEIC and camera raw files first.`,
      );
    }
    const { naturalWidth: width, naturalHeight: height } = image;
    if (width * height > LIMIT) {
      const size = `${Math.round((width * height) / 1e6)} megapixels`;
      throw new Error(
        `${file.name} has ${size}; this page takes up to ${LIMIT / 1e6}. Make it smaller, or run "skipae denoise ${file.name}" on a computer.`,
      );
    }
    if (!width || !height) throw new Error(`${file.name} states no size in pixels. Save it as PNG or JPEG first.`);
    let pixels;
    try {
      for (const one of Object.values(canvas)) Object.assign(one, { width, height });
      context.before.drawImage(image, 0, 0);
      pixels = context.before.getImageData(0, 0, width, height);
      context.after.putImageData(pixels, 0, 0);
    } catch {
      photo = null;
      throw new Error(`This browser has too little memory for ${file.name} (${width} x ${height} pixels). Make it smaller.`);
    }
    photo = { name: file.name, width, height, edit: null };
    moveBrush({ x: width >> 1, y: height >> 1 });
    clearMask();
    setSplit(50);
    for (const [id, most] of Object.entries({ left: width - 1, top: height - 1, width, height })) $(`box-${id}`).max = most;
    sendPhoto(pixels.data);
  } catch (error) {
    complain(error.message);
  } finally {
    URL.revokeObjectURL(url);
    update();
  }
}

function sendPhoto(pixels = context.before.getImageData(0, 0, photo.width, photo.height).data) {
  const request = { type: "open", pixels, width: photo.width, height: photo.height };
  if (busy === "load") worker.postMessage(request, [pixels.buffer]); // waits there until the model is loaded
  else ask(request, [pixels.buffer]);
}

function shares() {
  return { luma: $("luma").value / 100, chroma: $("chroma").value / 100 };
}

function removeNoise() {
  ask({ type: "denoise", tile, ...shares() });
}

let shown = "";
function blendAgain() {
  const wanted = JSON.stringify(shares());
  if (!photo || busy || wanted === shown) return;
  shown = wanted;
  busy = "blend"; // without the progress bar, and without taking the focus from the slider
  worker.postMessage({ type: "blend", ...shares() });
}

function fillMask() {
  const { width, height } = photo;
  if (!maskedSomething) {
    complain("The mask is empty. Choose “Paint a mask” and paint over what should be filled, or add a rectangle.");
    return;
  }
  const painted = context.mask.getImageData(0, 0, width, height).data;
  const mask = new Uint8Array(width * height);
  let count = 0;
  for (let i = 0; i < mask.length; i++) {
    mask[i] = painted[4 * i + 3] > 127 ? 1 : 0;
    count += mask[i];
  }
  if (count === mask.length) {
    complain("The mask covers the whole photo, so nothing is left to fill it from. Clear it and paint less.");
    return;
  }
  setPainting(false);
  ask({ type: "inpaint", mask, ...shares() }, [mask.buffer]);
}

async function save() {
  const jpeg = $("format").value === "jpeg";
  let source = canvas.after;
  if (jpeg) {
    source = new OffscreenCanvas(photo.width, photo.height);
    const drawing = source.getContext("2d");
    drawing.fillStyle = "white"; // JPEG has no transparency
    drawing.fillRect(0, 0, photo.width, photo.height);
    drawing.drawImage(canvas.after, 0, 0);
  }
  const type = jpeg ? "image/jpeg" : "image/png";
  const blob = jpeg
    ? await source.convertToBlob({ type, quality: 0.95 })
    : await new Promise((resolve) => source.toBlob(resolve, type));
  if (!blob) {
    complain("The browser could not write the file: it is out of memory. Close other tabs and save again.");
    return;
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${photo.name.replace(/\.[^.]*$/, "")}.${photo.edit ?? "copy"}.${jpeg ? "jpg" : "png"}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  say(`Saved as ${link.download}.`);
}

// ---------------------------------------------------------------------------------------------- mask

function clearMask() {
  context.mask.clearRect(0, 0, canvas.mask.width, canvas.mask.height);
  maskedSomething = false;
}

function setPainting(on) {
  $("paint").setAttribute("aria-pressed", on);
  $("stage").classList.toggle("painting", on);
  canvas.mask.tabIndex = on ? 0 : -1;
  if (on) setSplit(0);
}

const painting = () => $("paint").getAttribute("aria-pressed") === "true";

function moveBrush(to) {
  cursor = to;
  $("stage").style.setProperty("--brush-x", `${(100 * (to.x + 0.5)) / photo.width}%`);
  $("stage").style.setProperty("--brush-y", `${(100 * (to.y + 0.5)) / photo.height}%`);
}

function stroke(from, to) {
  const drawing = context.mask;
  drawing.strokeStyle = drawing.fillStyle = "#e5004f";
  drawing.lineCap = "round";
  drawing.lineWidth = Number($("brush").value);
  drawing.beginPath();
  drawing.moveTo(from.x + 0.5, from.y + 0.5);
  drawing.lineTo(to.x + 0.5, to.y + 0.501); // a dot where both are equal
  drawing.stroke();
  maskedSomething = true;
}

function place(event) {
  const box = canvas.before.getBoundingClientRect();
  return {
    x: ((event.clientX - box.left) / box.width) * photo.width,
    y: ((event.clientY - box.top) / box.height) * photo.height,
  };
}

$("stage").addEventListener("pointerdown", (event) => {
  if (busy || event.button) return;
  $("stage").setPointerCapture(event.pointerId);
  if (painting()) {
    moveBrush(place(event));
    stroke(cursor, cursor);
  } else setSplit((100 * place(event).x) / photo.width);
});
$("stage").addEventListener("pointermove", (event) => {
  if (busy || !$("stage").hasPointerCapture(event.pointerId)) return;
  if (painting()) {
    const to = place(event);
    stroke(cursor, to);
    moveBrush(to);
  } else setSplit((100 * place(event).x) / photo.width);
});

canvas.mask.addEventListener("keydown", (event) => {
  if (!painting() || busy) return;
  const step = event.shiftKey ? Math.max(10, Number($("brush").value)) : 2;
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  if (event.key in moves) {
    const [right, down] = moves[event.key];
    moveBrush({
      x: Math.max(0, Math.min(photo.width - 1, cursor.x + right)),
      y: Math.max(0, Math.min(photo.height - 1, cursor.y + down)),
    });
    say(`Brush at ${Math.round(cursor.x)}, ${Math.round(cursor.y)}.`);
  } else if (event.key === " ") {
    stroke(cursor, cursor);
    say(`Painted at ${Math.round(cursor.x)}, ${Math.round(cursor.y)}.`);
  } else if (event.key === "Escape") {
    setPainting(false);
    $("paint").focus();
  } else return;
  event.preventDefault();
});

$("box-add").addEventListener("click", () => {
  const [left, top, width, height] = ["left", "top", "width", "height"].map((id) => Math.round(Number($(`box-${id}`).value)));
  if (!(left >= 0 && top >= 0 && width > 0 && height > 0 && left + width <= photo.width && top + height <= photo.height)) {
    complain(`The rectangle must be inside the photo: ${photo.width} x ${photo.height} pixels.`);
    return;
  }
  complain("");
  context.mask.fillStyle = "#e5004f";
  context.mask.fillRect(left, top, width, height);
  maskedSomething = true;
  say(`Rectangle added to the mask: ${width} x ${height} pixels at ${left}, ${top}.`);
});

// ---------------------------------------------------------------------------------------------- controls

function setSplit(share) {
  const value = Math.max(0, Math.min(100, Math.round(share)));
  $("split").value = value;
  $("split").setAttribute("aria-valuetext", `${value} % original, ${100 - value} % output`);
  $("stage").style.setProperty("--split", `${value}%`);
}

function showValue(id, unit) {
  $(`${id}-value`).textContent = `${$(id).value} ${unit}`;
}

$("split").addEventListener("input", () => setSplit($("split").value));
$("zoom").addEventListener("change", () => $("scroll").classList.toggle("actual", $("zoom").checked));
$("strength").addEventListener("input", () => {
  $("luma").value = $("chroma").value = $("strength").value;
  for (const id of ["strength", "luma", "chroma"]) showValue(id, "%");
  blendAgain();
});
for (const id of ["luma", "chroma"])
  $(id).addEventListener("input", () => {
    showValue(id, "%");
    blendAgain();
  });
$("brush").addEventListener("input", () => showValue("brush", "px"));
$("denoise").addEventListener("click", () => {
  shown = JSON.stringify(shares());
  removeNoise();
});
$("paint").addEventListener("click", () => {
  setPainting(!painting());
  if (painting()) canvas.mask.focus();
});
$("clear").addEventListener("click", () => {
  clearMask();
  say("The mask is empty.");
});
$("inpaint").addEventListener("click", fillMask);
$("reset").addEventListener("click", () => ask({ type: "reset" }));
$("save").addEventListener("click", save);
$("another").addEventListener("click", () => $("file").click());
$("stop").addEventListener("click", () => {
  worker.postMessage({ type: "stop" });
  say("Stopping.");
});
$("retry").addEventListener("click", () => failed?.());
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) open(file);
  $("file").value = "";
});
$("sample").addEventListener("click", async () => {
  try {
    const response = await fetch("sample.png");
    if (!response.ok) throw new Error();
    open(new File([await response.blob()], "sample.png", { type: "image/png" }));
  } catch {
    complain("The sample could not be downloaded: the network connection is lost. Open a photo of your own instead.");
  }
});

document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
document.addEventListener("dragleave", () => document.body.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) open(file);
});
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) open(file);
});
window.addEventListener("offline", () => {
  if (backend) say(`The network is gone; the page continues to work. ${backend}`);
});

// ---------------------------------------------------------------------------------------------- start

/** Resolves when the service worker answers this page's requests, or after some seconds without one. */
async function offlineStore() {
  if (!("serviceWorker" in navigator)) return;
  const controlled = new Promise((resolve) => navigator.serviceWorker.addEventListener("controllerchange", resolve));
  const late = new Promise((resolve) => setTimeout(resolve, 8000));
  try {
    await navigator.serviceWorker.register("sw.js");
  } catch (error) {
    console.warn(error);
    return;
  }
  if (!navigator.serviceWorker.controller) await Promise.race([controlled, late]);
  // Several threads need a page that the service worker itself delivered.
  const once = "skipae-demo-reloaded";
  if (navigator.serviceWorker.controller && !crossOriginIsolated && !photo && !sessionStorage.getItem(once)) {
    sessionStorage.setItem(once, "1");
    location.reload();
    await new Promise(() => {});
  }
}

update();
newWorkerWhenStored();

async function newWorkerWhenStored() {
  busy = "load";
  say("Starting.");
  update();
  await offlineStore();
  start();
}
