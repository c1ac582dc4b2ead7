// What the other scripts share: the data of the page, elements, colours.

const $ = (id) => document.getElementById(id);
const DATA = JSON.parse($("data").textContent);

/** Make an element. Texts are set as texts, so names out of a model are never markup. */
function make(tag, attributes = {}, ...children) {
  const found = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") found.addEventListener("click", value);
    else if (value !== null && value !== false) found.setAttribute(name, value === true ? "" : value);
  }
  found.append(...children.filter((c) => c !== null && c !== undefined));
  return found;
}

/** Tell a screen reader. */
function say(text) {
  $("said").textContent = text;
}

/** A number with four digits that count. */
function short(x) {
  return x === null || x === undefined ? "–" : String(Number(Number(x).toPrecision(4))).replace("-", "−");
}

const dark = window.matchMedia("(prefers-color-scheme: dark)");
let printing = false;

/** Colours of charts: text, lines, paper, and series that differ in lightness too. */
function palette() {
  return dark.matches && !printing
    ? { ink: "#e7ecf3", soft: "#a3afbf", line: "#333d4b", paper: "#171c24", series: ["#8fb4ff", "#ffb454", "#9fd8a4", "#ff8f8f", "#c9a6ff", "#a3afbf"] }
    : { ink: "#1b2230", soft: "#55606f", line: "#d5dbe3", paper: "#ffffff", series: ["#1f4fbf", "#c25a00", "#17804a", "#b3261e", "#7b3fb5", "#55606f"] };
}
