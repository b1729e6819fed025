"use strict";
// Chapter: services under load, on Headroom and on whole cards.
function storyChapter(data) {
  const [ours, theirs] = data.sides;
  const strokes = ["var(--accent)", "var(--other)", "var(--faint)"];
  const totals = document.getElementById("story-totals");
  const charts = html("div", "charts", totals);
  const sides = (pick, options) => data.sides.map((side, index) => ({
    name: side.name, values: pick(side), stroke: strokes[index], width: index === 0 ? 2.4 : 1.6, ...options,
  }));
  lineChart(charts, "Requests per second, all services", data.times, [{ name: "requests per second", values: data.demand, stroke: "var(--text)", fill: "var(--card)" }], {});
  lineChart(charts, "Cards held", data.times, sides((side) => side.cards, { step: true }), {});
  lineChart(charts, "Requests waiting, all services", data.times, sides((side) => side.queue), {});

  const fleets = html("div", "columns", document.getElementById("story-fleet"));
  const draws = [ours, theirs].map((side, index) => {
    const panel = html("div", "", fleets);
    const title = html("h3", "", panel);
    const shares = side.shares.map(([node, card, mark, mib, start, ready, end, pod]) => ({
      node, card, mark, model: data.services[mark].model, shade: data.services[mark].shade, mib, start, ready, end, pod,
    }));
    const draw = fleetMap(panel, data.nodes, shares, { label: (share) => share.pod, whole: index === 1, large: true });
    return (time) => { title.textContent = `${side.name}: ${draw(time)} cards held`; };
  });
  const set = timeSlider(document.getElementById("story-slider"), data.last, data.times[1] - data.times[0], (time) => {
    for (const draw of draws) draw(time);
    return ago(time, data.last);
  });
  set(data.opening);

  const list = document.getElementById("story-services");
  const wide = window.matchMedia("(min-width: 901px)").matches;
  data.services.forEach((service, index) => {
    const own = colour(service.model, service.shade);
    const block = html("details", "model", list);
    block.open = wide; // on a small screen forty-eight charts would be one long column
    const head = html("summary", "", block);
    html("i", "key", head, letter(index)).style.background = own;
    html("b", "", head, service.name);
    html("small", "", head, `${service.what}. ${service.promise}`);
    html("small", "met", head, `met: ${service.met[0]} on Headroom, ${service.met[1]} with the HPA`);
    const row = html("div", "charts four", block);
    const two = (pick, options) => [ours, theirs].map((side, at) => ({
      name: side.name, values: pick(side.services[index]), stroke: at === 0 ? own : "var(--faint)", width: at === 0 ? 2.2 : 1.5, ...options,
    })).reverse();
    lineChart(row, "Demand, requests a second", data.times, [{ name: "demand", values: service.demand, stroke: "var(--soft)", fill: "var(--card)", width: 1.2 }], {});
    lineChart(row, "Replicas ready", data.times, two((side) => side.ready, { step: true }), {});
    lineChart(row, "Requests waiting", data.times, two((side) => side.queue), {});
    lineChart(row, "Time to first token, p95, seconds", data.times, two((side) => side.ttft), {
      limit: { value: service.ttft, name: "objective" }, cap: service.ttft * 3, unit: " s",
    });
  });
}
