// The graph: zoom and move, search, colours, and the way through it by keyboard.

const graph = $("graph");

function node(id) {
  return $(`n${id}`);
}

function markNode(id, on) {
  if (!graph) return;
  node(id).classList.toggle("open", on);
  graph.querySelectorAll(`path[data-a="${id}"], path[data-b="${id}"]`).forEach((way) => way.classList.toggle("near", on));
}

let current = null;

function focusNode(id) {
  if (!graph) return;
  if (current !== null) node(current).setAttribute("tabindex", "-1");
  current = id;
  node(id).setAttribute("tabindex", "0");
  node(id).focus({ preventScroll: true });
  intoView(id);
}

// ---------------------------------------------------------------------------------- zoom and move

const view = { x: 0, y: 0, w: 1, h: 1 };
let full = [1, 1];

function show() {
  graph.setAttribute("viewBox", `${view.x} ${view.y} ${view.w} ${view.h}`);
  const box = graph.getBoundingClientRect(), scale = Math.min(box.width / view.w, box.height / view.h);
  graph.classList.toggle("close", scale > 2.2);
  graph.classList.toggle("far", scale < 0.45);
  if (scale > 2.2) nameNodes();
}

/** Write the end of its name below each node that can be seen; only where there is room for it. */
function nameNodes() {
  DATA.cards.forEach((card, id) => {
    const [x, y] = centre(id), found = node(id);
    if (x < view.x - 40 || x > view.x + view.w + 40 || y < view.y - 20 || y > view.y + view.h + 20 || found.querySelector(".name")) return;
    const text = document.createElementNS("http://www.w3.org/2000/svg", "text");
    text.setAttribute("class", "name");
    text.setAttribute("y", "16");
    text.textContent = card.name.length > 18 ? `…${card.name.slice(-17)}` : card.name;
    found.append(text);
  });
}

function fit() {
  Object.assign(view, { x: 0, y: 0, w: full[0], h: full[1] });
  show();
}

/** Zoom by a factor, with one place of the drawing where it is. */
function zoom(factor, x = view.x + view.w / 2, y = view.y + view.h / 2) {
  const w = Math.min(full[0] * 1.5, Math.max(120, view.w * factor)), f = w / view.w;
  Object.assign(view, { x: x - (x - view.x) * f, y: y - (y - view.y) * f, w, h: view.h * f });
  show();
}

function place(event) {
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(graph.getScreenCTM().inverse());
  return [at.x, at.y];
}

function centre(id) {
  return node(id).getAttribute("transform").match(/-?[\d.]+/g).map(Number);
}

/** Move so that a node can be seen. */
function intoView(id) {
  const [x, y] = centre(id);
  if (x < view.x + 30 || x > view.x + view.w - 30 || y < view.y + 20 || y > view.y + view.h - 20) {
    Object.assign(view, { x: x - view.w / 2, y: y - view.h / 2 });
    show();
  }
}

function listenToPointers() {
  const fingers = new Map();
  let moved = 0, apart = 0;
  graph.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !graph.contains(document.activeElement)) return;
    event.preventDefault();
    zoom(Math.exp(Math.sign(event.deltaY) * 0.2), ...place(event));
  }, { passive: false });
  graph.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, event);
    moved = 0;
    apart = 0;
  });
  graph.addEventListener("pointermove", (event) => {
    const last = fingers.get(event.pointerId);
    if (!last) return;
    moved += Math.abs(event.clientX - last.clientX) + Math.abs(event.clientY - last.clientY);
    if (fingers.size === 1 && moved > 4) {
      const scale = 1 / graph.getScreenCTM().a;
      view.x -= (event.clientX - last.clientX) * scale;
      view.y -= (event.clientY - last.clientY) * scale;
      graph.classList.add("moving");
      if (event.pointerType === "mouse") graph.setPointerCapture(event.pointerId);
      show();
    }
    fingers.set(event.pointerId, event);
    if (fingers.size === 2) {
      const [a, b] = [...fingers.values()], now = Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
      if (apart) zoom(apart / now, ...place({ clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2 }));
      apart = now;
    }
  });
  const end = (event) => {
    fingers.delete(event.pointerId);
    apart = 0;
    graph.classList.remove("moving");
  };
  graph.addEventListener("pointerup", end);
  graph.addEventListener("pointercancel", end);
  graph.addEventListener("click", (event) => {
    const found = event.target.closest(".node");
    if (!found || moved > 4) return;
    const id = Number(found.id.slice(1));
    focusNode(id);
    openCard(id, false);
    const hidden = $("card").getBoundingClientRect().top + 180 - window.innerHeight;
    if (hidden > 0) window.scrollBy(0, hidden); // so much that the card begins on the screen, and the graph stays
    say(`Card of ${DATA.cards[id].op} ${DATA.cards[id].name}, below the graph`);
  });
}

// ---------------------------------------------------------------------------------------- keyboard

/** The nearest node above (-1) or below (1) in the same column, else any in that direction. */
function beside(id, direction) {
  const [x, y] = centre(id);
  let best = null, least = Infinity;
  DATA.cards.forEach((_, other) => {
    if (other === id) return;
    const [ox, oy] = centre(other), down = (oy - y) * direction;
    const far = down + 3 * Math.abs(ox - x);
    if (down > 1 && far < least) [best, least] = [other, far];
  });
  return best;
}

