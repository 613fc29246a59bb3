// The demo page: composes the model's input from a drawing or a picture, asks for answers, and draws them.

const SIDE = 280; // pixels of the canvas's longer side
const MOST_POINTS = 6000; // in a drawing
const MOST_BYTES = 10_000_000; // of an image file, as the server accepts
const MOST_FILES = 8;
const TILE = 56; // pixels: the least side of a feature map
const GAP = 4;
const BARS = 12; // with more classes, only this many are shown, the most probable first
const CHANGES = ["shift-x", "shift-y", "rotate", "thicken", "blur", "noise"];

const $ = (id) => document.getElementById(id);
const narrow = matchMedia("(max-width: 56rem)"); // as in demo.css
const picture = $("picture").getContext("2d", { willReadFrequently: true });
const overlay = $("overlay").getContext("2d");
const seen = $("seen").getContext("2d");

let setup; // the server's description of the models and images
let height, width, channels, scale; // of the model's input; canvas pixels per input pixel
let models = []; // {number, description, view} of each model shown
let groups = []; // strokes of one colour and width: {colour, width, path, strokes}
let points = 0;
let base = null; // pixels of a loaded example or photograph
let input = null; // the pixels that were last sent
let place = null; // from the input's pixels to the canvas's: {scale, x, y}
let hovered = null; // the receptive field that is drawn: {rows, columns}
let evidence = null; // of the first model, as a canvas

// --- the input

const isBlank = () => base === null && points === 0;
const change = (id) => Number($(id).value);
const isChanged = () => CHANGES.some((id) => change(id) !== 0);
const isFitted = () => setup.normalizes && base === null;

function newCanvas(columns, rows) {
  const canvas = document.createElement("canvas");
  canvas.width = columns;
  canvas.height = rows;
  return canvas;
}

/** Return pixels as a canvas, colours or greys. */
function asCanvas(pixels) {
  const canvas = newCanvas(width, height);
  const data = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) data.data[4 * i + c] = pixels[channels * i + (channels === 3 ? c : 0)];
    data.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(data, 0, 0);
  return canvas;
}

/** Return the box around all points of the drawing, in canvas pixels. */
function bounds() {
  let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const group of groups) for (const stroke of group.strokes) for (const [x, y] of stroke) {
    left = Math.min(left, x); right = Math.max(right, x);
    top = Math.min(top, y); bottom = Math.max(bottom, y);
  }
  return { left, top, right, bottom };
}

/** Return where the drawing lies in the input, and the width of its strokes in input pixels (null: as drawn).
 *
 * For MNIST style, the drawing fills a box of 20 of 28 pixels, whatever its size on the canvas.
 */
function fit() {
  if (!isFitted()) return { scale, x: 0, y: 0, pen: null };
  const unit = Math.min(height, width) / 28;
  const pen = 2.6 * unit;
  const { left, top, right, bottom } = bounds();
  const longest = Math.max(right - left, bottom - top);
  const factor = Math.min((20 * unit - pen) / Math.max(longest, 1), 1); // a dot stays a dot
  return {
    scale: 1 / factor,
    x: (left + right) / 2 - width / 2 / factor,
    y: (top + bottom) / 2 - height / 2 / factor,
    pen,
  };
}

/** Return the drawing, over the loaded picture if there is one, as pixels of the input, and its place. */
function render() {
  const fitted = fit();
  const fine = Math.max(1, Math.min(4, Math.floor(512 / Math.max(width, height))));
  const canvas = newCanvas(width * fine, height * fine);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = false;
  if (base) context.drawImage(asCanvas(base), 0, 0, canvas.width, canvas.height);
  const factor = fine / fitted.scale;
  context.setTransform(factor, 0, 0, factor, -fitted.x * factor, -fitted.y * factor);
  for (const group of groups) draw(context, group, fitted.pen === null ? group.width : fitted.pen * fitted.scale);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  const pixels = new Float32Array(width * height * channels);
  for (let y = 0; y < canvas.height; y++) for (let x = 0; x < canvas.width; x++) {
    const to = channels * (Math.floor(y / fine) * width + Math.floor(x / fine));
    for (let c = 0; c < channels; c++) pixels[to + c] += data[4 * (y * canvas.width + x) + c] / (fine * fine);
  }
  if (!isFitted()) return [pixels, fitted];
  const [dx, dy] = offCentre(pixels);
  return [shifted(pixels, dx, dy), { ...fitted, x: fitted.x - dx * fitted.scale, y: fitted.y - dy * fitted.scale }];
}

function draw(context, group, lineWidth) {
  context.strokeStyle = group.colour;
  context.lineWidth = lineWidth;
  context.lineCap = context.lineJoin = "round";
  context.stroke(group.path);
}

