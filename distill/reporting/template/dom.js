"use strict";

// The page is built from elements and text nodes only: a file name or a configuration value cannot become markup.
const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === false || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

const MISSING = "–";
const MINUS = "−";

/** A number with `digits` decimals and a real minus sign. */
function fixed(value, digits) {
  if (value === null || value === undefined) return MISSING;
  const text = value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return text.replace("-", MINUS);
}

/** As `fixed`, with a plus or minus sign. A number that rounds to zero has no sign. */
function signed(value, digits) {
  if (value === null || value === undefined) return MISSING;
  const rounded = Number(value.toFixed(digits));
  return (rounded > 0 ? "+" : "") + fixed(rounded === 0 ? 0 : rounded, digits);
}

/** A share in percent. A share that rounds to zero has no sign. */
function percent(share, digits) {
  if (share === null || share === undefined) return MISSING;
  const rounded = Number((100 * share).toFixed(digits));
  return `${fixed(rounded === 0 ? 0 : rounded, digits)} %`;
}

/** A number with three significant digits. */
function significant(value) {
  if (value === null || value === undefined) return MISSING;
  return value.toLocaleString("en-US", { minimumSignificantDigits: 3, maximumSignificantDigits: 3 }).replace("-", MINUS);
}

function compact(count) {
  if (count >= 1e6) return `${significant(count / 1e6)} M`;
  return count >= 1e3 ? `${significant(count / 1e3)} k` : String(count);
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** A table that scrolls on its own if it is wider than the page, also with the keyboard. */
function table(caption, head, rows, attributes = {}) {
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    h(
      "table",
      attributes,
      h("caption", { class: "unseen" }, caption),
      h("thead", {}, h("tr", {}, head.map((title) => h("th", { scope: "col" }, title)))),
      h(
        "tbody",
        {},
        rows.map((row) => h("tr", {}, row.map((value, place) => (place ? h("td", {}, value) : h("th", { scope: "row" }, value))))),
      ),
    ),
  );
}

let sections = 0;

function section(title, explanation, ...children) {
  sections += 1;
  const id = `section-${sections}`; // not the title: two may differ only in characters that no id can hold
  return h(
    "section",
    { "aria-labelledby": id },
    h("h2", { id }, title),
    explanation ? h("p", { class: "explanation" }, explanation) : null,
    children,
  );
}

function callout(kind, title, text) {
  return h("p", { class: `callout ${kind}` }, h("strong", {}, title), " ", text);
}

/** Radio buttons in one bar. `choose` is called with the chosen value. */
function bar(legend, name, options, chosen, choose) {
  return h(
    "fieldset",
    { class: "bar" },
    h("legend", {}, legend),
    options.map(([value, label]) =>
      h(
        "label",
        {},
        h("input", { type: "radio", name, value, checked: value === chosen, onchange: () => choose(value) }),
        h("span", {}, label),
      ),
    ),
  );
}
