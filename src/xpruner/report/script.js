"use strict";
const plots = JSON.parse(document.getElementById("plots").textContent);
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;
const toggle = document.getElementById("theme");
const chooser = document.getElementById("group");
const figures = document.querySelectorAll(".plot");
const drawn = new Set(); // a figure is drawn when it comes near the view
const watcher = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
  { rootMargin: "50%" },
);

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

function reserve(element) {
  element.style.minHeight = `${plots[element.dataset.plot].layout.height}px`;
}

function draw(element) {
  watcher.unobserve(element);
  drawn.add(element);
  const { data, layout } = plots[element.dataset.plot];
  Plotly.react(element, data, themed(layout), { responsive: true, displayModeBar: false });
}

function recolour() {
  toggle.setAttribute("aria-pressed", String(isDark()));
  drawn.forEach(draw);
}

function chooseGroup() {
  const option = chooser.selectedOptions[0];
  const element = document.getElementById("masks");
  element.dataset.plot = option.value;
  element.setAttribute("aria-label", `${option.textContent}. ${option.dataset.sentence}`);
  document.getElementById("masks-sentence").textContent = option.dataset.sentence;
  document.querySelectorAll("[data-of]").forEach((part) => { part.hidden = part.dataset.of !== option.value; });
  reserve(element);
  if (drawn.has(element)) draw(element);
}

toggle.hidden = false;
toggle.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  recolour();
});
prefersDark.addEventListener("change", recolour);
addEventListener("beforeprint", () => figures.forEach(draw));
recolour();
figures.forEach((element) => {
  reserve(element);
  watcher.observe(element);
});
if (chooser) {
  chooser.addEventListener("change", chooseGroup);
  chooseGroup();
}
