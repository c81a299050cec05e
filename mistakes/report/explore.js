"use strict";
const D = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const percent = (x) => (100 * x).toFixed(1) + " %";
const withInterval = (r) => (r ? `${percent(r[0])} [${percent(r[1])}, ${percent(r[2])}]` : "–");
const small = (p) => (p < 0.001 ? p.toExponential(1) : p.toPrecision(2));

// Okabe and Ito's colours, told apart by colour-blind readers; symbols differ too
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d00", "#7f7f7f"];
const SYMBOLS = { id: "circle", adversarial: "diamond", ood: "square" };
const CAUSES = { id: "test inputs", adversarial: "successful attacks", ood: "OOD inputs" };
let C, P, selected = [], shown = new Set(["id"]);

function picture(sprite, i, height, act) {
  const element = make(act ? "button" : "span", { className: "picture" });
  const zoom = height / sprite.height;
  const [column, row] = [i % sprite.columns, Math.floor(i / sprite.columns)];
  element.style.width = `${sprite.width * zoom}px`;
  element.style.height = `${height}px`;
  element.style.backgroundImage = `url(${sprite.uri})`;
  const columns = Math.min(sprite.columns, sprite.n || sprite.columns);
  element.style.backgroundSize = `${columns * sprite.width * zoom}px auto`;
  element.style.backgroundPosition = `-${column * sprite.width * zoom}px -${row * height}px`;
  if (act) element.onclick = act;
  return element;
}

const thumb = (i, height, act = () => show(i)) => {
  const set = C.sets[P.set[i]];
  if (!set.sprite) return make("button", { className: "link", textContent: named(i), onclick: act });
  const element = picture(set.sprite, P.thumb[i], height, act);
  element.title = element.ariaLabel = named(i);
  return element;
};
const named = (i) => `${C.sets[P.set[i]].name} ${P.row[i]}: ${labelled(i)}`;
const labelled = (i) => {
  const label = P.label[i] < 0 ? "none of the classes" : D.classes[P.label[i]];
  return `${label}, predicted ${D.classes[P.prediction[i]]}`;
};
const flagged = (i) => P.p[i] <= alpha();
const alpha = () => D.alphas[+$("alpha").value];

function show(i) {
  const card = $("card"), set = C.sets[P.set[i]];
  card.replaceChildren();
  if (set.sprite) card.append(picture(set.sprite, P.thumb[i], 112));
  const facts = {
    input: `${set.name}, row ${P.row[i]}`,
    label: P.label[i] < 0 ? "none of the classes" : D.classes[P.label[i]],
    prediction: D.classes[P.prediction[i]] + (P.label[i] < 0 ? "" : P.correct[i] ? " (correct)" : " (wrong)"),
    confidence: percent(P.confidence[i]),
    "−log density": `${P.nll[i]} nats`,
    "p of the guard": `${small(P.p[i])}${flagged(i) ? ", flagged" : ""}`,
    reason: C.reasons[P.reason[i]].replaceAll("_", " "),
  };
  card.append(make("dl", {}, ...Object.entries(facts).flatMap(([k, v]) => [make("dt", { textContent: k }), make("dd", { textContent: v })])));
  const near = C.neighbours[i];
  if (near) card.append(make("div", { className: "faint", textContent: "nearest training inputs" }), ...near.map((j) => picture(C.known, j, 56)));
}

function list(rows, what) {
  selected = rows;
  const place = $("list");
  place.hidden = !rows.length;
  const save = make("button", { className: "link", textContent: "Save as CSV" });
  save.onclick = () => download("inputs.csv", [["set", "row", "label", "prediction", "confidence", "p", "nll"], ...rows.map((i) => [C.sets[P.set[i]].name, P.row[i], D.classes[P.label[i]] ?? "", D.classes[P.prediction[i]], P.confidence[i], P.p[i], P.nll[i]])]);
  const some = rows.slice(0, 200);
  place.replaceChildren(make("div", {}, `${rows.length} ${what}${rows.length > 200 ? ", the first 200" : ""}. `, save), ...some.map((i) => thumb(i, 32)));
}

