"use strict";
// What all parts of the report share: the data, SVG elements, tooltips, number formats.
const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes, parent) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
  if (parent) parent.appendChild(element);
  return element;
}

function html(name, className, parent, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  if (parent) parent.appendChild(element);
  return element;
}

// One colour for each model on the whole page; a second service of the same model has a paler shade of it.
const colour = (model, shade) => (shade ? `color-mix(in srgb, var(--m${model % 14}) 62%, var(--shade))` : `var(--m${model % 14})`);
const letter = (index) => String.fromCharCode(97 + (index % 26));
const gib = (mib) => `${(mib / 1024).toFixed(mib < 10240 ? 1 : 0)} GiB`;

const ago = (seconds, last) => (last < 600 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`);

const tip = html("div", "tip", document.body);
function showTip(event, text) {
  tip.textContent = text;
  tip.style.display = "block";
  const box = tip.getBoundingClientRect();
  const left = Math.min(event.clientX + 14, window.innerWidth - box.width - 8);
  const below = event.clientY + 16 + box.height < window.innerHeight;
  tip.style.left = `${Math.max(left, 8)}px`;
  tip.style.top = `${below ? event.clientY + 16 : event.clientY - box.height - 10}px`;
}
function hideTip() { tip.style.display = "none"; }
// A finger has no pointer that leaves: the next touch elsewhere ends the tip.
document.addEventListener("pointerdown", (event) => { if (!event.target.closest("svg")) hideTip(); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
window.addEventListener("scroll", hideTip, { passive: true });
// Where a tip of something without a pointer belongs.
function middleOf(element) {
  const box = element.getBoundingClientRect();
  return { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 };
}
