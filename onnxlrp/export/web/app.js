// The page: loads the model, runs it on what the visitor gives, and shows scores and relevance.

import * as ort from "./runtime/ort.js";
import { imageSource } from "./image.js";
import { tableSource } from "./table.js";
import { Answer, number, one } from "./view.js";

const LARGE = 100e6; // bytes of a model from which one rule at a time is kept in memory
const here = (path) => new URL(path, import.meta.url).href;
const sessions = new Map(); // rule to session, or its promise
const hook = (window.onnxlrp = { ready: false, busy: false, last: null }); // for tests, and for the curious
let settings, source, answer;

function prepare() {
  ort.env.wasm.wasmPaths = { wasm: here("runtime/ort-wasm-simd-threaded.wasm") };
  // Threads share memory, which browsers allow only to a page that is served as cross-origin isolated.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  ort.env.wasm.proxy = true; // in a worker: drawing stays smooth while a large model runs
  ort.env.logLevel = "error";
}

async function open(index) {
  if (!sessions.has(index)) {
    if (settings.rules[index].bytes > LARGE) await closeAll();
    const options = { executionProviders: ["wasm"], logSeverityLevel: 3 };
    const opened = ort.InferenceSession.create(here(settings.rules[index].file), options);
    opened.catch(() => sessions.delete(index)); // another try may find the network back
    sessions.set(index, opened);
  }
  return sessions.get(index);
}

async function closeAll() {
  const before = [...sessions.values()];
  sessions.clear();
  for (const session of before) await (await session).release();
}

function state(text) {
  one("#state").textContent = text;
  one("#state").hidden = !text;
}

/** The model's outputs. target: the class explained, below 0 the largest. */
function run(session, values, target) {
  const feeds = { [settings.input]: new ort.Tensor("float32", values.slice(), settings.shape) };
  if (settings.target) feeds[settings.target] = new ort.Tensor("int64", BigInt64Array.of(BigInt(target)), [1]);
  return session.run(feeds);
}

/** Explains what there is now. */
async function explain() {
  const given = source.read(), index = answer.rule, rule = settings.rules[index];
  if (!given) {
    hook.last = null;
    source.show(null);
    return answer.show(null);
  }
  if (!sessions.has(index)) state("Loading the model…");
  const session = await open(index);
  state("");
  let target = answer.chosen, found = await run(session, given.values, target);
  const scores = Array.from(found[settings.output].data, Number), most = Math.max(...scores);
  const tied = scores.filter((s) => s === most).length > 1; // as scores, while the model may tell them apart before a softmax
  if (target < 0) target = scores.indexOf(most);
  if (tied && answer.chosen < 0) found = await run(session, given.values, target);
  const relevance = found[rule.relevance].data;
  hook.last = { rule: rule.name, pixels: given.pixels, input: given.values, target, scores, relevance };
  const finite = relevance.every(Number.isFinite);
  source.show(finite ? relevance : null, given, answer.name(target));
  answer.show(scores, target);
  const sum = relevance.reduce((a, b) => a + b, 0);
  one("#scale").textContent = finite
    ? `${source.measure} is ${number(source.top)}; relevance sums to ${number(sum)}.`
    : "The relevance has values that are not finite.";
}

let stale = false;

/** Explain again, now or after the run that is under way; what changed in between is explained once. */
async function refresh() {
  stale = true;
  if (hook.busy) return;
  hook.busy = true;
  one("#app").setAttribute("aria-busy", "true");
  try {
    while (stale) {
      stale = false;
      await explain();
    }
  } catch (error) {
    state(`The model could not be run: ${error.message}`);
  }
  one("#app").setAttribute("aria-busy", "false");
  hook.busy = false;
}

async function start() {
  const answered = await fetch(here("settings.json"));
  if (!answered.ok) throw new Error(`settings.json: ${answered.status}`);
  settings = await answered.json();
  answer = new Answer(settings, refresh);
  source = (settings.kind === "image" ? imageSource : tableSource)(settings, refresh, state);
  one("#cold").hidden = true;
  one(settings.kind === "image" ? "#map" : "#table").append(one("#key"));
  document.body.dataset.kind = settings.kind;
  prepare();
  const size = settings.rules[0].bytes / 1e6;
  state(`Loading the model${size >= 10 ? `, ${Math.round(size)} MB` : ""}…`);
  await open(0);
  one("#app").hidden = false;
  state("");
  hook.ready = true;
  await refresh();
}

start().catch((error) => {
  one("#cold").hidden = true;
  state(`The model could not be loaded: ${error.message}`);
});
