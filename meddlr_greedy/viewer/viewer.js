// Shows the images of a report: methods side by side, in step, in one gray window.
"use strict";

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);

const FRAME_MS = 50; // where the time between frames is not known
const FASTEST_MS = 16;
const SPEEDS = [0.1, 0.25, 0.5, 1, 2];
const GAINS = [1, 2, 5, 10, 20];
// Key, what it does, and the class of what only movies have.
const KEYS = [
  ["Space", "play, pause", "movie"],
  ["\u2190 \u2192", "frame", "movie"],
  ["\u2191 \u2193", "slice"],
  ["s", "next scan"],
  ["[ ]", "window"],
  ["- +", "level"],
  ["r", "reset"],
  ["e", "error"],
  ["p", "profile along row, column", "movie"],
  [", .", "profile line", "movie"],
  ["i", "smooth, pixels"],
];

// The slice that is shown, and how. Window and level are in percent of the white of its scan.
const state = { slice: null, images: [], frame: 0, playing: false, window: 100, level: 50, axis: 1, line: 0 };
const decoded = new Map(); // block -> promise of gray levels
let panels = [];
let asked = 0; // number of the last slice that was asked for: another one may still be on its way

// ---- Faults are told on the page, too.

function tell(error) {
  byId("fault").hidden = false;
  byId("fault").textContent = `This report cannot be shown: ${error.message || error}`;
}
window.addEventListener("error", (event) => tell(event.error || event.message));
window.addEventListener("unhandledrejection", (event) => tell(event.reason));

// ---- Small helpers

function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text; // text alone: names come from files of anyone
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function fill(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, text]) => element("option", text, { value })));
  select.value = chosen;
}

// ---- Frames: bytes of (frame, row, column); each frame but the first is told as its difference to the one before.

async function decode(block, [height, width, frames]) {
  const text = atob(byId(`block-${block}`).textContent.trim());
  const packed = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const levels = new Uint8Array(await new Response(stream).arrayBuffer());
  const size = height * width;
  if (levels.length !== size * frames) throw new Error(`block ${block} holds ${levels.length} bytes`);
  for (let i = size; i < levels.length; i++) levels[i] += levels[i - size];
  return levels;
}

function frames(block, shape) {
  if (!decoded.has(block)) decoded.set(block, decode(block, shape));
  return decoded.get(block);
}

// ---- Drawing

// Gray on the screen of each of the 256 levels, or of each difference of two.
function grays(low, high) {
  const { top } = state.slice;
  return Uint8ClampedArray.from({ length: 256 }, (_, i) => (255 * ((i / 255) * top - low)) / (high - low));
}

