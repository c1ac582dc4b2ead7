// Charts: each function returns traces and a layout for plotly from the data that a section or a card holds.

const CHARTS = {
  /** Bars of candidates of one decision. */
  choices(d, p) {
    const known = d.scores.filter((x) => typeof x === "number");
    const low = Math.min(...known), high = Math.max(...known), room = Math.max(high - low, Math.abs(high) * 0.02, 1e-9);
    return {
      traces: [{
        type: "bar", orientation: "h", y: d.names, x: d.scores, text: d.scores.map((x, i) => short(x) + (d.chosen[i] ? "  taken" : "")),
        textposition: "auto", marker: { color: d.chosen.map((c) => (c ? p.series[0] : p.soft)) }, hovertemplate: "%{y}: %{x:.4g}<extra></extra>",
      }],
      layout: { title: { text: d.title }, xaxis: { title: { text: d.unit }, range: [low - 3 * room, high + 0.6 * room] }, yaxis: { automargin: true, autorange: "reversed" } },
      height: 110 + 34 * d.names.length,
    };
  },

  /** Layers by what is born in them, stacked by cause. */
  causes(d, p) {
    return {
      traces: d.causes.map((c, i) => ({
        type: "bar", orientation: "h", name: c.name, y: d.names.map(tail), x: c.values, customdata: d.names, marker: { color: p.series[i % p.series.length] },
        hovertemplate: "%{customdata}<br>" + c.name + ": %{x:.3g}<extra></extra>",
      })),
      layout: { barmode: "relative", xaxis: { title: { text: "energy of the error / of the output" }, exponentformat: "power" }, yaxis: { automargin: true, autorange: "reversed" }, legend: { orientation: "h", y: 1.02, yanchor: "bottom" } },
      height: 150 + 24 * d.names.length, layers: d.names,
    };
  },

  /** Curves over the layers in their order. */
  curve(d, p) {
    const places = d.names.map((_, i) => i + 1);
    return {
      traces: d.curves.map((c, i) => ({
        type: "scatter", mode: places.length > 120 ? "lines" : "lines+markers", name: c.name, x: places, y: c.values, customdata: d.names, connectgaps: false,
        line: { color: p.series[i], dash: i ? "dot" : "solid", width: 2 }, hovertemplate: "%{customdata}<br>" + c.name + ": %{y:.1f}<extra></extra>",
      })),
      layout: { xaxis: { title: { text: "layer, in order of execution" } }, yaxis: { title: { text: d.unit }, ...curveRange(d) }, legend: { orientation: "h", y: 1.02, yanchor: "bottom" } },
      height: 360, layers: d.names,
    };
  },

  /** The score of a training at each check, beside the one before it. */
  training(d, p) {
    const ends = [Math.min(...d.steps), Math.max(...d.steps)];
    return {
      traces: [
        { type: "scatter", mode: "lines+markers", name: "trained", x: d.steps, y: d.scores, line: { color: p.series[0], width: 2 }, hovertemplate: "step %{x}: %{y:.4g}<extra></extra>" },
        { type: "scatter", mode: "lines", name: "calibrated", x: ends, y: [d.before, d.before], line: { color: p.soft, dash: "dot", width: 2 }, hovertemplate: "before training: %{y:.4g}<extra></extra>" },
      ],
      layout: { xaxis: { title: { text: "step" } }, yaxis: { title: { text: "score" } }, legend: { orientation: "h", y: 1.02, yanchor: "bottom" } },
      height: 340,
    };
  },

  /** What each step of an advice gains. */
  gains(d, p) {
    return {
      traces: [{ type: "bar", orientation: "h", y: d.names, x: d.values, text: d.values.map((v) => `${v.toFixed(1)} dB`), textposition: "auto", marker: { color: p.series[0] }, hovertemplate: "%{y}: %{x:.2f} dB<extra></extra>" }],
      layout: { xaxis: { title: { text: "gain [dB]" } }, yaxis: { automargin: true, autorange: "reversed" } },
      height: 100 + 30 * d.names.length,
    };
  },

  /** Bars of one figure by layer. */
  ranking(d, p) {
    const labels = (d.labels || d.names).map(tail);
    return {
      traces: [{ type: "bar", orientation: "h", y: labels, x: d.values, customdata: d.names, marker: { color: p.series[0] }, hovertemplate: "%{customdata}: %{x:.4g}<extra></extra>" }],
      layout: { xaxis: { title: { text: d.unit }, exponentformat: "power" }, yaxis: { automargin: true, autorange: "reversed" } },
      height: 110 + 24 * labels.length, layers: d.names,
    };
  },

  /** Trials by score and cost, the front of both, and the score that is required. */
  search(d, p) {
    const points = d.costs.map((c, i) => ({ c, s: d.scores[i], name: d.names[i], met: d.met[i], best: d.best[i], front: d.front[i] })).filter((t) => t.s !== null);
    const of = (name, some, marker) => ({
      type: "scatter", mode: "markers", name, x: some.map((t) => t.c), y: some.map((t) => t.s), text: some.map((t) => t.name), marker, hovertemplate: "%{text}<br>cost %{x:.4g}<br>score %{y:.5g}<extra></extra>",
    });
    const front = points.filter((t) => t.front).sort((a, b) => a.c - b.c);
    const least = Math.min(...points.map((t) => t.c)), most = Math.max(...points.map((t) => t.c));
    const room = points.length && most - least < 1e-3 * most ? { range: [0.9 * least, 1.1 * most] } : {}; // all cost the same
    const shapes = d.limit === null ? [] : [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: d.limit, y1: d.limit, line: { color: p.ink, width: 1.5, dash: "dash" } }];
    return {
      traces: [
        { type: "scatter", mode: "lines", name: "front", x: front.map((t) => t.c), y: front.map((t) => t.s), line: { color: p.soft, width: 2, shape: "hv" }, hoverinfo: "skip" },
        of("met", points.filter((t) => t.met && !t.best), { size: 10, color: p.series[0], symbol: "circle" }),
        of("not met", points.filter((t) => !t.met && !t.best), { size: 10, color: p.series[1], symbol: "x" }),
        of("taken", points.filter((t) => t.best), { size: 16, color: p.series[0], symbol: "star", line: { color: p.ink, width: 1 } }),
      ],
      layout: { shapes, xaxis: { title: { text: "cost (" + d.unit + ")" }, exponentformat: "SI", ...room }, yaxis: { title: { text: d.metric } }, legend: { orientation: "h", y: 1.02, yanchor: "bottom" } },
      height: 380,
    };
  },

  /** Errors of trials as they were predicted from single layers, and as they are. */
  predicted(d, p) {
    const all = [...d.predicted, ...d.true].filter((x) => x > 0), ends = [Math.min(...all), Math.max(...all)];
    return {
      traces: [
        { type: "scatter", mode: "lines", name: "as predicted", x: ends, y: ends, line: { color: p.soft, dash: "dot" }, hoverinfo: "skip" },
        { type: "scatter", mode: "markers", name: "trials", x: d.predicted, y: d.true, text: d.names, marker: { size: 10, color: p.series[0] }, hovertemplate: "%{text}<br>predicted %{x:.3g}<br>measured %{y:.3g}<extra></extra>" },
      ],
      layout: { xaxis: { type: "log", title: { text: "error that single layers add up to" }, exponentformat: "power" }, yaxis: { type: "log", title: { text: "error of the outputs" }, exponentformat: "power" }, legend: { orientation: "h", y: 1.02, yanchor: "bottom" } },
      height: 320,
    };
  },

  /** A histogram with ranges: [algorithm, low, high, sqnr, clipped, chosen]. */
  values(d, p) {
    const traces = [], all = (counts) => Math.max(1, counts.reduce((a, b) => a + b, 0));
    const [low, high, counts] = d.bars, width = (high - low) / counts.length, middles = counts.map((_, i) => low + (i + 0.5) * width);
    traces.push({
      type: "bar", name: d.after ? "float" : "values", x: middles, y: counts.map((c) => c / all(counts) || null), width,
      marker: { color: p.series[0], line: { width: 0 } }, opacity: 0.7, hovertemplate: "%{x:.4g}: %{y:.3g} of the values<extra></extra>",
    });
    if (d.after) {
      const total = all(d.after[2]);
      traces.push({
        type: "scatter", mode: "lines", name: "quantized", x: middles, y: d.after[2].map((c) => c / total || null), line: { color: p.series[1], width: 2, shape: "hvh" }, connectgaps: false,
        hovertemplate: "%{x:.4g}: %{y:.3g} of the quantized values<extra></extra>",
      });
    }
    const shapes = [];
    (d.ranges || []).forEach((r, i) => {
      const color = r[5] ? p.ink : p.series[1 + ((i - 1) % (p.series.length - 1))];
      [r[1], r[2]].forEach((x) => shapes.push({ type: "line", xref: "x", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, line: { color, width: r[5] ? 2.5 : 1.5, dash: r[5] ? "solid" : "dash" } }));
      traces.push({ type: "scatter", mode: "lines", x: [null], y: [null], name: r[0] + (r[5] ? " (chosen)" : ""), line: { color, width: r[5] ? 2.5 : 1.5, dash: r[5] ? "solid" : "dash" }, hoverinfo: "skip" });
    });
    return {
      traces,
      layout: { barmode: "overlay", bargap: 0, shapes, xaxis: { title: { text: "value" } }, yaxis: { type: "log", title: { text: "share of the values (log)" }, exponentformat: "power", dtick: 1 }, legend: { orientation: "h", y: 1.02, yanchor: "bottom" } },
      height: 300,
    };
  },

  /** Boxes by channel: [channel, low, q1, median, q3, high], and the end of each channel's grid. */
  boxes(d, p) {
    const rows = d.boxes, x = rows.map((r) => String(r[0]));
    const traces = [{
      type: "box", name: "values", x, lowerfence: rows.map((r) => r[1]), q1: rows.map((r) => r[2]), median: rows.map((r) => r[3]), q3: rows.map((r) => r[4]), upperfence: rows.map((r) => r[5]),
      marker: { color: p.series[0] }, line: { width: 1.2 }, fillcolor: p.series[0] + "55", hoverinfo: "x+y",
    }];
    if (d.limits) {
      [1, -1].forEach((s) => traces.push({ type: "scatter", mode: "lines", name: "end of the grid", showlegend: s > 0, x, y: d.limits.map((v) => s * v), line: { color: p.series[1], width: 1.3, shape: "hvh" }, hovertemplate: "channel %{x}: %{y:.4g}<extra></extra>" }));
    }
    return { traces, layout: { xaxis: { type: "category", title: { text: "channel" }, nticks: 16 }, yaxis: { title: { text: "value" } }, showlegend: Boolean(d.limits), legend: { orientation: "h", y: 1.02, yanchor: "bottom" } }, height: 300 };
  },

  /** Shares of an error. */
  shares(d, p) {
    return {
      traces: [{ type: "bar", orientation: "h", y: d.shares.map((s) => s[0]), x: d.shares.map((s) => (s[1] === null ? null : 100 * s[1])), marker: { color: d.shares.map((s, i) => (i ? p.series[0] : p.soft)) }, hovertemplate: "%{y}: %{x:.1f} %<extra></extra>" }],
      layout: { xaxis: { title: { text: "share of the error [%]" } }, yaxis: { automargin: true, autorange: "reversed" } },
      height: 270,
    };
  },
};

