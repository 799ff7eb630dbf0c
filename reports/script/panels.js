// Panels over time: a uPlot each, all with the same range and the same cursor.

const LEFT = 54; // pixels of the y axis, the same for all, so that a second stands at one place
const HEIGHTS = { lines: 104, points: 190, heat: 190 };
const kinds = {}; // of panels by name: what each draws, reads and is pointed at; filled by the files that follow
const panels = [];
let following = false; // while the cursor of one panel is set on the others

function trimmed(value) {
  const text = significant(value);
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

// 1, 2 and 5 of every decade, or fewer where there are many: as the drawings have it.
function logPlaces(low, high) {
  const span = Math.log10(high / low);
  const steps = span < 2.2 ? [1, 2, 5] : span < 3.2 ? [1, 3] : [1];
  const decades = Array.from({ length: Math.ceil(span) + 2 }, (_, i) => Math.floor(Math.log10(low)) + i);
  return decades.flatMap((decade) => steps.map((step) => step * 10 ** decade)).filter((place) => place >= low && place <= high);
}

function axisOptions(panel, isLast) {
  const line = () => colour("grid");
  const common = { stroke: () => colour("muted"), font: "11px " + getComputedStyle(document.body).fontFamily };
  const grid = { stroke: line, width: 1 };
  const labels = (plot, values) => values.map((value) => (value === null ? "" : trimmed(value / panel.size)));
  const x = { ...common, grid: { show: false }, ticks: { stroke: line, size: 4, width: 1 }, size: isLast ? 28 : 8, gap: 2,
    values: (plot, values) => (isLast ? values.map(trimmed) : []) };
  const y = { ...common, grid, ticks: { show: false }, size: LEFT, gap: 6, space: 26,
    values: panel.hasScale === false ? () => [] : labels };
  if (panel.hasScale === false) { y.grid = { show: false }; }
  if (panel.isLog) { Object.assign(y, { splits: (plot, axis, low, high) => logPlaces(low, high), filter: (plot, splits) => splits }); }
  return [x, y];
}

function plotOptions(panel, isLast, width) {
  const kind = kinds[panel.kind];
  return {
    width, height: (panel.height || HEIGHTS[panel.kind]) + (isLast ? 28 : 8) + 6,
    padding: [panel.isFirst ? 24 : 6, 14, 0, 0],
    legend: { show: false },
    cursor: {
      y: false, points: { show: false }, drag: { x: true, y: false, setScale: false },
      bind: { dblclick: () => () => { setView({ ...WHOLE }); return null; } },
    },
    scales: { x: { time: false, range: () => [view.from, view.to] }, y: kind.scale(panel) },
    axes: axisOptions(panel, isLast),
    series: [{}, ...kind.series(panel)],
    hooks: {
      drawClear: [(plot) => drawStages(plot, panel)],
      draw: [(plot) => { kind.draw(plot, panel); }],
      setCursor: [(plot) => followCursor(plot, panel)],
      setSelect: [zoomToSelection],
    },
  };
}

function followCursor(plot, panel) {
  if (following) { return; }
  const { left, top } = plot.cursor;
  panel.pointer = left >= 0 ? { left, top } : null;
  setView({ cursor: left >= 0 ? plot.posToVal(left, "x") : null, by: panel, byKeys: false });
}

function zoomToSelection(plot) {
  const { left, width } = plot.select;
  if (width > 4) { zoomTo(plot.posToVal(left, "x"), plot.posToVal(left + width, "x")); }
  if (width) { plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false); }
}

// Where stages begin and end, the windows that count, and pauses of the server, behind a panel's own marks.
function drawStages(plot, panel) {
  const { ctx, bbox } = plot;
  const at = (seconds) => Math.max(bbox.left, Math.min(plot.valToPos(seconds, "x", true), bbox.left + bbox.width));
  const band = (from, to, fill, alpha = 1) => {
    ctx.globalAlpha = alpha;
    ctx.fillStyle = fill;
    ctx.fillRect(at(from), bbox.top, at(to) - at(from), bbox.height);
    ctx.globalAlpha = 1;
  };
  run.warm.forEach(([from, to]) => hatch(plot, at(from), at(to)));
  run.stages.filter((stage) => !view.off.has(stage.stage)).forEach((stage) => {
    if (stage.window_start_s !== null) { band(stage.window_start_s, stage.window_end_s, colour("window")); }
  });
  run.stalls.forEach(([from, to]) => band(from, to, colour("stall"), 0.3));
  if (panel.isFirst) { nameStages(plot, at); }
}

// Upright lines that lean, within two places: warm-up, by shape as well as by colour.
function hatch({ ctx, bbox }, from, to) {
  const gap = 6 * uPlot.pxRatio;
  ctx.save();
  ctx.beginPath();
  ctx.rect(from, bbox.top, to - from, bbox.height);
  ctx.clip();
  ctx.beginPath();
  for (let x = from - bbox.height; x < to; x += gap) {
    ctx.moveTo(x, bbox.top + bbox.height);
    ctx.lineTo(x + bbox.height, bbox.top);
  }
  ctx.strokeStyle = colour("warm");
  ctx.globalAlpha = 0.4;
  ctx.lineWidth = uPlot.pxRatio;
  ctx.stroke();
  ctx.restore();
}