/** Return how far the centre of mass is from the centre, in whole pixels. */
function offCentre(pixels) {
  let [sum, x, y] = [0, 0, 0];
  for (let row = 0; row < height; row++) for (let column = 0; column < width; column++) {
    const ink = pixels[channels * (row * width + column)];
    sum += ink; x += ink * (column + 0.5); y += ink * (row + 0.5);
  }
  return sum ? [Math.round(width / 2 - x / sum), Math.round(height / 2 - y / sum)] : [0, 0];
}

function shifted(pixels, dx, dy) {
  const moved = new Float32Array(pixels.length);
  for (let y = Math.max(0, -dy); y < Math.min(height, height - dy); y++)
    for (let x = Math.max(0, -dx); x < Math.min(width, width - dx); x++)
      for (let c = 0; c < channels; c++)
        moved[channels * ((y + dy) * width + x + dx) + c] = pixels[channels * (y * width + x) + c];
  return moved;
}

/** Return the pixels after shifting, turning, thickening, blurring and adding noise. */
function changed(pixels) {
  if (!isChanged()) return pixels;
  let found = turned(pixels, change("rotate") * Math.PI / 180, change("shift-x"), change("shift-y"));
  for (let left = Math.abs(change("thicken")); left > 0; left--)
    found = thickened(found, Math.min(1, left), change("thicken") > 0 ? Math.max : Math.min);
  if (change("blur")) found = blurred(found, change("blur"));
  const noise = random(1);
  return found.map((value) => value + change("noise") * (noise() + noise() + noise() - 1.5) * 2);
}

/** Turn and shift the pixels, interpolating between them; what lies outside repeats the edge. */
function turned(pixels, angle, dx, dy) {
  if (!angle && !dx && !dy) return pixels;
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  const moved = new Float32Array(pixels.length);
  const at = (x, y, c) => pixels[channels * (Math.min(height - 1, Math.max(0, y)) * width + Math.min(width - 1, Math.max(0, x))) + c];
  for (let row = 0; row < height; row++) for (let column = 0; column < width; column++) {
    const [right, down] = [column - dx - (width - 1) / 2, row - dy - (height - 1) / 2];
    const x = cos * right + sin * down + (width - 1) / 2, y = cos * down - sin * right + (height - 1) / 2;
    const [left, top] = [Math.floor(x), Math.floor(y)];
    const [u, v] = [x - left, y - top];
    for (let c = 0; c < channels; c++)
      moved[channels * (row * width + column) + c] =
        (1 - v) * ((1 - u) * at(left, top, c) + u * at(left + 1, top, c)) +
        v * ((1 - u) * at(left, top + 1, c) + u * at(left + 1, top + 1, c));
  }
  return moved;
}

/** Move the pixels by a share towards the lightest (`Math.max`) or darkest (`Math.min`) of their neighbours. */
function thickened(pixels, share, extreme) {
  const found = new Float32Array(pixels.length);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) for (let c = 0; c < channels; c++) {
    const at = (column, row) => pixels[channels * (row * width + column) + c];
    const value = extreme(at(x, y), at(Math.max(0, x - 1), y), at(Math.min(width - 1, x + 1), y),
      at(x, Math.max(0, y - 1)), at(x, Math.min(height - 1, y + 1)));
    found[channels * (y * width + x) + c] = (1 - share) * at(x, y) + share * value;
  }
  return found;
}

function blurred(pixels, sigma) {
  const reach = Math.ceil(2.5 * sigma);
  const weights = Array.from({ length: 2 * reach + 1 }, (_, i) => Math.exp(-((i - reach) ** 2) / (2 * sigma * sigma)));
  const total = weights.reduce((a, b) => a + b);
  const along = (from, dx, dy) => {
    const found = new Float32Array(from.length);
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) for (let c = 0; c < channels; c++) {
      let sum = 0;
      for (let i = -reach; i <= reach; i++) {
        const column = Math.min(width - 1, Math.max(0, x + i * dx)), row = Math.min(height - 1, Math.max(0, y + i * dy));
        sum += weights[i + reach] * from[channels * (row * width + column) + c];
      }
      found[channels * (y * width + x) + c] = sum / total;
    }
    return found;
  };
  return along(along(pixels, 1, 0), 0, 1);
}

