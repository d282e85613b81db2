// The network in ONNX Runtime Web: WebAssembly, one thread, in this page.

import * as ort from "onnxruntime-web";
import { payload } from "payloads";

const START_LIMIT = 120; // seconds; under some security policies a session is never ready

/** Prepares ONNX Runtime from the page's own copy, so that it asks for no other file. */
export async function start() {
  Object.assign(ort.env.wasm, { wasmBinary: await payload("runtime"), numThreads: 1 });
}

/** A model of one precision. */
export class Model {
  /** Opens the model that the page's description names. */
  static async open(description) {
    const model = new Model();
    Object.assign(model, description);
    const content = await payload(description.payload);
    model.session = await withLimit(
      ort.InferenceSession.create(content, { executionProviders: ["wasm"] }),
    );
    return model;
  }

  /**
   * Classifies an image.
   *
   * @param image Float32Array [height, width, 3] of 0–255.
   * @param changes For each gate {factor, offset}, a Float32Array each, or undefined: unchanged.
   * @returns {logits, probabilities, values, milliseconds}; `values` has an array for each gate.
   */
  async run(image, changes = []) {
    const feeds = { image: new ort.Tensor("float32", image, [1, ...this.image_shape]) };
    this.gates.forEach((gate, index) => {
      const { factor, offset } = changes[index] ?? neutral(gate);
      feeds[`${gate.name}/factor`] = new ort.Tensor("float32", factor, gate.unit_shape);
      feeds[`${gate.name}/offset`] = new ort.Tensor("float32", offset, gate.unit_shape);
    });
    const started = performance.now();
    const outputs = await this.session.run(feeds);
    return {
      milliseconds: performance.now() - started,
      logits: outputs.logits.data,
      probabilities: outputs.probabilities.data,
      values: this.gates.map((gate) => outputs[gate.name].data),
    };
  }

  /** Compares the logits of the page's test image with the expected ones: {passed, text}. */
  async check(image) {
    const { logits } = await this.run(image);
    const difference = Math.max(...logits.map((logit, index) => Math.abs(logit - this.logits[index])));
    const found = divergence(softmax(this.logits), softmax([...logits]));
    const passed =
      found <= this.limits.kl && (this.limits.logits === null || difference <= this.limits.logits);
    const limit = this.limits.logits === null
      ? `divergence ${found.toExponential(1)}, at most ${this.limits.kl} accepted`
      : `at most ${this.limits.logits.toExponential(1)} accepted`;
    const text = `largest difference of a logit from ONNX Runtime in Python ${difference.toExponential(1)}; ${limit}`;
    return { passed, text };
  }
}

function neutral(gate) {
  const units = gate.unit_shape.reduce((product, size) => product * size, 1);
  return { factor: new Float32Array(units).fill(1), offset: new Float32Array(units) };
}

function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - largest));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}

function divergence(expected, found) {
  return expected.reduce((sum, p, index) => sum + (p && p * Math.log(p / found[index])), 0);
}

function withLimit(promise) {
  const limit = new Promise((_, reject) => {
    const message = `ONNX Runtime did not start within ${START_LIMIT} s. Try another browser.`;
    setTimeout(() => reject(new Error(message)), START_LIMIT * 1000);
  });
  return Promise.race([promise, limit]);
}
