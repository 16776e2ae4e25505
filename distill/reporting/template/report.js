"use strict";

/** Functions that draw a chart or the viewer again when the page's width changes. */
const REDRAWN = [];

function build(content) {
  const single = content.runs.length === 1;
  const parts = [heading(content)];
  if (!single) parts.push(...comparison(content));
  parts.push(h("div", { class: "callouts" }, content.runs.map((run) => remarks(run, !single))));
  if (content.pictures.length) {
    const { element, redraw } = viewer(content);
    REDRAWN.push(redraw);
    parts.push(section("See for yourself", "Drag the divider across the picture, or use the slider below it. The square is what is magnified.", element));
  } else if (content.pictureNotes.length) {
    parts.push(section("See for yourself", null, content.pictureNotes.map((note) => h("p", {}, note))));
  }
  if (single) {
    const run = content.runs[0];
    parts.push(...scoreSections(run), gainSection(run), followedSection(run));
  }
  parts.push(trainingCharts(content.runs), ...content.runs.map((run) => setup(run, !single)));
  parts.push(h("footer", {}, `Written ${content.created} by ${content.project}, python -m distill.report. This file fetches nothing.`));
  return parts.filter((part) => part !== null);
}

const content = JSON.parse(document.getElementById("content").textContent);
document.title = `${content.title}: training report`;
document.getElementById("report").append(...build(content));

let drawnAt = 0;
function redraw() {
  if (window.innerWidth === drawnAt) return;
  drawnAt = window.innerWidth;
  REDRAWN.forEach((draw) => draw());
}
redraw();
window.addEventListener("resize", redraw);
