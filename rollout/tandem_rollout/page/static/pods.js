/* What the pods did, which versions their engines served, and how the engines are. */

const pods = {window: null, first: 0, last: 0, refresh: null, asked: 0};

/* Bars of the versions an engine served, in the part of the timeline that is visible. */
function versionChart(host) {
  const tip = tooltip(host);
  return (versions, low, high, begin) => {
    host.querySelector("p")?.remove();
    if (!versions.pods.length) {
      host.querySelector("svg")?.remove();
      host.append(html("p", "muted", "No engine was seen to serve in this time."));
      return;
    }
    const newest = Math.max(...versions.bars.map((bar) => bar.version));
    const frame = area(host, versions.pods.length * 38 + 28, {left: 4, right: 6, top: 4, bottom: 22});
    const placeX = scale(low, high, frame.left, frame.right);
    versions.pods.forEach((pod, lane) => {
      frame.svg.append(element("text", {class: "pod", x: frame.left, y: lane * 38 + 13}, pod));
      frame.svg.append(element("rect", {x: frame.left, y: lane * 38 + 18, width: frame.right - frame.left, height: BAR, fill: "var(--ground)"}));
    });
    for (const bar of versions.bars) {
      if (bar.end < low || bar.start > high) continue;
      const x1 = Math.max(frame.left, placeX(bar.start)), x2 = Math.min(frame.right, placeX(bar.end)), y = bar.lane * 38 + 18;
      const box = element("rect", {x: x1, y, width: Math.max(1.5, x2 - x1), height: BAR, rx: 2, class: `version v${bar.version % COLOURS}`});
      box.bar = bar;
      frame.svg.append(box);
      const label = String(bar.version);
      if (x2 - x1 > 8 * label.length + 6) frame.svg.append(element("text", {class: "inside", x: (x1 + x2) / 2, y: y + 11.5}, label));
    }
    drawAxisX(frame, low - begin, high - begin, (value) => placeX(value + begin), (value) => `${formatNumber(value)} s`);
    watchPointer(frame, {
      move(event) {
        const bar = event.target.bar;
        if (!bar) { tip.hide(); return; }
        tip.show(event, `version ${bar.version}`, [{text: versions.pods[bar.lane]},
          {text: `${formatSeconds(bar.end - bar.start)}, from ${formatSeconds(Math.max(0, bar.start - begin))} on`},
          {text: bar.version === newest ? "the newest here" : `${newest - bar.version} before the newest here`}]);
      },
      leave() { tip.hide(); },
      select() {},
      reset() {},
    });
  };
}

function timelineRows(timeline) {
  const begin = Math.min(...timeline.bars.map((bar) => bar.start));
  return timeline.bars.map((bar) => {
    const made = html("tr"), head = html("th", "", timeline.lanes[bar.lane].pod);
    head.scope = "row";
    const cells = [bar.name, bar.iteration, formatSeconds(bar.start - begin), formatNumber(bar.end - bar.start)];
    made.append(head, ...cells.map((cell) => html("td", "", String(cell))));
    return made;
  });
}

function fillTimelineRows() {
  const shown = byId("gantt-details").open && pods.window;
  byId("gantt-rows").replaceChildren(...(shown ? timelineRows(pods.window.timeline) : []));
}

function fetchWindow(start, size, show) {
  const number = ++pods.asked;
  ask("timeline", {first: Math.max(0, start), last: Math.max(0, start) + size - 1}).then((found) => {
    if (number !== pods.asked) return;  // another window was asked for meanwhile
    pods.window = found;
    show(found.timeline);
    fillTimelineRows();
    tellProblem(null);
  }).catch((error) => tellProblem(error));
}

function showEngines(overview) {
  byId("engine-rows").replaceChildren(...overview.engines.map(engineRow));
  byId("no-engines").hidden = overview.engines.length > 0;
  byId("no-engines").textContent = overview.live ? "No engine is there." : "The job is not running.";
}

function engineRow(engine) {
  const made = html("tr"), head = html("th", "", engine.pod);
  head.scope = "row";
  head.append(html("span", "muted", ` ${engine.kind}`));
  if (engine.problem) head.append(html("div", "wrong", engine.problem));
  const state = html("td");
  state.append(html("span", `badge ${engine.state}`, engine.state));
  const behind = html("td", engine.behind > 1 ? "wrong" : "", engine.version < 0 ? "–" : String(engine.behind));
  made.append(head, state, html("td", "", engine.version < 0 ? "–" : String(engine.version)), behind, html("td", "", String(engine.restarts)));
  return made;
}

/* Shows the newest iterations, if that is what was shown before. */
function loadPods(overview) {
  Object.assign(pods, {first: overview.first_iteration, last: overview.last_iteration});
  if (pods.refresh) { pods.refresh(); return; }
  const draw = versionChart(byId("versions"));
  pods.refresh = ganttChart(byId("gantt"), {
    start: byId("window-start"), size: byId("window-size"), earlier: byId("earlier"), later: byId("later"), whole: byId("whole"),
  }, {
    get first() { return pods.first; },
    get last() { return pods.last; },
    load: fetchWindow,
  }, (low, high, begin) => draw(pods.window.versions, low, high, begin));
  byId("gantt-details").addEventListener("toggle", fillTimelineRows);
}