/** Return a generator of numbers from 0 to 1 that repeats itself, so that noise does not flicker. */
function random(state) {
  return () => {
    state = (state * 1664525 + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

function compose() {
  const [pixels, at] = render();
  const strokesAreShown = base === null && !isChanged();
  place = strokesAreShown ? at : { scale, x: 0, y: 0 };
  input = Uint8Array.from(changed(pixels), (value) => Math.min(255, Math.max(0, Math.round(value))));
}

// --- the canvas

/** Draw the canvas anew: the strokes or, if they were changed or lie on a picture, the model's input. */
function paintPicture() {
  const { canvas } = picture;
  picture.setTransform(1, 0, 0, 1, 0, 0);
  picture.fillStyle = "#000";
  picture.fillRect(0, 0, canvas.width, canvas.height);
  if (base === null && !isChanged()) for (const group of groups) draw(picture, group, group.width);
  else {
    picture.imageSmoothingEnabled = false;
    picture.drawImage(asCanvas(input), 0, 0, canvas.width, canvas.height);
  }
}

function paintSeen() {
  seen.clearRect(0, 0, width, height);
  if (input) seen.drawImage(asCanvas(input), 0, 0);
}

/** Draw the evidence, the receptive field and the keyboard's pen over the canvas. */
function paintOverlay() {
  overlay.setTransform(1, 0, 0, 1, 0, 0);
  overlay.clearRect(0, 0, overlay.canvas.width, overlay.canvas.height);
  if (place) overlay.setTransform(place.scale, 0, 0, place.scale, place.x, place.y);
  if (evidence && $("evidence").checked && !isBlank()) overlay.drawImage(evidence, 0, 0);
  if (hovered && place) {
    const { rows: [top, bottom], columns: [left, right] } = hovered;
    overlay.lineWidth = 3 / place.scale;
    overlay.strokeStyle = "#000";
    overlay.strokeRect(left, top, right + 1 - left, bottom + 1 - top);
    overlay.lineWidth = 2 / place.scale;
    overlay.strokeStyle = "#ff9d2e";
    overlay.strokeRect(left, top, right + 1 - left, bottom + 1 - top);
  }
  overlay.setTransform(1, 0, 0, 1, 0, 0);
  if (document.activeElement === picture.canvas && pen.used) {
    overlay.strokeStyle = pen.down ? "#ff9d2e" : "#8ecbff";
    overlay.lineWidth = 2;
    overlay.beginPath();
    overlay.arc(pen.x, pen.y, 9, 0, 2 * Math.PI);
    overlay.stroke();
  }
}

// --- drawing

function begin(x, y) {
  if (isChanged()) {
    resetChanges();
    if (!isBlank()) compose();
    paintPicture();
  }
  const colour = channels === 3 ? $("colour").value : "#fff";
  const thickness = setup.normalizes && base === null ? 22 : change("pen");
  const last = groups.at(-1);
  if (!last || last.colour !== colour || last.width !== thickness)
    groups.push({ colour, width: thickness, path: new Path2D(), strokes: [] });
  const group = groups.at(-1);
  group.strokes.push([]);
  extend(x, y);
}

function extend(x, y) {
  const group = groups.at(-1), stroke = group.strokes.at(-1), last = stroke.at(-1);
  if (points >= MOST_POINTS) return report("The drawing is full. Clear it, or undo a stroke.");
  points++;
  const piece = new Path2D();
  piece.moveTo(...(last ?? [x, y]));
  piece.lineTo(x, y);
  stroke.push([x, y]);
  group.path.addPath(piece);
  draw(picture, { ...group, path: piece }, group.width);
}

function undo() {
  const group = groups.at(-1);
  if (!group) return;
  points -= group.strokes.pop().length;
  if (!group.strokes.length) groups.pop();
  else {
    group.path = new Path2D();
    for (const stroke of group.strokes) {
      group.path.moveTo(...stroke[0]);
      for (const point of stroke) group.path.lineTo(...point);
    }
  }
  report("");
  refresh();
}

function clear() {
  groups = [];
  points = 0;
  base = null;
  $("example").textContent = setup.examples ? `0 to ${setup.examples - 1}` : "The run's data is not available here.";
  report("");
  refresh();
}

/** Load pixels in place of the drawing; `what` says what they are. */
function load(pixels, what) {
  groups = [];
  points = 0;
  base = pixels;
  resetChanges();
  $("example").textContent = what;
  report("");
  refresh();
}

function resetChanges() {
  for (const id of CHANGES) $(id).value = 0;
  showChanges();
}

function showChanges() {
  for (const id of CHANGES) document.querySelector(`output[for="${id}"]`).textContent = $(id).value + (id === "rotate" ? "°" : "");
}

/** Show the changed input, and ask for answers. `since` is the time of the event that changed it. */
function refresh(since = performance.now()) {
  if (isBlank()) { input = null; place = null; }
  else compose();
  paintPicture();
  paintSeen();
  ask(since);
}

function listenToPointer() {
  const { canvas } = picture;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left - canvas.clientLeft) * canvas.width / canvas.clientWidth,
      (event.clientY - box.top - canvas.clientTop) * canvas.height / canvas.clientHeight];
  };
  let active = null;
  canvas.addEventListener("pointerdown", (event) => {
    if (active !== null || event.button !== 0) return;
    active = event.pointerId;
    try { canvas.setPointerCapture(active); } catch { /* an event made by a script */ }
    begin(...at(event));
    if (base !== null) refresh(event.timeStamp);
    else ask(event.timeStamp);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerId !== active) return;
    const all = event.getCoalescedEvents?.() ?? [];
    for (const one of all.length ? all : [event]) extend(...at(one));
    ask(event.timeStamp);
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => {
    if (event.pointerId !== active) return;
    active = null;
    ask(event.timeStamp);
  });
}

