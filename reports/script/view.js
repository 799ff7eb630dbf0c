// What the reader looks at: a range of time, stages, a filter, a request; the same for all parts, and in the address.

const WHOLE = { from: run.span[0], to: run.span[1] };
const LEAST_SPAN = 1e-3; // seconds
const FILTERS = ["all", "failed", "slow"];
const view = { ...WHOLE, off: new Set(), show: "all", request: MISSING, cursor: null };
const watchers = [];
let rowsShown = null;

function onView(watcher) {
  watchers.push(watcher);
}

// Changes some of the view and tells everyone which parts.
function setView(changes) {
  Object.assign(view, changes);
  if (changes.off || changes.show) { rowsShown = null; }
  watchers.forEach((watcher) => watcher(changes));
}

function zoomTo(from, to) {
  const low = Math.max(WHOLE.from, Math.min(from, to));
  const high = Math.min(WHOLE.to, Math.max(from, to));
  if (high - low >= LEAST_SPAN) { setView({ from: low, to: high }); }
}

// In or out around a time, which keeps its place.
function zoomBy(factor, around) {
  zoomTo(around - (around - view.from) * factor, around + (view.to - around) * factor);
}

function shiftBy(share) {
  const by = share * (view.to - view.from);
  const kept = Math.max(WHOLE.from - view.from, Math.min(by, WHOLE.to - view.to));
  zoomTo(view.from + kept, view.to + kept);
}

function isZoomed() {
  return view.from > WHOLE.from || view.to < WHOLE.to;
}

function toggleStage(stage, alone) {
  const all = new Set(run.stages.map((place) => place.stage));
  const off = alone ? new Set(Array.from(all).filter((other) => other !== stage)) : new Set(view.off);
  if (!alone && !off.delete(stage)) { off.add(stage); }
  setView({ off: off.size === all.size ? new Set() : off });
}

function matches(row) {
  if (view.off.has(requests.stage[row])) { return false; }
  if (view.show === "failed") { return requests.status[row] === FAILED; }
  return view.show !== "slow" || requests.slow[row] === 1;
}

// Rows of the requests that stages and filter let through, by due time.
function shownRows() {
  rowsShown = rowsShown || Array.from(requests.place.keys()).filter(matches);
  return rowsShown;
}

// When a request was over: done, or as far as anything is known of it.
function overS(row) {
  const done = stampS("done_ns", row);
  return Number.isFinite(done) ? done : requests.dueS[row];
}

// Those of them under way at some time within the range.
function rowsInRange() {
  return shownRows().filter((row) => requests.dueS[row] <= view.to && overS(row) >= view.from);
}

function addressOf() {
  const parts = [];
  if (isZoomed()) { parts.push("t=" + [view.from, view.to].map((time) => Number(time.toFixed(6))).join("-")); }
  if (view.off.size) { parts.push("off=" + Array.from(view.off, (stage) => stage + 1).sort((a, b) => a - b).join(",")); }
  if (view.show !== "all") { parts.push("show=" + view.show); }
  if (view.request !== MISSING) { parts.push("request=" + view.request); }
  return parts.length ? "#/" + parts.join("&") : "";
}

function writeAddress() {
  const hash = addressOf();
  if (hash === location.hash || (!hash && !location.hash.startsWith("#/"))) { return; }
  try {
    history.replaceState(null, "", hash || location.pathname + location.search);
  } catch (refused) { // a page in a frame without an address of its own
    document.documentElement.dataset.view = hash;
  }
}

// The view that an address holds; what it does not name is as at the start, what is wrong in it is ignored, but a request that is not here is told.
function viewOf(hash) {
  const named = new URLSearchParams(hash.slice(2));
  const range = /^(-?[\d.]+)-(-?[\d.]+)$/.exec(named.get("t") || "");
  const [from, to] = range ? [Number(range[1]), Number(range[2])] : [NaN, NaN];
  const known = from < to && to > WHOLE.from && from < WHOLE.to;
  const stages = new Set(run.stages.map((place) => place.stage));
  const off = (named.get("off") || "").split(",").map((text) => Number(text) - 1).filter((stage) => stages.has(stage));
  const request = Number(named.get("request") || MISSING);
  return {
    from: known ? Math.max(from, WHOLE.from) : WHOLE.from,
    to: known ? Math.min(to, WHOLE.to) : WHOLE.to,
    off: off.length < stages.size ? new Set(off) : new Set(),
    show: FILTERS.includes(named.get("show")) ? named.get("show") : "all",
    request: rowOf.has(request) ? request : MISSING,
    unknown: named.has("request") && !rowOf.has(request) ? named.get("request") : null,
  };
}

function readAddress() {
  if (!location.hash.startsWith("#/")) { return; }
  setView(viewOf(location.hash));
  document.getElementById("time").scrollIntoView();
}
