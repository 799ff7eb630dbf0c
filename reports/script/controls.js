// The bar over the panels: stages, the filter, zoom, and a link to what is seen; stages hide in drawings, too.

const STAGES = Array.from(new Map(run.stages.map((place) => [place.stage, place])).values());

function stageButton(place) {
  const text = make("span", {}, place.short);
  const control = button("", (event) => toggleStage(place.stage, event.shiftKey), {
    class: "stage-switch", "data-stage": place.stage, "aria-pressed": "true", title: run.words.only,
  });
  control.append(make("i", { class: "chip", style: { "--chip": `var(--${place.colour})` } }), text);
  return control;
}

function stageSwitches() {
  return make("div", { role: "group", "aria-label": run.words.stages, class: "switches" }, ...STAGES.map(stageButton));
}

// The marks of a stage in a drawing: what is painted in its colour.
function hideInDrawings() {
  STAGES.forEach(({ stage, colour: name }) => {
    document.querySelectorAll(`svg.chart [style*="var(--${name})"]`).forEach((mark) => {
      mark.classList.toggle("stage-off", view.off.has(stage));
    });
  });
}

function showSwitches() {
  document.querySelectorAll(".stage-switch").forEach((control) => {
    control.setAttribute("aria-pressed", String(!view.off.has(Number(control.dataset.stage))));
  });
}

function tally(show) {
  const { place, status, slow } = requests;
  return place.filter((_, row) => show === "all" || (show === "failed" ? status[row] === FAILED : slow[row] === 1)).length;
}

function filterChoice() {
  const of = (show) => (tally(show) === run.totals[show] ? "" : ` / ${count(run.totals[show])}`);
  const choices = FILTERS.map((show) => make("option", { value: show }, `${run.words.filters[show]} (${count(tally(show))}${of(show)})`));
  const select = make("select", { id: "filter" }, ...choices);
  select.addEventListener("change", () => setView({ show: select.value }));
  onView((changes) => { if ("show" in changes) { select.value = view.show; } });
  return make("label", { class: "filter", title: fill(run.words.filter, { metric: run.metrics[run.metric] }) }, run.words.requests + " ", select);
}

function zoomButtons() {
  const centre = () => (view.from + view.to) / 2;
  const whole = button(run.words.whole, () => setView({ ...WHOLE }), { class: "whole" });
  onView(() => { whole.disabled = !isZoomed(); });
  whole.disabled = true;
  return make("div", { role: "group", "aria-label": run.words.zoom, class: "zoom" },
    button("−", () => zoomBy(2, centre()), { "aria-label": run.words.zoom_out }),
    button("+", () => zoomBy(0.5, centre()), { "aria-label": run.words.zoom_in }),
    button("‹", () => shiftBy(-0.5), { "aria-label": run.words.earlier }),
    button("›", () => shiftBy(0.5), { "aria-label": run.words.later }), whole);
}

// Gives a link away: by the clipboard, or in a field to copy from where the browser keeps that shut.
async function copyLink(field) {
  const link = location.href.split("#")[0] + addressOf();
  try {
    await navigator.clipboard.writeText(link);
    say(run.words.copied);
    return true;
  } catch (refused) {
    field.hidden = false;
    field.value = link;
    field.focus();
    field.select();
    return false;
  }
}

function linkButton() {
  const field = make("input", { readonly: "", "aria-label": run.words.link, class: "link" });
  field.hidden = true;
  field.addEventListener("blur", () => { field.hidden = true; });
  const control = button(run.words.copy_link, async () => {
    if (await copyLink(field)) {
      control.textContent = run.words.copied;
      setTimeout(() => { control.textContent = run.words.copy_link; }, 1600);
    }
  }, { class: "copy-link" });
  return make("span", {}, control, field);
}

function statusLine() {
  const line = make("p", { class: "view-status", id: "view-status", role: "status" });
  const write = () => {
    const unknown = view.unknown ? fill(run.words.not_held, { index: view.unknown.slice(0, 20) }) + " " : "";
    line.textContent = unknown + fill(requests.size === run.totals.all ? run.words.range : run.words.range_sampled, {
      from: trimmed(view.from), to: trimmed(view.to), shown: count(rowsInRange().length), held: count(requests.size) });
  };
  onView((changes) => { if ("from" in changes || "unknown" in changes || "off" in changes || "show" in changes) { write(); } });
  write();
  return line;
}

function makeControls() {
  const bar = make("div", { class: "view-bar", role: "group", "aria-label": run.words.view });
  if (STAGES.length > 1) { bar.append(stageSwitches()); }
  bar.append(filterChoice(), zoomButtons(), linkButton(), statusLine());
  document.querySelector("#time > h2").after(bar);
  const key = document.querySelector("#spread .key");
  if (key) {
    key.before(stageSwitches());
    key.classList.add("paper-only");
  }
  onView((changes) => { if (changes.off) { showSwitches(); hideInDrawings(); } });
}
