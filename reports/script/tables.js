// Tables that a reader sorts: a button in the head of each column, aria-sort on the one in force.

const SIZES = {
  ns: 1e-9, "µs": 1e-6, ms: 1e-3, s: 1, m: 60, min: 60, h: 3600,
  KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3, TiB: 1024 ** 4,
};
const CLOCK = /^([-−]?)([\d,]+)([mh]) (\d+)([sm])/; // such as 2m 05s
const NUMBER = /^[<>≥≤≈~×]?\s*([+\-−]?)([\d,]*\.?\d+(?:e[+-]?\d+)?)\s*(ns|µs|ms|s|min|KiB|MiB|GiB|TiB)?(?![\w])/;

// The number that a text begins with, in seconds or bytes where it has such a unit; NaN for none.
function numberIn(text) {
  const clock = CLOCK.exec(text);
  const plain = (digits) => Number(digits.replace(/,/g, ""));
  if (clock) { return (clock[1] ? -1 : 1) * (plain(clock[2]) * SIZES[clock[3]] + plain(clock[4]) * SIZES[clock[5]]); }
  const match = NUMBER.exec(text);
  if (!match) { return NaN; }
  return (/[-−]/.test(match[1]) ? -1 : 1) * plain(match[2]) * (SIZES[match[3]] || 1);
}

// What a cell is sorted by: its data-value, else its own words without the small print.
function cellText(cell) {
  if (!cell) { return ""; }
  if (cell.dataset.value !== undefined) { return cell.dataset.value; }
  const own = cell.cloneNode(true);
  own.querySelectorAll("small").forEach((part) => part.remove());
  return own.textContent.trim();
}

// Compares two texts of a column; cells without a value come last in either direction.
function comparer(texts, direction) {
  const known = texts.filter((text) => text && text !== "–");
  const numeric = known.every((text) => !Number.isNaN(numberIn(text)));
  const inOrder = numeric ? (a, b) => numberIn(a) - numberIn(b)
    : (a, b) => a.localeCompare(b, document.documentElement.lang, { numeric: true });
  return (a, b) => {
    const lacking = [a, b].map((text) => !text || text === "–");
    if (lacking[0] || lacking[1]) { return lacking[0] - lacking[1]; }
    return direction * inOrder(a, b);
  };
}

// The head cell over each column, in order: the lowest one, where heads are two deep.
function columnHeads(table) {
  const grid = [];
  Array.from(table.tHead.rows).forEach((row, depth) => {
    let column = 0;
    Array.from(row.cells).forEach((head) => {
      while (grid[column] && grid[column].until > depth) { column += 1; }
      for (let i = 0; i < head.colSpan; i += 1) {
        grid[column] = { head, until: depth + head.rowSpan, alone: head.colSpan === 1 };
        column += 1;
      }
    });
  });
  return grid.map((place) => (place.alone ? place.head : null));
}

function sortRows(body, rows, column, direction) {
  const texts = new Map(rows.map((row) => [row, cellText(row.cells[column])]));
  const compare = comparer(Array.from(texts.values()), direction);
  const ordered = direction ? rows.slice().sort((a, b) => compare(texts.get(a), texts.get(b))) : rows;
  body.append(...ordered);
}

// Ascending, descending, and as it was.
function turnSort(table, head, column, rows) {
  const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
  table.querySelectorAll("th[aria-sort]").forEach((other) => other.setAttribute("aria-sort", "none"));
  head.setAttribute("aria-sort", next);
  sortRows(table.tBodies[0], rows, column, { none: 0, ascending: 1, descending: -1 }[next]);
}

function sortButton(head) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "sort";
  button.setAttribute("aria-label", fill(words.sort, { column: cellText(head) || words.first_column }));
  return button;
}

// Puts the button behind the last word of a head, on the same line, and above its unit.
function appendButton(head, button) {
  let last = Array.from(head.childNodes).filter((node) => node.nodeName !== "SMALL" && node.textContent.trim()).pop();
  const joined = document.createElement("span");
  joined.className = "joined";
  if (!last) { head.append(button); return; }
  if (last.nodeType === Node.TEXT_NODE) {
    last.data = last.data.trimEnd();
    last = last.splitText(last.data.lastIndexOf(" ") + 1);
  }
  last.replaceWith(joined);
  joined.append(last, button);
}

function makeSortable(table) {
  if (!table.tHead || table.tBodies.length !== 1 || table.tBodies[0].rows.length < 2) { return; }
  const rows = Array.from(table.tBodies[0].rows);
  columnHeads(table).forEach((head, column) => {
    if (!head) { return; }
    const button = sortButton(head);
    head.setAttribute("aria-sort", "none");
    appendButton(head, button);
    button.addEventListener("click", () => turnSort(table, head, column, rows));
  });
}

document.querySelectorAll("main table").forEach(makeSortable);
