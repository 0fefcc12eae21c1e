"use strict";
const plots = JSON.parse(document.getElementById("plots").textContent);
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;
const toggle = document.getElementById("theme");
const chooser = document.getElementById("group");

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches;
}

function themed(layout) {
  const text = getComputedStyle(document.body).color;
  const page = getComputedStyle(document.body).backgroundColor;
  const line = getComputedStyle(document.querySelector("section")).borderTopColor;
  const found = structuredClone(layout);
  found.font = { ...found.font, color: text };
  found.hoverlabel = { bgcolor: page, bordercolor: text, font: { color: text } };
  for (const key of Object.keys(found).filter((name) => /^[xy]axis\d*$/.test(name))) {
    Object.assign(found[key], { gridcolor: line, zerolinecolor: text, linecolor: text, tickcolor: text });
  }
  return found;
}

function draw(element) {
  const { data, layout } = plots[element.dataset.plot];
  Plotly.react(element, data, themed(layout), { responsive: true, displayModeBar: false });
}

function drawAll() {
  toggle.setAttribute("aria-pressed", String(isDark()));
  document.querySelectorAll(".plot").forEach(draw);
}

function chooseGroup() {
  const option = chooser.selectedOptions[0];
  const element = document.getElementById("masks");
  element.dataset.plot = option.value;
  element.setAttribute("aria-label", `${option.textContent}. ${option.dataset.sentence}`);
  document.getElementById("masks-sentence").textContent = option.dataset.sentence;
  document.querySelectorAll("[data-of]").forEach((part) => { part.hidden = part.dataset.of !== option.value; });
  draw(element);
}

toggle.hidden = false;
toggle.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  drawAll();
});
prefersDark.addEventListener("change", drawAll);
drawAll();
if (chooser) {
  chooser.addEventListener("change", chooseGroup);
  chooseGroup();
}
