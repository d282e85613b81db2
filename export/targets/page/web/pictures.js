// Reading a picture to the pixels that the network was trained on: training/data/pictures.py and
// Pillow's antialiased bilinear filter, which is not the canvas's.

const BITS = 22; // of the weights' fractions, as in Pillow: its sums are exact in 32 bits
const DECODING = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
const ORIENTATION = 0x0112; // EXIF's tag

/**
 * Reads an encoded picture: upright, transparency over white, without colour management.
 *
 * Returns {data, width, height}, `data` with 4 bytes a pixel; an Error that says what is wrong.
 */
export async function decode(blob, maxPixels) {
  const start = String.fromCharCode(...new Uint8Array(await blob.slice(0, 4).arrayBuffer()));
  if (["II*\0", "MM\0*"].includes(start)) {
    throw new Error("This is a TIFF file, which browsers do not read. Convert it to PNG or JPEG.");
  }
  let bitmap, orientation;
  try {
    ({ blob, orientation } = await withoutOrientation(blob));
    bitmap = await createImageBitmap(blob, DECODING);
  } catch {
    throw new Error(
      "This file is not a picture that this browser reads, or it is damaged. Try a PNG, JPEG, " +
        "WebP, GIF or BMP file.",
    );
  }
  const { width, height } = bitmap;
  if (width * height > maxPixels) {
    throw new Error(
      `This picture has ${Math.round((width * height) / 1e6)} million pixels; at most ` +
        `${maxPixels / 1e6} million are read. Scale it down first.`,
    );
  }
  const [across, down] = orientation < 5 ? [width, height] : [height, width];
  const canvas = new OffscreenCanvas(across, down);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, across, down);
  context.setTransform(...turn(orientation, width, height));
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { data: context.getImageData(0, 0, across, down).data, width: across, height: down };
}

/**
 * Returns a WebP file whose EXIF orientation is reset, and the orientation, 1–8; 1 for other values.
 *
 * Browsers turn a JPEG and a PNG, but not all of them a WebP. Other files are returned as they are.
 */
async function withoutOrientation(blob) {
  const data = await blob.arrayBuffer();
  const view = new DataView(data);
  const word = (at) => String.fromCharCode(...new Uint8Array(data, at, 4));
  if (data.byteLength < 16 || word(0) !== "RIFF" || word(8) !== "WEBP") {
    return { blob, orientation: 1 };
  }
  let orientation = 1;
  for (let at = 12, size; at + 16 < data.byteLength; at += 8 + size + (size % 2)) {
    size = view.getUint32(at + 4, true);
    if (word(at) !== "EXIF") continue;
    const start = at + (word(at + 8) === "Exif" ? 14 : 8);
    const little = word(start) === "II*\0";
    const directory = start + view.getUint32(start + 4, little);
    for (let entry = 0; entry < view.getUint16(directory, little); entry++) {
      const place = directory + 2 + 12 * entry;
      if (view.getUint16(place, little) !== ORIENTATION) continue;
      orientation = view.getUint16(place + 8, little);
      view.setUint16(place + 8, 1, little);
    }
  }
  return { blob: new Blob([data]), orientation: orientation <= 8 ? orientation : 1 };
}

/** Returns the canvas transformation that turns a picture of an EXIF orientation upright. */
function turn(orientation, width, height) {
  return {
    2: [-1, 0, 0, 1, width, 0],
    3: [-1, 0, 0, -1, width, height],
    4: [1, 0, 0, -1, 0, height],
    5: [0, 1, 1, 0, 0, 0],
    6: [0, 1, -1, 0, height, 0],
    7: [0, -1, -1, 0, height, width],
    8: [0, -1, 1, 0, 0, width],
  }[orientation] ?? [1, 0, 0, 1, 0, 0];
}

/** Returns where the network's image lies in a picture: {left, top, width, height} in its pixels. */
export function cropBox(picture, rule) {
  const [height, width] = scaledSize(picture, rule);
  const [down, across] = [picture.height / height, picture.width / width];
  return {
    left: Math.floor((width - rule.width) / 2) * across,
    top: Math.floor((height - rule.height) / 2) * down,
    width: rule.width * across,
    height: rule.height * down,
  };
}

/** Resizes and crops a picture as `Resize` does; returns the network's image in the same form. */
export function fit(picture, rule, maxPixels) {
  const [height, width] = scaledSize(picture, rule);
  if (height * width > maxPixels) throw new Error("This picture is too narrow. Crop it first.");
  const scaled = vertical(horizontal(picture, width), height);
  const top = Math.floor((height - rule.height) / 2);
  const left = Math.floor((width - rule.width) / 2);
  const data = new Uint8ClampedArray(rule.width * rule.height * 4);
  for (let row = 0; row < rule.height; row++) {
    const start = ((top + row) * width + left) * 4;
    data.set(scaled.data.subarray(start, start + rule.width * 4), row * rule.width * 4);
  }
  return { data, width: rule.width, height: rule.height };
}

/** Returns RGB of 0–255 as the network takes it: Float32Array [height, width, 3]. */
export function rgb({ data }) {
  return Float32Array.from({ length: (data.length / 4) * 3 }, (_, index) => {
    return data[Math.floor(index / 3) * 4 + (index % 3)];
  });
}

function scaledSize({ width, height }, rule) {
  if (rule.crop_fraction === null) return [rule.height, rule.width];
  const factor = Math.max(
    round(rule.height / rule.crop_fraction) / height,
    round(rule.width / rule.crop_fraction) / width,
  );
  return [round(height * factor), round(width * factor)];
}

/** Rounds halves to even, as Python does. */
export function round(number) {
  const down = Math.floor(number);
  return number - down === 0.5 ? down + (down % 2) : Math.round(number);
}

/** Returns the weights of each output pixel: {first, weights} in units of 2^-BITS. */
function weightsOf(from, to) {
  const scale = from / to;
  const reach = Math.max(scale, 1);
  return Array.from({ length: to }, (_, index) => {
    const centre = (index + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - reach + 0.5), 0);
    const last = Math.min(Math.trunc(centre + reach + 0.5), from);
    const weights = Array.from({ length: last - first }, (_, step) =>
      Math.max(0, 1 - Math.abs((step + first - centre + 0.5) / reach)),
    );
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return { first, weights: weights.map((w) => Math.trunc((w / total) * 2 ** BITS + 0.5)) };
  });
}

function horizontal({ data, width, height }, target) {
  const found = new Uint8ClampedArray(target * height * 4);
  weightsOf(width, target).forEach(({ first, weights }, column) => {
    for (let row = 0; row < height; row++) {
      combine(data, (row * width + first) * 4, 4, weights, found, (row * target + column) * 4);
    }
  });
  return { data: found, width: target, height };
}

function vertical({ data, width, height }, target) {
  const found = new Uint8ClampedArray(width * target * 4);
  weightsOf(height, target).forEach(({ first, weights }, row) => {
    for (let column = 0; column < width; column++) {
      const start = (first * width + column) * 4;
      combine(data, start, width * 4, weights, found, (row * width + column) * 4);
    }
  });
  return { data: found, width, height: target };
}

function combine(data, start, stride, weights, found, place) {
  let [red, green, blue] = [1, 1, 1].map(() => 1 << (BITS - 1));
  for (let step = 0, at = start; step < weights.length; step++, at += stride) {
    const weight = weights[step];
    red += data[at] * weight;
    green += data[at + 1] * weight;
    blue += data[at + 2] * weight;
  }
  found[place] = red >> BITS;
  found[place + 1] = green >> BITS;
  found[place + 2] = blue >> BITS;
  found[place + 3] = 255;
}
