// Single requests as dots and as lanes, drawn as SVG over their panels; what is under the pointer.

const REACH = 14; // pixels from the pointer within which a request is taken
const MOST_LANES = 320; // requests drawn at once: more would be thinner than a hair
let pointed = MISSING; // the row under the pointer or the keys

function overlay(plot, panel) {
  if (!panel.svg) {
    panel.svg = makeSvg("svg", { class: "marks", "aria-hidden": "true" });
    plot.over.append(panel.svg);
  }
  return panel.svg;
}

function level(value) {
  return value.toFixed(1);
}

// The latencies' scale over all requests of the page and the limits: as the drawing has it.
function pointScale(panel) {
  const values = requests.latencies[panel.metric].filter((value) => value > 0);
  const limits = panel.limits.map((limit) => limit.value);
  const all = Array.from(values).concat(limits);
  const high = all.reduce((a, b) => Math.max(a, b), 0) || 1;
  const low = all.reduce((a, b) => Math.min(a, b), high);
  panel.size = timeScale(high)[0];
  panel.isLog = high > 30 * low;
  return panel.isLog ? { distr: 3, range: () => [low * 0.85, high * 1.2] } : { range: () => [0, high * 1.1] };
}

function isOnPanel(row, metric) {
  const at = requests.dueS[row];
  return at >= view.from && at <= view.to && (requests.latencies[metric][row] > 0 || requests.status[row] === FAILED);
}

// Where a request's dot stands; failed ones on the upper edge.
function dotPlace(plot, panel, row) {
  const value = requests.latencies[panel.metric][row];
  return [plot.valToPos(requests.dueS[row], "x"), value > 0 ? plot.valToPos(value, "y") : 6];
}

// The kind of mark of a request: its stage where it counts, else pale; failed apart.
function markOf(row) {
  if (requests.status[row] === FAILED) { return "failed"; }
  return requests.counted[row] ? "stage-" + requests.stage[row] : "muted";
}

function drawPoints(plot, panel) {
  const groups = new Map();
  panel.dots = shownRows().filter((row) => isOnPanel(row, panel.metric)).map((row) => [row, ...dotPlace(plot, panel, row)]);
  panel.dots.forEach(([row, x, y]) => {
    const mark = markOf(row);
    const path = mark === "failed" ? `M${level(x - 3)} ${level(y - 3)}l6 6m0 -6l-6 6` : `M${level(x)} ${level(y)}h0`;
    groups.set(mark, (groups.get(mark) || "") + path);
  });
  const paths = Array.from(groups, ([mark, d]) => makeSvg("path", {
    d, "data-mark": mark, class: mark === "failed" ? "cross" : "dots", style: { stroke: `var(--${mark === "failed" ? "bad" : mark})` },
  }));
  overlay(plot, panel).replaceChildren(...limitLines(plot, panel), ...paths, ...ringsOf(panel));
}

function limitLines(plot, panel) {
  return panel.limits.flatMap((limit) => {
    const y = level(plot.valToPos(limit.value, "y"));
    const name = makeSvg("text", { x: 4, y: Number(y) < 16 ? Number(y) + 12 : Number(y) - 4, class: "limit" });
    name.textContent = limit.name;
    return [makeSvg("path", { d: `M0 ${y}H${plot.over.clientWidth}`, class: "limit" }), name];
  });
}

// Rings around the request under the pointer and the one whose record is open.
function ringsOf(panel) {
  const open = rowOf.get(view.request);
  return panel.dots.filter(([row]) => row === pointed || row === open).map(([row, x, y]) => makeSvg("circle", {
    cx: level(x), cy: level(y), r: row === open ? 7 : 5.5, class: row === open ? "ring open" : "ring",
  }));
}

// The lowest free lane for each row, in the order of their due times.
function packLanes(rows) {
  const ends = [];
  return rows.map((row) => {
    const begin = requests.dueS[row];
    const free = ends.findIndex((end) => end <= begin);
    const lane = free < 0 ? ends.length : free;
    ends[lane] = overS(row);
    return lane;
  });
}

function laneRows() {
  const rows = rowsInRange();
  const step = Math.max(1, Math.ceil(rows.length / MOST_LANES));
  return { rows: rows.filter((_, i) => i % step === Math.floor(step / 2)), step, all: rows.length };
}

// From due to sent, to the first token, to the end; where the server tells its prefill, what it was queued before it apart.
function lanePhases(row) {
  const [due, sent, first, done] = [requests.dueS[row], stampS("sent_ns", row), stampS("first_ns", row), overS(row)];
  const answered = Number.isFinite(first) ? first : done;
  const { server_prefill_ns: prefill } = requests.server;
  if (!prefill) { return [[due, sent], [sent, answered], [first, done]]; }
  const scheduled = first - prefill[row] / 1e9;
  return [[due, sent], [sent, Number.isFinite(scheduled) ? scheduled : answered], [scheduled, first], [first, done]];
}

