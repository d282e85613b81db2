// The page: what the reader does, and what is shown for it.

import { cropBox, decode, fit, rgb } from "pictures";
import { bytes } from "payloads";
import { change, order, summarize } from "gates";
import { drawPicture, drawPixels, drawValues, palette } from "drawing";
import { Model, start } from "model";
import { add, answer, verification } from "elements";

const page = JSON.parse(document.getElementById("description").textContent);
const $ = (id) => document.getElementById(id);
const halves = new Set(); // names of the gates that their own switch sets to 0.5
const models = [];
const rows = new Map(); // name of a gate -> its row
let image = null; // Float32Array, what the network sees
let asked = 0; // pictures; one that takes long to read must not replace a later one
let pending = false;
let running = null;

/** Shows what went wrong, or nothing. */
function complain(message = "") {
  $("error").textContent = message;
  $("error").hidden = !message;
}

function check(passed, name, text) {
  const row = add($("checks"), "li");
  add(row, "strong", passed ? "passed " : "FAILED ", { className: passed ? "good" : "bad" });
  row.append(`${name}: ${text}`);
}

async function open() {
  const test = await checkPictures();
  $("status").textContent = "Starting ONNX Runtime…";
  await start();
  for (const description of page.models) {
    $("status").textContent = `Opening ${description.file}…`;
    try {
      const model = await Model.open(description);
      const { passed, text } = await model.check(test);
      check(passed, description.file, text);
      if (passed) models.push(model);
    } catch (error) {
      check(false, description.file, error.message);
    }
  }
  if (models.length === 0) throw new Error("No model gives the expected answers in this browser.");
  const left = page.models.length - models.length;
  const failed = document.querySelectorAll("#checks .bad").length;
  $("status").textContent = failed
    ? `Ready, but ${failed} of the checks at the end of the page failed${left ? "; what failed is left out" : ""}.`
    : "Ready. The page has checked itself: it gives the same answers as Python.";
  buildGates();
}

/** Returns the least and the largest of numbers; a call of Math.max takes some 100,000 at most. */
function ends(numbers) {
  return [Math.min, Math.max].map((of) => numbers.reduce((one, other) => of(one, other)));
}

/** Reads the page's test picture and compares its pixels with Python's, which it returns. */
async function checkPictures() {
  const expected = Float32Array.from(bytes(page.check.pixels));
  const { input } = await read(new Blob([bytes(page.check.picture)]));
  const differences = rgb(input).map((value, index) => Math.abs(value - expected[index]));
  const [, most] = ends(differences);
  check(most <= 1, "reading pictures", `largest difference of a pixel ${most} of 255, at most 1 accepted`);
  return expected;
}

/** Returns the picture in a file, and the network's input that it becomes. */
async function read(blob, rule = page.resize) {
  const picture = await decode(blob, page.max_pixels);
  return { picture, input: fit(picture, rule, page.max_pixels) };
}

async function show(blob, name) {
  complain();
  const number = ++asked;
  try {
    const { picture, input } = await read(blob);
    if (number < asked) return;
    drawPicture($("original"), picture, cropBox(picture, page.resize));
    drawPixels($("input"), input);
    $("original-text").textContent = `${name}, ${picture.width} × ${picture.height}`;
    $("input-text").textContent = `What the network sees: ${input.width} × ${input.height}`;
    image = rgb(input);
    await update();
  } catch (error) {
    if (number === asked) complain(error.message);
  }
}

/** Computes and draws; what changes meanwhile is computed once at the end. */
function update() {
  pending = true;
  running ??= (async () => {
    try {
      while (pending && image) {
        pending = false;
        await compute();
      }
    } catch (error) {
      complain(`The network did not run: ${error.message}`);
    }
  })().finally(() => {
    running = null; // later, even if nothing was to be computed
    if (pending && image) update();
  });
  return running;
}

async function compute() {
  const share = $("share").value / 100;
  const current = image; // another one may be chosen meanwhile
  const isChanged = share > 0 || $("half").checked || halves.size > 0;
  for (const model of models) {
    if (model.image !== current) model.trained = await model.run(current);
    model.image = current;
    const summaries = model.gates.map((gate, at) => summarize(gate, model.trained.values[at]));
    model.changes = model.gates.map((gate, at) =>
      change(
        order(gate, summaries[at], $("largest").value),
        share,
        $("half").checked || halves.has(gate.name),
      ),
    );
    model.result = isChanged ? await model.run(current, model.changes) : model.trained;
  }
  $("share-text").textContent = `${$("share").value}%`;
  const [model] = models;
  const best = model.trained.probabilities.indexOf(Math.max(...model.trained.probabilities));
  const percent = (100 * model.trained.probabilities[best]).toFixed(1);
  $("changed").textContent = isChanged
    ? `The gates are changed. As trained, the answer was ${className(best)} with ${percent}% (the mark on each bar).`
    : "The gates are as trained.";
  $("answers").replaceChildren(...models.map((each) => answer(each, className)));
  drawGates();
}

