(function () {
  "use strict";
  var tip = document.createElement("div");
  tip.className = "tip";
  tip.setAttribute("role", "tooltip");
  tip.id = "tip";
  tip.hidden = true;
  document.body.appendChild(tip);
  function show(term) {
    var meaning = document.getElementById(term.getAttribute("href").slice(1));
    if (!meaning) { return; }
    tip.textContent = meaning.querySelector("dd").textContent;
    tip.hidden = false;
    var at = term.getBoundingClientRect(), own = tip.getBoundingClientRect();
    var left = Math.max(8, Math.min(at.left, document.documentElement.clientWidth - own.width - 8));
    var below = at.bottom + 6;
    tip.style.left = left + "px";
    tip.style.top = (below + own.height > window.innerHeight ? at.top - own.height - 6 : below) + "px";
    term.setAttribute("aria-describedby", "tip");
  }
  function hide() { tip.hidden = true; }
  document.querySelectorAll("a.term").forEach(function (term) {
    term.addEventListener("mouseenter", function () { show(term); });
    term.addEventListener("focus", function () { show(term); });
    term.addEventListener("mouseleave", hide);
    term.addEventListener("blur", hide);
  });
  document.addEventListener("keydown", function (event) { if (event.key === "Escape") { hide(); } });
  window.addEventListener("scroll", hide, { passive: true });
  document.querySelectorAll(".answer, .lead, .fine, .warnings p, figcaption").forEach(function (words) { /* a number stays with its unit */
    words.childNodes.forEach(function (part) {
      if (part.nodeType === 3) { part.data = part.data.replace(/(\d) (?=(%|[mµ]?s|req\/s|tokens\/s)(?![\w/]))/g, "$1\u00a0"); }
    });
  });
  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("details").forEach(function (part) { part.open = true; });
  });
})();