function paint(canvas, width, height, gray) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0, p = 0; p < image.data.length; i++, p += 4) {
    image.data[p] = image.data[p + 1] = image.data[p + 2] = gray(i);
    image.data[p + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

// Slices of a scan are shown in one window.
const white = () => Math.max(...slicesOf(nameOf(state.slice)).map((slice) => slice.white));

function imageGrays() {
  const unit = white() / 100;
  return grays((state.level - state.window / 2) * unit, (state.level + state.window / 2) * unit);
}

function drawFrame() {
  const { shape, target } = state.slice;
  const [height, width, count] = shape;
  const first = state.frame * height * width;
  const shown = imageGrays();
  const showErrors = target !== null && byId("errors").checked;
  const gain = Number(byId("gain").value);
  const errorGrays = grays(0, white() / gain);
  const reference = target === null ? null : state.images[target];
  panels.forEach((panel, k) => {
    const levels = state.images[k];
    paint(panel.image, width, height, (i) => shown[levels[first + i]]);
    panel.errorView.hidden = !showErrors;
    panel.error.hidden = k === target;
    panel.what.textContent = k === target ? `magnitude error \u00d7 ${gain}` : "";
    if (showErrors && k !== target)
      paint(panel.error, width, height, (i) => errorGrays[Math.abs(levels[first + i] - reference[first + i])]);
    panel.now.style.left = `${(100 * (state.frame + 0.5)) / count}%`;
  });
  byId("frame").value = state.frame;
  const ms = state.slice.frame_ms;
  const time = ms ? `, ${Math.round(state.frame * ms)} ms` : "";
  byId("time").value = `${state.frame + 1} / ${count}${time}`;
}

// The pixels on the line, over time: rows along the line, one column for each frame.
function drawProfiles() {
  const [height, width, count] = state.slice.shape;
  const alongRow = state.axis === 0;
  const length = alongRow ? width : height;
  const shown = imageGrays();
  const at = (i) => (alongRow ? state.line * width + i : i * width + state.line);
  panels.forEach((panel, k) => {
    const levels = state.images[k];
    if (count > 1)
      paint(panel.profile, count, length, (i) => shown[levels[(i % count) * height * width + at((i / count) | 0)]]);
    panel.line.className = alongRow ? "line row" : "line column";
    const place = `${(100 * (state.line + 0.5)) / (alongRow ? height : width)}%`;
    panel.line.style.left = alongRow ? "" : place;
    panel.line.style.top = alongRow ? place : "";
    const limits = { "aria-valuenow": state.line, "aria-valuemin": 0, "aria-valuemax": lineEnd() };
    for (const [name, value] of Object.entries(limits)) panel.line.setAttribute(name, value);
    panel.line.setAttribute("aria-orientation", alongRow ? "vertical" : "horizontal");
  });
  byId("axis").value = state.axis;
}

const lineEnd = () => state.slice.shape[state.axis] - 1;

function drawAll() {
  byId("window").value = state.window;
  byId("level").value = state.level;
  byId("window-value").value = `${Math.round(state.window)} %`;
  byId("level-value").value = `${Math.round(state.level)} %`;
  drawFrame();
  drawProfiles();
}

// ---- The panels of a slice: image, name and scores, error, profile

function makePanel(image) {
  const [height, width] = state.slice.shape;
  const [rowMm, columnMm] = state.slice.pixel || [1, 1];
  const panel = { figure: element("figure") };
  const view = (name, ...parts) => {
    const made = element("div", "", { class: `view ${name}` });
    made.style.setProperty("--ratio", (width * columnMm) / (height * rowMm));
    made.append(...parts);
    return made;
  };
  for (const name of ["image", "error", "profile"])
    panel[name] = element("canvas", "", { "aria-label": `${name}: ${image.name}`, role: "img" });
  panel.line = element("div", "", { role: "slider", tabindex: 0, "aria-label": "line of the profile" });
  panel.now = element("div", "", { class: "now" });
  panel.imageView = view("image", panel.image, panel.line);
  panel.what = element("p"); // in the place that the target has no error in
  panel.errorView = view("error", panel.error, panel.what);
  panel.profileView = element("div", "", { class: "view profile" });
  panel.profileView.append(panel.profile, panel.now);
  const caption = element("figcaption");
  caption.append(element("strong", image.name, { title: image.name }));
  for (const [name, value] of image.scores) caption.append(element("span", `${name} ${value}`));
  panel.figure.append(panel.imageView, caption, panel.errorView, panel.profileView);
  panel.line.addEventListener("pointerdown", dragLine);
  panel.image.addEventListener("pointerdown", dragWindow);
  panel.image.addEventListener("dblclick", resetWindow);
  return panel;
}

async function show(slice) {
  const mine = ++asked;
  const images = await Promise.all(slice.images.map(({ block }) => frames(block, slice.shape)));
  if (mine !== asked) return;
  const sameScan = state.slice && state.slice.dataset === slice.dataset && state.slice.scan === slice.scan;
  Object.assign(state, { slice, images, frame: Math.min(state.frame, slice.shape[2] - 1) });
  if (!sameScan || state.line > lineEnd()) Object.assign(state, slice.line);
  if (!sameScan) Object.assign(state, { window: 100, level: 50 });
  panels = slice.images.map(makePanel);
  byId("stage").replaceChildren(...panels.map(({ figure }) => figure));
  byId("stage").style.setProperty("--columns", panels.length);
  byId("frame").max = slice.shape[2] - 1;
  const isMovie = slice.shape[2] > 1;
  byId("images").classList.toggle("still", !isMovie);
  byId("images").classList.toggle("alone", slice.target === null);
  if (!isMovie) play(false);
  drawAll();
}

// ---- Which slice

const names = [...new Set(data.slices.map(nameOf))];

function nameOf({ dataset, scan }) {
  return dataset ? `${dataset}: ${scan}` : scan;
}

const slicesOf = (name) => data.slices.filter((slice) => nameOf(slice) === name);

function chooseScan(number) {
  const slices = slicesOf(names[number]);
  const middle = slices.length >> 1;
  byId("scan").value = number;
  fill(byId("slice"), slices.map((slice, i) => [i, `${slice.slice}`]), middle);
  return show(slices[middle]);
}

function chooseSlice(number) {
  const slices = slicesOf(names[byId("scan").value]);
  byId("slice").value = clamp(number, 0, slices.length - 1);
  return show(slices[byId("slice").value]);
}

// ---- Time

function setFrame(frame) {
  const count = state.slice.shape[2];
  state.frame = (frame + count) % count;
  drawFrame();
}

function play(on) {
  const begins = on && !state.playing;
  state.playing = on;
  byId("play").textContent = on ? "Pause" : "Play";
  if (!begins) return;
  let last = performance.now();
  const step = (now) => {
    if (!state.playing) return;
    const period = Math.max(FASTEST_MS, (state.slice.frame_ms || FRAME_MS) / Number(byId("speed").value));
    const passed = Math.floor((now - last) / period);
    if (passed > 0) {
      last += passed * period;
      setFrame(state.frame + passed);
    }
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}

// ---- Window, level and line

function setWindow(window, level) {
  state.window = clamp(window, 1, 150);
  state.level = clamp(level, 0, 150);
  drawAll();
}

const resetWindow = () => setWindow(100, 50);

function setLine(axis, line) {
  state.axis = axis;
  state.line = clamp(Math.round(line), 0, lineEnd());
  drawProfiles();
}

const turnLine = () => setLine(1 - state.axis, (state.slice.shape[1 - state.axis] - 1) / 2);

// Calls moved(dx, dy, rectangle, event) until the button is up; dx and dy are relative to the size of the image.
function drag(event, moved) {
  const rectangle = event.target.closest(".view").getBoundingClientRect();
  const { target, clientX, clientY } = event;
  const move = (e) =>
    moved((e.clientX - clientX) / rectangle.width, (e.clientY - clientY) / rectangle.height, rectangle, e);
  const end = () => target.removeEventListener("pointermove", move);
  target.setPointerCapture(event.pointerId);
  target.addEventListener("pointermove", move);
  target.addEventListener("pointerup", end, { once: true });
  target.addEventListener("pointercancel", end, { once: true });
}

function dragLine(event) {
  drag(event, (dx, dy, { left, top, width, height }, { clientX, clientY }) => {
    const place = state.axis === 0 ? (clientY - top) / height : (clientX - left) / width;
    setLine(state.axis, place * (lineEnd() + 1) - 0.5);
  });
}

function dragWindow(event) {
  if (event.pointerType === "touch") return; // scrolls the page; there are sliders
  const { window, level } = state;
  drag(event, (dx, dy) => setWindow(window + 150 * dx, level + 100 * dy));
}

// ---- Keys

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { target, key } = event;
  if (target.matches("select, .scroll, .scroll *")) return;
  if (target.matches("input[type=range]") && key.startsWith("Arrow")) return;
  if (target.matches("button, input[type=checkbox]") && key === " ") return;
  if (target.matches(".line") && key.startsWith("Arrow")) {
    event.preventDefault();
    setLine(state.axis, state.line + (key === "ArrowLeft" || key === "ArrowUp" ? -1 : 1));
    return;
  }
  const slice = Number(byId("slice").value);
  const actions = {
    " ": () => state.slice.shape[2] > 1 && play(!state.playing),
    ArrowLeft: () => setFrame(state.frame - 1),
    ArrowRight: () => setFrame(state.frame + 1),
    ArrowUp: () => chooseSlice(slice + 1),
    ArrowDown: () => chooseSlice(slice - 1),
    s: () => chooseScan((Number(byId("scan").value) + 1) % names.length),
    "[": () => setWindow(state.window - 5, state.level),
    "]": () => setWindow(state.window + 5, state.level),
    "-": () => setWindow(state.window, state.level - 5),
    "+": () => setWindow(state.window, state.level + 5),
    r: resetWindow,
    e: () => byId("errors").click(),
    p: turnLine,
    ",": () => setLine(state.axis, state.line - 1),
    ".": () => setLine(state.axis, state.line + 1),
    i: () => byId("stage").classList.toggle("pixels"),
  };
  if (!Object.hasOwn(actions, key) || !state.slice) return;
  event.preventDefault();
  actions[key]();
}

// ---- Start

const WINDOW_HINT = "Drag in an image: window and level.";

function lineHint() {
  const hint = element("span", "", { class: "movie" });
  const keys = [" in an image: the x-t profiles below follow. Keys: ", ",", " ", ".", " move it, ", "p", " turns it."];
  hint.append("Drag the ", element("mark", "yellow line"));
  hint.append(...keys.map((text, i) => (i % 2 ? element("kbd", text) : text)));
  return hint;
}

function start() {
  fill(byId("scan"), names.map((name, i) => [i, name]), 0);
  fill(byId("speed"), SPEEDS.map((speed) => [speed, `${speed} \u00d7`]), 1);
  fill(byId("gain"), GAINS.map((gain) => [gain, `${gain}`]), 5);
  const listen = (id, kind, action) => byId(id).addEventListener(kind, () => action(Number(byId(id).value)));
  listen("scan", "change", chooseScan);
  listen("slice", "change", chooseSlice);
  listen("play", "click", () => play(!state.playing));
  listen("frame", "input", setFrame);
  listen("window", "input", (value) => setWindow(value, state.level));
  listen("level", "input", (value) => setWindow(state.window, value));
  listen("reset", "click", resetWindow);
  listen("errors", "change", drawFrame);
  listen("gain", "change", drawFrame);
  listen("axis", "change", (axis) => axis !== state.axis && turnLine());
  document.addEventListener("keydown", pressed);
  for (const [key, meaning, kind] of KEYS) {
    const entry = element("span", "", kind ? { class: kind } : {});
    entry.append(element("kbd", key), ` ${meaning}`);
    byId("keys").append(entry);
  }
  byId("hint").append(element("span", data.selection), lineHint(), element("span", WINDOW_HINT));
  byId("images").hidden = false;
  return chooseScan(0);
}

document.title = byId("title").textContent = data.title;
byId("about").append(...data.about.map((line) => element("p", line)));
for (const note of data.notes) byId("note-list").append(element("li", note));
byId("notes").hidden = data.notes.length === 0;
if (data.slices.length) start();
