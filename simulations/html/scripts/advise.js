"use strict";
// Two maps of one fleet: today, and the same pods placed by memory.
{
  const label = (share) => share.pod;
  const shares = (rows) => rows.map(([node, card, model, mib, pod]) => ({ node, card, model, mark: model, mib, start: 0, end: null, pod }));
  const key = document.getElementById("advise-legend");
  DATA.owners.forEach((owner, index) => {
    const entry = html("span", "", key);
    html("i", "key", entry, letter(index)).style.background = colour(index);
    entry.append(owner);
  });
  const whole = new Set(DATA.whole.map(([node, card]) => `${node}/${card}`));
  fleetMap(document.getElementById("advise-now"), DATA.nodes, shares(DATA.now), { label, whole: (box) => whole.has(`${box.index}/${box.card}`) })(0);
  fleetMap(document.getElementById("advise-then"), DATA.nodes, shares(DATA.then), { label })(0);
}
