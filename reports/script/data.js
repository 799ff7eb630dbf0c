// The run's data out of the page: columns of requests, the engine's state, panels over time.

const ARRAYS = { f8: Float64Array, f4: Float32Array, i4: Int32Array, u2: Uint16Array, u1: Uint8Array };
const MISSING = -1;
const STATUSES = ["completed", "failed", "cancelled", "never_sent"];
const run = readJson("run");

// A packed array: base64 of little-endian bytes.
function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed.bytes), (letter) => letter.charCodeAt(0));
  return new ARRAYS[packed.kind](bytes.buffer);
}

function unpackAll(columns) {
  return Object.fromEntries(Object.entries(columns).map(([name, packed]) => [name, unpack(packed)]));
}

// Columns of the requests in the page, one row a request, in the order of due times.
function readRequests(held) {
  const stamps = unpackAll(held.stamps);
  const place = unpack(held.place);
  const stageOf = new Map(run.stages.map((stage) => [stage.place, stage.stage]));
  return {
    stamps, place,
    size: place.length,
    stage: Int32Array.from(place, (number) => (stageOf.has(number) ? stageOf.get(number) : MISSING)),
    dueS: stamps.due_ns.map((due, row) => (Number.isNaN(due) ? stamps.sent_ns[row] : due) / 1e9),
    counts: unpackAll(held.counts),
    latencies: unpackAll(held.latencies),
    server: unpackAll(held.server),
    status: unpack(held.status),
    warmup: unpack(held.warmup),
    counted: unpack(held.counted),
    longestGap: unpackAll(held.longest_gap),
    slow: unpack(held.slow),
    slowerThan: unpackAll(held.slower_than),
    error: unpack(held.error),
    texts: held.texts,
    countedBy: { texts: held.counted_by.texts, rows: unpack(held.counted_by.rows) },
  };
}

const requests = readRequests(run.requests);
const FAILED = STATUSES.indexOf("failed");
const rowOf = new Map(Array.from(requests.counts.index, (index, row) => [index, row]));

function stampS(name, row) {
  return requests.stamps[name][row] / 1e9;
}

function readState(gauge) {
  return gauge ? { at: unpack(gauge.at_s), value: unpack(gauge.value) } : null;
}

const state = Object.fromEntries(Object.entries(run.state).map(([name, gauge]) => [name, readState(gauge)]));

// The place of the value nearest to one, in an ascending array; -1 where it is empty.
function nearest(ascending, value) {
  let low = 0;
  let high = ascending.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ascending[middle] < value) { low = middle + 1; } else { high = middle; }
  }
  if (low > 0 && (low === ascending.length || value - ascending[low - 1] <= ascending[low] - value)) { return low - 1; }
  return ascending.length ? low : -1;
}

// What a gauge showed at its sample nearest to a time: the value and the sample's own time; null for none.
function stateAt(name, seconds) {
  const gauge = state[name];
  const at = gauge && Number.isFinite(seconds) ? nearest(gauge.at, seconds) : -1;
  return at < 0 ? null : { value: gauge.value[at], at: gauge.at[at] };
}
