// A picture as input: drawn, dropped, chosen or pasted; its relevance as a heat-map.

import { channelsOf, largest, normalized, painted, plane, sized } from "./pixels.js";
import { Sketch } from "./sketch.js";
import { one } from "./view.js";

const checked = (name) => one(`input[name=${name}]:checked`).value;

export function imageSource(settings, changed, state) {
  const { width, height, channels } = settings, drawn = channels === 1 && Math.max(width, height) <= 64;
  for (const id of ["#picture", "#map"]) one(id).hidden = false;
  one(".ink").hidden = channels === 1;
  one("#width").value = drawn ? 11 : 4;
  const tool = () => ({
    erase: checked("tool") === "eraser",
    width: one("#width").value / 100,
    colour: channels === 1 ? "" : one("#ink").value,
  });
  const sketch = new Sketch(one("#sketch"), one("#cursor"), { width, height, dark: drawn }, tool, () => {
    shape();
    changed();
  });

  function shape() {
    const { canvas } = sketch;
    canvas.parentElement.style.setProperty("--ratio", canvas.width / canvas.height);
    canvas.classList.toggle("coarse", Math.max(canvas.width, canvas.height) < 200);
    one("#hint").hidden = !sketch.empty;
    one(".board").classList.toggle("dark", sketch.dark);
    one("#undo").disabled = !sketch.past.length;
  }

  async function load(file) {
    if (!file) return;
    try {
      await sketch.show(file);
    } catch {
      state(`${file.name || "This"} is no picture that the browser can read.`);
    }
  }

  one("#heat").width = width;
  one("#heat").height = height;
  one("#map .board").style.setProperty("--ratio", width / height);
  one("#heat").classList.toggle("coarse", Math.max(width, height) < 200);
  one("#undo").addEventListener("click", () => sketch.undo());
  one("#clear").addEventListener("click", () => sketch.clear());
  one("#invert").addEventListener("click", () => sketch.invert());
  one("#choose").addEventListener("click", () => one("#file").click());
  one("#file").addEventListener("change", async (event) => {
    await load(event.target.files[0]);
    event.target.value = ""; // the same file may be chosen again
  });
  const files = (data) => [...(data?.files ?? [])].find((f) => f.type.startsWith("image/")) ?? data?.files?.[0];
  document.addEventListener("paste", (event) => load(files(event.clipboardData)));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dropping"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    load(files(event.dataTransfer));
  });
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && !event.shiftKey && event.key.toLowerCase() === "z") {
      event.preventDefault();
      sketch.undo();
    }
  });
  for (const radio of document.querySelectorAll("input[name=shown]")) radio.addEventListener("change", () => draw());
  shape();

  let values = null, pixels = null;
  const made = {
    measure: "Full colour",
    top: 0,
    /** What the model reads: `pixels`, bytes (height, width, channels), and `values`, in its layout. null: nothing yet. */
    read() {
      if (sketch.empty) return null;
      const seen = sketch.picture();
      const bytes = sized(channelsOf(seen.data, channels), seen.width, seen.height, settings);
      return { pixels: bytes, values: normalized(bytes, settings) };
    },
    show(relevance, given = null, name = "") {
      values = relevance && plane(relevance, settings);
      pixels = given && given.pixels;
      made.top = values ? largest(values) : 0;
      one("#h-map").textContent = values ? `Relevance for ${name}` : "Relevance";
      one("#heat").setAttribute("aria-label", values ? `Relevance of each pixel for ${name}` : "Relevance of each pixel");
      draw();
    },
  };

  function draw() {
    const shown = checked("shown"), pen = one("#heat").getContext("2d");
    if (!pixels) return pen.clearRect(0, 0, width, height);
    const under = (i) => (channels === 1 ? Array(3).fill(pixels[i]) : pixels.subarray(i * channels, i * channels + 3));
    const r = values && shown !== "input" ? values : new Float64Array(width * height);
    const rgba = painted(r, made.top, shown !== "relevance" ? under : undefined);
    pen.putImageData(new ImageData(rgba, width, height), 0, 0);
  }
  draw();
  return made;
}