const pen = { x: SIDE / 2, y: SIDE / 2, down: false, used: false };

function listenToKeys() {
  const { canvas } = picture;
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    if (event.key === " ") {
      pen.down = !pen.down;
      pen.used = true;
      say(pen.down ? "pen down" : "pen up");
      if (pen.down) { begin(pen.x, pen.y); ask(event.timeStamp); }
    } else if (steps[event.key]) {
      const step = event.shiftKey ? 2 : 10;
      pen.x = Math.min(canvas.width, Math.max(0, pen.x + step * steps[event.key][0]));
      pen.y = Math.min(canvas.height, Math.max(0, pen.y + step * steps[event.key][1]));
      pen.used = true;
      if (pen.down && points) { extend(pen.x, pen.y); ask(event.timeStamp); }
    } else if (event.key === "Escape") pen.down = false;
    else return;
    event.preventDefault();
    paintOverlay();
  });
  canvas.addEventListener("blur", () => { pen.down = pen.used = false; paintOverlay(); });
}

// --- questions and answers

let busy = false;
let waiting = null; // the time of the first event that no request contains yet

/** Ask for answers to the present input; while a request is under way, the last input waits. */
async function ask(since) {
  waiting ??= since;
  if (busy) return;
  busy = true;
  while (waiting !== null) {
    const asked = waiting;
    waiting = null;
    if (isBlank()) { forget(); continue; }
    compose();
    try {
      const answers = await fetchAnswers(input, models);
      if (isBlank()) continue;
      if (base !== null) paintPicture();
      paintSeen();
      answers.forEach((answer, index) => models[index]?.view.show(answer));
      evidence = asEvidence(answers[0].evidence);
      paintOverlay();
      showResult();
      measure(asked);
    } catch (error) {
      if (error.status !== 429) report(error.message);
      else { waiting ??= asked; await new Promise((done) => setTimeout(done, 250)); }
    }
  }
  busy = false;
}

/** Fetch, and raise an error with the server's message if it refuses. */
async function request(path, options) {
  let response;
  try { response = await fetch(`api/${path}`, options); }
  catch { throw new Error("The server does not respond; is the command still running?"); }
  if (response.ok) return response;
  const error = new Error((await response.text()).slice(0, 500) || `The server refuses (${response.status}).`);
  error.status = response.status;
  throw error;
}

async function fetchAnswers(pixels, of) {
  const numbers = of.map((model) => model.number).join(",");
  const response = await request(`respond?models=${numbers}`, { method: "POST", body: pixels });
  const bytes = new Uint8Array(await response.arrayBuffer());
  const length = new DataView(bytes.buffer).getUint32(0, true);
  const figures = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  let at = 4 + length;
  const take = (count) => bytes.subarray(at, at += count);
  return figures.map((answer, index) => ({
    probabilities: answer.probabilities,
    evidence: answer.evidence && { low: answer.evidence[0], high: answer.evidence[1], bytes: take(width * height) },
    layers: of[index].description.layers.map((layer, number) => ({
      ...answer.layers[number], bytes: take(layer.rows * layer.columns * layer.maps),
    })),
  }));
}

/** Measure the time from the event to the frame that shows its answer. */
function measure(since) {
  requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => {
      const taken = performance.measure("pen to picture", { start: since, end: performance.now() }).duration;
      $("latency").textContent = `answered in ${Math.round(taken)} ms`;
    };
    channel.port2.postMessage(null);
  });
}

function forget() {
  evidence = null;
  for (const model of models) model.view.clear();
  $("result").textContent = "Draw an image, or load one.";
  $("latency").textContent = "";
  paintOverlay();
}

function showResult() {
  const lines = models.map(({ description, view }) => {
    const text = answerText(view.probabilities, description.classes);
    return models.length > 1 ? `${description.name}: ${text}` : text;
  });
  $("result").textContent = lines.join("\n");
  say(lines.join("; "));
}

let speaking;

