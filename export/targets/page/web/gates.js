// What is done to the gates: which units are closed, or are 0.5.

/** Describes a gate's axes: how many channels and positions, and the place of each value. */
function axes(gate) {
  const size = { C: 1, H: 1, W: 1 };
  const stride = { C: 0, H: 0, W: 0 };
  let step = 1;
  for (let axis = gate.layout.length - 1; axis >= 0; axis--) {
    size[gate.layout[axis]] = gate.shape[axis];
    stride[gate.layout[axis]] = step;
    step *= gate.shape[axis];
  }
  return { size, stride };
}

/**
 * Summarizes a gate's values.
 *
 * @returns {channels, positions, height, width}: the mean of each channel over the positions, of
 *   each position over the channels, and the size of the map.
 */
export function summarize(gate, values) {
  const { size, stride } = axes(gate);
  const count = size.H * size.W;
  const channels = new Float64Array(size.C);
  const positions = new Float64Array(count);
  for (let c = 0; c < size.C; c++) {
    for (let h = 0; h < size.H; h++) {
      for (let w = 0; w < size.W; w++) {
        const value = values[c * stride.C + h * stride.H + w * stride.W];
        channels[c] += value / count;
        positions[h * size.W + w] += value / size.C;
      }
    }
  }
  return { channels, positions, height: size.H, width: size.W };
}

/** Returns the units of a gate from the one to close first: |γ|, or the values where it is unknown. */
export function order(gate, summary, largest) {
  const keys = gate.gamma ?? summary[gate.units];
  const sign = largest ? -1 : 1;
  return Array.from(keys.keys()).sort((one, other) => sign * (keys[one] - keys[other]));
}

/**
 * Returns what the controls do to a gate: {factor, offset, closed}; `closed` is a Set of units.
 *
 * @param ranked The units, as `order` gives them.
 * @param share Of the units that are closed, 0–1.
 * @param half Whether the others are 0.5.
 */
export function change(ranked, share, half) {
  const closed = new Set(ranked.slice(0, Math.round(share * ranked.length)));
  const factor = new Float32Array(ranked.length).fill(half ? 0 : 1);
  const offset = new Float32Array(ranked.length).fill(half ? 0.5 : 0);
  for (const unit of closed) factor[unit] = offset[unit] = 0;
  return { factor, offset, closed };
}
