// Pictures and gates on canvases.

/** Draws pixels {data, width, height} in a canvas of their size. */
export function drawPixels(canvas, { data, width, height }) {
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(new ImageData(data, width, height), 0, 0);
}

/** Draws a picture at most `limit` pixels wide or high, with the part that the network sees. */
export function drawPicture(canvas, picture, box, limit = 480) {
  const scale = Math.min(1, limit / Math.max(picture.width, picture.height));
  const source = new OffscreenCanvas(picture.width, picture.height);
  source.getContext("2d").putImageData(new ImageData(picture.data, picture.width), 0, 0);
  canvas.width = Math.max(1, picture.width * scale);
  canvas.height = Math.max(1, picture.height * scale);
  const context = canvas.getContext("2d");
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  const frame = [box.left, box.top, box.width, box.height].map((length) => length * scale);
  if (box.width < picture.width - 1 || box.height < picture.height - 1) {
    context.fillStyle = "rgb(0 0 0 / 55%)";
    context.beginPath();
    context.rect(0, 0, canvas.width, canvas.height);
    context.rect(...frame);
    context.fill("evenodd");
  }
}

/** Returns the colours of the page's scheme, as functions of a deviation in -1…1 and for marks. */
export function palette() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim().split(/\s+/).map(Number);
  const [low, middle, high, mark] = ["--low", "--middle", "--high", "--mark"].map(colour);
  return {
    mark,
    of(deviation) {
      const end = deviation < 0 ? low : high;
      const part = Math.min(1, Math.abs(deviation));
      return middle.map((value, index) => value + part * (end[index] - value));
    },
  };
}

/**
 * Draws values in a row or a map, a pixel each; the page enlarges it.
 *
 * @param values Of the gate, around 0.5.
 * @param width Of the map; of a row their number.
 * @param spread The distance from 0.5 that has the full colour.
 * @param closed Set of indices that are marked, in a row by a line below it.
 */
export function drawValues(canvas, values, width, spread, closed, colours) {
  const row = width === values.length;
  const height = row ? 4 : values.length / width;
  const data = new Uint8ClampedArray(width * height * 4);
  const put = (pixel, colour) => data.set([...colour, 255], pixel * 4);
  values.forEach((value, index) => {
    const colour = colours.of(spread ? (value - 0.5) / spread : 0);
    if (!row) put(index, closed.has(index) ? colours.mark : colour);
    for (let line = 0; row && line < height; line++) {
      if (line < height - 1 || closed.has(index)) {
        put(line * width + index, line < height - 1 ? colour : colours.mark);
      }
    }
  });
  drawPixels(canvas, { data, width, height });
}