/** Let a screen reader say something, once it has not changed for a while. */
function say(text) {
  clearTimeout(speaking);
  speaking = setTimeout(() => { $("spoken").textContent = text; }, 600);
}

function report(text) {
  if ($("message").textContent !== text) $("message").textContent = text;
}

const percent = (value) => `${(100 * value).toFixed(1)} %`;

/** Return the most probable class and its probability; `probabilities` is null if the model's output is not a number. */
function answerText(probabilities, classes) {
  if (!probabilities) return "The model's output is not a number (NaN or infinite).";
  const best = probabilities.indexOf(Math.max(...probabilities));
  return `${classes[best]} · ${percent(probabilities[best])}`;
}

/** Return a class activation map as a canvas of translucent colours, or null if there is none. */
function asEvidence(map) {
  if (!map) return null;
  const { low, high, bytes } = map;
  const data = new ImageData(width, height), most = Math.max(-low, high) || 1;
  for (let i = 0; i < bytes.length; i++) {
    const value = low + bytes[i] / 255 * (high - low);
    data.data.set(value > 0 ? [255, 60, 30] : [40, 110, 255], 4 * i);
    data.data[4 * i + 3] = 190 * Math.min(1, Math.abs(value) / most);
  }
  const canvas = newCanvas(width, height);
  canvas.getContext("2d").putImageData(data, 0, 0);
  return canvas;
}

// --- models

