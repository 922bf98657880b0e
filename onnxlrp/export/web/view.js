// Scores: which class, how much, and which one is explained by which rule.

const SHOWN = 8, ALL = 12; // rows of a long list; classes up to which every one has its row, in order

export const one = (query) => document.querySelector(query);

export function make(tag, props = {}, ...children) {
  const made = Object.assign(document.createElement(tag), props);
  made.append(...children);
  return made;
}

/** Three digits that count. */
export function number(v) {
  if (!Number.isFinite(v)) return "not finite";
  const size = Math.abs(v);
  const text = size && (size < 1e-3 || size >= 1e5) ? v.toExponential(2) : v.toFixed(size < 1 ? 3 : size < 100 ? 2 : 0);
  return text.replace("-", "−");
}

export class Answer {
  constructor(settings, changed) {
    Object.assign(this, { settings, changed, chosen: -1, rule: 0, rows: [] });
    one("#auto").hidden = !settings.target;
    one("#largest").addEventListener("change", (event) => this.choose(event.target.checked ? -1 : this.target));
    settings.rules.forEach((rule, i) => one("#rule").append(new Option(rule.name, i)));
    one("#rules").hidden = settings.rules.length < 2;
    one("#rule").addEventListener("change", (event) => {
      this.rule = Number(event.target.value);
      this.say();
      this.changed();
    });
    this.say();
    if (settings.classes) this.build(settings.classes);
    this.show(null);
  }

  say() {
    const { name, says } = this.settings.rules[this.rule];
    one("#says").textContent = this.settings.rules.length < 2 ? `Rule ${name}: ${says}` : says;
  }

  name(index) {
    return this.settings.labels[index] ?? String(index);
  }

  choose(index) {
    this.chosen = index ?? -1;
    one("#largest").checked = this.chosen < 0;
    this.changed();
  }

  /** Rows once the number of classes is known. */
  build(count) {
    const { target } = this.settings;
    this.rows = Array.from({ length: count <= ALL ? count : SHOWN }, (_, index) => {
      const name = make("span", { className: "name" }), value = make("span", { className: "value" });
      const bar = make("i"), track = make("span", { className: "track" }, bar);
      const button = make("button", { type: "button", disabled: !target }, name, track, value);
      const row = { button, name, bar, value, index };
      button.addEventListener("click", () => this.choose(row.index));
      one("#classes").append(make("li", {}, button));
      return row;
    });
    if (count > ALL || this.settings.labels.length) one("#classes").dataset.long = "";
  }

  /** Which class stands in which row. */
  order(scores, target) {
    const all = scores.map((_, i) => i);
    if (scores.length <= ALL) return all;
    const first = all.sort((a, b) => scores[b] - scores[a]).slice(0, SHOWN);
    return first.includes(target) ? first : [...first.slice(0, -1), target];
  }

  show(scores, target) {
    this.target = target;
    if (scores && !this.rows.length) this.build(scores.length);
    one("#answer").classList.toggle("idle", !scores);
    if (!scores) {
      one("#lead").textContent = "–";
      one("#scale").textContent = "";
      for (const row of this.rows) this.fill(row, row.index, null);
      return this.tell("");
    }
    const shares = scores.every((s) => s >= 0 && s <= 1) && Math.abs(scores.reduce((a, b) => a + b, 0) - 1) < 1e-3;
    const text = (s) => (shares ? `${(100 * s).toFixed(1)} %` : number(s));
    const low = Math.min(0, ...scores), span = (shares ? 1 : Math.max(0, ...scores)) - low || 1;
    this.order(scores, target).forEach((index, i) =>
      this.fill(this.rows[i], index, { score: scores[index], text: text(scores[index]), low, span, target }));
    const best = scores.indexOf(Math.max(...scores)), name = this.name(best);
    const several = scores.length > 1;
    one("#lead").textContent = several ? name : text(scores[0]);
    const why = several && target !== best ? `; the relevance is of ${this.name(target)}, ${text(scores[target])}` : "";
    this.tell(several ? `Answer ${name}, ${text(scores[best])}${why}` : `Output ${text(scores[0])}`);
  }

  fill(row, index, known) {
    row.index = index;
    row.name.textContent = this.name(index);
    row.value.textContent = known ? known.text : "";
    row.button.setAttribute("aria-pressed", String(known?.target === index));
    const from = known ? (Math.min(0, known.score) - known.low) / known.span : 0;
    row.bar.style.left = `${100 * from}%`;
    row.bar.style.width = known ? `${(100 * Math.abs(known.score)) / known.span}%` : "0";
  }

  /** For those who listen: once the numbers have come to rest. */
  tell(text) {
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => (one("#said").textContent = text), 600);
  }
}