function className(index) {
  return page.class_names?.[index] ?? `class ${index}`;
}

function buildGates() {
  for (const model of models) add($("shown"), "option", model.precision);
  $("computed").hidden = models.length < 2 || models[0].gates.length === 0;
  const { gates } = models[0];
  for (const id of ["controls", "legend"]) $(id).hidden = gates.length === 0;
  const known = gates.every((gate) => gate.gamma);
  $("units").textContent = [...new Set(gates.map((gate) => gate.units))].join(" and ");
  $("key").textContent = known ? "|γ|" : "the value on this picture";
  if (gates.length === 0) $("note").textContent = "This network has no gates.";
  else $("note").textContent = known
    ? "γ is the scale that a channel, or a position of a spatial gate, has from training. NAM makes its gates of it."
    : "The slider goes by the gates' values on this picture. γ is not known: these gates have none, or the file does not hold it.";
  if (gates.some((gate) => gate.added)) {
    $("note").textContent += " This network multiplies by 1 + the gate: a closed gate keeps what it has as it is.";
  }
  for (const gate of gates) {
    const row = add($("gates"), "li");
    rows.set(gate.name, row);
    const text = add(row, "div", "", { className: "text" });
    const label = add(text, "label");
    const box = add(label, "input", "", { type: "checkbox", name: gate.name, title: "set to 0.5" });
    box.setAttribute("aria-label", `${gate.name} = 0.5`);
    label.append(` ${gate.name.replaceAll("_", " ")}`);
    add(text, "span", "", { className: "size" });
    for (const kind of ["strip", "map"]) {
      add(row, "canvas", "", { className: kind }).setAttribute("role", "img");
    }
    add(row, "span", "", { className: "range" });
  }
}

function drawGates() {
  const model = models.find((each) => each.precision === $("shown").value) ?? models[0];
  const colours = palette();
  $("levels").textContent = model.precision === "int8" ? "int8 has few levels for the values of a gate: they are shown as computed." : "";
  model.gates.forEach((gate, at) => {
    const row = rows.get(gate.name);
    const [size, strip, map, range] = [".size", ".strip", ".map", ".range"].map((name) => row.querySelector(name));
    const { closed, offset } = model.changes[at];
    const half = offset.some((value) => value > 0);
    const values = half ? model.trained.values[at].map(() => 0.5) : model.trained.values[at];
    const summary = summarize(gate, values);
    const count = gate.units === "channels" ? summary.channels.length : summary.positions.length;
    size.textContent = `${count} ${gate.units}, ${closed.size} closed`;
    const draw = (canvas, kind, width) => {
      canvas.hidden = summary[kind].length < 2 && gate.units !== kind;
      const marked = gate.units === kind ? closed : new Set();
      const [least, most] = ends(summary[kind]);
      const spread = Math.max(0.5 - least, most - 0.5);
      drawValues(canvas, summary[kind], width, spread, marked, colours);
      canvas.setAttribute("aria-label", `${gate.name}, means of its ${kind}: ${least.toFixed(4)} to ${most.toFixed(4)}`);
      return canvas.hidden ? "" : `${canvas.className} 0.5 ± ${spread < 1e-3 ? spread.toExponential(1) : spread.toPrecision(2)}`;
    };
    range.replaceChildren();
    add(range, "span", draw(strip, "channels", summary.channels.length));
    add(range, "span", draw(map, "positions", summary.width));
  });
}

function listen() {
  for (const id of ["file", "camera"]) {
    $(id).addEventListener("change", ({ target }) => {
      if (target.files[0]) show(target.files[0], target.files[0].name);
      target.value = "";
    });
  }
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) show(file, "The pasted picture");
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", kind === "dragover");
      const file = kind === "drop" && event.dataTransfer.files[0];
      if (file) show(file, file.name);
    });
  }
  $("controls").addEventListener("input", update);
  $("controls").addEventListener("reset", () => {
    halves.clear();
    for (const box of $("gates").querySelectorAll("input")) box.checked = false;
    setTimeout(update); // after the browser has reset the controls
  });
  $("shown").addEventListener("input", update);
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("gates").addEventListener("input", ({ target }) => {
    if (target.checked) halves.add(target.name);
    else halves.delete(target.name);
    update();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", update);
}

/** For tests: what the page computes, after all changes are done. */
globalThis.page = { show, update, models, read, rgb };

globalThis.page.ready = (async () => {
  $("reports").append(...page.models.map(verification));
  try {
    await open();
    listen();
    for (const { name, picture } of page.examples) {
      const blob = new Blob([bytes(picture)]);
      const button = add($("examples"), "button", "", { type: "button", title: name });
      add(button, "img", "", { src: `data:image/png;base64,${picture}`, alt: `Example: ${name}` });
      button.addEventListener("click", () => show(blob, name));
    }
    const [{ name, picture }] = page.examples;
    await show(new Blob([bytes(picture)]), name);
  } catch (error) {
    $("status").textContent = "";
    complain(`The model cannot be shown: ${error.message}`);
  }
})();
