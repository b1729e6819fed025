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

const colour = (model) => `var(--m${model % 12})`;
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
