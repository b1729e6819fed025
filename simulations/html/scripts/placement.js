"use strict";
// Chapter: the same pods placed three ways.
function placementChapter(data) {
  const label = (share) => share.pod;
  const shares = data.shares.map(([node, card, model, mib, start, pod]) => ({ node, card, model, mark: model, mib, start, end: null, pod }));
  const whole = data.whole_shares.map(([node, card, model, mib, start, pod]) => ({ node, card, model, mark: model, mib, start, end: null, pod }));
  const place = document.getElementById("placement-fleet");
  const columns = html("div", "columns", place);
  const left = html("div", "", columns);
  const leftTitle = html("h3", "", left);
  const drawShares = fleetMap(left, data.nodes, shares, { label });
  const right = html("div", "", columns);
  const rightTitle = html("h3", "", right);
  const drawWhole = fleetMap(right, data.nodes, whole, { label, whole: true });
  const draw = (time) => {
    const placed = (list) => new Set(list.filter((share) => share.start <= time).map((share) => share.pod)).size;
    leftTitle.textContent = `Headroom: ${placed(shares)} replicas on ${drawShares(time)} cards`;
    rightTitle.textContent = `Whole cards: ${placed(whole)} replicas on ${drawWhole(time)} cards`;
    return ago(time, data.last);
  };
  const set = timeSlider(document.getElementById("placement-slider"), data.last, 1, draw);
  set(data.last);
  const fills = ["var(--accent)", "var(--other)", "var(--faint)", "var(--soft)"];
  barRows(document.getElementById("placement-running"), data.methods.map((method, index) => ({
    name: method.name, value: method.running, fill: fills[index],
    text: `${method.running} of ${method.pods} replicas run`,
  })));
  barRows(document.getElementById("placement-needed"), data.methods.map((method, index) => ({
    name: method.name, value: method.cards_needed, fill: fills[index], text: method.cards_text,
  })));
}

function legend(target) {
  const entries = target.dataset.legend === "story"
    ? DATA.story.services.map((service, index) => ({ ...service, mark: index }))
    : DATA.placement.models.map((model) => ({ name: DATA.models[model], model, mark: model }));
  for (const { name, model, shade, mark } of entries) {
    const entry = html("span", "", target);
    const key = html("i", "key", entry, letter(mark));
    key.style.background = colour(model, shade);
    entry.append(name);
  }
}
