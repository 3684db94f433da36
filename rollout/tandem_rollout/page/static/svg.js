"use strict";
/* What all charts share: elements, axes, numbers, the tooltip. */

const COLOURS = 8;
const charts = [];

/* Draws the chart in `host` now if it is visible, and again with all others; it takes the place of an earlier one. */
function keepDrawn(host, draw) {
  const place = charts.findIndex((chart) => chart.host === host);
  charts.splice(place < 0 ? charts.length : place, 1, {host, draw});
  if (host.offsetParent) draw();
}

/* Draws all charts that are visible, and forgets those that are gone. */
function drawAll() {
  charts.splice(0, charts.length, ...charts.filter((chart) => chart.host.isConnected));
  for (const chart of charts) if (chart.host.offsetParent) chart.draw();
}

let redraw;
addEventListener("resize", () => { clearTimeout(redraw); redraw = setTimeout(drawAll, 120); });

function element(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (text !== undefined) made.textContent = text;
  return made;
}

function html(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function colour(index) { return `var(--c${index % COLOURS})`; }

/* Round steps between low and high, about `count` of them. */
function ticks(low, high, count, whole) {
  const span = high - low || Math.abs(high) || 1;
  const power = 10 ** Math.floor(Math.log10(span / count));
  let step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => span / size <= count) || 10 * power;
  if (whole) step = Math.max(1, Math.round(step));
  const found = [];
  for (let number = Math.ceil(low / step - 1e-9); number * step <= high + step * 1e-9; number++) found.push(number * step);
  return found;
}

function formatNumber(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e6 || size < 1e-3) return value.toExponential(Math.abs(value).toExponential().split("e")[0] % 1 ? 1 : 0);
  if (size >= 1000) return value.toLocaleString("en", {maximumFractionDigits: 0});
  return String(Number(value.toPrecision(3)));
}

function formatSeconds(value) {
  if (value < 0.0995) return `${Number((value * 1000).toPrecision(2))} ms`;
  if (value < 120) return `${Number(value.toPrecision(3))} s`;
  return `${Math.floor(value / 60)} min ${String(Math.round(value % 60)).padStart(2, "0")} s`;
}

/* A drawing area in `host` with margins; clears what was there. */
function area(host, height, margin) {
  const width = Math.max(240, host.clientWidth - paddingOf(host));
  const before = host.querySelector("svg"), focused = before !== null && before === document.activeElement;
  before?.remove();
  const label = host.querySelector("figcaption b")?.textContent ?? host.getAttribute("aria-label") ?? "";
  const svg = element("svg", {viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label, tabindex: 0});
  host.append(svg);
  if (focused) svg.focus();
  return {svg, width, height, left: margin.left, right: width - margin.right, top: margin.top, bottom: height - margin.bottom};
}

function paddingOf(host) {
  const style = getComputedStyle(host);
  return parseFloat(style.paddingLeft) + parseFloat(style.paddingRight);
}

function drawAxisY(frame, low, high, place, format) {
  for (const value of ticks(low, high, 4)) {
    frame.svg.append(element("line", {class: "rule", x1: frame.left, x2: frame.right, y1: place(value), y2: place(value)}));
    frame.svg.append(element("text", {x: frame.left - 6, y: place(value) + 4, "text-anchor": "end"}, format(value)));
  }
}

function drawAxisX(frame, low, high, place, format, whole) {
  for (const value of ticks(low, high, Math.max(3, Math.floor((frame.right - frame.left) / 80)), whole)) {
    const anchor = place(value) > frame.right - 14 ? "end" : place(value) < 16 ? "start" : "middle";
    frame.svg.append(element("text", {x: place(value), y: frame.bottom + 15, "text-anchor": anchor}, format(value)));
  }
}

/* The host's tooltip: show(place, title, rows) beside the place {clientX, clientY}, and hide(). */
function tooltip(host) {
  const box = html("div", "tip");
  box.hidden = true;
  box.setAttribute("role", "status");
  host.append(box);
  return {
    hide() { box.hidden = true; },
    show(place, title, rows) {
      box.replaceChildren(html("b", "", title), ...rows.map((row) => {
        const line = html("div");
        if (row.colour) {
          const swatch = html("i", "swatch");
          swatch.style.background = row.colour;
          line.append(swatch);
        }
        line.append(row.text);
        return line;
      }));
      box.hidden = false;
      const bounds = host.getBoundingClientRect();
      const x = place.clientX - bounds.left, y = place.clientY - bounds.top;
      const beside = x + 16 + box.offsetWidth > bounds.width ? x - 16 - box.offsetWidth : x + 16;
      box.style.left = `${Math.max(0, beside)}px`;
      box.style.top = `${Math.max(0, y - box.offsetHeight / 2)}px`;
    },
  };
}

function drawLegend(host, entries) {
  host.querySelector(".legend")?.remove();
  const legend = html("div", "legend");
  for (const entry of entries) {
    const item = html("span", "", entry.label);
    const swatch = html("i", "swatch");
    swatch.style.background = entry.colour;
    if (entry.faint) swatch.style.opacity = 0.4;
    item.prepend(swatch);
    legend.append(item);
  }
  host.append(legend);
}

/* Calls move(event, x) as the pointer moves, leave(), and select(x1, x2) after a drag with the mouse; x in the drawing.
   With the keyboard: step(steps) for the arrows, and leave() and reset() for Escape. */
function watchPointer(frame, handlers) {
  const toX = (event) => {
    const bounds = frame.svg.getBoundingClientRect();
    const x = (event.clientX - bounds.left) * frame.width / bounds.width;
    return Math.min(frame.right, Math.max(frame.left, x));
  };
  let begin = null;
  const shade = element("rect", {class: "selection", y: frame.top, height: frame.bottom - frame.top, width: 0});
  frame.svg.append(shade);
  frame.svg.addEventListener("pointermove", (event) => {
    const x = toX(event);
    if (begin !== null) {
      shade.setAttribute("x", Math.min(begin, x));
      shade.setAttribute("width", Math.abs(x - begin));
    }
    handlers.move(event, x);
  });
  frame.svg.addEventListener("pointerleave", () => handlers.leave());
  frame.svg.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "mouse" || event.button !== 0) return;
    begin = toX(event);
    frame.svg.setPointerCapture(event.pointerId);
  });
  frame.svg.addEventListener("pointerup", (event) => {
    if (begin === null) return;
    const end = toX(event), start = begin;
    begin = null;
    shade.setAttribute("width", 0);
    if (Math.abs(end - start) > 6) handlers.select(Math.min(start, end), Math.max(start, end));
  });
  frame.svg.addEventListener("dblclick", () => handlers.reset());
  frame.svg.addEventListener("blur", () => handlers.leave());
  frame.svg.addEventListener("keydown", (event) => {
    const steps = {ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity}[event.key];
    if (steps !== undefined && handlers.step) handlers.step(steps);
    else if (event.key === "Escape") { handlers.leave(); handlers.reset(); } else return;
    event.preventDefault();
  });
}
