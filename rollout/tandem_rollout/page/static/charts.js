/* Figures over the iterations. All share `view`: the iterations shown. */

const view = {from: 0, to: 0, whole: true};

function setView(from, to) {
  const first = contents.iterations[0] ?? 0, last = contents.iterations[contents.iterations.length - 1] ?? 1;
  view.from = Math.max(first, Math.floor(from));
  view.to = Math.min(last, Math.ceil(to));
  if (view.to - view.from < 2) view.to = Math.min(last, view.from + 2);
  view.whole = view.from <= first && view.to >= last;
  drawAll();
}

function resetView() { setView(-Infinity, Infinity); }

function caption(host, figure) {
  const made = html("figcaption");
  made.append(html("b", "", figure.title));
  if (figure.note) made.append(html("span", "", figure.note));
  host.append(made);
}

function scale(low, high, start, end) {
  const span = high - low || 1;
  const place = (value) => start + (value - low) / span * (end - start);
  place.inverse = (x) => low + (x - start) / (end - start) * span;
  return place;
}

/* Nearest index in the sorted list `values`. */
function nearest(values, wanted) {
  let low = 0, high = values.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (values[middle] > wanted) high = middle; else low = middle;
  }
  return Math.abs(values[low] - wanted) <= Math.abs(values[high] - wanted) ? low : high;
}

function path(xs, values, placeX, placeY, from, to) {
  let text = "", drawing = false;
  for (let i = from; i <= to; i++) {
    if (values[i] === null || values[i] === undefined) { drawing = false; continue; }
    text += `${drawing ? "L" : "M"}${placeX(xs[i]).toFixed(1)} ${placeY(values[i]).toFixed(1)}`;
    drawing = true;
  }
  return text;
}

/* Low and high of what is shown, with room around it; from zero where zero is near. */
function rangeOf(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value === null || value === undefined) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low > high) return [0, 1];
  if (low >= 0 && low < high * 0.3) low = 0;
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [low === 0 ? 0 : low - room, high + room];
}

function lineChart(host, figure, height) {
  caption(host, figure);
  const xs = contents.iterations;
  const main = figure.lines.findIndex((line) => !line.faint);
  const colourOf = (index) => figure.lines[index].faint ? colour(main >= 0 ? index : 0) : colour(index > 0 && figure.lines[index - 1].faint ? index - 1 : index);
  const points = figure.points;
  const entries = figure.lines.map((line, index) => ({label: line.label, colour: colourOf(index), faint: line.faint}));
  if (points) entries.push({label: points.label, colour: colour(2)});
  if (entries.length > 1) drawLegend(host, entries);
  const tip = tooltip(host);

  function draw() {
    const from = nearest(xs, view.from), to = nearest(xs, view.to);
    const shownPoints = points ? points.iterations.map((x, i) => [x, points.values[i]])
      .filter(([x]) => (x >= view.from || view.whole) && x <= view.to) : [];
    const low = Math.min(xs[from] ?? 0, ...shownPoints.map(([x]) => x)), high = xs[to] ?? 1;
    const values = figure.lines.flatMap((line) => line.values.slice(from, to + 1)).concat(shownPoints.map(([, y]) => y));
    const [bottom, top] = rangeOf(values);
    const frame = area(host, height, {left: 46, right: 10, top: 8, bottom: 22});
    const placeX = scale(low, high, frame.left, frame.right), placeY = scale(bottom, top, frame.bottom, frame.top);
    drawAxisY(frame, bottom, top, placeY, formatNumber);
    drawAxisX(frame, low, high, placeX, (value) => String(value), true);
    figure.lines.forEach((line, index) => {
      const style = {fill: "none", stroke: colourOf(index), "stroke-width": line.faint ? 1 : 1.9,
        opacity: line.faint ? 0.4 : 1, "stroke-linejoin": "round", "stroke-linecap": "round"};
      frame.svg.append(element("path", {d: path(xs, line.values, placeX, placeY, from, to), ...style}));
    });
    if (shownPoints.length) {
      const line = shownPoints.map(([x, y], i) => `${i ? "L" : "M"}${placeX(x)} ${placeY(y)}`).join("");
      frame.svg.append(element("path", {d: line, fill: "none", stroke: colour(2), "stroke-width": 1, "stroke-dasharray": "2 4"}));
    }
    for (const [x, y] of shownPoints) {
      frame.svg.append(element("circle", {cx: placeX(x), cy: placeY(y), r: 4.2, fill: colour(2), stroke: "var(--panel)", "stroke-width": 1.5}));
    }
    const cursor = element("line", {class: "cursor", y1: frame.top, y2: frame.bottom, visibility: "hidden"});
    frame.svg.append(cursor);
    let shown = to;
    function show(index, place) {
      shown = index;
      cursor.setAttribute("x1", placeX(xs[index]));
      cursor.setAttribute("x2", placeX(xs[index]));
      cursor.setAttribute("visibility", "visible");
      const rows = figure.lines.map((line, number) => [line.label, line.values[index], colourOf(number)]);
      if (points && points.iterations.includes(xs[index])) {
        rows.push([points.label, points.values[points.iterations.indexOf(xs[index])], colour(2)]);
      }
      tip.show(place, `iteration ${xs[index]}`, rows.filter((row) => row[1] !== null && row[1] !== undefined)
        .map((row) => ({text: `${row[0]} ${formatNumber(row[1])}`, colour: row[2]})));
    }
    watchPointer(frame, {
      move(event, x) {
        if (xs.length) show(Math.min(to, Math.max(from, nearest(xs, placeX.inverse(x)))), event);
      },
      step(steps) {
        if (!xs.length) return;
        const index = Math.min(to, Math.max(from, shown + steps)), bounds = frame.svg.getBoundingClientRect();
        const clientX = bounds.left + placeX(xs[index]) * bounds.width / frame.width;
        show(index, {clientX, clientY: bounds.top + bounds.height / 2});
      },
      leave() { tip.hide(); cursor.setAttribute("visibility", "hidden"); },
      select(x1, x2) { setView(placeX.inverse(x1), placeX.inverse(x2)); },
      reset: resetView,
    });
  }
  keepDrawn(host, draw);
}

