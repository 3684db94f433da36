/* What the pods did: only the bars of the chosen iterations are drawn. */

/* Activities that are what a phase is about have its colour; the others have colours of their own. */
const ACTIVITY_PHASES = {
  warm_up: "Warmup", generate: "Rollout", rollout: "Rollout", release: "Draining", train: "Training", publish: "Publishing",
  update: "Loading",
};
const OTHER_COLOURS = [3, 5, 6, 4, 7];

function activityColours(names) {
  const found = {};
  let others = 0;
  for (const name of names) {
    const phase = contents.phases.names.includes(name) ? name : ACTIVITY_PHASES[name];
    found[name] = phase ? `var(--${phase})` : colour(OTHER_COLOURS[others++ % OTHER_COLOURS.length]);
  }
  return found;
}

function ganttChart(host, timeline, controls) {
  const numbers = [...new Set(timeline.bars.map((bar) => bar.iteration))].sort((a, b) => a - b);
  if (!numbers.length) {
    host.append(html("p", "muted", "No activities are recorded."));
    return;
  }
  const first = numbers[0], last = numbers[numbers.length - 1];
  const colours = activityColours(timeline.names);
  const tip = tooltip(host);
  const state = {start: first, size: 10, zoom: null};

  function show(start) {
    state.start = Math.max(first, Math.min(start, last - state.size + 1));
    state.zoom = null;
    draw();
  }

  function draw() {
    const inside = timeline.bars.filter((bar) => bar.iteration >= state.start && bar.iteration < state.start + state.size);
    controls.start.value = state.start;
    controls.start.min = first;
    controls.start.max = last;
    controls.whole.hidden = state.zoom === null;
    const begin = Math.min(...inside.map((bar) => bar.start)), finish = Math.max(...inside.map((bar) => bar.end));
    const [low, high] = state.zoom || [begin, finish];
    drawLegend(host, timeline.names.filter((name) => inside.some((bar) => bar.name === name))
      .map((name) => ({label: name, colour: colours[name]})));
    drawBars(inside, begin, low, high);
  }

  /* The y of each lane: a pod's name stands above its lanes. */
  function layOut() {
    let y = 22;
    const places = timeline.lanes.map((lane, index) => {
      const head = index === 0 || timeline.lanes[index - 1].pod !== lane.pod;
      if (head) y += index ? 26 : 18;
      const place = {y, head, pod: lane.pod};
      y += 18;
      return place;
    });
    return {places, height: y + 26};
  }

  function drawBars(inside, begin, low, high) {
    const {places, height} = layOut();
    const frame = area(host, height, {left: 4, right: 6, top: 20, bottom: 22});
    const placeX = scale(low, high, frame.left, frame.right);
    for (const place of places) {
      if (place.head) frame.svg.append(element("text", {class: "pod", x: frame.left, y: place.y - 5}, place.pod));
      frame.svg.append(element("rect", {x: frame.left, y: place.y, width: frame.right - frame.left, height: 15, fill: "var(--ground)"}));
    }
    drawBorders(frame, inside, placeX);
    for (const bar of inside) {
      if (bar.end < low || bar.start > high) continue;
      const x1 = Math.max(frame.left, placeX(bar.start)), x2 = Math.min(frame.right, placeX(bar.end));
      const box = element("rect", {x: x1, y: places[bar.lane].y, width: Math.max(1.5, x2 - x1), height: 15, rx: 2, fill: colours[bar.name]});
      box.bar = bar;
      frame.svg.append(box);
    }
    drawAxisX(frame, low - begin, high - begin, (value) => placeX(value + begin), (value) => `${formatNumber(value)} s`);
    watchPointer(frame, {
      move(event) {
        const bar = event.target.bar;
        if (!bar) { tip.hide(); return; }
        tip.show(event, bar.name, [{text: timeline.lanes[bar.lane].pod}, {text: `iteration ${bar.iteration}`},
          {text: `${formatSeconds(bar.end - bar.start)}, from ${formatSeconds(bar.start - begin)} on`}]);
      },
      leave() { tip.hide(); },
      select(x1, x2) { state.zoom = [placeX.inverse(x1), placeX.inverse(x2)]; draw(); },
      reset() { state.zoom = null; draw(); },
    });
  }

  function drawBorders(frame, inside, placeX) {
    let labelled = -Infinity;
    for (const number of numbers.filter((number) => number >= state.start && number < state.start + state.size)) {
      const x = placeX(Math.min(...inside.filter((bar) => bar.iteration === number).map((bar) => bar.start)));
      if (x < frame.left - 0.5 || x > frame.right) continue;
      frame.svg.append(element("line", {class: "cursor", x1: x, x2: x, y1: 16, y2: frame.bottom, opacity: 0.6}));
      if (x - labelled > 34) {
        frame.svg.append(element("text", {x: Math.min(x + 2, frame.right - 20), y: 12}, `${labelled < 0 ? "iteration " : ""}${number}`));
        labelled = labelled < 0 ? x + 52 : x;
      }
    }
  }

  controls.earlier.addEventListener("click", () => show(state.start - state.size));
  controls.later.addEventListener("click", () => show(state.start + state.size));
  controls.start.addEventListener("change", () => show(Number(controls.start.value) || first));
  controls.size.addEventListener("change", () => { state.size = Number(controls.size.value); show(state.start); });
  controls.whole.addEventListener("click", () => { state.zoom = null; draw(); });
  if (timeline.leftOut) host.append(html("p", "muted", `Left out: ${timeline.leftOut}.`));
  charts.push(draw);
  state.start = Math.max(first, last - state.size + 1);
}
