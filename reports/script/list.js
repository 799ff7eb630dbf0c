// The requests as a table: those that the view shows, sorted by any column, each opening its record.

const PAGE_ROWS = 20;
const list = { column: "index", direction: 1, most: PAGE_ROWS, body: null, more: null };

// Columns: a name in the words, the value to sort by, its text.
function listColumns() {
  const latency = (name) => ({ name, title: run.metrics[name], value: (row) => requests.latencies[name][row], text: duration });
  const known = (name) => (row) => (requests.counts[name][row] === MISSING ? NaN : requests.counts[name][row]);
  return [
    { name: "index", title: run.words.number, value: (row) => requests.counts.index[row], text: count },
    { name: "stage", title: run.words.stage, value: (row) => requests.place[row], text: (_, row) => shortStage(row) },
    { name: "due", title: run.words.stamps.due_ns, value: (row) => requests.dueS[row], text: (value) => moment(value, 3) },
    latency(run.metric), ...(run.metric.startsWith("ttft") ? [latency("tpot")] : []), latency("e2e"),
    { name: "input", title: run.words.tokens.input_tokens, value: known("input_tokens"), text: count },
    { name: "output", title: run.words.tokens.output_tokens, value: known("output_tokens"), text: count },
    { name: "status", title: run.words.outcome, value: (row) => requests.status[row], text: (_, row) => outcome(row) },
  ].filter((column, i, all) => all.findIndex((other) => other.name === column.name) === i);
}

function shortStage(row) {
  const stage = run.stages.find((place) => place.place === requests.place[row]);
  return stage ? stage.short : NONE;
}

function outcome(row) {
  const error = requests.texts[requests.error[row]];
  return run.words.status[STATUSES[requests.status[row]]] + (error && error[0] ? ` (${error[0]})` : "");
}

// Rows in the order of a column; those without a value come last.
function sortedRows(columns) {
  const { value } = columns.find((column) => column.name === list.column);
  const order = (a, b) => {
    const [first, second] = [value(a), value(b)];
    if (Number.isNaN(first) || Number.isNaN(second)) { return Number.isNaN(first) - Number.isNaN(second); }
    return list.direction * (first - second);
  };
  return rowsInRange().sort(order);
}

function listRow(columns, row) {
  const index = requests.counts.index[row];
  const opener = button(requestTitle(row), () => openRecord(index, opener), { class: "opener" });
  const cells = columns.slice(1).map((column) => make("td", {
    class: ["stage", "status"].includes(column.name) ? "" : "number" }, column.text(column.value(row), row)));
  const line = make("tr", { "data-request": index }, make("th", { scope: "row", class: "short" }, opener), ...cells);
  line.addEventListener("click", (event) => { if (event.target.closest("button") === null) { openRecord(index, opener); } });
  return line;
}

function writeList() {
  const columns = listColumns();
  const rows = sortedRows(columns);
  const shown = rows.slice(0, list.most);
  list.body.replaceChildren(...shown.map((row) => listRow(columns, row)));
  list.more.hidden = rows.length <= list.most;
  list.none.hidden = rows.length > 0;
  list.tally.textContent = fill(run.words.listed, { shown: count(shown.length), count: count(rows.length) });
}

function sortList(head, name) {
  list.direction = list.column === name ? -list.direction : 1;
  list.column = name;
  head.parentElement.querySelectorAll("th").forEach((other) => other.setAttribute("aria-sort", "none"));
  head.setAttribute("aria-sort", list.direction > 0 ? "ascending" : "descending");
  writeList();
}

function listHead(column) {
  const head = make("th", {
    scope: "col", "aria-sort": column.name === list.column ? "ascending" : "none", class: ["index", "stage", "status"].includes(column.name) ? "" : "number" },
  column.title);
  head.append(button("", () => sortList(head, column.name), { class: "sort", "aria-label": fill(words.sort, { column: column.title }) }));
  return head;
}

// Numbers of requests in written tables, such as #233, open their records, too.
function openFromTables() {
  document.querySelectorAll("#pauses tbody th").forEach((head) => {
    const match = /^#(\d+)$/.exec(head.textContent.trim());
    if (!match || !rowOf.has(Number(match[1]))) { return; }
    const opener = button(match[0], () => openRecord(Number(match[1]), opener), { class: "opener", "aria-label": requestTitle(rowOf.get(Number(match[1]))) });
    head.replaceChildren(opener);
  });
}

function makeList() {
  list.body = make("tbody");
  list.tally = make("p", { class: "fine" });
  list.none = make("p", { class: "empty" }, run.words.no_requests);
  list.more = button(run.words.more, () => { list.most += 5 * PAGE_ROWS; writeList(); }, { class: "more" });
  const table = make("table", { class: "requests" }, make("caption", { class: "hidden" }, run.words.list),
    make("thead", {}, make("tr", {}, ...listColumns().map(listHead))), list.body);
  const scroller = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": run.words.list }, table);
  document.getElementById("time").append(make("h3", { id: "requests" }, run.words.list),
    make("p", { class: "lead" }, run.words.held), scroller, list.none, list.more, list.tally);
  onView((changes) => { if ("from" in changes || changes.off || "show" in changes) { list.most = PAGE_ROWS; writeList(); } });
  writeList();
}