/* Seconds of each phase, stacked; neighbouring iterations are averaged where there are more than the width has room for. */
function phaseChart(host, phases) {
  caption(host, {title: "Seconds by phase", note: "Of each iteration, stacked."});
  drawLegend(host, phases.names.map((name) => ({label: name, colour: `var(--${name})`})));
  const tip = tooltip(host);
  const xs = phases.iterations;

  function draw() {
    const from = nearest(xs, view.from), to = nearest(xs, view.to);
    const frame = area(host, 240, {left: 46, right: 10, top: 8, bottom: 22});
    const size = Math.max(1, Math.ceil((to - from + 1) / ((frame.right - frame.left) / 3)));
    const bins = [];
    for (let i = from; i <= to; i += size) {
      const end = Math.min(to, i + size - 1);
      const means = phases.seconds.map((values) => {
        let sum = 0;
        for (let k = i; k <= end; k++) sum += values[k] || 0;
        return sum / (end - i + 1);
      });
      bins.push({first: xs[i], last: xs[end], means, total: means.reduce((sum, value) => sum + value, 0)});
    }
    const top = Math.max(...bins.map((bin) => bin.total), 1e-9) * 1.04;
    const placeY = scale(0, top, frame.bottom, frame.top);
    const step = (frame.right - frame.left) / Math.max(1, bins.length);
    const placeX = scale(xs[from] ?? 0, (xs[to] ?? 1) + 1, frame.left, frame.right);
    drawAxisY(frame, 0, top, placeY, (value) => `${formatNumber(value)} s`);
    drawAxisX(frame, xs[from] ?? 0, xs[to] ?? 1, (value) => placeX(value) + step / size / 2, String, true);
    const paths = phases.names.map(() => "");
    bins.forEach((bin, number) => {
      const left = (frame.left + number * step).toFixed(2), width = Math.max(0.6, step > 5 ? step - 1 : step).toFixed(2);
      let base = 0;
      bin.means.forEach((value, index) => {
        if (value > 0) paths[index] += `M${left} ${placeY(base).toFixed(1)}h${width}V${placeY(base + value).toFixed(1)}h-${width}z`;
        base += value;
      });
    });
    paths.forEach((d, index) => frame.svg.append(element("path", {d, fill: `var(--${phases.names[index]})`})));
    watchPointer(frame, {
      move(event, x) {
        const bin = bins[Math.min(bins.length - 1, Math.floor((x - frame.left) / step))];
        if (!bin) return;
        const title = bin.first === bin.last ? `iteration ${bin.first}` : `iterations ${bin.first} to ${bin.last}, mean`;
        const rows = phases.names.map((name, index) => ({text: `${name} ${formatSeconds(bin.means[index])}`, colour: `var(--${name})`}));
        tip.show(event, `${title}: ${formatSeconds(bin.total)}`, rows);
      },
      leave() { tip.hide(); },
      select(x1, x2) { setView(placeX.inverse(x1), placeX.inverse(x2)); },
      reset: resetView,
    });
  }
  keepDrawn(host, draw);
}