/** Return an element with a class, a text and children. */
function element(tag, className = "", text = "", ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

/** A model's probabilities and layers. */
class ModelView {
  constructor(description) {
    this.description = description;
    this.root = element("section", "model");
    this.root.append(element("h2", "", description.name));
    this.bars = element("dl", "bars");
    this.rows = Array.from({ length: Math.min(BARS, description.classes.length) }, () => this.makeRow());
    const activation = description.activation ? `Evidence: ${description.activation}.` : "This model has no class activation map.";
    this.layers = description.layers.map((layer) => new LayerView(layer));
    const zoom = Math.max(1, Math.round(112 / Math.max(width, height)));
    this.map = newCanvas(width * zoom, height * zoom);
    this.map.setAttribute("role", "img");
    this.map.setAttribute("aria-label", `Class activation map of ${description.name}`);
    const figure = element("figure", "evidence", "", this.map, element("figcaption", "", activation));
    this.root.append(this.bars, figure, ...this.layers.map((layer) => layer.root));
    this.clear();
  }

  makeRow() {
    const name = element("dt"), bar = element("i"), figure = element("dd", "figure");
    this.bars.append(name, element("dd", "bar", "", bar), figure);
    return { name, bar, figure };
  }

  show({ probabilities, evidence: map, layers }) {
    this.paintMap(asEvidence(map));
    const { classes } = this.description;
    this.probabilities = probabilities;
    layers.forEach((layer, index) => this.layers[index].show(layer));
    if (!probabilities) return this.clearBars();
    const order = probabilities.map((_, index) => index).sort((a, b) => probabilities[b] - probabilities[a]);
    const shown = classes.length > BARS ? order : probabilities.map((_, index) => index);
    this.rows.forEach(({ name, bar, figure }, row) => {
      const index = shown[row];
      name.textContent = classes[index];
      name.className = index === order[0] ? "first" : "";
      figure.className = index === order[0] ? "figure first" : "figure";
      bar.style.transform = `scaleX(${probabilities[index]})`;
      figure.textContent = percent(probabilities[index]);
    });
  }

  /** Draw the input with this model's evidence. */
  paintMap(colours) {
    const context = this.map.getContext("2d");
    context.clearRect(0, 0, this.map.width, this.map.height);
    context.imageSmoothingEnabled = false;
    if (input) context.drawImage(asCanvas(input), 0, 0, this.map.width, this.map.height);
    context.imageSmoothingEnabled = true;
    if (input && colours) context.drawImage(colours, 0, 0, this.map.width, this.map.height);
  }

  clear() {
    this.paintMap(null);
    this.clearBars();
    for (const layer of this.layers) layer.clear();
  }

  clearBars() {
    this.rows.forEach(({ name, bar, figure }, row) => {
      name.textContent = this.description.classes[row];
      name.className = "";
      bar.style.transform = "scaleX(0)";
      figure.textContent = "–";
    });
  }
}

/** A layer's feature maps on one canvas. Each unit can be chosen, to show its value and its receptive field. */
class LayerView {
  constructor(layer) {
    this.layer = layer;
    this.answer = null;
    this.unit = null; // {map, row, column}
    this.isVector = layer.rows === 1 && layer.shape.length !== 2 || layer.shape.length === 1;
    this.arrange(360);
    const sees = layer.field === "all" ? "sees the whole image" : `receptive field ${layer.field}`;
    const heading = element("h3", "", layer.name + " ");
    heading.append(element("span", "", `${layer.type}, ${layer.shape.join("×")}, ${sees}`));
    this.canvas = element("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-label", `Maps of ${layer.name}: arrow keys choose a unit, page keys a map`);
    this.caption = element("p", "unit");
    this.caption.setAttribute("aria-live", "polite");
    this.root = element("div", "layer", "", heading, this.canvas, this.caption);
    this.small = newCanvas(this.across, this.down);
    this.listen();
    new ResizeObserver(() => {
      const before = this.perLine;
      this.arrange(this.root.clientWidth);
      if (this.perLine !== before) this.paint();
    }).observe(this.root);
  }

  /** Choose the size of the maps and their number per line. A vector is drawn as lines of units. */
  arrange(available) {
    const { rows, columns, maps } = this.layer;
    this.across = this.isVector ? Math.min(columns, columns > 512 ? 64 : 32) : columns;
    this.down = this.isVector ? Math.ceil(columns / this.across) : rows;
    const most = this.isVector ? 320 / this.across : TILE / Math.max(rows, columns);
    this.zoom = Math.max(1, Math.min(20, Math.floor(most)));
    const tile = this.across * this.zoom + GAP;
    const fitting = Math.max(1, Math.floor((available + GAP) / tile));
    this.perLine = Math.ceil(maps / Math.ceil(maps / fitting)); // lines of equal length
  }

  show(answer) {
    this.answer = answer;
    this.paint();
    if (this.unit) this.describe();
  }

  clear() {
    this.answer = null;
    this.unit = null;
    this.caption.textContent = "";
    this.paint();
  }

  paint() {
    const { rows, columns, maps } = this.layer, { across, down, zoom, perLine, canvas } = this;
    const [fullWidth, fullHeight] = [across * zoom + GAP, down * zoom + GAP];
    const size = [perLine * fullWidth - GAP, Math.ceil(maps / perLine) * fullHeight - GAP];
    if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
    const context = canvas.getContext("2d");
    context.fillStyle = getComputedStyle(document.body).getPropertyValue("--panel");
    context.fillRect(0, 0, ...size);
    context.imageSmoothingEnabled = false;
    const area = rows * columns;
    const most = this.answer ? Math.max(1e-9, ...this.answer.high, ...this.answer.low.map((value) => -value)) : 1;
    if (this.small.height !== down * maps) this.small = newCanvas(across, down * maps);
    const data = new ImageData(across, down * maps);
    for (let map = 0; map < maps; map++) {
      const low = this.answer?.low[map] ?? 0, step = ((this.answer?.high[map] ?? 0) - low) / 255;
      for (let i = 0; i < area; i++) {
        const value = this.answer ? low + step * this.answer.bytes[map * area + i] : 0;
        const shade = SHADES[Math.round(255 + 255 * value / most)];
        const at = 4 * (map * across * down + i);
        data.data[at] = shade[0]; data.data[at + 1] = shade[1]; data.data[at + 2] = shade[2]; data.data[at + 3] = 255;
      }
    }
    const small = this.small.getContext("2d");
    small.putImageData(data, 0, 0);
    for (let map = 0; map < maps; map++)
      context.drawImage(this.small, 0, map * down, across, down,
        map % perLine * fullWidth, Math.floor(map / perLine) * fullHeight, across * zoom, down * zoom);
    if (this.unit) {
      const { map, row, column } = this.unit;
      const [x, y] = this.isVector ? [column % across, Math.floor(column / across)] : [column, row];
      context.strokeStyle = "#ff9d2e";
      context.lineWidth = 2;
      context.strokeRect(map % perLine * fullWidth + x * zoom, Math.floor(map / perLine) * fullHeight + y * zoom, zoom, zoom);
    }
  }

  /** Return the unit at a place on the canvas, or null between the maps. */
  unitAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = (event.clientX - box.left) * this.canvas.width / box.width;
    const y = (event.clientY - box.top) * this.canvas.height / box.height;
    const [fullWidth, fullHeight] = [this.across * this.zoom + GAP, this.down * this.zoom + GAP];
    const map = Math.floor(y / fullHeight) * this.perLine + Math.floor(x / fullWidth);
    const column = Math.floor(x % fullWidth / this.zoom), row = Math.floor(y % fullHeight / this.zoom);
    if (map < 0 || map >= this.layer.maps || column < 0 || row < 0 || column >= this.across || row >= this.down) return null;
    if (!this.isVector) return { map, row, column };
    const unit = row * this.across + column;
    return unit < this.layer.columns ? { map: 0, row: 0, column: unit } : null;
  }

  choose(unit) {
    this.unit = this.answer ? unit : null;
    this.describe();
    this.paint();
  }

  /** Show the chosen unit's value, and its receptive field on the drawing. */
  describe() {
    hovered = null;
    this.caption.textContent = "";
    if (this.unit) {
      const { map, row, column } = this.unit, { low, high, bytes, channels: numbers } = this.answer;
      const byte = bytes[(map * this.layer.rows + row) * this.layer.columns + column];
      const value = (low[map] + byte / 255 * (high[map] - low[map])).toPrecision(3);
      const where = this.isVector ? `unit ${column}` : `channel ${numbers[map]}, row ${row}, column ${column}`;
      const [rows, columns] = this.fieldOf(this.unit);
      hovered = rows && columns ? { rows, columns } : null;
      const sees = hovered ? `sees rows ${rows.join("–")}, columns ${columns.join("–")}` : "sees only padding";
      this.caption.textContent = `${where}: ${value}; ${sees}`;
    }
    paintOverlay();
  }

  /** Return the first and last row, and the first and last column, of the image that a unit sees. */
  fieldOf({ row, column }) {
    return this.layer.spans.map((axis, along) => {
      if (!axis) return [0, [height, width][along] - 1];
      return axis.spans[Math.min(axis.spans.length - 1, [row, column][axis.by])];
    });
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointermove", (event) => this.choose(this.unitAt(event)));
    canvas.addEventListener("pointerdown", (event) => this.choose(this.unitAt(event)));
    canvas.addEventListener("pointerleave", () => this.choose(null));
    canvas.addEventListener("blur", () => this.choose(null));
    canvas.addEventListener("focus", () => {
      if (canvas.matches(":focus-visible")) this.choose({ map: 0, row: 0, column: 0 });
    });
    const { rows, columns, maps } = this.layer;
    const steps = {
      ArrowLeft: [0, 0, -1], ArrowRight: [0, 0, 1], ArrowUp: [0, -1, 0], ArrowDown: [0, 1, 0], PageUp: [-1, 0, 0], PageDown: [1, 0, 0],
    };
    canvas.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return this.choose(null);
      if (!steps[event.key]) return undefined;
      event.preventDefault();
      const from = this.unit ?? { map: 0, row: 0, column: 0 }, [map, row, column] = steps[event.key];
      const within = (value, count) => Math.min(count - 1, Math.max(0, value));
      return this.choose({
        map: within(from.map + map, maps), row: within(from.row + row, rows), column: within(from.column + column, columns),
      });
    });
  }
}

