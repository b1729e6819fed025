"use strict";
// The fleet card by card at a moment: a card is a box, filled from the left by what its pods need, in the models' colours.
const SMALL = { width: 30, height: 17, gap: 3 };
const LARGE = { width: 40, height: 22, gap: 3 };

function fleetMap(target, nodes, shares, options) {
  const CARD = options.large ? LARGE : SMALL;
  const byCard = new Map();
  for (const share of shares) {
    const key = `${share.node}/${share.card}`;
    if (!byCard.has(key)) byCard.set(key, []);
    byCard.get(key).push(share);
  }
  const groups = new Map();
  nodes.forEach((node, index) => {
    if (!groups.has(node.type)) groups.set(node.type, []);
    groups.get(node.type).push([node, index]);
  });
  const root = html("div", "fleet", target);
  root.tabIndex = 0;
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "cards of the fleet; arrow keys go from card to card");
  const boxes = [];
  let at = -1;
  function look(step) {
    if (boxes[at]) boxes[at].frame.classList.remove("looked-at");
    at = Math.min(Math.max(at + step, 0), boxes.length - 1);
    boxes[at].frame.classList.add("looked-at");
    boxes[at].frame.scrollIntoView({ block: "nearest" });
    showTip(middleOf(boxes[at].frame), describe(boxes[at]));
  }
  root.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -8, ArrowDown: 8 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    look(step);
  });
  root.addEventListener("blur", () => { if (boxes[at]) boxes[at].frame.classList.remove("looked-at"); hideTip(); });
  for (const [type, members] of groups) {
    const group = html("div", "group", root);
    html("b", "", group, `${type}  (${gib(members[0][0].cards[0])} a card)`);
    const row = html("div", "nodes", group);
    for (const [node, index] of members) drawNode(row, node, index, boxes);
  }
  function drawNode(row, node, index, list) {
    const width = node.cards.length * (CARD.width + CARD.gap) + 5;
    const image = svg("svg", { width, height: CARD.height + 6, role: "img", "aria-label": node.name }, row);
    svg("rect", { x: 0.5, y: 0.5, width: width - 1, height: CARD.height + 5, rx: 4, fill: "none", stroke: "var(--line)" }, image);
    node.cards.forEach((usable, card) => {
      const x = 4 + card * (CARD.width + CARD.gap);
      const group = svg("g", { transform: `translate(${x},3)` }, image);
      svg("rect", { width: CARD.width, height: CARD.height, rx: 2.5, fill: "var(--card)" }, group);
      const fill = svg("g", {}, group);
      const frame = svg("rect", { width: CARD.width, height: CARD.height, rx: 2.5, fill: "transparent", stroke: "var(--card-line)" }, group);
      const box = { node, index, card, usable, fill, frame, shares: byCard.get(`${index}/${card}`) || [], now: [] };
      frame.addEventListener("pointermove", (event) => showTip(event, describe(box)));
      frame.addEventListener("pointerdown", (event) => { at = list.indexOf(box); showTip(event, describe(box)); });
      frame.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hideTip(); });
      list.push(box);
    });
  }
  // `whole` is true for a fleet whose cards are held whole, or says so of each card.
  function isWhole(box) { return typeof options.whole === "function" ? options.whole(box) : options.whole; }
  function describe(box) {
    const used = box.now.reduce((sum, share) => sum + share.mib, 0);
    const lines = box.now.map((share) => `${options.label(share)}: ${gib(share.mib)}`);
    const free = isWhole(box) && box.now.length ? "whole card held" : `${gib(Math.max(box.usable - used, 0))} free`;
    return [`${box.node.name}, card ${box.card}: ${free}`, ...lines].join("\n");
  }
  return function draw(time) {
    let inUse = 0;
    for (const box of boxes) {
      box.now = box.shares.filter((share) => share.start <= time && (share.end === null || share.end > time));
      inUse += box.now.length ? 1 : 0;
      box.fill.replaceChildren();
      let x = 0;
      for (const share of box.now) {
        const width = Math.max((CARD.width * share.mib) / box.usable, 1.5);
        const shown = Math.min(width, CARD.width - x);
        const starting = share.ready !== undefined && (share.ready === null || share.ready > time);
        if (shown > 0) {
          svg("rect", { x, y: 0, width: Math.max(shown - 0.6, 0.9), height: CARD.height, fill: colour(share.model, share.shade), opacity: starting ? 0.45 : 1 }, box.fill);
          if (shown >= 7) {
            const mark = svg("text", { x: x + Math.min(shown, CARD.width - x) / 2, y: CARD.height / 2 + 3.5, "text-anchor": "middle", class: "mark" }, box.fill);
            mark.textContent = letter(share.mark);
          }
        }
        x += width;
      }
      if (isWhole(box) && box.now.length && x < CARD.width) {
        svg("rect", { x, y: 0, width: CARD.width - x, height: CARD.height, fill: "url(#hatch)" }, box.fill);
      }
    }
    return inUse;
  };
}

function timeSlider(target, last, step, draw) {
  const row = html("div", "slider", target);
  const play = html("button", "", row, "Play");
  const input = html("input", "", row);
  input.type = "range"; input.min = 0; input.max = last; input.step = step;
  input.setAttribute("aria-label", "time");
  const output = html("output", "", row);
  let timer = null;
  function show() { output.textContent = draw(Number(input.value)); }
  function stop() { clearInterval(timer); timer = null; play.textContent = "Play"; }
  play.addEventListener("click", () => {
    if (timer) return stop();
    if (Number(input.value) >= last) input.value = 0;
    play.textContent = "Pause";
    timer = setInterval(() => {
      input.value = Number(input.value) + last / 200;
      show();
      if (Number(input.value) >= last) stop();
    }, 60);
  });
  input.addEventListener("input", () => { if (timer) stop(); show(); });
  return (time) => { input.value = time; show(); };
}
