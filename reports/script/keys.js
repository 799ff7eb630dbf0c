// The keyboard on a panel: the cursor in time, requests one after another, zoom, and back.

const STEP = 0.01; // of the range, for one press of an arrow

function keepWithin(time) {
  return Math.max(view.from, Math.min(time, view.to));
}

function stepCursor(panel, share) {
  const start = view.cursor === null ? (view.from + view.to) / 2 : view.cursor;
  panel.pointer = null;
  pointed = MISSING;
  setView({ cursor: keepWithin(start + share * (view.to - view.from)), by: panel, byKeys: true });
  redrawMarks();
  sayCursor(panel);
}

function sayCursor(panel) {
  const parts = kinds[panel.kind].read(panel, view.cursor, true);
  say([moment(view.cursor, 2), ...parts.map(({ name, text }) => [name, text].filter(Boolean).join(" "))].join(", "));
}

// The next request of a panel in the order of due times, from the one marked or the cursor.
function stepRequest(panel, by) {
  const kind = kinds[panel.kind];
  if (!kind.pick) { return; }
  const rows = kind.rows(panel);
  if (!rows.length) { say(run.words.no_requests); return; }
  const known = rows.indexOf(pointed);
  const from = view.cursor === null ? view.from : view.cursor;
  const first = rows.findIndex((row) => requests.dueS[row] >= from);
  const start = first < 0 ? rows.length - 1 : first;
  pointed = rows[known < 0 ? start : Math.max(0, Math.min(known + by, rows.length - 1))];
  setView({ cursor: keepWithin(requests.dueS[pointed]), by: panel, byKeys: true });
  redrawMarks();
  say(requestLine(pointed));
}

function clearCursor(panel) {
  pointed = MISSING;
  panel.pointer = null;
  setView({ cursor: null, by: panel, byKeys: true });
  redrawMarks();
}

function middle() {
  return view.cursor === null ? (view.from + view.to) / 2 : view.cursor;
}

const KEYS = {
  ArrowLeft: (panel, event) => stepCursor(panel, event.shiftKey ? -10 * STEP : -STEP),
  ArrowRight: (panel, event) => stepCursor(panel, event.shiftKey ? 10 * STEP : STEP),
  ArrowUp: (panel) => stepRequest(panel, -1),
  ArrowDown: (panel) => stepRequest(panel, 1),
  Enter: (panel) => { if (pointed !== MISSING) { openRecord(requests.counts.index[pointed], panel.element); } },
  "+": () => zoomBy(0.5, middle()),
  "=": () => zoomBy(0.5, middle()),
  "-": () => zoomBy(2, middle()),
  "0": () => setView({ ...WHOLE }),
  PageUp: () => shiftBy(-0.5),
  PageDown: () => shiftBy(0.5),
  Escape: (panel) => clearCursor(panel),
};

function pressKey(event, panel) {
  const act = KEYS[event.key];
  if (!act || event.ctrlKey || event.altKey || event.metaKey) { return; }
  if (event.key.startsWith("Arrow") && /Up|Down/.test(event.key) && !kinds[panel.kind].pick) { return; }
  if (event.key !== "Escape" || view.cursor !== null) { event.stopPropagation(); }
  event.preventDefault();
  act(panel, event);
}
