// The card of a layer: what was decided, where its error comes from, and what its tensors look like.

function factList(facts) {
  return make("dl", { class: "facts" }, ...facts.map(([label, text]) => make("div", { class: String(text).length > 60 ? "wide" : null }, make("dt", {}, label), make("dd", {}, String(text)))));
}

function simpleTable(caption, columns, rows) {
  return make("details", {}, make("summary", {}, caption), make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    make("table", { "aria-label": caption }, make("thead", {}, make("tr", {}, ...columns.map((c) => make("th", { scope: "col" }, c)))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell, i) => make(i ? "td" : "th", i ? {} : { scope: "row" }, String(cell)))))))));
}

function plot(kind, title, label, data) {
  const place = make("div", { class: "chart", role: "img", "aria-label": label, "data-kind": kind });
  watchChart(place, data);
  return make("figure", {}, make("h5", {}, title), place);
}

function barRows(bars, after) {
  const [low, high, counts] = bars, width = (high - low) / counts.length;
  return counts.map((c, i) => [`${short(low + i * width)} … ${short(low + (i + 1) * width)}`, c, ...(after ? [after[2][i]] : [])]);
}

/** What was seen of one tensor or weight. */
function seenPart(seen, what) {
  const parts = [make("h4", {}, `${what}: ${seen.name}`), factList([...seen.facts, ...(seen.more || [])])];
  const plots = make("div", { class: "plots" });
  if (seen.bars) {
    const chosen = (seen.ranges || []).find((r) => r[5]);
    const label = seen.after ? `Histogram of the weight in float and quantized, from ${short(seen.bars[0])} to ${short(seen.bars[1])}` : `Histogram of ${seen.count} values from ${short(seen.bars[0])} to ${short(seen.bars[1])}${chosen ? `; the chosen range is ${short(chosen[1])} to ${short(chosen[2])}` : ""}`;
    plots.append(plot("values", seen.after ? "Weights before and after" : "Values, and the ranges", label, seen));
  }
  if (seen.boxes) {
    const some = seen.boxes.length < seen.channels ? `, ${seen.boxes.length} of ${seen.channels} channels` : "";
    const on = seen.role === "activation" && DATA.samples ? ` on ${DATA.samples} samples` : "";
    plots.append(plot("boxes", `Channels${some}${on}`, `Box plots of ${seen.boxes.length} channels`, seen));
  }
  parts.push(plots);
  if (seen.ranges) {
    parts.push(simpleTable("Ranges as a table", ["Algorithm", "Low", "High", "SQNR of the tensor [dB]", "Clipped", "Chosen"],
      seen.ranges.map((r) => [r[0], short(r[1]), short(r[2]), short(r[3]), `${short(100 * r[4])} %`, r[5] ? "yes" : ""])));
  }
  if (seen.bars) parts.push(simpleTable("Histogram as a table", seen.after ? ["Values", "Float", "Quantized"] : ["Values", "Count"], barRows(seen.bars, seen.after)));
  if (seen.boxes) {
    parts.push(simpleTable("Channels as a table", ["Channel", "Lowest", "Lower quarter", "Median", "Upper quarter", "Highest", ...(seen.limits ? ["End of the grid"] : [])],
      seen.boxes.map((b, i) => [b[0], ...b.slice(1).map(short), ...(seen.limits ? [short(seen.limits[i])] : [])])));
  }
  if (!seen.bars && !seen.boxes) parts.push(make("p", { class: "note" }, "Its distribution was not written down; quantize --report does that."));
  return make("div", {}, ...parts);
}

function neighbours(label, ids) {
  if (!ids.length) return null;
  const links = ids.slice(0, 8).flatMap((id, i) => [i ? ", " : "", make("button", { type: "button", class: "link", onclick: () => openCard(id, true) }, DATA.cards[id].name)]);
  return make("span", {}, `${label} `, ...links, ids.length > 8 ? ` and ${ids.length - 8} more` : "");
}

/** The card of a node; where the page shows two runs, of both. */
function cardOf(id) {
  const card = DATA.cards[id], parts = [];
  parts.push(make("header", {}, make("h3", { id: "card-title" }, `${card.op} ${card.name}`), make("button", { type: "button", class: "close", onclick: closeCard, "aria-label": "Close the card" }, "Close")));
  parts.push(make("div", { class: "steps" }, neighbours("Reads from", card.before), neighbours("Read by", card.behind)));
  if (!card.sides) return [...parts, ...partsOf(card)];
  return [...parts, make("div", { class: "beside" }, ...card.sides.map((side) => make("section", {}, make("h4", { class: "run" }, side.run), ...partsOf(side))))];
}

/** What one run says of a layer. */
function partsOf(card) {
  const parts = [];
  if (card.facts.length) parts.push(factList(card.facts));
  if (card.origin) {
    parts.push(make("h4", {}, "Where its error comes from"), factList(card.origin.facts));
    parts.push(make("div", { class: "plots" }, plot("shares", "Shares of the error", `Shares of the error: ${card.origin.shares.map(([n, s]) => `${n} ${short(100 * s)} %`).join(", ")}`, card.origin)));
    parts.push(simpleTable("Shares as a table", ["Cause", "Share"], card.origin.shares.map(([n, s]) => [n, s === null ? "–" : `${short(100 * s)} %`])));
    if (card.origin.channels.length) parts.push(simpleTable("Channels in which most is born", ["Channel", "Share of what is born"], card.origin.channels.map(([c, s]) => [c, `${short(100 * s)} %`])));
  }
  if (card.loss) parts.push(make("h4", {}, "What the model loses by it"), factList(card.loss));
  if (card.advice) parts.push(make("h4", {}, "Advice"), factList(card.advice));
  if (card.compared) parts.push(make("h4", {}, "Compared"), factList(card.compared));
  if (card.weight !== undefined) parts.push(seenPart(DATA.seen[card.weight], "Weight"));
  card.inputs.forEach((i) => parts.push(seenPart(DATA.seen[i], "Input")));
  card.outputs.forEach((i) => parts.push(seenPart(DATA.seen[i], "Output")));
  if (!parts.length) parts.push(make("p", { class: "note" }, "It computes in float; nothing was decided about it."));
  return parts;
}

let open = null;

/** Show the card of a node; move the focus there if asked to. */
function openCard(id, focus) {
  const place = $("card");
  if (open !== null) markNode(open, false);
  open = id;
  place.replaceChildren(...cardOf(id));
  place.hidden = false;
  markNode(id, true);
  if (focus) {
    place.focus({ preventScroll: true });
    place.scrollIntoView({ block: "start" });
    say(`Card of ${DATA.cards[id].op} ${DATA.cards[id].name}`);
  }
}

function closeCard() {
  const id = open;
  if (id === null) return;
  markNode(id, false);
  open = null;
  $("card").hidden = true;
  focusNode(id);
}

function openByName(name) {
  const id = BY_NAME.get(name);
  if (id !== undefined) openCard(id, true);
}

const BY_NAME = new Map();
(DATA.cards || []).forEach((card, id) => { if (!BY_NAME.has(card.name) || card.facts.length) BY_NAME.set(card.name, id); });
