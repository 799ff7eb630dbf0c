// Explanations of words under the pointer, numbers kept with their units, and all details open on paper.

function showTip(tip, term) {
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

function explainTerms() {
  const tip = makeTip();
  const hide = () => { tip.hidden = true; };
  document.querySelectorAll("a.term").forEach((term) => {
    term.addEventListener("mouseenter", () => showTip(tip, term));
    term.addEventListener("focus", () => showTip(tip, term));
    term.addEventListener("mouseleave", hide);
    term.addEventListener("blur", hide);
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") { hide(); } });
  window.addEventListener("scroll", hide, { passive: true });
}

function keepUnits() {
  const number = /(\d) (?=(%|[mµ]?s|req\/s|tokens\/s)(?![\w/]))/g;
  document.querySelectorAll(".answer, .lead, .fine, .warnings p, figcaption").forEach((words) => {
    words.childNodes.forEach((part) => {
      if (part.nodeType === Node.TEXT_NODE) { part.data = part.data.replace(number, "$1\u00a0"); }
    });
  });
}

function openForPrint() {
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((part) => { part.open = true; });
  });
}

explainTerms();
keepUnits();
openForPrint();
