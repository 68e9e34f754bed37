// Classifies images in the browser. It needs nothing but the files of this folder: `metadata.js`
// (how images are prepared, and the names of the classes), `model.onnx` and ONNX Runtime Web.
"use strict";

const TOP = 5;
const RUNTIME = "onnxruntime-web/ort-wasm-simd-threaded";
const find = (id) => document.getElementById(id);

// Whether an image may have any number of labels, all whose score is the threshold or more.
const several = METADATA.threshold !== null;

let network; // model.onnx in ONNX Runtime
let channels, channelsFirst; // of its input

// ---------------------------------------------------------------- the network

async function load() {
  // A page from the disk may not read the files beside it, but may run their scripts.
  if (location.protocol === "file:") await run("embedded.js");
  ort.env.wasm.numThreads = 1; // more need headers that a plain file server does not send
  const glue = new Blob([await read(`${RUNTIME}.mjs`)], { type: "text/javascript" });
  ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(glue) };
  ort.env.wasm.wasmBinary = await read(`${RUNTIME}.wasm`);
  network = await ort.InferenceSession.create(new Uint8Array(await read("model.onnx")));
  const shape = network.inputMetadata[0].shape;
  channelsFirst = shape[3] !== 1 && shape[3] !== 3;
  channels = channelsFirst ? shape[1] : shape[3];
  // The first run is slower than all others.
  const [height, width] = METADATA.size;
  await probabilities(new Uint8Array(height * width * channels));
}

function run(name) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.onload = resolve;
    script.onerror = () => reject(new Error(`${name} is missing beside this page.`));
    script.src = name;
    document.head.append(script);
  });
}

