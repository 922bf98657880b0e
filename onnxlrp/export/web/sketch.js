// A canvas to draw on with mouse, finger, pen or keys, or to put a picture on.

const STEPS = 30, LONGEST = 2048, DRAWN = 256; // undo steps; longest side kept of a picture; shortest side drawn on

export class Sketch {
  /** changed(): called after every stroke's piece. tool(): {erase, width (0 to 1 of the side), colour}. */
  constructor(canvas, cursor, { width, height, dark }, tool, changed) {
    Object.assign(this, { canvas, cursor, tool, changed, dark, past: [], empty: true });
    const k = Math.max(1, Math.ceil(DRAWN / Math.min(width, height)));
    this.own = [width * k, height * k];
    this.pen = canvas.getContext("2d", { willReadFrequently: true });
    this.blank();
    this.listen();
  }

  get paper() {
    return this.dark ? "#000000" : "#ffffff";
  }

  blank() {
    [this.canvas.width, this.canvas.height] = this.own;
    this.pen.fillStyle = this.paper;
    this.pen.fillRect(0, 0, ...this.own);
    this.empty = true;
    this.at = null; // of the keys: none yet, which is the middle
  }

  picture() {
    return this.pen.getImageData(0, 0, this.canvas.width, this.canvas.height);
  }

  keep() {
    this.past.push({ picture: this.picture(), empty: this.empty, dark: this.dark });
    if (this.past.length > STEPS) this.past.shift();
  }

  undo() {
    const last = this.past.pop();
    if (!last) return;
    [this.canvas.width, this.canvas.height] = [last.picture.width, last.picture.height];
    this.pen.putImageData(last.picture, 0, 0);
    [this.empty, this.dark] = [last.empty, last.dark];
    this.changed();
  }

  clear() {
    this.keep();
    this.blank();
    this.changed();
  }

  invert() {
    this.keep();
    const p = this.picture();
    for (let i = 0; i < p.data.length; i++) if (i % 4 < 3) p.data[i] = 255 - p.data[i];
    this.pen.putImageData(p, 0, 0);
    this.dark = !this.dark;
    this.changed();
  }

  /** Puts a picture there at its own size, so that what the model reads is made of its own pixels. */
  async show(file) {
    const found = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    const k = Math.min(1, LONGEST / Math.max(found.width, found.height));
    this.keep();
    [this.canvas.width, this.canvas.height] = [found.width, found.height].map((n) => Math.max(1, Math.round(n * k)));
    this.pen.fillStyle = this.paper;
    this.pen.fillRect(0, 0, this.canvas.width, this.canvas.height);
    this.pen.imageSmoothingQuality = "high";
    this.pen.drawImage(found, 0, 0, this.canvas.width, this.canvas.height);
    found.close();
    this.empty = false;
    this.changed();
  }

  line(from, to, erase) {
    const { width, colour } = this.tool();
    const side = Math.min(this.canvas.width, this.canvas.height);
    this.pen.strokeStyle = erase ? this.paper : colour || (this.dark ? "#ffffff" : "#000000");
    this.pen.lineWidth = Math.max(1, width * side);
    this.pen.lineCap = this.pen.lineJoin = "round";
    this.pen.beginPath();
    this.pen.moveTo(...from);
    this.pen.lineTo(to[0], to[1] + (from[0] === to[0] && from[1] === to[1] ? 0.01 : 0)); // a dot is a very short line
    this.pen.stroke();
    this.empty = false;
    this.changed();
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * this.canvas.width,
      ((event.clientY - box.top) / box.height) * this.canvas.height,
    ];
  }

  listen() {
    const { canvas } = this;
    let last = null, erase = false;
    canvas.addEventListener("pointerdown", (event) => {
      if (last || event.button === 2) return;
      event.preventDefault();
      canvas.setPointerCapture(event.pointerId);
      this.keep();
      erase = this.tool().erase || event.button === 5; // the other end of a pen
      last = { id: event.pointerId, at: this.place(event) };
      this.line(last.at, last.at, erase);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (last?.id !== event.pointerId) return;
      const pieces = event.getCoalescedEvents?.() ?? [];
      for (const e of pieces.length ? pieces : [event]) {
        const to = this.place(e);
        this.line(last.at, to, erase);
        last.at = to;
      }
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      canvas.addEventListener(end, (event) => {
        if (last?.id === event.pointerId) last = null;
      });
    }
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => (this.cursor.hidden = true));
  }

  /** Arrows draw, with Shift they only move. */
  key(event) {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const size = [this.canvas.width, this.canvas.height], from = this.at ?? size.map((n) => n / 2);
    this.at = from.map((v, i) => Math.max(0, Math.min(size[i], v + (way[i] * size[i]) / 16)));
    if (!event.shiftKey) {
      this.keep();
      this.line(from, this.at, this.tool().erase);
    }
    this.cursor.style.left = `${(100 * this.at[0]) / size[0]}%`;
    this.cursor.style.top = `${(100 * this.at[1]) / size[1]}%`;
    this.cursor.hidden = false;
  }
}
