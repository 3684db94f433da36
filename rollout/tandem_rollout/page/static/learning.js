/* Curves, and where the time went. */

const contents = {iterations: [], phases: {names: [], seconds: [], iterations: [], rows: []}};
const SMOOTHINGS = [0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99];
const chosen = {from: view.from, to: view.to};

function smoothing() { return SMOOTHINGS[Number(byId("smoothing").value)]; }

async function loadCurves() {
  Object.assign(contents, await ask("curves", {smoothing: smoothing()}));
  byId("cards").replaceChildren(...contents.cards.map(cardElement));
  fillFigures(byId("figures"), contents.figures, 190);
  fillFigures(byId("more-figures"), contents.more_figures, 130);
  byId("more-title").hidden = contents.more_figures.length === 0;
  if (!byId("figures").childElementCount) byId("figures").append(html("p", "panel wide", "No iteration is recorded yet."));
  byId("phase-rows").replaceChildren(...contents.phases.rows.map(phaseRow));
  byId("phase-seconds").replaceChildren();
  if (contents.phases.iterations.length) phaseChart(byId("phase-seconds"), contents.phases);
  if (view.from === chosen.from && view.to === chosen.to) chooseSpan(); else drawAll();
}

function cardElement(card) {
  const made = html("div", "card");
  made.append(html("div", "label", card.label), html("div", "value", card.value), html("div", "muted", card.note));
  return made;
}

function fillFigures(grid, figures, height) {
  grid.replaceChildren();
  for (const figure of figures) {
    const host = html("figure", figure.wide ? "panel wide" : "panel");
    grid.append(host);
    lineChart(host, figure, figure.wide ? 280 : height);
  }
}

function phaseRow(row) {
  const made = html("tr"), head = html("th", "", row.phase), swatch = html("i", "swatch");
  head.scope = "row";
  swatch.style.background = `var(--${row.phase})`;
  head.prepend(swatch);
  const cells = [formatSeconds(row.total), `${(row.share * 100).toFixed(1)} %`, ...[row.median, row.p95, row.longest].map(formatSeconds)];
  made.append(head, ...cells.map((cell) => html("td", "", cell)));
  return made;
}

/* Shows the iterations that the menu says. */
function chooseSpan() {
  const size = byId("span").value, last = contents.iterations[contents.iterations.length - 1] ?? 0;
  if (size === "all") resetView(); else setView(last - Number(size) + 1, Infinity);
  Object.assign(chosen, {from: view.from, to: view.to});
}

/* Whether somebody reads a value off a figure just now. */
function isRead() { return [...document.querySelectorAll("figure .tip:not([hidden])")].some((tip) => tip.offsetParent); }

function setUpLearning() {
  byId("smoothing").addEventListener("input", () => {
    byId("smoothing-value").textContent = smoothing() === 0 ? "none" : String(smoothing());
  });
  byId("smoothing").addEventListener("change", () => attempt(loadCurves()));
  byId("span").addEventListener("change", chooseSpan);
  byId("zoom-out").addEventListener("click", () => { byId("span").value = "all"; chooseSpan(); });
  keepDrawn(byId("figures"), () => { byId("zoom-out").hidden = view.whole; });
}