/** 511 colours for values from the most negative (blue) through 0 (dark) to the most positive (yellow). */
const SHADES = Array.from({ length: 511 }, (_, index) => {
  const share = Math.abs(index - 255) / 255;
  const stops = index < 255
    ? [[12, 12, 28], [20, 60, 150], [110, 190, 255]]
    : [[12, 12, 28], [150, 40, 90], [250, 140, 50], [255, 245, 170]];
  const at = share * (stops.length - 1), first = Math.min(stops.length - 2, Math.floor(at));
  return stops[first].map((value, c) => value + (at - first) * (stops[first + 1][c] - value));
});

function addModel(number, description) {
  const view = new ModelView(description);
  models.push({ number, description, view });
  $("models").append(view.root);
}

// --- examples, photographs, runs

const decode = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

async function loadExample(number) {
  try {
    const found = await (await request(`example?number=${number}`)).json();
    load(decode(found.pixels), `${setup.part} ${number}, class ${setup.classes[found.label]}`);
    $("number").value = number;
  } catch (error) { report(error.message); }
}

async function readFiles(files) {
  const some = [...files];
  if (some.length > MOST_FILES) report(`Only the first ${MOST_FILES} of ${some.length} files are read.`);
  for (const file of some.slice(0, MOST_FILES)) await readFile(file);
}

async function readFile(file) {
  const root = element("div", "photograph", "", element("p", "", file.name));
  $("photographs").prepend(root);
  try {
    if (file.size > MOST_BYTES) throw new Error(`${(file.size / 1e6).toFixed(0)} MB; at most ${MOST_BYTES / 1e6} MB are read`);
    const readings = await (await request("photograph", { method: "POST", body: file })).json();
    await showOriginal(root, file, readings);
    load(decode(readings[0].pixels), "");
    await showReadings(root, readings);
  } catch (error) { root.append(element("p", "warning", error.message)); }
}