function download(name, rows) {
  const quote = (x) => (/[",\n]/.test(String(x)) ? `"${String(x).replaceAll('"', '""')}"` : String(x));
  const file = new Blob([rows.map((row) => row.map(quote).join(",")).join("\n") + "\n"], { type: "text/csv" });
  make("a", { href: URL.createObjectURL(file), download: name }).click();
}

function groups() {
  const by = $("colour").value;
  const value = {
    outcome: (i) => (P.correct[i] ? "correct" : C.sets[P.set[i]].cause === "id" ? "mistake" : CAUSES[C.sets[P.set[i]].cause]),
    prediction: (i) => D.classes[P.prediction[i]],
    label: (i) => D.classes[P.label[i]] ?? "none of the classes",
    reason: (i) => C.reasons[P.reason[i]].replaceAll("_", " "),
    flagged: (i) => (flagged(i) ? "flagged" : "accepted"),
    density: (i) => CAUSES[C.sets[P.set[i]].cause],
  }[by];
  const found = new Map();
  for (let i = 0; i < P.x.length; i++) {
    const set = C.sets[P.set[i]];
    if (!shown.has(set.cause === "id" ? "id" : `${set.cause} ${set.name}`)) continue;
    const key = `${value(i)}\u0000${set.cause}`;
    if (!found.has(key)) found.set(key, []);
    found.get(key).push(i);
  }
  return [by, new Map([...found].sort((a, b) => a[0].localeCompare(b[0])))];
}

function range(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const [low, high] = [sorted[Math.floor(0.002 * sorted.length)], sorted[Math.ceil(0.998 * sorted.length) - 1]];
  return [low - 0.15 * (high - low), high + 0.15 * (high - low)];
}

function layout(more) {
  const style = getComputedStyle(document.documentElement);
  const [ink, line] = [style.getPropertyValue("--ink"), style.getPropertyValue("--line")];
  const axis = { gridcolor: line, zerolinecolor: line, color: ink };
  return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, family: "system-ui" }, margin: { t: 12, r: 12, b: 40, l: 48 }, legend: { orientation: "h", y: -0.08 }, xaxis: { ...axis }, yaxis: { ...axis }, ...more };
}

function drawMap() {
  const [by, found] = groups();
  const order = [...new Set([...found.keys()].map((key) => key.split("\u0000")[0]))];
  const dense = by === "density" && range(P.nll.filter((_, i) => C.sets[P.set[i]].cause === "id"));
  const traces = [...found].map(([key, rows], n) => {
    const [name, cause] = key.split("\u0000");
    const marker = { size: cause === "id" ? 4 : 6, symbol: SYMBOLS[cause], opacity: 0.75, color: COLOURS[order.indexOf(name) % COLOURS.length] };
    if (name === "mistake") Object.assign(marker, { size: 7, symbol: "x", color: COLOURS[1] });
    if (dense) Object.assign(marker, { color: rows.map((i) => P.nll[i]), colorscale: "Viridis", reversescale: true, cmin: dense[0], cmax: dense[1], showscale: n === 0, colorbar: { title: { text: "−log p, nats" }, thickness: 12 } });
    return { type: "scattergl", mode: "markers", name, x: rows.map((i) => P.x[i]), y: rows.map((i) => P.y[i]), customdata: rows, hoverinfo: "none", marker };
  });
  const box = layout({ dragmode: "select", hovermode: "closest" });
  Object.assign(box.xaxis, { range: range(P.x.filter((_, i) => C.sets[P.set[i]].cause === "id")), title: { text: "first coordinate" } });
  Object.assign(box.yaxis, { range: range(P.y.filter((_, i) => C.sets[P.set[i]].cause === "id")), title: { text: "second coordinate" } });
  Plotly.react("plot", traces, box, { displaylogo: false, responsive: true, scrollZoom: true });
}

function drawSlices() {
  const head = ["group", "kind", "inputs", "mistakes", "accuracy", "median −log p", "flagged", "p (Holm)", "least likely mistakes"];
  const rows = C.slices.map((s) => {
    const name = make("button", { className: "link", textContent: s.name, onclick: () => { list(s.mistakes, `mistakes of ${s.name}`); $("map").scrollIntoView(); } });
    const cells = [name, s.kind, s.n, s.errors, withInterval([s.accuracy, s.accuracy_low, s.accuracy_high]), s.median_nll.toFixed(1), withInterval([s.flagged_rate, s.flagged_rate_low, s.flagged_rate_high]), small(s.p_holm)];
    return make("tr", {}, ...cells.map((cell) => make("td", {}, cell instanceof Node ? cell : String(cell))), make("td", { className: "pictures" }, ...s.examples.map((i) => thumb(i, 28))));
  });
  $("slice_table").replaceChildren(make("thead", {}, make("tr", {}, ...head.map((h) => make("th", { textContent: h, scope: "col" })))), make("tbody", {}, ...rows));
  $("export").onclick = () => download("slices.csv", [["kind", "name", "n", "errors", "accuracy", "p_holm", "rows_of_mistakes"], ...C.slices.map((s) => [s.kind, s.name, s.n, s.errors, s.accuracy, s.p_holm, s.mistakes.map((i) => P.row[i]).join(" ")])]);
}

