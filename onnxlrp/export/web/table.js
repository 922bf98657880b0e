// A row of numbers as input: a field per feature, its relevance as a signed bar beside it.

import { largest } from "./pixels.js";
import { make, number, one } from "./view.js";

export function tableSource(settings, changed) {
  one("#table").hidden = false;
  const rows = settings.names.map((name, i) => {
    const field = make("input", { type: "number", step: "any", value: "0", id: `f${i}`, required: true });
    const bar = make("i"), value = make("td", { className: "value" });
    const label = make("label", { htmlFor: field.id }, name);
    const head = make("th", { scope: "row" }, label);
    one("#table tbody").append(
      make("tr", {}, head, make("td", {}, field), make("td", { className: "signed" }, make("span", { className: "track" }, bar)), value),
    );
    field.addEventListener("input", changed);
    return { field, bar, value };
  });
  one("#zero").addEventListener("click", () => {
    for (const row of rows) row.field.value = "0";
    changed();
  });
  const made = {
    measure: "The longest bar",
    top: 0,
    /** The numbers as float32; null while a field has none. */
    read() {
      const values = Float32Array.from(rows, (row) => row.field.valueAsNumber);
      return values.every(Number.isFinite) ? { values, pixels: null } : null;
    },
    show(relevance) {
      made.top = relevance ? largest(relevance) : 0;
      rows.forEach(({ bar, value }, i) => {
        const share = relevance && made.top ? relevance[i] / made.top : 0;
        bar.className = share < 0 ? "against" : "for";
        bar.style.left = `${50 + Math.min(0, share) * 50}%`;
        bar.style.width = `${Math.abs(share) * 50}%`;
        value.textContent = relevance ? number(relevance[i]) : "";
      });
    },
  };
  return made;
}