/** Show the photograph with a numbered box around each digit that was found. */
async function showOriginal(root, file, readings) {
  let image;
  try { image = await createImageBitmap(file); } catch { return; } // a format that the browser does not know
  const factor = Math.min(1, 320 / Math.max(image.width, image.height));
  const canvas = newCanvas(Math.max(1, Math.round(image.width * factor)), Math.max(1, Math.round(image.height * factor)));
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `The photograph ${file.name}`);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  readings.forEach(({ box }, index) => {
    if (!box) return;
    const [left, top, right, bottom] = box.map((side) => side * factor);
    context.lineWidth = 2;
    context.strokeStyle = "#d35400";
    context.strokeRect(left - 1, top - 1, right - left + 2, bottom - top + 2);
    if (readings.length < 2) return;
    context.font = "bold 13px system-ui, sans-serif";
    context.lineWidth = 3;
    context.strokeStyle = "#fff";
    context.strokeText(index + 1, left, top > 14 ? top - 4 : bottom + 14);
    context.fillStyle = "#b34700";
    context.fillText(index + 1, left, top > 14 ? top - 4 : bottom + 14);
  });
  root.append(canvas);
}

/** Show what was made of a photograph, as a button for each digit that loads it, with its class. */
async function showReadings(root, readings) {
  if (readings.length > 1) root.append(element("p", "", `${readings.length} digits found`));
  const found = element("div", "found");
  root.append(found);
  const shown = readings.slice(0, 24);
  for (const [index, { pixels, warning }] of shown.entries()) {
    if (warning) root.append(element("p", "warning", `${readings.length > 1 ? `${index + 1}: ` : ""}${warning}`));
    const small = asCanvas(decode(pixels));
    small.style.width = `${Math.max(56, width)}px`;
    const [answer] = await fetchAnswers(decode(pixels), models.slice(0, 1));
    const button = element("button", "", "", small, element("span", "", answerText(answer.probabilities, setup.classes)));
    button.type = "button";
    button.addEventListener("click", () => load(decode(pixels), ""));
    found.append(button);
  }
}

async function listRuns() {
  const option = (value, text) => Object.assign(element("option", "", text), { value });
  try {
    const runs = await (await request("runs")).json();
    $("runs").replaceChildren(option("", "no other run"), ...runs.map((run) =>
      option(run.id, run.name + (run.accuracy === null ? "" : ` (${percent(run.accuracy)})`))));
  } catch (error) { report(error.message); }
}

async function compare() {
  const id = $("runs").value;
  report("");
  $("compare").disabled = true;
  try {
    const added = id && await (await request("runs", { method: "POST", body: id })).json();
    for (const model of models.splice(1)) model.view.root.remove();
    if (added && added.number !== models[0].number) addModel(added.number, added.model);
    else if (added) report("This run is already shown.");
    refresh();
  } catch (error) { report(error.message); }
  $("compare").disabled = false;
}

/** Place the tools below the input; on a narrow page, below the models, so that the input is next to its answers. */
function placeTools() {
  (narrow.matches ? document.querySelector("main") : $("inputs")).append($("tools"));
}

function listenToTools() {
  narrow.addEventListener("change", placeTools);
  $("clear").addEventListener("click", () => { resetChanges(); clear(); });
  $("undo").addEventListener("click", undo);
  $("evidence").addEventListener("change", paintOverlay);
  $("reset").addEventListener("click", () => { resetChanges(); refresh(); });
  for (const id of CHANGES) $(id).addEventListener("input", (event) => { showChanges(); refresh(event.timeStamp); });
  $("load").addEventListener("click", () => loadExample($("number").value));
  $("number").addEventListener("keydown", (event) => { if (event.key === "Enter") loadExample($("number").value); });
  $("random").addEventListener("click", () => loadExample(Math.floor(Math.random() * setup.examples)));
  $("files").addEventListener("change", () => { readFiles($("files").files); });
  $("compare").addEventListener("click", compare);
  addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    readFiles(event.dataTransfer.files);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => models.forEach(({ view }) => view.layers.forEach((layer) => layer.paint())));
}

async function start() {
  try { setup = await (await request("setup")).json(); }
  catch (error) { return report(error.message); }
  [height, width, channels] = setup.shape;
  scale = SIDE / Math.max(height, width);
  for (const canvas of [picture.canvas, overlay.canvas]) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  [seen.canvas.width, seen.canvas.height] = [width, height];
  seen.canvas.style.width = `${Math.max(84, Math.min(width, 112))}px`;
  $("size").textContent = `${height}×${width}`;
  $("pen-label").hidden = setup.normalizes;
  $("colour-label").hidden = channels !== 3;
  $("number").max = Math.max(0, setup.examples - 1);
  for (const id of ["number", "load", "random"]) $(id).disabled = !setup.examples;
  setup.models.forEach((description, number) => addModel(number, description));
  placeTools();
  listenToPointer();
  listenToKeys();
  listenToTools();
  resetChanges();
  clear();
  document.body.dataset.ready = "true";
  return listRuns();
}

start();