// The bytes of a file beside this page.
async function read(name) {
  if (location.protocol === "file:") return unpack(EMBEDDED[name]);
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name} cannot be read (${response.status}).`);
  const parts = [];
  let bytes = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return new Blob(parts).arrayBuffer();
    parts.push(value);
    bytes += value.length;
    say(`Loading ${name.split("/").pop()}: ${(bytes / 1e6).toFixed(1)} MB`);
  }
}

// Base64 of gzip.
async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

// One probability for each class, from pixels of 0-255, `METADATA.size` times `channels` of them.
async function probabilities(pixels) {
  const [height, width] = METADATA.size;
  let shape = [1, height, width, channels];
  if (channelsFirst) {
    const planes = new Uint8Array(pixels.length);
    for (let i = 0; i < pixels.length; i++) {
      planes[(i % channels) * height * width + Math.floor(i / channels)] = pixels[i];
    }
    [pixels, shape] = [planes, [1, channels, height, width]];
  }
  const { name, type } = network.inputMetadata[0];
  const data = type === "uint8" ? pixels : Float32Array.from(pixels);
  const outputs = await network.run({ [name]: new ort.Tensor(type, data, shape) });
  return outputs[network.outputNames[0]].data;
}

// ------------------------------------------- pixels, exactly as in evaluation

// Rotated as its EXIF says, in the colours of the file.
function opened(file) {
  return createImageBitmap(file, {
    imageOrientation: "from-image",
    premultiplyAlpha: "none",
    colorSpaceConversion: "none",
  });
}

// The RGBA pixels of an image, or of the frame that a video shows.
function decoded(source, width, height) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(source, 0, 0);
  return context.getImageData(0, 0, width, height);
}

// Resized, then cropped in the centre; only the pixels of the crop are computed.
function prepared({ data, width, height }) {
  const [cropHeight, cropWidth] = METADATA.size;
  const { edge, fitted } = resizing(width, height);
  const columns = along(width, Math.floor((edge * width) / fitted), cropWidth);
  const rows = along(height, Math.floor((edge * height) / fitted), cropHeight);

  const top = Math.min(...rows.map((row) => row.start));
  const bottom = Math.max(...rows.map((row) => row.start + row.weights.length));
  const narrow = new Float32Array((bottom - top) * cropWidth * channels);
  for (let y = top; y < bottom; y++) {
    for (let x = 0; x < cropWidth; x++) {
      const { start, weights } = columns[x];
      let red = 0, green = 0, blue = 0;
      for (let i = 0; i < weights.length; i++) {
        const at = 4 * (y * width + start + i);
        red += weights[i] * data[at];
        green += weights[i] * data[at + 1];
        blue += weights[i] * data[at + 2];
      }
      const at = ((y - top) * cropWidth + x) * channels;
      if (channels === 1) {
        narrow[at] = 0.299 * red + 0.587 * green + 0.114 * blue; // the grey of JPEG
      } else {
        [narrow[at], narrow[at + 1], narrow[at + 2]] = [red, green, blue];
      }
    }
  }

  const line = cropWidth * channels;
  const pixels = new Uint8Array(cropHeight * line);
  for (let y = 0; y < cropHeight; y++) {
    const { start, weights } = rows[y];
    for (let x = 0; x < line; x++) {
      let sum = 0;
      for (let i = 0; i < weights.length; i++) sum += weights[i] * narrow[(start - top + i) * line + x];
      pixels[y * line + x] = Math.min(Math.max(sum, 0), 255) + 0.5;
    }
  }
  return pixels;
}

// An image is resized until its edge `fitted` is `edge` pixels long: the short edge becomes `resize`;
// without `resize` the image just covers the crop.
function resizing(width, height) {
  if (METADATA.resize !== null) return { edge: METADATA.resize, fitted: Math.min(width, height) };
  const [cropHeight, cropWidth] = METADATA.size;
  const heightDecides = cropHeight * width >= cropWidth * height;
  return heightDecides ? { edge: cropHeight, fitted: height } : { edge: cropWidth, fitted: width };
}

// For each pixel of the crop along an axis, the pixels that it is computed from: the first of them,
// `start`, and their weights, as in TensorFlow's ScaleAndTranslate. The axis of `length` pixels
// becomes `resized` pixels long, of which the `size` in the centre are taken.
function along(length, resized, size) {
  const cubic = METADATA.interpolation === "bicubic";
  const inverse = Math.fround(1 / Math.fround(resized / length));
  const scale = METADATA.antialias ? Math.max(inverse, 1) : 1;
  const radius = (cubic ? 2 : 1) * scale;
  const float = Math.fround; // as there, so that what lies between two levels is rounded alike
  const inside = (pixel) => Math.min(Math.max(pixel, 0), length - 1);
  const offset = centre(resized, size);
  return Array.from({ length: size }, (_, i) => {
    const middle = float(float((i + 0.5) * inverse) + float(offset * inverse));
    if (middle < 0 || middle > length) return { start: 0, weights: [] }; // padding
    const start = inside(Math.ceil(middle - radius - 0.5));
    const end = inside(Math.floor(middle + radius - 0.5));
    const weights = [];
    for (let pixel = start; pixel <= end; pixel++) {
      const distance = float(Math.abs(float(pixel + 0.5 - middle)) * float(1 / scale));
      weights.push(float(cubic ? keys(distance) : Math.max(1 - distance, 0)));
    }
    const total = weights.reduce((sum, weight) => float(sum + weight), 0);
    return { start, weights: weights.map((weight) => float(weight * float(1 / total))) };
  });
}

// The first pixel of the crop; half a pixel is rounded to the even side, as in Python.
function centre(resized, size) {
  if (resized < size) return -Math.floor((size - resized) / 2);
  const half = Math.floor((resized - size) / 2);
  return (resized - size) % 2 ? half + (half % 2) : half;
}

// Keys 1981, "Cubic convolution interpolation", equation 15.
function keys(x) {
  if (x >= 2) return 0;
  return x >= 1 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : (1.5 * x - 2.5) * x * x + 1;
}

// ------------------------------------------------------------- what is shown

async function classify(source, width, height) {
  await loaded;
  const before = performance.now();
  const pixels = prepared(decoded(source, width, height));
  const between = performance.now();
  const scores = await probabilities(pixels);
  const after = performance.now();

  const best = chosen(scores);
  const rows = best.map((index) => row(nameOf(index), scores[index]));
  find("classes").replaceChildren(...(rows.length ? rows : [none()]));
  find("latency").textContent = `${(after - between).toFixed(1)} ms`;
  find("preparation").textContent = `${(between - before).toFixed(1)} ms`;
  find("size").textContent = `The network sees ${METADATA.size.join(" × ")} pixels`;
  drawSeen(pixels);
  find("facts").hidden = false;
  if (!best.length) return "none";
  const told = best.slice(0, several ? best.length : 1);
  return told.map((index) => `${nameOf(index)}, ${percent(scores[index])}`).join("; ");
}

// The numbers of the classes to show, the highest score first: the likeliest ones, or all labels
// above the threshold.
function chosen(scores) {
  const ordered = Array.from(scores.keys()).sort((a, b) => scores[b] - scores[a]);
  return several ? ordered.filter((index) => scores[index] >= METADATA.threshold) : ordered.slice(0, TOP);
}

function none() {
  const item = document.createElement("li");
  item.textContent = "none";
  return item;
}

function nameOf(index) {
  return METADATA.labels[index] ?? `class ${index}`;
}

function percent(score) {
  return `${(100 * score).toFixed(1)} %`;
}

function row(name, score) {
  const item = document.createElement("li");
  for (const [kind, text] of [["name", name], ["score", percent(score)]]) {
    const span = document.createElement("span");
    span.className = kind;
    span.textContent = text;
    item.append(span);
  }
  const bar = document.createElement("div");
  const filled = document.createElement("div");
  bar.className = "bar";
  bar.ariaHidden = "true"; // the number says the same
  filled.style.width = `${100 * score}%`;
  bar.append(filled);
  item.append(bar);
  return item;
}

function drawSeen(pixels) {
  const canvas = find("seen");
  const [height, width] = METADATA.size;
  [canvas.width, canvas.height] = [width, height];
  canvas.ariaLabel = `What the network sees, ${height} by ${width} pixels`;
  const image = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = pixels[i * channels + (channels === 1 ? 0 : c)];
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function say(text, wrong = false) {
  find("status").textContent = text;
  find("status").classList.toggle("wrong", wrong);
}

// --------------------------------------------------- images, and the camera

async function take(file) {
  let bitmap;
  try {
    bitmap = await opened(file);
  } catch {
    say(`${file.name} is not an image that this browser can read.`, true);
    return;
  }
  const image = find("image");
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(file);
  image.alt = file.name;
  image.className = Math.max(bitmap.width, bitmap.height) < 100 ? "small" : "";
  show(image);
  say(`${file.name}: ${await classify(bitmap, bitmap.width, bitmap.height)}`);
  bitmap.close();
}

async function start() {
  const video = find("video");
  try {
    if (!navigator.mediaDevices) throw new Error("it needs https:// or localhost");
    video.srcObject = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment" },
    });
    await video.play();
  } catch (error) {
    say(`No camera: ${error.message}.`, true);
    return;
  }
  show(video);
  const button = find("camera");
  button.textContent = "Stop camera";
  button.ariaPressed = "true";
  say("The camera is on.");
  while (video.srcObject) {
    await classify(video, video.videoWidth, video.videoHeight);
    await new Promise(requestAnimationFrame);
  }
}

function stop() {
  const video = find("video");
  const button = find("camera");
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  video.pause();
  button.textContent = "Use camera";
  button.ariaPressed = "false";
}

function show(shown) {
  for (const id of ["invitation", "image", "video"]) find(id).hidden = find(id) !== shown;
}

// Tasks run one after the other: the network computes one image at a time, and the camera runs
// until it is stopped.
let turn = Promise.resolve();
function next(task) {
  turn = turn.then(task).catch((error) => say(error.message, true));
}

function offer(file) {
  if (!file) return;
  stop();
  next(() => take(file));
}

find("file").addEventListener("change", ({ target }) => {
  offer(target.files[0]);
  target.value = ""; // the same file may be chosen again
});
find("camera").addEventListener("click", () => {
  if (find("video").srcObject) {
    stop();
    say("The camera is off.");
  } else {
    next(start);
  }
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", kind === "dragover");
    if (kind === "drop") offer(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => offer(event.clipboardData.files[0]));

const count = METADATA.labels.length;
if (several) find("heading").textContent = `Labels of ${percent(METADATA.threshold)} or more`;
find("about").textContent =
  (count ? `Recognises ${count} ${several ? "labels, any number in an image" : "classes"}. ` : "") +
  "Everything runs in this page: no image leaves this device.";
const loaded = load();
next(() => loaded.then(() => say("Ready.")));