function onKey(event) {
  if (event.key === "+" || event.key === "=") zoom(0.8, ...(current === null ? [] : centre(current)));
  else if (event.key === "-") zoom(1.25, ...(current === null ? [] : centre(current)));
  else if (event.key === "0") fit();
  else if (current === null) return;
  else if (event.key === "ArrowRight") step(DATA.cards[current].behind[0]);
  else if (event.key === "ArrowLeft") step(DATA.cards[current].before[0]);
  else if (event.key === "ArrowUp") step(beside(current, -1));
  else if (event.key === "ArrowDown") step(beside(current, 1));
  else if (event.key === "Home") step(0);
  else if (event.key === "End") step(DATA.cards.length - 1);
  else if (event.key === "Enter" || event.key === " ") openCard(current, true);
  else return;
  event.preventDefault();
}

function step(id) {
  if (id !== undefined && id !== null) focusNode(id);
}

// -------------------------------------------------------------------------------- search and colours

function search(text) {
  const wanted = text.trim().toLowerCase(), list = $("found");
  graph.querySelectorAll(".node.hit").forEach((n) => n.classList.remove("hit"));
  graph.classList.toggle("searching", wanted !== "");
  list.hidden = wanted === "";
  if (!wanted) return list.replaceChildren();
  const hits = DATA.cards.map((card, id) => [card, id]).filter(([card]) => `${card.op} ${card.name}`.toLowerCase().includes(wanted));
  hits.forEach(([, id]) => node(id).classList.add("hit"));
  list.replaceChildren(...hits.slice(0, 30).map(([card, id]) => make("li", {}, make("button", { type: "button", class: "link", onclick: () => { intoView(id); openCard(id, true); } }, `${card.op} ${card.name}`))));
  if (!hits.length) list.replaceChildren(make("li", {}, "No node has this in its name or operator."));
  if (hits.length > 30) list.append(make("li", {}, `and ${hits.length - 30} more`));
  if (hits.length) intoView(hits[0][1]);
  say(`${hits.length} nodes found`);
}

function colour(way) {
  for (const found of graph.querySelectorAll(".node")) {
    const id = Number(found.id.slice(1)), card = DATA.cards[id];
    for (const name of [...found.classList]) if (/^c\d$/.test(name)) found.classList.remove(name);
    if (way.steps[id] !== undefined) found.classList.add(`c${way.steps[id]}`);
    const rank = way.order.indexOf(id) + 1;
    found.setAttribute("aria-label", `${card.op} ${card.name}${way.texts[id] ? `, ${way.texts[id]}, rank ${rank} of ${way.order.length}` : ""}`);
  }
  graph.classList.toggle("two", way.two_sided);
  legend(way);
}

function legend(way) {
  $("legend").replaceChildren(...way.legend.map((text, i) => {
    const box = make("i", { style: `background: var(--${way.two_sided ? "d" : "c"}${i})` });
    return make("span", {}, box, text);
  }));
}

/** Names on hover, made when they are needed: two thousand of them are slow. */
function titleOf(event) {
  const found = event.target.closest(".node");
  if (!found || found.querySelector("title")) return;
  const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
  title.textContent = found.getAttribute("aria-label");
  found.prepend(title);
}

// ------------------------------------------------------------------------ wide and narrow drawings

const drawings = {};
let arranged = "wide";

/** Take the drawing that fits the screen: lines of a few nodes on a phone. */
function arrange() {
  const wanted = window.innerWidth < 640 && !printing ? "narrow" : "wide", drawing = drawings[wanted];
  if (wanted !== arranged) {
    drawing.at.forEach(([x, y], id) => node(id).setAttribute("transform", `translate(${x} ${y})`));
    graph.querySelectorAll(".ways path").forEach((path, i) => path.setAttribute("d", drawing.paths[i]));
    arranged = wanted;
  }
  if (full[0] !== drawing.size[0] || full[1] !== drawing.size[1]) {
    full = drawing.size;
    graph.style.aspectRatio = `${full[0]} / ${full[1]}`;
    fit();
  } else show();
}

if (graph) {
  drawings.wide = {
    size: graph.dataset.size.split(" ").map(Number),
    at: DATA.cards.map((_, id) => centre(id)),
    paths: [...graph.querySelectorAll(".ways path")].map((path) => path.getAttribute("d")),
  };
  drawings.narrow = DATA.narrow;
  arrange();
  window.addEventListener("resize", arrange);
  listenToPointers();
  graph.addEventListener("keydown", onKey);
  graph.addEventListener("pointerover", titleOf);
  $("search").addEventListener("input", (event) => search(event.target.value));
  $("search").addEventListener("keydown", (event) => { if (event.key === "Enter") document.querySelector("#found button")?.click(); });
  document.querySelectorAll("[data-zoom]").forEach((button) => button.addEventListener("click", () => ({ in: () => zoom(0.7), out: () => zoom(1 / 0.7), fit })[button.dataset.zoom]()));
  const way = $("way");
  if (way) way.addEventListener("change", () => { colour(DATA.ways[Number(way.value)]); graph.querySelectorAll("title").forEach((t) => t.remove()); });
  if (DATA.ways.length) legend(DATA.ways[0]);
  const first = $("card").dataset.first;
  current = first === "" ? 0 : Number(first);
  node(current).setAttribute("tabindex", "0");
  if (first !== "") openCard(Number(first), false);
  $("card").addEventListener("keydown", (event) => { if (event.key === "Escape") closeCard(); });
}
