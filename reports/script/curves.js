// What the pointer and the keys read from a drawing: percentile curves, and dots of single requests.

const readers = {
  curves: { look: lookAtCurves, step: stepAlong },
  requests: { look: lookAtDots, step: stepAlong, open: (readout) => readout.row },
};

function unpackReadout(readout) {
  const parts = readout.lines || [readout];
  parts.forEach((part) => {
    ["x", "y", "share", "value", "index"].filter((name) => part[name]).forEach((name) => { part[name] = unpack(part[name]); });
  });
  readout.row = MISSING;
  return readout;
}

// Places of the drawing under a place of the window.
function placeIn(svg, event) {
  const matrix = svg.getScreenCTM();
  return { x: (event.clientX - matrix.e) / matrix.a, y: (event.clientY - matrix.f) / matrix.d };
}

function stageShort(stage) {
  return (STAGES.find((place) => place.stage === stage) || { short: String(stage + 1) }).short;
}

function nearestPlace(places, x) {
  return places.reduce((best, place, i) => (Math.abs(place - x) < Math.abs(places[best] - x) ? i : best), 0);
}

// At each curve its point nearest to the pointer: its percentile and its value.
function lookAtCurves(readout, { x }) {
  const [left, , right] = readout.box;
  if (x < left - 8 || x > right + 8) { return { marks: [], parts: [] }; }
  const lines = readout.lines.filter((line) => !view.off.has(line.stage));
  const found = lines.map((line) => ({ line, at: nearestPlace(line.x, x) }));
  return {
    marks: found.map(({ line, at }) => makeSvg("circle", { cx: line.x[at], cy: line.y[at], r: 3.4, class: "reading", style: { fill: `var(--${line.colour})` } })),
    parts: found.map(({ line, at }) => ({
      name: `${stageShort(line.stage)} p${trimmed(100 * line.share[at])}`, tone: line.colour, text: duration(line.value[at]) })),
  };
}

// The request whose dot is nearest to the pointer, of those that the view shows.
function lookAtDots(readout, { x, y }, reach = 8) {
  readout.row = MISSING;
  let least = reach ** 2;
  let at = -1;
  readout.x.forEach((place, i) => {
    const row = rowOf.get(readout.index[i]);
    const apart = (place - x) ** 2 + (readout.y[i] - y) ** 2;
    if (apart < least && row !== undefined && matches(row)) { [least, at, readout.row] = [apart, i, row]; }
  });
  if (at < 0) { return { marks: [], parts: [] }; }
  const tokens = run.words.tokens.input_tokens + " " + wholeNumber("input_tokens", readout.row);
  return {
    marks: [makeSvg("circle", { cx: readout.x[at], cy: readout.y[at], r: 5, class: "ring" })],
    parts: [{ text: requestLine(readout.row, readout.metric) }, { name: tokens }],
  };
}

// By keys: to the next place along x, at each curve or dot.
function stepAlong(readout, by) {
  const places = Array.from(new Set((readout.lines || [readout]).flatMap((part) => Array.from(part.x)))).sort((a, b) => a - b);
  const known = readout.at === undefined ? -1 : nearestPlace(places, readout.at.x);
  const x = places[Math.max(0, Math.min(known + by, places.length - 1))];
  const i = readout.lines ? 0 : readout.x.indexOf(x);
  readout.at = { x, y: readout.lines ? readout.box[1] : readout.y[i] };
  return readout.at;
}

function showReading(reader, at) {
  const { svg, readout, tip, layer } = reader;
  const { marks, parts } = at ? readers[readout.kind].look(readout, at) : { marks: [], parts: [] };
  const line = readout.lines && parts.length ? [makeSvg("path", { d: `M${at.x} ${readout.box[1]}V${readout.box[3]}`, class: "reading" })] : [];
  layer.replaceChildren(...line, ...marks);
  tip.hidden = !parts.length;
  tip.replaceChildren(...parts.map((part) => readElement(part)));
  svg.classList.toggle("at-request", readout.row !== MISSING);
  if (parts.length) { placeReading(reader, at); }
  return parts;
}

function placeReading({ svg, tip, figure }, at) {
  const matrix = svg.getScreenCTM();
  const outer = figure.getBoundingClientRect();
  const left = at.x * matrix.a + matrix.e - outer.left;
  const beside = left > outer.width / 2 ? left - tip.offsetWidth - 12 : left + 12;
  tip.style.left = Math.max(4, Math.min(beside, outer.width - tip.offsetWidth - 4)) + "px";
  tip.style.top = Math.max(4, at.y * matrix.d + matrix.f - outer.top - tip.offsetHeight / 2) + "px";
}

function pressReading(event, reader) {
  const { readout, box } = reader;
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by) {
    const parts = showReading(reader, readers[readout.kind].step(readout, by * (event.shiftKey ? 10 : 1)));
    say(parts.map(({ name, text }) => [name, text].filter(Boolean).join(" ")).join(", "));
    event.preventDefault();
  }
  if (event.key === "Enter" && readout.row !== MISSING) { openRecord(requests.counts.index[readout.row], box); }
  if (event.key === "Escape") { showReading(reader, null); }
}

function makeReader(figure) {
  const svg = figure.querySelector("svg.chart");
  const readout = unpackReadout(run.readouts[figure.dataset.readout]);
  const box = make("div", { class: "readable", role: "application", tabindex: "0", "aria-roledescription": run.words.figure,
    "aria-label": svg.querySelector("title").textContent + ". " + (readout.lines ? run.words.keys_curve : run.words.keys_dots) });
  const reader = { svg, readout, figure, box, tip: make("div", { class: "values", "aria-hidden": "true" }), layer: makeSvg("g") };
  svg.before(box);
  box.append(svg);
  svg.append(reader.layer);
  figure.append(reader.tip);
  reader.tip.hidden = true;
  box.addEventListener("pointermove", (event) => showReading(reader, placeIn(svg, event)));
  box.addEventListener("pointerleave", () => showReading(reader, null));
  box.addEventListener("click", () => { if (readout.row !== MISSING) { openRecord(requests.counts.index[readout.row], box); } });
  box.addEventListener("keydown", (event) => pressReading(event, reader));
}

function makeCurves() {
  document.querySelectorAll("figure[data-readout]").forEach(makeReader);
}
