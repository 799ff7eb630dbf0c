// The record of one request: its times, tokens and error, and what the engine showed then.

const hasTurns = new Set(requests.counts.session.filter((session, row) => session !== MISSING && requests.counts.turn[row] > 0));
let record = null; // the element
let cameFrom = null; // what had the focus before

function factList(pairs) {
  return make("dl", { class: "facts" }, ...pairs.filter((pair) => pair && pair[1] !== "").map(([name, value]) => make("div", {},
    make("dt", {}, name), make("dd", {}, value))));
}

function smallTable(caption, heads, rows) {
  return make("table", {}, make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...heads.map((head, i) => make("th", { scope: "col", class: i ? "number" : "" }, head)))),
    make("tbody", {}, ...rows.map(([name, ...values]) => make("tr", {}, make("th", { scope: "row" }, name),
      ...values.map((value) => make("td", { class: "number" }, value))))));
}

function wholeNumber(name, row) {
  const value = requests.counts[name][row];
  return value === MISSING ? NONE : count(value);
}

// When what happened, and how long after the request was due.
function timesTable(row) {
  const names = ["due_ns", "ready_ns", "sent_ns", "first_ns", "last_ns", "done_ns"];
  const due = stampS("due_ns", row);
  const rows = names.filter((name) => Number.isFinite(stampS(name, row))).map((name) => [
    run.words.stamps[name], moment(stampS(name, row)), name === "due_ns" || !Number.isFinite(due) ? NONE : "+" + duration(stampS(name, row) - due),
  ]);
  return smallTable(run.words.times, ["", run.words.at, run.words.since_due], rows);
}

function latencyList(row) {
  const names = Object.keys(run.metrics).filter((name) => Number.isFinite(requests.latencies[name][row]));
  const facts = names.map((name) => [run.metrics[name], duration(requests.latencies[name][row])]);
  const { seconds, end_s: ends } = requests.longestGap;
  if (seconds[row] > 0) {
    facts.push([run.words.longest_gap, fill(run.words.gap_until, { gap: duration(seconds[row]), end: moment(ends[row], 3) })]);
  }
  return facts.length ? [factList(facts), ...rankLines(row), ...serverPart(row), ...pausePart(row)] : [];
}

// What the server itself measured of it.
function serverPart(row) {
  const known = Object.entries(requests.server).filter(([, values]) => Number.isFinite(values[row]));
  return known.length ? [make("h4", {}, run.words.server_title),
    factList(known.map(([name, values]) => [run.words.server[name], duration(values[row] / 1e9)]))] : [];
}

// How its latencies lie among those of its stage.
function rankLines(row) {
  const known = Object.entries(requests.slowerThan).filter(([, below]) => !Number.isNaN(below[row]));
  return known.map(([name, below]) => make("p", { class: "fine rank" },
    fill(run.words.rank, { metric: run.metrics[name], share: share(below[row]) })));
}

// The pauses of many streams while its tokens came; each lasts as most of them had it, so its own gap may be longer.
function pausePart(row) {
  const [first, last] = [stampS("first_ns", row), stampS("last_ns", row)];
  const met = run.pauses.filter(([from, to]) => from < last && to > first);
  if (!met.length) { return []; }
  return [make("h4", {}, run.words.pauses), factList(met.map(([from, to, kind, causes]) => [
    kind, fill(run.words.pause, { length: duration(to - from), begin: moment(from, 3), causes })]))];
}

// The stretch of time around a request, so that all panels show what went on then.
function zoomToRequest(row) {
  const room = Math.max(0.5 * (overS(row) - requests.dueS[row]), 0.05);
  zoomTo(requests.dueS[row] - room, overS(row) + room);
}

function tokenList(row) {
  const drafts = Object.entries(run.words.drafts).filter(([name]) => requests.counts[name] && requests.counts[name][row] !== MISSING);
  return factList(["input_asked", "input_tokens", "cached_tokens", "reusable_tokens", "output_asked", "output_tokens", "events"]
    .filter((name) => requests.counts[name]).map((name) => [run.words.tokens[name], wholeNumber(name, row)])
    .concat(drafts.map(([name, word]) => [word, wholeNumber(name, row)])));
}

function errorPart(row) {
  const number = requests.error[row];
  if (number < 0) { return []; }
  const [name, message] = requests.texts[number];
  const status = requests.counts.http_status[row];
  return [make("h4", {}, run.words.error), make("p", { class: "failure" }, make("code", {}, name),
    status > 0 ? ` HTTP ${status}` : "", message ? make("samp", {}, message) : "")];
}