/** Cut off what is nearly exact: it would press all else together. */
function curveRange(d) {
  const known = d.curves.flatMap((c) => c.values).filter((v) => v !== null), high = Math.max(...known), low = Math.min(...known);
  return high > 90 && low < 70 ? { range: [low - 3, 80] } : {};
}

/** The end of a long name. */
function tail(name) {
  return name.length > 34 ? "…" + name.slice(-33) : name;
}

/** Draw a chart into its element, with the colours of now. */
function drawChart(place, data) {
  loadPlotly();
  const p = palette(), made = CHARTS[place.dataset.kind](data, p);
  const axis = { gridcolor: p.line, zerolinecolor: p.line, linecolor: p.soft, automargin: true };
  const layout = {
    font: { color: p.ink, family: "system-ui, sans-serif", size: 12 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 60, r: 16, t: 36, b: 46 }, height: made.height, autosize: true, ...made.layout,
    hoverlabel: { bgcolor: p.paper, bordercolor: p.soft, font: { color: p.ink } },
  };
  layout.xaxis = { ...axis, ...layout.xaxis };
  layout.yaxis = { ...axis, ...layout.yaxis };
  if (layout.title) layout.title = { font: { size: 14 }, x: 0, xanchor: "left", ...layout.title };
  Plotly.react(place, made.traces, layout, { displayModeBar: false, responsive: true });
  if (made.layers && !place.dataset.listens) {
    place.dataset.listens = "yes";
    place.on("plotly_click", (event) => openByName(event.points[0].customdata));
  }
  place.dataset.drawn = "yes";
  place.style.minHeight = `${made.height}px`;
}

const drawn = new Map();

/** Run plotly's script, which the page holds as a text: only once something is to be drawn, since it takes a second. */
function loadPlotly() {
  const source = $("plotly");
  if (!source) return;
  source.remove();
  document.head.append(make("script", {}, source.textContent));
}

/** Draw a chart once it comes near the screen, behind what is on the screen already. */
const soon = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    soon.unobserve(entry.target);
    setTimeout(() => entry.target.isConnected && drawChart(entry.target, drawn.get(entry.target)), 50);
  }
}, { rootMargin: "300px" });

function watchChart(place, data) {
  drawn.set(place, data);
  soon.observe(place);
}

/** Draw again what is there, in other colours. */
function redraw(everything) {
  for (const [place, data] of drawn) {
    if (!place.isConnected) drawn.delete(place);
    else if (everything || place.dataset.drawn) drawChart(place, data);
  }
}

document.querySelectorAll("figure > .chart").forEach((place) => watchChart(place, JSON.parse(place.nextElementSibling.textContent)));
dark.addEventListener("change", () => redraw(false));
