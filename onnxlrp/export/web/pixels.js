// Pictures to what the model reads, and relevance to colours: the arithmetic of onnxlrp in Python, step by step.

const BITS = 22; // fixed point of Pillow's resize

/** RGBA bytes to 1 (luma as Pillow's "L"), 3 or 4 channels, pixel by pixel. */
export function channelsOf(rgba, channels) {
  const count = rgba.length / 4, out = new Uint8Array(count * channels);
  for (let i = 0; i < count; i++) {
    const from = 4 * i;
    if (channels === 1) out[i] = (rgba[from] * 19595 + rgba[from + 1] * 38470 + rgba[from + 2] * 7471 + 0x8000) >> 16;
    else for (let c = 0; c < channels; c++) out[i * channels + c] = rgba[from + c];
  }
  return out;
}

/** Weights of a triangle as wide as the reduction, per output pixel: {first, weights}. */
function taps(from, to) {
  const scale = from / to, wide = Math.max(scale, 1), found = [];
  for (let x = 0; x < to; x++) {
    const centre = (x + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - wide + 0.5)), last = Math.min(from, Math.trunc(centre + wide + 0.5));
    const raw = Array.from({ length: last - first }, (_, i) => Math.max(0, 1 - Math.abs((i + first - centre + 0.5) / wide)));
    const sum = raw.reduce((a, b) => a + b, 0);
    found.push({ first, weights: raw.map((w) => Math.trunc(0.5 + (w / sum) * 2 ** BITS)) });
  }
  return found;
}

/** One axis of `lines` × `from` × `step` bytes made `to` long; `step` bytes lie between neighbours. */
function along(pixels, lines, from, step, to) {
  if (from === to) return pixels;
  const out = new Uint8Array(lines * to * step);
  taps(from, to).forEach(({ first, weights }, x) => {
    for (let line = 0; line < lines; line++) {
      for (let c = 0; c < step; c++) {
        let sum = 2 ** (BITS - 1);
        for (let i = 0; i < weights.length; i++) sum += weights[i] * pixels[(line * from + first + i) * step + c];
        out[(line * to + x) * step + c] = Math.min(255, sum >> BITS);
      }
    }
  });
  return out;
}

/** Bytes (h, w, channels) as (height, width, channels): Pillow's BILINEAR. */
export function resize(pixels, w, h, channels, width, height) {
  return along(along(pixels, h, w, channels, width), 1, h, width * channels, height);
}

const half = (n) => (n % 2 ? 2 * Math.round(n / 4) : n / 2); // n / 2, of two whole numbers as near the even one

/** Bytes (h, w, channels) in the model's size: stretched to it, or the shorter side made `resize` long and the middle cut out. */
export function sized(pixels, w, h, { channels, width, height, resize: side, crop }) {
  if (!side && !crop) return resize(pixels, w, h, channels, width, height);
  if (side) {
    const long = Math.floor((side * Math.max(w, h)) / Math.min(w, h)), [wide, high] = w <= h ? [side, long] : [long, side];
    pixels = resize(pixels, w, h, channels, wide, high);
    [w, h] = [wide, high];
  }
  if (width > w || height > h) throw new Error(`${width}×${height} pixels cannot be cut out of ${w}×${h}`);
  const left = half(w - width), top = half(h - height), out = new Uint8Array(width * height * channels);
  for (let y = 0; y < height; y++) {
    const from = ((top + y) * w + left) * channels;
    out.set(pixels.subarray(from, from + width * channels), y * width * channels);
  }
  return out;
}

/** Bytes (height, width, channels) as the model's float32: pixel / scale, minus mean, divided by std, in its layout. */
export function normalized(pixels, { channels, bgr, layout, scale, mean, std }) {
  const f = Math.fround, count = pixels.length / channels, out = new Float32Array(pixels.length);
  for (let i = 0; i < pixels.length; i++) {
    const c = i % channels, from = bgr && c < 3 ? i + 2 - 2 * c : i;
    const at = layout === "nchw" ? c * count + (i - c) / channels : i;
    out[at] = f(f(f(pixels[from] / f(scale)) - f(mean[c])) / f(std[c]));
  }
  return out;
}

/** Relevance in the model's layout as one value a pixel: the sum over its channels. */
export function plane(relevance, { channels, layout }) {
  const count = relevance.length / channels, out = new Float64Array(count);
  for (let i = 0; i < relevance.length; i++) out[layout === "nchw" ? i % count : Math.floor(i / channels)] += relevance[i];
  return out;
}

export const largest = (values) => values.reduce((top, v) => Math.max(top, Math.abs(v)), 0);

/** RGBA: (1 − |v|)·under + |v|·red or blue, v = value / top. under(i): [r, g, b] of a pixel; white gives the bare map. */
export function painted(values, top, under = () => [255, 255, 255]) {
  const out = new Uint8ClampedArray(values.length * 4); // which rounds halves to even, as numpy does
  values.forEach((value, i) => {
    const v = top > 0 ? Math.max(-1, Math.min(1, value / top)) : 0, end = v < 0 ? [0, 0, 255] : [255, 0, 0];
    out.set([...under(i).map((u, c) => (1 - Math.abs(v)) * u + Math.abs(v) * end[c]), 255], i * 4);
  });
  return out;
}
