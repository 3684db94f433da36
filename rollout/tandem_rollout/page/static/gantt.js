/* What the pods did when: only the bars of some iterations are drawn at a time. */

/* Activities that are what a phase is about have its colour; the others have colours of their own. */
const ACTIVITY_PHASES = {
  warm_up: "Warmup", generate: "Rollout", rollout: "Rollout", release: "Draining", train: "Training", publish: "Publishing",
  update: "Loading",
};
const PHASES = ["Warmup", "Rollout", "Draining", "Training", "Publishing", "Loading"];
const OTHER_COLOURS = [3, 5, 6, 4, 7];
const LANE = 18, BAR = 15;

function activityColours(names) {
  const found = {};
  let others = 0;
  for (const name of names) {
    const phase = PHASES.includes(name) ? name : ACTIVITY_PHASES[name];
    found[name] = phase ? `var(--${phase})` : colour(OTHER_COLOURS[others++ % OTHER_COLOURS.length]);
  }
  return found;
}

/* The controls choose which of the iterations `source.first` to `source.last` are shown, of which
   `source.load(start, size, show)` calls show(timeline), now or later. `below(low, high, begin)` is called after each
   drawing with what is visible, and where the first iteration begins, in the timeline's seconds.
   Returns a function to call when `source` has changed. */
function ganttChart(host, controls, source, below) {
  const tip = tooltip(host), leftOut = html("p", "muted");
  const state = {start: 0, size: Number(controls.size.value), zoom: null, timeline: null};
  host.after(leftOut);

  function load(start) {
    state.start = Math.max(source.first, Math.min(start, source.last - state.size + 1));
    controls.start.value = state.start;
    controls.start.min = source.first;
    controls.start.max = source.last;
    source.load(state.start, state.size, (timeline) => {
      state.timeline = timeline;
      state.zoom = null;
      leftOut.textContent = timeline.left_out ? `Left out: ${timeline.left_out}.` : "";
      draw();
    });
  }

  function draw() {
    if (!state.timeline) return;
    const {bars, names} = state.timeline, colours = activityColours(names);
    controls.whole.hidden = state.zoom === null;
    if (!bars.length) {
      host.querySelector("svg")?.remove();
      leftOut.textContent = "No activities are recorded.";
      if (below) below(0, 1, 0);
      return;
    }
    const begin = Math.min(...bars.map((bar) => bar.start)), finish = Math.max(...bars.map((bar) => bar.end));
    const [low, high] = state.zoom || [begin, finish];
    drawLegend(host, names.filter((name) => bars.some((bar) => bar.name === name))
      .map((name) => ({label: name, colour: colours[name]})));
    drawBars(bars, begin, low, high, colours);
    if (below) below(low, high, begin);
  }

  /* The y of each lane: a pod's name stands above its lanes. */
  function layOut() {
    const lanes = state.timeline.lanes;
    let y = 22;
    const places = lanes.map((lane, index) => {
      const head = index === 0 || lanes[index - 1].pod !== lane.pod;
      if (head) y += index ? 26 : 18;
      const place = {y, head, pod: lane.pod};
      y += LANE;
      return place;
    });
    return {places, height: y + 26};
  }

  function drawBars(bars, begin, low, high, colours) {
    const {places, height} = layOut();
    const frame = area(host, height, {left: 4, right: 6, top: 20, bottom: 22});
    const placeX = scale(low, high, frame.left, frame.right);
    for (const place of places) {
      if (place.head) frame.svg.append(element("text", {class: "pod", x: frame.left, y: place.y - 5}, place.pod));
      frame.svg.append(element("rect", {x: frame.left, y: place.y, width: frame.right - frame.left, height: BAR, fill: "var(--ground)"}));
    }
    drawBorders(frame, bars, placeX);
    for (const bar of bars) {
      if (bar.end < low || bar.start > high) continue;
      const x1 = Math.max(frame.left, placeX(bar.start)), x2 = Math.min(frame.right, placeX(bar.end));
      const box = element("rect", {x: x1, y: places[bar.lane].y, width: Math.max(1.5, x2 - x1), height: BAR, rx: 2, fill: colours[bar.name]});
      box.bar = bar;
      frame.svg.append(box);
    }
    drawAxisX(frame, low - begin, high - begin, (value) => placeX(value + begin), (value) => `${formatNumber(value)} s`);
    watchPointer(frame, {
      move(event) {
        const bar = event.target.bar;
        if (!bar) { tip.hide(); return; }
        tip.show(event, bar.name, [{text: state.timeline.lanes[bar.lane].pod}, {text: `iteration ${bar.iteration}`},
          {text: `${formatSeconds(bar.end - bar.start)}, from ${formatSeconds(bar.start - begin)} on`}]);
      },
      leave() { tip.hide(); },
      select(x1, x2) { state.zoom = [placeX.inverse(x1), placeX.inverse(x2)]; draw(); },
      reset() { state.zoom = null; draw(); },
    });
  }

  function drawBorders(frame, bars, placeX) {
    let labelled = -Infinity;
    for (const number of [...new Set(bars.map((bar) => bar.iteration))].sort((a, b) => a - b)) {
      const x = placeX(Math.min(...bars.filter((bar) => bar.iteration === number).map((bar) => bar.start)));
      if (x < frame.left - 0.5 || x > frame.right) continue;
      frame.svg.append(element("line", {class: "cursor", x1: x, x2: x, y1: 16, y2: frame.bottom, opacity: 0.6}));
      if (x - labelled > 34) {
        frame.svg.append(element("text", {x: Math.min(x + 2, frame.right - 20), y: 12}, `${labelled < 0 ? "iteration " : ""}${number}`));
        labelled = labelled < 0 ? x + 52 : x;
      }
    }
  }

  controls.earlier.addEventListener("click", () => load(state.start - state.size));
  controls.later.addEventListener("click", () => load(state.start + state.size));
  controls.start.addEventListener("change", () => load(Number(controls.start.value) || source.first));
  controls.size.addEventListener("change", () => { state.size = Number(controls.size.value); load(state.start); });
  controls.whole.addEventListener("click", () => { state.zoom = null; draw(); });
  keepDrawn(host, draw);
  load(Infinity);
  let last = source.last;
  return () => {
    const following = state.start >= last - state.size + 1;
    last = source.last;
    if (following && state.zoom === null) load(Infinity);
  };
}
