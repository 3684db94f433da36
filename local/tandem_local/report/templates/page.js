/* Puts the page together. */

const contents = JSON.parse(document.getElementById("contents").textContent);
const byId = (id) => document.getElementById(id);

function addFigures(grid, figures, height) {
  for (const figure of figures) {
    const host = html("figure", figure.wide ? "panel wide" : "panel");
    grid.append(host);
    lineChart(host, figure, figure.wide ? 280 : height);
  }
}

function sampleElement(sample) {
  const made = html("div", "sample"), head = html("div", "head");
  const verdict = html("span", `verdict ${sample.correct ? "right" : "wrong"}`, sample.correct ? "✓ right" : "✗ wrong");
  head.append(verdict, html("span", "", `reward ${formatNumber(sample.reward)}`), html("span", "", `${sample.tokens} tokens`),
    html("span", "", `iteration ${sample.iteration}`), html("span", "", sample.group), html("span", "", sample.note));
  made.append(head);
  if (sample.prompt) made.append(html("pre", "prompt", sample.prompt));
  made.append(html("pre", "", sample.text || "(empty)"));
  return made;
}

function samplesSection() {
  const orders = {
    group: () => 0,
    best: (a, b) => b.reward - a.reward,
    worst: (a, b) => a.reward - b.reward,
    longest: (a, b) => b.tokens - a.tokens,
  };
  let limit = 20;

  function fillIterations() {
    const numbers = [...new Set(contents[byId("sample-kind").value].map((sample) => sample.iteration))];
    const options = ["all", ...numbers].map((number) => html("option", "", String(number)));
    byId("sample-iteration").replaceChildren(...options);
    byId("sample-iteration").value = numbers.length ? String(numbers[numbers.length - 1]) : "all";
  }

  function show() {
    const iteration = byId("sample-iteration").value, filter = byId("sample-filter").value;
    const searched = byId("sample-search").value.toLowerCase();
    const all = contents[byId("sample-kind").value];
    const found = all.filter((sample) => (iteration === "all" || String(sample.iteration) === iteration)
      && (filter === "all" || sample.correct === (filter === "right"))
      && (!searched || `${sample.prompt}\n${sample.text}`.toLowerCase().includes(searched)));
    found.sort(orders[byId("sample-order").value]);
    byId("sample-count").textContent = `${found.length} of the ${all.length} answers kept for this report`;
    byId("sample-list").replaceChildren(...found.slice(0, limit).map(sampleElement));
    byId("sample-more").hidden = found.length <= limit;
  }

  function restart() { limit = 20; show(); }
  byId("sample-kind").addEventListener("change", () => { fillIterations(); restart(); });
  for (const id of ["sample-iteration", "sample-filter", "sample-order"]) byId(id).addEventListener("change", restart);
  byId("sample-search").addEventListener("input", restart);
  byId("sample-more").addEventListener("click", () => { limit += 40; show(); });
  fillIterations();
  restart();
}

/* The report has all bars in it. */
function timelineSource(timeline) {
  const numbers = timeline.bars.map((bar) => bar.iteration);
  const inside = (start, size) => timeline.bars.filter((bar) => bar.iteration >= start && bar.iteration < start + size);
  return {
    first: numbers.reduce((least, number) => Math.min(least, number), Infinity),
    last: numbers.reduce((greatest, number) => Math.max(greatest, number), 0),
    load: (start, size, show) => show({...timeline, bars: inside(start, size)}),
  };
}

followTheme(byId("theme"));
for (const swatch of document.querySelectorAll("[data-phase]")) swatch.style.background = `var(--${swatch.dataset.phase})`;
addFigures(byId("figures"), contents.figures, 190);
if (byId("more-figures")) addFigures(byId("more-figures"), contents.more_figures, 130);
phaseChart(byId("phase-seconds"), contents.phases);
ganttChart(byId("gantt"), {
  start: byId("window-start"), size: byId("window-size"), earlier: byId("earlier"), later: byId("later"), whole: byId("whole"),
}, timelineSource(contents.timeline));
samplesSection();
resetView();
document.body.dataset.ready = "true";
