"use strict";
// Line charts over time with a crosshair that reads all lines at once.
const FRAME = { width: 380, height: 132, left: 38, right: 8, top: 8, bottom: 20 };

function niceTop(value) {
  if (!(value > 0)) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  for (const step of [1, 1.5, 2, 3, 4, 5, 6, 8, 10]) if (step * unit >= value * 1.001) return step * unit;
  return 10 * unit;
}

function short(value) {
  if (value >= 1000) return `${(value / 1000).toFixed(value >= 10000 ? 0 : 1)}k`;
  return value >= 10 || Number.isInteger(value) ? String(Math.round(value)) : value.toFixed(value < 1 ? 2 : 1);
}

// series: [{name, values, stroke, dash?, fill?, step?, width?}]; limit: {value, name}
function lineChart(target, title, times, series, options) {
  const box = html("div", "chart", target);
  html("b", "", box, title);
  const PLOT = { ...FRAME, ...(target.classList.contains("four") ? { width: 290, height: 118 } : {}) };
  const image = svg("svg", { viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, role: "img", tabindex: 0, "aria-label": `${title}: arrow keys read the values` }, box);
  const last = times[times.length - 1];
  const highest = Math.max(...series.flatMap((line) => line.values.filter((value) => value !== null)), options.limit ? options.limit.value * 1.15 : 0);
  const top = niceTop(options.cap ? Math.min(highest, options.cap) : highest);
  const x = (time) => PLOT.left + ((PLOT.width - PLOT.left - PLOT.right) * time) / last;
  const y = (value) => PLOT.height - PLOT.bottom - (PLOT.height - PLOT.bottom - PLOT.top) * Math.min(value / top, 1.02);
  for (const share of [0, 0.5, 1]) {
    svg("line", { x1: PLOT.left, x2: PLOT.width - PLOT.right, y1: y(share * top), y2: y(share * top), stroke: "var(--line)" }, image);
    const label = svg("text", { x: PLOT.left - 6, y: y(share * top) + 4, "text-anchor": "end" }, image);
    label.textContent = short(share * top);
  }
  for (const share of PLOT.width < 300 ? [0, 0.5, 1] : [0, 0.25, 0.5, 0.75, 1]) {
    const anchor = share === 0 ? "start" : share === 1 ? "end" : "middle";
    svg("text", { x: x(share * last), y: PLOT.height - 5, "text-anchor": anchor }, image).textContent = share === 0 ? "0" : ago(share * last, last);
  }
  for (const line of series) drawLine(line);
  if (options.limit) {
    svg("line", { x1: PLOT.left, x2: PLOT.width - PLOT.right, y1: y(options.limit.value), y2: y(options.limit.value), stroke: "var(--bad)", "stroke-dasharray": "5 4" }, image);
  }
  function drawLine(line) {
    let path = "";
    let pen = false;
    line.values.forEach((value, index) => {
      if (value === null) { pen = false; return; }
      const at = `${x(times[index]).toFixed(1)} ${y(value).toFixed(1)}`;
      if (pen && line.step) path += `H${x(times[index]).toFixed(1)}V${y(value).toFixed(1)}`;
      else path += (pen ? "L" : "M") + at;
      pen = true;
    });
    if (line.fill) {
      svg("path", { d: `${path}L${x(last)} ${y(0)}L${x(times[0])} ${y(0)}Z`, fill: line.fill, stroke: "none" }, image);
    }
    svg("path", { d: path, fill: "none", stroke: line.stroke, "stroke-width": line.width || 1.8, "stroke-dasharray": line.dash || "none", "stroke-linejoin": "round" }, image);
  }
  const cross = svg("line", { y1: PLOT.top, y2: PLOT.height - PLOT.bottom, stroke: "var(--faint)", visibility: "hidden" }, image);
  let shown = 0;
  function read(index, event) {
    shown = index;
    cross.setAttribute("x1", x(times[index]));
    cross.setAttribute("x2", x(times[index]));
    cross.setAttribute("visibility", "visible");
    const lines = series.map((line) => `${line.name}: ${line.values[index] === null ? "none" : short(line.values[index])}${options.unit || ""}`);
    if (options.limit) lines.push(`${options.limit.name}: ${short(options.limit.value)}${options.unit || ""}`);
    showTip(event, [last < 600 ? `second ${Math.round(times[index])}` : `minute ${(times[index] / 60).toFixed(1)}`, ...lines].join("\n"));
  }
  function point(event) {
    const area = image.getBoundingClientRect();
    const at = ((event.clientX - area.left) / area.width) * PLOT.width;
    const time = ((at - PLOT.left) / (PLOT.width - PLOT.left - PLOT.right)) * last;
    if (time < 0 || time > last) return;
    let index = 0;
    while (index + 1 < times.length && times[index + 1] <= time) index += 1;
    read(index, event);
  }
  function leave() { hideTip(); cross.setAttribute("visibility", "hidden"); }
  image.addEventListener("pointermove", point);
  image.addEventListener("pointerdown", point);
  image.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") leave(); });
  image.addEventListener("blur", leave);
  image.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -times.length, End: times.length }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    read(Math.min(Math.max(shown + step, 0), times.length - 1), middleOf(cross));
  });
}

// rows: [{name, value, text, fill}]
function barRows(target, rows) {
  const most = Math.max(...rows.map((row) => row.value));
  for (const row of rows) {
    const line = html("div", "bar-row", target);
    html("div", "", line, row.name);
    const track = html("div", "track", line);
    const bar = html("div", "bar", track);
    bar.style.setProperty("--part", row.value / most);
    bar.style.background = row.fill;
    html("div", "", track, row.text);
  }
}