function drawLanes(plot, panel) {
  const { rows, step, all } = laneRows();
  const lanes = packLanes(rows);
  const pitch = plot.over.clientHeight / (lanes.reduce((a, b) => Math.max(a, b), 0) + 1);
  panel.lanes = rows.map((row, i) => ({ row, y: (lanes[i] + 0.5) * pitch }));
  panel.pitch = pitch;
  panel.told = fill(step === 1 ? run.words.lanes_all : run.words.lanes_some, { every: step, count: count(all) });
  const paths = panel.key.map((phase, i) => makeSvg("path", {
    d: panel.lanes.map((lane) => laneBar(plot, lanePhases(lane.row)[i], lane.y)).join(""), class: "lane",
    "stroke-width": Math.max(0.8, Math.min(pitch, 16) * phase.share), style: { stroke: `var(--${phase.colour})` },
  }));
  overlay(plot, panel).replaceChildren(...paths, laneCrosses(plot, panel), ...laneOutlines(plot, panel));
}

function laneBar(plot, [from, to], y) {
  if (!(to > from) || to < view.from || from > view.to) { return ""; }
  const at = (time) => level(plot.valToPos(Math.max(view.from, Math.min(time, view.to)), "x"));
  return `M${at(from)} ${level(y)}H${at(to)}`;
}

function laneCrosses(plot, panel) {
  const failed = panel.lanes.filter((lane) => requests.status[lane.row] === FAILED && overS(lane.row) <= view.to);
  const d = failed.map((lane) => `M${level(plot.valToPos(overS(lane.row), "x") - 3)} ${level(lane.y - 3)}l6 6m0 -6l-6 6`);
  return makeSvg("path", { d: d.join(""), class: "cross", "data-mark": "failed" });
}

function laneOutlines(plot, panel) {
  const open = rowOf.get(view.request);
  const at = (time) => plot.valToPos(Math.max(view.from, Math.min(time, view.to)), "x");
  const height = Math.max(5, Math.min(panel.pitch, 16));
  return panel.lanes.filter(({ row }) => row === pointed || row === open).map(({ row, y }) => makeSvg("rect", {
    x: level(at(requests.dueS[row]) - 2), width: level(at(overS(row)) - at(requests.dueS[row]) + 4),
    y: level(y - height / 2 - 1), height: level(height + 2), rx: 2, class: row === open ? "ring open" : "ring",
  }));
}

// The row of the dot nearest to the pointer, within reach.
function pickDot(panel, { left, top }) {
  const apart = (dot) => (dot[1] - left) ** 2 + (dot[2] - top) ** 2;
  const best = panel.dots.reduce((a, b) => (a && apart(a) <= apart(b) ? a : b), null);
  return best && apart(best) <= REACH ** 2 ? best[0] : MISSING;
}

// The row whose bar lies under the pointer, or is nearest to it on its lane.
function pickLane(panel, { left, top }) {
  const time = panel.plot.posToVal(left, "x");
  const reach = (view.to - view.from) * REACH / panel.plot.over.clientWidth;
  const beside = ({ row }) => Math.max(requests.dueS[row] - time, time - overS(row), 0);
  const near = panel.lanes.filter((lane) => Math.abs(lane.y - top) <= Math.max(panel.pitch / 2, 4) && beside(lane) <= reach);
  const best = near.reduce((a, b) => (a && beside(a) + Math.abs(a.y - top) <= beside(b) + Math.abs(b.y - top) ? a : b), null);
  return best ? best.row : MISSING;
}

function requestTitle(row) {
  return fill(run.words.request, { index: requests.counts.index[row] });
}

// One line about a request: its number and stage, its main latency or error.
function requestLine(row, metric = run.metric) {
  const stage = run.stages.find((place) => place.place === requests.place[row]);
  const value = requests.status[row] === FAILED ? (requests.texts[requests.error[row]] || [run.words.status.failed])[0]
    : run.metrics[metric] + " " + duration(requests.latencies[metric][row]);
  return [requestTitle(row), stage ? stage.short : "", value].filter(Boolean).join(" · ");
}

function readPointed(panel, cursor, isPointed) {
  const line = pointed !== MISSING && isPointed ? [{ text: requestLine(pointed), besideOnly: true }] : [];
  return panel.kind === "lanes" ? [...line, ...panel.key.map((phase) => ({ name: phase.name, tone: phase.colour })), { name: panel.told || "" }] : line;
}

kinds.points = {
  scale: pointScale,
  series: () => [{ points: { show: false } }],
  data: () => [[WHOLE.from, WHOLE.to], [null, null]],
  draw: drawPoints,
  read: readPointed,
  pick: pickDot,
  rows: (panel) => panel.dots.map((dot) => dot[0]),
};

kinds.lanes = {
  ...kinds.points,
  scale: (panel) => {
    panel.hasScale = false;
    return { range: () => [0, 1] };
  },
  draw: drawLanes,
  pick: pickLane,
  rows: (panel) => panel.lanes.map((lane) => lane.row),
};

function redrawMarks() {
  panels.filter((panel) => kinds[panel.kind].pick).forEach((panel) => kinds[panel.kind].draw(panel.plot, panel));
}

// Marks the row under the pointer, where that changed.
function pointAt(panel) {
  const pick = panel && kinds[panel.kind].pick;
  const row = pick && panel.pointer ? pick(panel, panel.pointer) : MISSING;
  if (row === pointed) { return; }
  pointed = row;
  redrawMarks();
  panels.forEach(({ plot }) => plot.over.classList.toggle("at-request", row !== MISSING));
}

function openPointed(panel) {
  pointAt(panel);
  if (pointed !== MISSING) { openRecord(requests.counts.index[pointed], panel.element); }
}