function nameStages(plot, at) {
  const { ctx, bbox } = plot;
  const ratio = uPlot.pxRatio;
  let freeFrom = -Infinity;
  ctx.save();
  ctx.textAlign = "left";
  ctx.font = "600 " + 11 * ratio + "px " + getComputedStyle(document.body).fontFamily;
  ctx.textBaseline = "bottom";
  const seen = run.stages.filter((stage) => !view.off.has(stage.stage) && at(stage.end_s) > at(stage.start_s));
  seen.forEach((stage, i) => {
    const [from, to] = [at(stage.start_s), at(stage.end_s)];
    const until = i + 1 < seen.length ? at(seen[i + 1].start_s) : bbox.left + bbox.width;
    ctx.fillStyle = colour(stage.colour);
    ctx.fillRect(from, bbox.top - 6 * ratio, to - from, 3 * ratio);
    const isShort = from + ctx.measureText(stage.short).width > until && to - from < 24 * ratio; // a sliver at the range's edge
    if (from < freeFrom || isShort) { return; }
    ctx.fillText(stage.short, from, bbox.top - 8 * ratio);
    freeFrom = from + ctx.measureText(stage.short).width + 8 * ratio;
  });
  ctx.restore();
}

// A panel's element: its name, what is read at the cursor, and the plot.
function panelElement(panel) {
  panel.readout = make("span", { class: "panel-read" });
  panel.element = make("div", {
    class: "panel", role: "application", tabindex: "0", "data-kind": panel.kind,
    "aria-roledescription": run.words.chart,
    "aria-label": panel.name + ". " + (kinds[panel.kind].pick ? run.words.keys_requests : run.words.keys),
  }, make("p", { class: "panel-head" }, make("strong", { class: "panel-name" }, panel.name), panel.readout));
  return panel.element;
}

function mountPanel(panel, isLast, width) {
  const plot = new uPlot(plotOptions(panel, isLast, width), kinds[panel.kind].data(panel), panel.element);
  panel.plot = plot;
  panel.tip = make("div", { class: "values", "aria-hidden": "true" });
  plot.over.append(panel.tip);
  plot.over.addEventListener("mousedown", (event) => { panel.pressed = event.clientX; });
  plot.over.addEventListener("click", (event) => {
    if (Math.abs(event.clientX - panel.pressed) < 4) { openPointed(panel); }
  });
  panel.element.addEventListener("keydown", (event) => pressKey(event, panel));
}

function readPanels(by) {
  panels.forEach((panel) => {
    const parts = kinds[panel.kind].read(panel, view.cursor, by === panel);
    panel.readout.replaceChildren(...parts.filter((part) => !part.besideOnly).map((part) => readElement(part)));
    showValues(panel, by === panel ? parts : []);
  });
}

// The values beside the pointer or the keys' cursor, with their time.
function showValues(panel, parts) {
  const values = parts.filter((part) => part.text);
  panel.tip.hidden = view.cursor === null || !values.length;
  if (panel.tip.hidden) { return; }
  panel.tip.replaceChildren(make("span", {}, moment(view.cursor, 2)), ...values.map((part) => readElement(part)));
  const { over } = panel.plot;
  const left = panel.plot.valToPos(view.cursor, "x");
  const room = over.clientWidth - panel.tip.offsetWidth;
  panel.tip.style.left = Math.max(0, Math.min(left > over.clientWidth / 2 ? left - panel.tip.offsetWidth - 14 : left + 14, room)) + "px";
  panel.tip.style.top = Math.max(0, Math.min(panel.pointer ? panel.pointer.top - 10 : 4, over.clientHeight - panel.tip.offsetHeight)) + "px";
}

function readElement({ name, text, tone }) {
  const key = tone ? [make("i", { class: "mark", style: { "--chip": `var(--${tone})` } })] : [];
  return make("span", {}, ...key, name ? name + " " : "", make("b", {}, text || ""));
}

function moveCursors(by) {
  following = true;
  panels.filter((panel) => panel !== by).forEach(({ plot }) => {
    const left = view.cursor === null ? -10 : plot.valToPos(view.cursor, "x");
    plot.setCursor({ left, top: left < 0 ? -10 : 0 }, false);
  });
  following = false;
}

function rangePanels() {
  panels.forEach(({ plot }) => plot.setScale("x", { min: view.from, max: view.to }));
}

function redrawPanels() {
  panels.forEach(({ plot }) => plot.redraw(false, true));
}

// A new range is drawn by uPlot in its own time: marks and cursors follow it there.
function showPanels(changes) {
  if ("from" in changes) {
    rangePanels();
    queueMicrotask(() => moveCursors(null));
  } else if ("off" in changes || "show" in changes) {
    redrawPanels();
  } else if ("request" in changes) {
    redrawMarks();
  }
  if ("cursor" in changes) {
    if (!changes.byKeys) { pointAt(changes.by); }
    moveCursors(changes.byKeys ? null : changes.by);
  }
  readPanels(changes.by);
}

// Puts panels in place of the drawing of a figure, which stays for paper.
function makeFigure(figure) {
  const own = run.figures[figure.dataset.live] || [];
  if (!own.length) { return; }
  const box = make("div", { class: "live" });
  (figure.querySelector(".scroll") || figure.querySelector("svg.chart")).before(box);
  figure.classList.add("is-live");
  own.forEach((panel, i) => {
    panel.isFirst = i === 0;
    box.append(panelElement(panel));
  });
  own.forEach((panel, i) => mountPanel(panel, i === own.length - 1, box.clientWidth));
  panels.push(...own);
  new ResizeObserver(() => fitFigure(box, own)).observe(box);
}

function fitFigure(box, own) {
  const width = box.clientWidth;
  own.filter(({ plot }) => width && plot.width !== width).forEach(({ plot }) => {
    plot.setSize({ width, height: plot.height });
  });
}

function makePanels() {
  document.querySelectorAll("figure[data-live]").forEach(makeFigure);
  onView(showPanels);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawPanels);
  readPanels();
}
