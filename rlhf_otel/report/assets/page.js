"use strict";
// Unpacks Plotly and the charts' data, which lie in this page, and draws the charts. Nothing is fetched.
(async () => {
  const SEVERITY = { critical: "#c62828", warning: "#d97706", info: "#2563eb" };
  const COLOURS = ["#2563eb", "#d97706", "#0f9d7a", "#9333ea", "#c62828", "#0891b2", "#65a30d", "#db2777", "#6b7280",
    "#92400e", "#4338ca"];
  const plots = document.querySelectorAll(".plot");

  async function unpacked(id) {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent.trim()), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  // Plotly reads <b>, <a> and the like in texts; names of a run are text alone.
  const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

  function trace(chart, [name, steps, values], index) {
    const colour = COLOURS[index % COLOURS.length];
    const shared = { x: steps, y: values, name: plain(name), hoverlabel: { namelength: 40 } };
    if (chart.kind === "stack") return { ...shared, type: "bar", marker: { color: colour } };
    if (chart.kind === "bars") { // the bins of a histogram, which differ from line to line
      const width = steps.length > 1 && steps[1] > steps[0] ? { width: steps[1] - steps[0] } : {};
      return { ...shared, ...width, type: "bar", opacity: 0.55, marker: { color: colour } };
    }
    const few = steps.length < 25;
    return { ...shared, type: "scatter", mode: few ? "lines+markers" : "lines", 
      line: { color: colour, width: 1.6, shape: chart.kind === "held" ? "hv" : "linear" },
      marker: { size: 5 } };
  }

  function band([first, last, , severity]) {
    const colour = SEVERITY[severity] || "#6b7280";
    return { type: "rect", xref: "x", yref: "paper", x0: first - 0.5, x1: last + 0.5, y0: 0, y1: 1, fillcolor: colour,
      opacity: 0.16, line: { color: colour, width: 1 }, layer: "below" };
  }

  // One label for each rule, at its first steps, in two rows so that neighbours can be read.
  function labels(marks) {
    const first = marks.filter((mark, i) => marks.findIndex((other) => other[2] === mark[2]) === i);
    return first.slice(0, 6).map(([x, , label, severity], i) => ({ x, y: 1, xref: "x", yref: "paper", text: plain(label),
      showarrow: false, xanchor: "left", yanchor: "bottom", yshift: 12 * (i % 2),
      font: { size: 10, color: SEVERITY[severity] || "#6b7280" } }));
  }

  // Room for the legend below the chart: some three names a row.
  const legendHeight = (chart) => (chart.lines.length > 1 ? 18 * Math.ceil(chart.lines.length / 3) : 0);

  // Margins are given: where Plotly fits them to texts, it may draw again and again.
  function layout(chart) {
    const margin = { l: 68, r: 12, t: chart.marks.length ? 30 : 8, b: 40 + legendHeight(chart), autoexpand: false };
    return { margin, paper_bgcolor: "#fff", plot_bgcolor: "#fff",
      font: { family: "system-ui, sans-serif", size: 11, color: "#1c2430" }, showlegend: chart.lines.length > 1,
      legend: { orientation: "h", x: 0, yref: "container", y: 0, yanchor: "bottom", font: { size: 11 } },
      bargap: chart.kind === "stack" ? 0 : 0.1,
      barmode: chart.kind === "stack" ? "stack" : "overlay", hovermode: "closest",
      xaxis: { title: { text: plain(chart.across), standoff: 4 }, gridcolor: "#eef1f5", zeroline: false },
      yaxis: { title: { text: plain(chart.unit) }, gridcolor: "#eef1f5", zeroline: false, exponentformat: "power", minexponent: 5 },
      shapes: chart.marks.map(band), annotations: labels(chart.marks) };
  }

  try {
    const program = document.createElement("script");
    program.textContent = await unpacked("plotly");
    document.head.append(program);
    const charts = JSON.parse(await unpacked("charts"));
    for (const place of plots) {
      const chart = charts[Number(place.dataset.chart)];
      if (chart.lines.length > 1) place.style.height = `${250 + legendHeight(chart)}px`;
      await Plotly.newPlot(place, chart.lines.map((line, i) => trace(chart, line, i)), layout(chart),
        { displayModeBar: false, responsive: true });
    }
    document.documentElement.dataset.charts = "drawn";
  } catch (error) {
    for (const place of plots) {
      place.classList.add("failed");
      place.textContent = "This chart needs a browser of 2023 or later. The tables have its numbers.";
    }
    console.error(error);
  }
})();
