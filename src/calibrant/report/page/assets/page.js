// Tables that sort and unfold, links to cards, and print.

function rowOf(cells, layers) {
  return make("tr", {}, ...cells.map((cell, i) => {
    if (i) return make("td", {}, cell);
    return make("th", { scope: "row" }, layers ? make("button", { type: "button", class: "link", "data-layer": cell }, cell) : cell);
  }));
}

/** Show the rows that the page holds as data. */
function unfold(more) {
  const table = more.previousElementSibling.querySelector("table"), rest = more.nextElementSibling;
  if (!rest || !more.isConnected) return;
  const { rows } = JSON.parse(rest.textContent);
  table.tBodies[0].append(...rows.map((row) => rowOf(row, table.dataset.layers === "yes")));
  rest.remove();
  more.remove();
}

/** The number that a cell begins with, or its text. */
function valueOf(row, index) {
  const text = row.cells[index].textContent.trim().replace("−", "-").replace("≈ ", "").replace(/,(?=\d{3})/g, "");
  if (text === "exact") return Infinity;
  if (text === "–" || text === "") return -Infinity;
  const number = parseFloat(text);
  return Number.isNaN(number) || /^[/_a-z]/i.test(text) ? text : number;
}

function sortBy(head) {
  const table = head.closest("table"), index = head.cellIndex, up = head.getAttribute("aria-sort") !== "ascending";
  const more = table.parentElement.nextElementSibling;
  if (more && more.classList.contains("more")) unfold(more);
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row, index), row]);
  rows.sort(([a], [b]) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1) * (up ? 1 : -1));
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

document.addEventListener("click", (event) => {
  const target = event.target;
  if (!(target instanceof HTMLElement)) return;
  if (target.matches("button.sort")) sortBy(target.closest("th"));
  else if (target.matches("button.all")) unfold(target.closest(".more"));
  else if (target.dataset.layer !== undefined) openByName(target.dataset.layer);
});

/** In print nothing is folded away, and charts have the colours of paper. */
window.addEventListener("beforeprint", () => {
  printing = true;
  document.querySelectorAll("main > section > details").forEach((d) => { if (!d.open) { d.open = true; d.dataset.folded = "yes"; } });
  redraw(true);
  if (graph) arrange();
});
window.addEventListener("afterprint", () => {
  printing = false;
  document.querySelectorAll("details[data-folded]").forEach((d) => { d.open = false; delete d.dataset.folded; });
  redraw(false);
  if (graph) arrange();
});