function drawCosts() {
  const at = +$("alpha").value;
  $("alpha_value").value = D.alphas[at];
  const words = { "false alarms": "correct answers flagged (false alarms)", mistakes: "mistakes caught", attacks: "successful attacks caught", "OOD inputs": "OOD inputs caught", coverage: "test inputs accepted (coverage)", error: "mistakes among accepted test inputs" };
  $("cost_table").replaceChildren(make("thead", {}, make("tr", {}, make("th", { textContent: "at this α" }), make("th", { textContent: `rate [${100 * D.confidence_level} % interval]` }))), make("tbody", {}, ...Object.entries(C.costs).map(([k, r]) => make("tr", {}, make("td", { textContent: words[k] }), make("td", { textContent: withInterval(r[at]) })))));
  const traces = Object.entries(C.costs).map(([k, r], n) => ({ mode: "lines", name: words[k], x: D.alphas, y: r.map((one) => one && one[0]), line: { color: COLOURS[n], dash: ["solid", "solid", "dash", "dot", "dashdot", "longdash"][n] } }));
  const box = layout({ shapes: [{ type: "line", x0: D.alphas[at], x1: D.alphas[at], y0: 0, y1: 1, line: { dash: "dot" } }] });
  Object.assign(box.xaxis, { type: "log", title: { text: "α" } });
  Object.assign(box.yaxis, { tickformat: ".0%", range: [0, 1.02] });
  Plotly.react("curves", traces, box, { displaylogo: false, responsive: true });
}

function accept() {
  const wanted = +$("wanted").value / 100;
  if (!$("wanted").value) return;
  const at = C.costs.error.findIndex((r) => r && r[0] <= wanted);
  $("wanted_note").textContent = at < 0 ? "not reached at any α shown" : "";
  if (at >= 0) { $("alpha").value = at; update(); }
}

function update() { drawCosts(); if ($("colour").value === "flagged") drawMap(); }

function choose(n) {
  C = D.classifiers[n];
  P = C.points;
  for (const set of C.sets) if (set.sprite) set.sprite.n = set.shown;
  if (C.known) C.known.n = Math.max(...Object.values(C.neighbours).flat()) + 1;
  $("summary").textContent = `${C.name}: ${C.n_mistakes} mistakes on ${C.n_test} test inputs.`;
  const thinned = C.sets.filter((set) => set.cause !== "adversarial" && set.shown < set.n);
  $("thinned").textContent = thinned.length ? `Drawn evenly: ${thinned.map((s) => `${s.shown} of ${s.n} of ${s.name}`).join(", ")}.` : "";
  const box = (value, text, checked) => {
    const input = make("input", { type: "checkbox", value, checked });
    input.onchange = () => { input.checked ? shown.add(value) : shown.delete(value); drawMap(); };
    return make("label", {}, input, ` ${text}`);
  };
  $("sets").replaceChildren(make("legend", { textContent: "Show" }), box("id", "test", true), ...C.sets.filter((s) => s.cause !== "id").map((s) => box(`${s.cause} ${s.name}`, s.name, false)));
  shown = new Set(["id"]);
  $("label_list").replaceChildren(...C.label_errors.map((i) => thumb(i, 48, () => { show(i); list([i], "input"); $("map").scrollIntoView(); })));
  if (!C.label_errors.length) $("label_list").textContent = "None.";
  drawMap();
  drawSlices();
  drawCosts();
  const plot = $("plot");
  plot.removeAllListeners("plotly_hover");
  plot.on("plotly_hover", (event) => show(event.points[0].customdata));
  plot.on("plotly_selected", (event) => event && list(event.points.map((point) => point.customdata), "inputs selected"));
}

async function start() {
  const packed = Uint8Array.from(atob($("plotly").textContent.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  document.head.append(make("script", { textContent: await new Response(stream).text() }));
  $("alpha").max = D.alphas.length - 1;
  const near = (x) => D.alphas.reduce((best, a, i) => (Math.abs(a - x) < Math.abs(D.alphas[best] - x) ? i : best), 0);
  $("alpha").value = near(D.alpha);
  $("which").hidden = D.classifiers.length < 2;
  D.classifiers.forEach((c, i) => $("classifier").append(make("option", { value: i, textContent: c.name })));
  $("classifier").onchange = () => choose(+$("classifier").value);
  $("colour").onchange = drawMap;
  $("alpha").oninput = update;
  $("wanted").onchange = accept;
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawMap(); drawCosts(); });
  choose(0);
  document.body.dataset.ready = "true";
}
start();
