// Drives the browser demo for tests/test_demo.py: node demo.mjs '{"chromium", "packages", "url", "folder", ...}'.
// Prints one JSON object: what each scenario saw. Pictures that were saved are written to `folder`.

import { createRequire } from "node:module";
import { writeFileSync } from "node:fs";
import { join } from "node:path";

const options = JSON.parse(process.argv[2]);
const { chromium } = createRequire(join(options.packages, "x.js"))("playwright-core");
const file = (name) => join(options.folder, name);
const seen = {};

const browser = await chromium.launch({
  executablePath: options.chromium,
  args: [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    ...(options.gpu ? ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"] : ["--disable-gpu"]),
  ],
});

const SLOW = 280000;
const state = (page, value) => page.waitForFunction((v) => document.body.dataset.state === v, value, { timeout: SLOW });
const text = (page, id) => page.locator(`#${id}`).innerText();
const status = (page, words) =>
  page.waitForFunction((w) => document.getElementById("status").textContent.includes(w), words, { timeout: SLOW });
const shot = (page, name) => options.shots && page.screenshot({ path: file(name), fullPage: true });

async function newPage(context, url = options.url) {
  const page = await context.newPage();
  page.requests = [];
  page.on("request", (request) => page.requests.push([request.method(), request.url()]));
  page.faults = [];
  page.on("pageerror", (error) => page.faults.push(String(error)));
  page.on("console", (message) => message.type() === "error" && page.faults.push(message.text()));
  await page.goto(url);
  return page;
}

async function save(page, name, format = "png") {
  await page.locator("#format").selectOption(format);
  const [download] = await Promise.all([page.waitForEvent("download"), page.locator("#save").click()]);
  await download.saveAs(file(name));
  return download.suggestedFilename();
}

async function setRange(page, id, value) {
  await page.locator(`#${id}`).evaluate((one, v) => {
    one.value = v;
    one.dispatchEvent(new Event("input"));
  }, String(value));
}

const scenarios = {
  /** Denoise in windows, then at another strength, then fill a rectangle and a painted stroke, by keyboard. */
  async main() {
    const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, acceptDownloads: true });
    const page = await newPage(context, `${options.url}?tile=${options.tile}`);
    await state(page, "ready");
    await shot(page, "desktop-start.png");
    const found = { ready: await text(page, "status"), isolated: await page.evaluate(() => crossOriginIsolated) };
    await page.locator("#file").setInputFiles(file("photo.png"));
    await status(page, "is open");
    await page.locator("#denoise").focus();
    await page.keyboard.press("Enter");
    await status(page, "Noise removed");
    await state(page, "ready");
    found.denoised = await text(page, "status");
    found.name = await save(page, "full.png");
    await shot(page, "desktop.png");
    await page.locator("details").first().locator("summary").click();
    await setRange(page, "luma", 30);
    await page.waitForTimeout(300);
    await save(page, "luma30.png");
    found.jpeg = await save(page, "full.jpg", "jpeg");
    await page.locator("#split").focus();
    await page.keyboard.press("ArrowRight");
    found.split = await page.locator("#split").getAttribute("aria-valuetext");
    await page.locator("#reset").click();
    await status(page, "original");
    await save(page, "reset.png");
    await page.locator("#inpaint").click();
    found.empty = await text(page, "alert-text");
    await page.locator("details").nth(1).locator("summary").click();
    const box = options.box;
    for (const side of ["left", "top", "width", "height"]) await page.locator(`#box-${side}`).fill(String(box[side]));
    await page.locator("#box-add").click();
    await page.locator("#inpaint").click();
    await status(page, "Mask filled");
    await state(page, "ready");
    await save(page, "box.png");
    await page.locator("#paint").click(); // moves the focus to the mask
    await setRange(page, "brush", 7);
    for (let i = 0; i < 3; i++) {
      await page.keyboard.press("ArrowLeft");
      await page.keyboard.press(" ");
    }
    found.painted = await text(page, "status");
    await shot(page, "desktop-mask.png");
    await page.locator("#inpaint").click();
    await status(page, "Mask filled");
    await state(page, "ready");
    found.inpaintedName = await save(page, "painted.png");
    found.requests = page.requests;
    found.faults = page.faults;

    // The same context has the files: without a network the page loads and works.
    await context.setOffline(true);
    const offline = await newPage(context);
    await state(offline, "ready");
    await offline.locator("#sample").click();
    await status(offline, "is open");
    found.offline = { ready: await text(offline, "tools"), status: await text(offline, "status"), faults: offline.faults };
    await context.close();
    return found;
  },

  /** Files that are refused, and stopping, on a phone. */
  async phone() {
    const context = await browser.newContext({ viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, acceptDownloads: true });
    const page = await newPage(context);
    await state(page, "ready");
    const found = {};
    for (const name of ["notes.txt", "torn.png", "huge.png"]) {
      await page.locator("#file").setInputFiles(file(name));
      await page.locator("#alert").waitFor({ timeout: SLOW });
      await page.waitForFunction((n) => document.getElementById("alert-text").textContent.includes(n), name, { timeout: SLOW });
      found[name] = await text(page, "alert-text");
    }
    await shot(page, "phone-alert.png");
    await page.locator("#file").setInputFiles(file("large.png"));
    await status(page, "is open");
    found.alertGone = await page.locator("#alert").isHidden();
    await page.locator("#denoise").click();
    await page.waitForFunction(() => document.getElementById("progress").value > 0, null, { timeout: SLOW });
    await page.locator("#stop").click();
    await status(page, "Stopped");
    await state(page, "ready");
    found.stopped = await text(page, "status");
    await page.locator("#sample").waitFor({ state: "attached" });
    await page.locator("#file").setInputFiles(file("photo.png"));
    await status(page, "photo.png");
    await page.locator("#denoise").click();
    await status(page, "Noise removed");
    await state(page, "ready");
    await shot(page, "phone.png");
    await page.locator("#file").setInputFiles(file("gray.png"));
    await status(page, "gray.png");
    await page.locator("#denoise").click();
    await status(page, "Noise removed");
    await state(page, "ready");
    await save(page, "gray-denoised.png");
    found.wider = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    found.unnamed = await page.evaluate(() =>
      [...document.querySelectorAll("button, input, select, canvas, progress")]
        .filter((one) => !(one.labels?.length || one.getAttribute("aria-label") || one.textContent.trim()))
        .map((one) => one.outerHTML),
    );
    await context.close();
    return found;
  },

  /** The network is lost while the model is on its way, and comes back. */
  async lost() {
    const context = await browser.newContext({ serviceWorkers: "block" });
    let lost = true;
    await context.route("**/model*.onnx", (route) => (lost ? route.abort("internetdisconnected") : route.continue()));
    const page = await newPage(context);
    await page.locator("#alert").waitFor({ timeout: SLOW });
    const found = { alert: await text(page, "alert-text") };
    await page.locator("#file").setInputFiles(file("photo.png"));
    await status(page, "is open");
    await page.locator("#denoise").click();
    await page.locator("#alert").waitFor({ timeout: SLOW });
    found.again = await text(page, "alert-text");
    lost = false;
    await page.locator("#retry").click();
    await status(page, "Noise removed");
    found.after = await text(page, "status");
    await save(page, "after-loss.png");
    await context.close();
    return found;
  },

  /** A model file that was damaged on the way. */
  async damaged() {
    const context = await browser.newContext({ serviceWorkers: "block" });
    await context.route("**/model*.onnx", (route) => route.fulfill({ status: 200, body: Buffer.from("not a model") }));
    const page = await newPage(context);
    await page.locator("#alert").waitFor({ timeout: SLOW });
    const found = { alert: await text(page, "alert-text") };
    await context.close();
    return found;
  },

  /** Denoise one photo; with the option `gpu` on WebGPU, on an adapter in software. */
  async plain() {
    const context = await browser.newContext({ acceptDownloads: true });
    const page = await newPage(context, `${options.url}?tile=${options.tile}`);
    await state(page, "ready");
    const found = { ready: await text(page, "status") };
    await page.locator("#file").setInputFiles(file("photo.png"));
    await status(page, "is open");
    await page.locator("#denoise").click();
    await status(page, "Noise removed");
    await state(page, "ready");
    found.denoised = await text(page, "status");
    await save(page, "plain.png");
    found.faults = page.faults;
    await context.close();
    return found;
  },
};

try {
  for (const name of options.scenarios) seen[name] = await scenarios[name]();
} finally {
  await browser.close();
}
writeFileSync(file("seen.json"), JSON.stringify(seen));