// The engine's gauges at the samples nearest to three moments of the request.
function statePart(row) {
  const gauges = Object.keys(state).filter((name) => state[name]);
  if (!gauges.length) { return make("p", { class: "fine" }, run.words.state_unknown); }
  const moments = ["sent_ns", "first_ns", "done_ns"].filter((name) => Number.isFinite(stampS(name, row)));
  const rows = moments.map((name) => {
    const found = gauges.map((gauge) => stateAt(gauge, stampS(name, row)));
    const shown = found.map((sample, i) => (gauges[i] === "kv" ? share(sample.value) : trimmed(sample.value)));
    return [run.words.stamps[name], moment(found[0].at, 2), ...shown];
  });
  return smallTable(run.words.state, ["", run.words.sampled, ...gauges.map((name) => run.words.gauges[name])], rows);
}

function phasesBar(row) {
  const [from, to] = [requests.dueS[row], overS(row)];
  const looks = requests.server.server_prefill_ns ? ["muted", "warm", "queue", "accent"] : ["muted", "queue", "accent"];
  const bars = lanePhases(row).map(([begin, end], i) => (end > begin ? make("i", {
    style: { "--chip": `var(--${looks[i]})`, "flex-grow": String((end - begin) / (to - from)) } }) : ""));
  const key = lanePhases(row).map(([begin, end], i) => [run.words.phases[i], looks[i], end - begin]).filter((phase) => phase[2] > 0);
  return [make("div", { class: "phases", "aria-hidden": "true" }, ...bars), make("p", { class: "phases-key" },
    ...key.map(([name, tone, seconds]) => readElement({ name, tone, text: duration(seconds) })))];
}

function stageName(row) {
  const stage = run.stages.find((place) => place.place === requests.place[row]);
  return stage ? stage.name : NONE;
}

function summaryList(row) {
  const { counts, countedBy } = requests;
  const counted = requests.warmup[row] ? "warmup" : requests.counted[row] ? "counted" : "left_out";
  return factList([
    [run.words.stage, stageName(row)],
    [run.words.outcome, run.words.status[STATUSES[requests.status[row]]]],
    [run.words.counts, run.words.counting[counted]],
    hasTurns.has(counts.session[row]) ? [run.words.session, `${counts.session[row]} · ${counts.turn[row] + 1}`] : null,
    [run.words.counted_by, countedBy.texts[countedBy.rows[row]]],
    counts.resends[row] > 0 ? [run.words.resends, count(counts.resends[row])] : null,
  ]);
}

function recordHead(row) {
  const rows = shownRows();
  const at = rows.indexOf(row);
  const step = (by, text, label) => {
    const control = button(text, () => openRecord(requests.counts.index[rows[at + by]], null), { "aria-label": label });
    control.disabled = at < 0 || rows[at + by] === undefined;
    return control;
  };
  return make("div", { class: "record-head" }, make("h3", { id: "record-title", tabindex: "-1" }, requestTitle(row)),
    step(-1, "‹", run.words.previous), step(1, "›", run.words.next), button("✕", closeRecord, { "aria-label": run.words.close }));
}

function fillRecord(row) {
  const known = latencyList(row);
  const latencies = known.length ? known : [make("p", { class: "fine" }, run.words.no_latency)];
  record.dataset.request = requests.counts.index[row];
  record.replaceChildren(recordHead(row), ...phasesBar(row), summaryList(row), ...errorPart(row), timesTable(row),
    make("h4", {}, run.words.latencies), ...latencies,
    make("h4", {}, run.words.tokens_title), tokenList(row), statePart(row),
    make("p", {}, button(run.words.show_then, () => zoomToRequest(row), { class: "show-then" })));
}

// Opens the record of a request by its index; `from` gets the focus back, and is kept where it is null.
function openRecord(index, from) {
  if (from) { cameFrom = from; }
  setView({ request: index, unknown: null });
  record.querySelector("h3").focus({ preventScroll: true });
  say(requestLine(rowOf.get(index)));
}

function closeRecord() {
  setView({ request: MISSING });
  if (cameFrom) { cameFrom.focus({ preventScroll: true }); }
  cameFrom = null;
}

function showRecord(changes) {
  if (!("request" in changes)) { return; }
  const row = rowOf.get(view.request);
  record.hidden = row === undefined;
  if (row !== undefined) { fillRecord(row); }
}

function makeRecord() {
  record = make("aside", { class: "record", id: "record", role: "dialog", "aria-labelledby": "record-title" });
  record.hidden = true;
  document.body.append(record);
  onView(showRecord);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !record.hidden) { closeRecord(); }
  });
}
