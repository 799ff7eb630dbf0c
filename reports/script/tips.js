// Explanations of words under the pointer, numbers kept with their units, and all details open on paper.

function showTip(term) {
  const meaning = document.getElementById(term.getAttribute("href").slice(1));
  if (!meaning) { return; }
  tip.textContent = meaning.querySelector("dd").textContent;
  tip.hidden = false;
  placeBeside(tip, term.getBoundingClientRect());
  term.setAttribute("aria-describedby", "tip");
}

// Below a box, or above it where the window ends; never beyond its sides.
function placeBeside(tip, at) {
  const own = tip.getBoundingClientRect();
  const left = Math.max(8, Math.min(at.left, document.documentElement.clientWidth - own.width - 8));
  const below = at.bottom + 6;
  tip.style.left = left + "px";
  tip.style.top = (below + own.height > window.innerHeight ? at.top - own.height - 6 : below) + "px";
}

function makeTip() {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.id = "tip";
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;
  document.body.appendChild(tip);
  return tip;
}

// A region that speaks, for what the keys bring about.
function makeSpeaker() {
  const speaker = document.createElement("p");
  speaker.className = "hidden";
  speaker.id = "said";
  speaker.setAttribute("aria-live", "polite");
  document.body.appendChild(speaker);
  return speaker;
}

const tip = makeTip();
const speaker = makeSpeaker();

// Says something to a reader who listens.
function say(text) {
  speaker.textContent = text;
}

// The points of a drawing that have numbers of their own, from left to right: their elements and texts.
function pointsOf(chart) {
  const points = Array.from(chart.querySelectorAll("g > title"), (title) => ({ mark: title.parentNode, text: title.textContent }));
  points.forEach(({ mark }) => mark.querySelector("title").remove()); // else the browser shows it as well, and late
  return points.sort((a, b) => a.mark.getBoundingClientRect().left - b.mark.getBoundingClientRect().left);
}

function showPoint({ mark, text }) {
  tip.textContent = text;
  tip.hidden = false;
  placeBeside(tip, mark.getBoundingClientRect());
}

// Numbers of a drawing's points, under the pointer and by arrow keys.
function readPoints(chart) {
  const points = pointsOf(chart);
  let at = -1;
  if (!points.length) { return; }
  chart.setAttribute("tabindex", "0");
  points.forEach((point) => {
    point.mark.addEventListener("pointerenter", () => showPoint(point));
    point.mark.addEventListener("pointerleave", () => { tip.hidden = true; });
  });
  chart.addEventListener("blur", () => { tip.hidden = true; });
  chart.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) { return; }
    event.preventDefault();
    at = Math.max(0, Math.min(at + by, points.length - 1));
    showPoint(points[at]);
    say(points[at].text);
  });
}

function explainTerms() {
  const hide = () => { tip.hidden = true; };
  document.querySelectorAll("a.term").forEach((term) => {
    term.addEventListener("mouseenter", () => showTip(term));
    term.addEventListener("focus", () => showTip(term));
    term.addEventListener("mouseleave", hide);
    term.addEventListener("blur", hide);
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") { hide(); } });
  window.addEventListener("scroll", hide, { passive: true });
}

function keepUnits() {
  const number = /(\d) (?=(%|[mµ]?s|req\/s|tokens\/s)(?![\w/]))/g;
  document.querySelectorAll(".answer, .lead, .fine, .warnings p, figcaption, figcaption span").forEach((sentence) => {
    sentence.childNodes.forEach((part) => {
      if (part.nodeType === Node.TEXT_NODE) { part.data = part.data.replace(number, "$1\u00a0"); }
    });
  });
}

function openForPrint() {
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((part) => { part.open = true; });
  });
}

document.querySelectorAll("svg.chart").forEach(readPoints);
explainTerms();
keepUnits();
openForPrint();
