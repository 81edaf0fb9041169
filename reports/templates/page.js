// Sorting and filtering of tables, and the panel of a row's runs. Text from files enters the page as text only.
const last = (list) => list[list.length - 1];

for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...last(table.tHead.rows).cells];
  headers.forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => {
      const descending = header.getAttribute("aria-sort") !== "descending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const numeric = header.classList.contains("number");
      const value = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim().replace(/^–$/, "");
      const compare = (first, second) => {
        const [a, b] = [value(first), value(second)];
        if (a === "" || b === "") return (a === "") - (b === ""); // rows without a value stay last
        const order = numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true });
        return descending ? -order : order;
      };
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort(compare));
    });
  });
}

for (const input of document.querySelectorAll("input[data-filters]")) {
  const tables = [...document.querySelectorAll(input.dataset.filters)];
  const told = document.getElementById(input.getAttribute("aria-describedby"));
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = new Set();
    for (const row of tables[0].tBodies[0].rows) {
      const text = row.textContent.toLowerCase() + " " + (row.dataset.name ?? "").toLowerCase();
      if (words.every((word) => text.includes(word))) shown.add(row.dataset.row);
    }
    for (const table of tables) for (const row of table.tBodies[0].rows) row.hidden = !shown.has(row.dataset.row);
    told.textContent = words.length ? `${shown.size} of ${tables[0].tBodies[0].rows.length} rows` : "";
  });
}

const details = JSON.parse(document.getElementById("runs").textContent);
const dialog = document.getElementById("run");
const make = (tag, text, ...children) => {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  element.append(...children);
  return element;
};

function tableOf(head, lines, numeric) {
  const cells = (tag, line) => line.map((text, i) => {
    const cell = make(tag, String(text));
    if (numeric && i && i < line.length - 1) cell.className = "right";
    return cell;
  });
  const table = make("table", "", make("thead", "", make("tr", "", ...cells("th", head))),
    make("tbody", "", ...lines.map((line) => make("tr", "", ...cells("td", line)))));
  const box = make("div", "", table);
  box.className = "scroll";
  return box;
}

function curveOf(run) {
  const [width, height, left, bottom] = [520, 170, 46, 22];
  const names = Object.keys(run.series);
  const values = names.flatMap((name) => run.series[name].filter((v) => v !== null));
  const [low, high] = [Math.min(0, ...values), Math.max(...values) || 1];
  const [first, end] = [run.steps[0], last(run.steps)];
  const x = (step) => left + (width - left - 8) * (end > first ? (step - first) / (end - first) : 0.5);
  const y = (value) => 8 + (height - bottom - 8) * (1 - (value - low) / (high - low));
  const draw = (tag, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text) element.textContent = text;
    return element;
  };
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "losses by step", class: "curve" });
  svg.append(draw("path", { class: "axis", d: `M${left} 8V${height - bottom}H${width - 8}` }));
  for (const value of [low, high]) svg.append(draw("text", { x: left - 5, y: y(value) + 4, "text-anchor": "end" }, value.toPrecision(3)));
  svg.append(draw("text", { x: left, y: height - 6 }, `step ${first}`));
  svg.append(draw("text", { x: width - 8, y: height - 6, "text-anchor": "end" }, String(end)));
  const legend = make("p");
  legend.className = "legend";
  names.forEach((name, index) => {
    const points = run.steps.map((step, i) => [step, run.series[name][i]]).filter(([, v]) => v !== null);
    svg.append(draw("polyline", { class: `line line${index % 4}`, points: points.map(([s, v]) => `${x(s).toFixed(1)},${y(v).toFixed(1)}`).join(" ") }));
    const key = draw("svg", { viewBox: "0 0 24 8", width: 24, height: 8, "aria-hidden": "true" });
    key.append(draw("path", { class: `line line${index % 4}`, d: "M0 4H24" }));
    legend.append(make("span", "", key, document.createTextNode(` ${name}`)));
  });
  return make("div", "", svg, legend);
}

function runOf(id, seeds) {
  const run = details.runs[id];
  const parts = [make("h3", seeds ? `Seed ${run.seed ?? "not recorded"}: ${run.state}` : `Run: ${run.state}`)];
  parts.push(make("p", "", make("code", id), document.createTextNode(run.finished ? ` finished ${run.finished}` : "")));
  if (run.reason) {
    const reason = make("p", run.reason);
    reason.className = "problem";
    parts.push(reason);
  }
  if (run.command) parts.push(make("h4", "Command"), make("pre", run.command));
  parts.push(make("h4", `Config, differences to ${details.baseline || "the baseline"}`));
  parts.push(run.difference.length ? tableOf(["key", "baseline", "this run"], run.difference) : make("p", "none"));
  if (run.numbers.length) {
    const numbers = make("p", run.numbers.map(([name, value]) => `${name} ${value}`).join(" · "));
    parts.push(make("h4", "Numbers of this run"), numbers);
  }
  if (run.steps.length) parts.push(make("h4", "Losses"), curveOf(run));
  if (run.log.length) {
    const log = make("details", "", make("summary", "Last lines of the log"), make("pre", run.log.join("\n")));
    parts.push(log);
  }
  return make("section", "", ...parts);
}

function openRow(index) {
  const row = details.rows[index];
  const body = dialog.querySelector(".body");
  dialog.querySelector("h2").textContent = row.name;
  const parts = [];
  if (row.numbers.length) {
    const head = ["metric", "mean", "95 % over seeds", "95 % over images", "paper", "verdict"];
    parts.push(tableOf(head, row.numbers, true), ...row.why.map((text) => make("p", text)));
  }
  parts.push(...row.runs.map((id) => runOf(id, row.runs.length > 1)));
  const pictures = [...document.querySelectorAll(`figure[data-row="${index}"] img`)].map((image) => {
    const copy = image.cloneNode();
    copy.removeAttribute("loading");
    return make("figure", "", copy, make("figcaption", image.dataset.title));
  });
  if (pictures.length) {
    const strip = make("div", "", ...pictures);
    strip.className = "strip";
    parts.push(make("h3", "Pictures"), strip);
  }
  body.replaceChildren(...parts);
  dialog.showModal();
  dialog.scrollTop = 0;
}

for (const row of document.querySelectorAll("tr[data-row]")) {
  row.addEventListener("click", () => { if (!getSelection().toString()) openRow(Number(row.dataset.row)); });
}
dialog.querySelector("button.close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
