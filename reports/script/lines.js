// Panels of lines and of heat.

const HIGHEST = 5; // lines that are read at the cursor, of those that a key beside the figure names

function readLine(line) {
  line.at = line.at || unpack(line.at_s);
  line.values = line.values || unpack(line.value);
  return line;
}

// Counts as they are, other values with three digits.
function valueText(value) {
  return Number.isInteger(value) ? count(value) : significant(value);
}

function nullable(values) {
  return Array.from(values, (value) => (Number.isNaN(value) ? null : value));
}

kinds.lines = {
  scale: (panel) => ({ range: (plot, low, high) => [0, Math.max(panel.at_least, (high || 0) * 1.08)] }),
  series: (panel) => panel.lines.map((line) => ({
    stroke: () => colour(line.colour), width: 1.4, dash: line.dashed ? [5, 3] : undefined, spanGaps: true, points: { show: false },
    fill: line.filled ? () => `color-mix(in srgb, ${colour(line.colour)} 22%, transparent)` : undefined,
  })),
  data: (panel) => uPlot.join(panel.lines.map(readLine).map((line) => [Array.from(line.at), nullable(line.values)])),
  draw: () => {},
  read: (panel, cursor) => (panel.keyed ? readLines(panel, cursor) : readHighest(panel, cursor)),
};

function readLines(panel, cursor) {
  return panel.lines.map(readLine).map((line) => {
    const at = cursor === null ? -1 : nearest(line.at, cursor);
    const named = panel.lines.length > 1;
    return { name: named ? line.name : "", tone: named ? line.colour : "", value: line.values[at],
      text: at < 0 ? "" : valueText(line.values[at] / panel.size) };
  });
}

// Of lines that a key beside the figure names, those that are highest at the cursor.
function readHighest(panel, cursor) {
  const known = cursor === null ? [] : readLines(panel, cursor).filter((part) => part.text);
  return known.sort((one, other) => other.value - one.value).slice(0, HIGHEST);
}

function readGrid(panel) {
  if (!panel.grid) {
    const { at_s, value_s, counts, levels, p50, p95 } = panel;
    panel.grid = unpackAll({ at_s, value_s, counts, levels, p50, p95 });
    panel.grid.rows = panel.grid.value_s.length - 1;
  }
  return panel.grid;
}

// The place of the cell that holds a value: edges ascend; -1 where it lies outside.
function cellAt(edges, value) {
  return value < edges[0] || value > edges[edges.length - 1] ? -1 : Math.max(0, edges.findIndex((edge) => edge > value) - 1);
}

function drawCells(plot, grid) {
  const { ctx } = plot;
  const x = Array.from(grid.at_s, (edge) => plot.valToPos(edge, "x", true));
  const y = Array.from(grid.value_s, (edge) => plot.valToPos(edge, "y", true));
  const fills = [1, 2, 3, 4, 5].map((level) => colour("heat-" + level));
  grid.levels.forEach((level, cell) => {
    const [column, row] = [Math.floor(cell / grid.rows), cell % grid.rows];
    if (!level) { return; }
    ctx.fillStyle = fills[level - 1];
    ctx.fillRect(x[column], y[row + 1], x[column + 1] - x[column] + 0.5, y[row] - y[row + 1] + 0.5);
  });
}

function drawPercentile(plot, grid, values, width, dashes) {
  const { ctx } = plot;
  ctx.beginPath();
  ctx.strokeStyle = colour("ink");
  ctx.lineWidth = width * uPlot.pxRatio;
  ctx.setLineDash(dashes.map((dash) => dash * uPlot.pxRatio));
  let isDrawing = false;
  values.forEach((value, column) => {
    if (Number.isNaN(value)) { isDrawing = false; return; }
    const at = (grid.at_s[column] + grid.at_s[column + 1]) / 2;
    ctx[isDrawing ? "lineTo" : "moveTo"](plot.valToPos(at, "x", true), plot.valToPos(value, "y", true));
    isDrawing = true;
  });
  ctx.stroke();
  ctx.setLineDash([]);
}

function drawHeat(plot, panel) {
  const grid = readGrid(panel);
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  drawCells(plot, grid);
  drawPercentile(plot, grid, grid.p50, 1.6, []);
  drawPercentile(plot, grid, grid.p95, 1, [3, 2]);
  ctx.restore();
}

function readCell(panel, grid, column) {
  const row = cellAt(grid.value_s, panel.plot.posToVal(panel.pointer.top, "y"));
  if (row < 0) { return []; }
  const [low, high] = [grid.value_s[row], grid.value_s[row + 1]];
  return [{ name: duration(low) + " – " + duration(high) + ":", text: count(grid.counts[column * grid.rows + row]) }];
}

function readHeat(panel, cursor, isPointed) {
  const grid = readGrid(panel);
  const column = cursor === null ? -1 : cellAt(grid.at_s, cursor);
  const text = (values) => (column < 0 ? "" : duration(values[column]));
  const cell = isPointed && panel.pointer && column >= 0 ? readCell(panel, grid, column) : [];
  return [...cell, { name: "p50", text: text(grid.p50) }, { name: "p95", text: text(grid.p95) }];
}

kinds.heat = {
  scale: (panel) => {
    const { value_s: edges, rows } = readGrid(panel);
    panel.isLog = true;
    return { distr: 3, range: () => [edges[0], edges[rows]] };
  },
  series: () => [{ show: true, points: { show: false } }],
  data: (panel) => [[WHOLE.from, WHOLE.to], [null, null]],
  draw: drawHeat,
  read: readHeat,
};
