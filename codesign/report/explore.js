// The report's script: reads the page's JSON island and its tables, and draws with inline SVG.
// Names are text from outside: they reach the page by textContent alone.
(() => {
"use strict";
const SVG = document.getElementById("svg").namespaceURI;
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  return filled(element, attributes, children);
}
function draw(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}
function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  for (const child of children) element.append(child); // a string becomes a text node
  return element;
}
function replace(host, ...children) { host.replaceChildren(...children); }
const tick = x => String(Number(x.toPrecision(4)));
// As tables have them: so many significant digits, zeros at the end included.
function digits(x, n = 3) {
  if (x === null) return "–";
  if (x === 0) return "0";
  const rounded = Number(x.toPrecision(n)), places = n - 1 - Math.floor(Math.log10(Math.abs(rounded)));
  return places > 7 || places < n - 8 ? x.toExponential(n - 1) : rounded.toFixed(Math.max(0, places));
}
const heading = axis => axis.unit ? `${axis.label}, ${axis.unit}` : axis.label;

// ---- Tables: sorted by a click on a heading, filtered by words and comparisons, saved as CSV.
function cellValue(cell) {
  if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
  const text = cell.textContent.trim(), number = /^-?[\d,]*\.?\d+(e[-+]?\d+)?(?= %$| ±|$)/.exec(text);
  return number ? Number(number[0].replaceAll(",", "")) : text;
}
function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a === "number") return -1;
  if (typeof b === "number") return 1;
  if (a === "–" || b === "–") return (a === "–") - (b === "–");
  return a.localeCompare(b, "en", { numeric: true });
}
function csv(table) {
  const quoted = text => {
    // A spreadsheet would take such a text for a formula.
    const safe = /^[=+@\t\r-]/.test(text) && text !== "–" && isNaN(text) ? "'" + text : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const rows = [table.tHead.rows[0], ...all("tbody tr", table).filter(row => !row.hidden)];
  return rows.map(row => [...row.cells]
    .map(cell => quoted(cell.dataset.v ?? cell.textContent.trim().replace(/\s+/g, " "))).join(","))
    .join("\n") + "\n";
}
function sortBy(table, column, down) {
  const rows = all("tbody tr", table);
  const keyed = rows.map(row => [cellValue(row.cells[column]), row]);
  keyed.sort((a, b) => {
    const missing = (a[0] === "–") - (b[0] === "–");
    return missing || (down ? -1 : 1) * compare(a[0], b[0]);
  });
  for (const [, row] of keyed) table.tBodies[0].append(row);
  [...table.tHead.rows[0].cells].forEach((th, i) => {
    th.setAttribute("aria-sort", i !== column ? "none" : down ? "descending" : "ascending");
  });
}
// "cheap latency<2" keeps rows with the word and a latency below 2.
function matcher(table, query) {
  const heads = [...table.tHead.rows[0].cells].map(th => th.textContent.trim().toLowerCase());
  const tests = [];
  const words = query.toLowerCase().replace(/([^\s<>=]+)\s*(<=|>=|<|>)\s*([-\d.e]+)/g,
    (whole, name, sign, bound) => {
      const starts = heads.findIndex(h => h.startsWith(name));
      const column = starts >= 0 ? starts : heads.findIndex(h => h.includes(name));
      if (column < 0 || isNaN(bound)) return whole;
      const limit = Number(bound);
      tests.push(row => {
        const value = cellValue(row.cells[column]);
        if (typeof value !== "number") return false;
        return sign === "<" ? value < limit : sign === ">" ? value > limit
          : sign === "<=" ? value <= limit : value >= limit;
      });
      return "";
    }).split(/\s+/).filter(Boolean);
  return row => {
    const text = row.textContent.toLowerCase();
    return words.every(word => text.includes(word)) && tests.every(test => test(row));
  };
}
function enhance(table) {
  [...table.tHead.rows[0].cells].forEach((th, column) => {
    const button = make("button", { type: "button", class: "sort" }, ...th.childNodes);
    th.append(button);
    th.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const now = th.getAttribute("aria-sort");
      sortBy(table, column, now === "none" ? false : now === "ascending");
    });
  });
  const label = table.getAttribute("aria-label") || "table";
  const filter = make("input", { type: "search", class: "filter", "aria-label": `filter: ${label}`,
    placeholder: "filter: words, or latency<2" });
  const count = make("span", { class: "count", role: "status" });
  const save = make("button", { type: "button", class: "csv" }, "CSV");
  const apply = () => {
    const keep = matcher(table, filter.value);
    const rows = all("tbody tr", table);
    for (const row of rows) row.hidden = !keep(row);
    const shown = rows.filter(row => !row.hidden).length;
    count.textContent = shown === rows.length ? `${rows.length} rows` : `${shown} of ${rows.length} rows`;
    table.dispatchEvent(new CustomEvent("filtered"));
  };
  filter.addEventListener("input", apply);
  save.addEventListener("click", () => {
    const link = make("a", { download: `${table.dataset.file || "table"}.csv` });
    link.href = URL.createObjectURL(new Blob([csv(table)], { type: "text/csv" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  const bar = make("div", { class: "bar" }, filter, save, count);
  (table.closest(".scroll") || table).before(bar);
  apply();
}
all("table.sortable").forEach(enhance);
all("details.figures").forEach(details => { details.open = false; });

const source = document.getElementById("island");
if (!source) return;
const data = JSON.parse(source.textContent);
const designs = data.designs, table = document.getElementById("designs");
const host = document.getElementById("explorer"), status = document.getElementById("said");
const tip = make("div", { id: "tip", role: "tooltip", hidden: "" });
document.body.append(tip);
host.hidden = false;
const several = data.runs.length > 1;
const groups = several ? data.runs : [...new Set(designs.map(d => d.group))];
const groupOf = d => several ? d.run : groups.indexOf(d.group);
// Beyond the colours that there are, these come again, dashed.
const colour = i => `c${i % 7}${i < 7 ? "" : " again"}`;
const named = d => several ? `${data.runs[d.run]}: ${d.name}` : d.name;
const marked = d => d.group === "reference" || d.group === "best";
let selected = -1, shown = new Set(designs.keys());

function showTip(lines, x, y) {
  replace(tip, ...lines.map((line, i) => make(i ? "div" : "strong", {}, line)));
  tip.hidden = false;
  const box = tip.getBoundingClientRect(), width = document.documentElement.clientWidth;
  tip.style.left = `${Math.max(4, Math.min(x + 12, width - box.width - 4)) + scrollX}px`;
  tip.style.top = `${Math.max(4, y - box.height - 12) + scrollY}px`;
}
function hideTip() { tip.hidden = true; }
function lines(d) {
  const notes = [d.group, ...(d.feasible ? [] : ["breaks a limit"])].join(", ");
  return [named(d), notes, ...data.axes.flatMap((axis, i) => d.values[i] === null ? [] :
    [`${axis.label} ${digits(d.values[i])}${d.errors[i] === null ? "" : ` ± ${digits(d.errors[i], 2)}`} ${axis.unit}`])];
}

// ---- Scales and axes.
function scale(values, from, to) {
  let low = Math.min(...values), high = Math.max(...values);
  const log = low > 0 && high / low > 20;
  if (low === high) { low -= Math.abs(low) * 0.1 || 1; high += Math.abs(high) * 0.1 || 1; }
  const f = log ? Math.log10 : x => x, pad = (f(high) - f(low)) * 0.06;
  const a = f(low) - pad, b = f(high) + pad;
  const at = x => from + (to - from) * (f(x) - a) / (b - a);
  return { at, ticks: log ? logTicks(10 ** a, 10 ** b) : linearTicks(a, b, Math.abs(to - from)), log };
}
function linearTicks(low, high, length, least = 0) {
  const rough = Math.max(least, (high - low) / Math.max(2, Math.min(7, length / 70)));
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find(s => s * power >= rough) * power;
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high && found.length < 20; k++) found.push(k * step);
  return found;
}
function logTicks(low, high) {
  const span = Math.log10(high / low), found = [];
  const steps = span < 2 ? [1, 2, 5] : [1], every = Math.ceil(span / 6);
  for (let p = Math.floor(Math.log10(low)); p <= Math.log10(high); p++) {
    if (steps.length === 1 && p % every) continue;
    for (const s of steps) if (s * 10 ** p >= low && s * 10 ** p <= high) found.push(s * 10 ** p);
  }
  return found;
}
function frame(svg, sx, sy, w, h, m, xLabel, yLabel) {
  for (const x of sx.ticks) {
    svg.append(draw("line", { class: "grid", x1: sx.at(x), x2: sx.at(x), y1: m.top, y2: h - m.bottom }),
      draw("text", { x: sx.at(x), y: h - m.bottom + 16, "text-anchor": "middle" }, tick(x)));
  }
  for (const y of sy.ticks) {
    svg.append(draw("line", { class: "grid", x1: m.left, x2: w - m.right, y1: sy.at(y), y2: sy.at(y) }),
      draw("text", { x: m.left - 6, y: sy.at(y) + 4, "text-anchor": "end" }, tick(y)));
  }
  svg.append(draw("text", { class: "title", x: (m.left + w - m.right) / 2, y: h - 6, "text-anchor": "middle" },
    xLabel + (sx.log ? " (log)" : "")),
    draw("text", { class: "title", x: m.left - 6, y: 13, "text-anchor": "start" }, yLabel + (sy.log ? " (log)" : "")));
}
const widthOf = element => Math.max(280, element.clientWidth || 280);
function canvas(w, h, label) {
  return draw("svg", { viewBox: `0 0 ${w} ${h}`, width: w, height: h, role: "img", "aria-label": label });
}
function legend(names) {
  const kept = names.slice(0, 12);
  const list = make("ul", { class: "legend" }, ...kept.map((name, i) => {
    const item = make("li", {}, make("span", { class: `key ${colour(i)}` }), name);
    return item;
  }));
  if (names.length > kept.length) list.append(make("li", {}, `and ${names.length - kept.length} more`));
  return list;
}
function choice(label, names, chosen, changed) {
  const select = make("select", {}, ...names.map((name, i) => make("option", { value: i }, name)));
  select.value = String(chosen);
  select.addEventListener("change", () => changed(Number(select.value)));
  return make("label", {}, label + " ", select);
}
function section(title, note) {
  const body = make("div", {});
  host.append(make("h2", {}, title), ...(note ? [make("p", { class: "note" }, note)] : []), body);
  return body;
}

// ---- Selection, shared by every view.
const views = [];
function refresh() { for (const view of views) view(); }
function select(i, say = true) {
  selected = i;
  if (table) for (const row of all("tbody tr", table)) {
    const mine = Number(row.dataset.i) === i;
    row.classList.toggle("selected", mine);
    row.querySelector("button.pick")?.setAttribute("aria-pressed", String(mine));
  }
  if (say) status.textContent = `selected: ${lines(designs[i]).join("; ")}`;
  refresh();
}

// ---- Scatter plot.
const better = (axis, a, b) => axis.more ? a > b : a < b;
function front(members, x, y) {
  const [ax, ay] = [data.axes[x], data.axes[y]];
  const sorted = members.filter(d => d.feasible && d.values[x] !== null && d.values[y] !== null)
    .sort((a, b) => (ax.more ? b.values[x] - a.values[x] : a.values[x] - b.values[x])
      || (ay.more ? b.values[y] - a.values[y] : a.values[y] - b.values[y]));
  const kept = [];
  for (const d of sorted) if (!kept.length || better(ay, d.values[y], kept.at(-1).values[y])) kept.push(d);
  return kept;
}
function scatter() {
  const body = section("Explore the designs",
    "Point at a design for its numbers, click it to select it everywhere on this page. With the keyboard: arrow keys go from design to design, Enter selects. Bars are one standard error; the line is the Pareto front of the two axes among designs within the limits.");
  const index = key => Math.max(0, data.axes.findIndex(a => a.key === key));
  let x = index(data.x), y = index(data.y), at = -1;
  const names = data.axes.map(heading), plot = make("div", { class: "plot", id: "scatter" });
  const controls = make("div", { class: "bar" },
    choice("across", names, x, i => { x = i; paint(); }), choice("up", names, y, i => { y = i; paint(); }));
  body.append(controls, legend(groups), plot);
  const order = () => [...shown].filter(i => designs[i].values[x] !== null && designs[i].values[y] !== null)
    .sort((a, b) => designs[a].values[x] - designs[b].values[x]);
  function paint() {
    const points = order();
    const w = widthOf(plot), h = Math.min(440, Math.max(300, w * 0.55)), m = { left: 58, right: 14, top: 24, bottom: 42 };
    if (!points.length) { replace(plot, make("p", { class: "note" }, "No design that is shown has both numbers.")); return; }
    const spread = i => k => [designs[i].values[k] - (designs[i].errors[k] || 0), designs[i].values[k] + (designs[i].errors[k] || 0)];
    const sx = scale(points.map(i => designs[i].values[x]), m.left, w - m.right);
    const sy = scale(points.flatMap(i => spread(i)(y)), h - m.bottom, m.top);
    const svg = canvas(w, h, `Scatter plot of ${names[y]} against ${names[x]} of ${points.length} designs; arrow keys go through them`);
    svg.setAttribute("tabindex", "0");
    frame(svg, sx, sy, w, h, m, names[x], names[y]);
    const members = new Map();
    for (const i of points) members.set(several ? designs[i].run : 0, [...(members.get(several ? designs[i].run : 0) || []), designs[i]]);
    for (const [run, own] of members) {
      const line = front(own, x, y);
      const path = line.map((d, i) => {
        const px = sx.at(d.values[x]), py = sy.at(d.values[y]);
        return i ? `H${px}V${py}` : `M${px},${py}`;
      }).join("");
      svg.append(draw("path", { class: `front ${several ? colour(run) : "plain"}`, d: path || "M0,0" }));
    }
    const last = i => (marked(designs[i]) ? 1 : 0) + (i === selected ? 2 : 0);
    for (const i of [...points].sort((a, b) => last(a) - last(b))) {
      const d = designs[i], px = sx.at(d.values[x]), py = sy.at(d.values[y]);
      const group = draw("g", { class: `point ${colour(groupOf(d))}${d.feasible ? "" : " broken"}${i === selected ? " chosen" : ""}`, "data-i": i });
      for (const [k, s, vertical] of [[x, sx, false], [y, sy, true]]) {
        const e = d.errors[k];
        if (!e || (s.log && d.values[k] - e <= 0)) continue;
        const [a, b] = [s.at(d.values[k] - e), s.at(d.values[k] + e)];
        group.append(draw("line", vertical ? { x1: px, x2: px, y1: a, y2: b } : { x1: a, x2: b, y1: py, y2: py }));
      }
      group.append(marked(d)
        ? draw("path", { d: `M${px},${py - 8}L${px + 7},${py}L${px},${py + 8}L${px - 7},${py}Z` })
        : draw("circle", { cx: px, cy: py, r: designs.length > 60 ? 4 : 5.5 }));
      group.append(draw("circle", { class: "target", cx: px, cy: py, r: 12 }));
      const tell = () => showTip(lines(d), ...onPage(svg, px, py, w));
      group.addEventListener("mouseenter", tell);
      group.addEventListener("mouseleave", hideTip);
      group.addEventListener("click", () => { select(i); });
      svg.append(group);
    }
    svg.addEventListener("keydown", event => {
      const now = order(), step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      if (step) {
        const place = now.indexOf(at);
        at = now[place < 0 ? 0 : (place + step + now.length) % now.length];
        const d = designs[at];
        all(".focused", svg).forEach(e => e.classList.remove("focused"));
        svg.querySelector(`[data-i="${at}"]`).classList.add("focused");
        showTip(lines(d), ...onPage(svg, sx.at(d.values[x]), sy.at(d.values[y]), w));
        status.textContent = lines(d).join("; ");
      } else if ((event.key === "Enter" || event.key === " ") && at >= 0) {
        select(at);
        plot.querySelector("svg").focus();
      } else if (event.key === "Escape") { hideTip(); } else return;
      event.preventDefault();
    });
    svg.addEventListener("blur", hideTip);
    replace(plot, svg);
  }
  views.push(paint);
}
function onPage(svg, x, y, w) {
  const box = svg.getBoundingClientRect(), zoom = box.width / w;
  return [box.left + x * zoom, box.top + y * zoom];
}

// ---- Parallel coordinates.
function parallel() {
  const body = section("Dimensions of the designs",
    "Parallel coordinates: a line is a design, an axis a dimension in which designs differ; the last two are the axes of the plot above. Click a line to select its design.");
  const plot = make("div", { class: `plot scroll${designs.length > 60 ? " many" : ""}`, id: "parallel" });
  body.append(plot);
  const extra = [data.x, data.y].map(key => data.axes.findIndex(a => a.key === key)).filter(i => i >= 0);
  const columns = [...data.dimensions.map((label, k) => ({ label, of: d => d.dimensions[k] })),
    ...extra.map(k => ({ label: heading(data.axes[k]), of: d => d.values[k] }))];
  function paint() {
    const w = Math.max(widthOf(plot), columns.length * 74), h = 280, top = 44, bottom = h - 16;
    const svg = canvas(w, h, `Parallel coordinates of ${shown.size} designs over ${columns.map(c => c.label).join("; ")}`);
    const at = k => 44 + (w - 88) * (columns.length > 1 ? k / (columns.length - 1) : 0);
    const scales = columns.map(column => {
      const values = designs.map(column.of).filter(v => v !== null);
      const distinct = [...new Set(values)].sort((a, b) => a - b);
      const log = distinct[0] > 0 && distinct.at(-1) / distinct[0] >= 6, f = log ? Math.log : v => v;
      const [low, high] = [f(distinct[0]), f(distinct.at(-1))];
      return { at: v => high === low ? (top + bottom) / 2 : bottom - (bottom - top) * (f(v) - low) / (high - low),
        ticks: distinct.length <= 7 ? distinct : [distinct[0], distinct.at(-1)] };
    });
    columns.forEach((column, k) => {
      svg.append(draw("line", { class: "axis", x1: at(k), x2: at(k), y1: top, y2: bottom }));
      const words = column.label.split(" "), half = Math.ceil(words.length / 2);
      [words.slice(0, half), words.slice(half)].forEach((part, i) => svg.append(
        draw("text", { class: "small", x: at(k), y: 14 + 13 * i, "text-anchor": "middle" }, part.join(" "))));
    });
    const sorted = [...shown].sort((a, b) => (a === selected) - (b === selected));
    for (const i of sorted) {
      const d = designs[i], known = columns.map((c, k) => [k, c.of(d)]).filter(([, v]) => v !== null);
      const path = known.map(([k, v], n) => `${n ? "L" : "M"}${at(k)},${scales[k].at(v)}`).join("");
      if (!path) continue;
      const group = draw("g", { class: `line ${colour(groupOf(d))}${i === selected ? " chosen" : ""}` },
        draw("path", { d: path }), draw("path", { class: "target", d: path }));
      group.addEventListener("mousemove", event => showTip(lines(d), event.clientX, event.clientY));
      group.addEventListener("mouseleave", hideTip);
      group.addEventListener("click", () => select(i));
      svg.append(group);
    }
    columns.forEach((_, k) => scales[k].ticks.forEach(v => svg.append(
      draw("text", { class: "small halo", x: at(k) + 5, y: scales[k].at(v) + 4 }, tick(Number(v.toPrecision(3)))))));
    replace(plot, svg);
  }
  views.push(paint);
}

// ---- Where the selected design's costs go.
function breakdown() {
  const body = section("Where the costs go"), plot = make("div", { id: "breakdown" });
  let which = 0;
  body.append(make("div", { class: "bar" },
    choice("show", data.breakdowns.map(b => b.label), 0, i => { which = i; paint(); })), plot);
  function paint() {
    const b = data.breakdowns[which], d = designs[selected], values = b.values[selected];
    if (!values) {
      replace(plot, make("p", { class: "note" }, `${d ? named(d) : "This design"} has no such breakdown; select another design.`));
      return;
    }
    const total = values.reduce((sum, v) => sum + v, 0), largest = Math.max(...values);
    const rows = b.parts.map((part, i) => [part, values[i]]).filter(([, v]) => v > 0).sort((p, q) => q[1] - p[1]);
    const list = make("table", { class: "bars" },
      make("caption", {}, `${named(d)}: ${b.label}, ${digits(total)} ${b.unit} in all`),
      make("thead", {}, make("tr", {}, ...["part", b.unit, "share", ""].map(t => make("th", { scope: "col" }, t)))),
      make("tbody", {}, ...rows.map(([part, v]) => make("tr", {},
        make("th", { scope: "row" }, part), make("td", {}, digits(v)),
        make("td", {}, `${(100 * v / total).toFixed(1)} %`),
        make("td", { class: "track", "aria-hidden": "true" }, make("div", { class: "fill", style: `width:${100 * v / largest}%` }))))));
    replace(plot, list);
  }
  views.push(paint);
}

// ---- Curves over the steps.
function curves() {
  const body = section("Convergence", "Point at the chart for the values of a step."),
    plot = make("div", { class: "plot", id: "curves" }), key = make("div", {});
  let which = 0;
  body.append(make("div", { class: "bar" }, choice("show", data.curves.map(c => c.label), 0, i => { which = i; paint(); })), key, plot);
  function paint() {
    const c = data.curves[which], w = widthOf(plot), h = 300, m = { left: 58, right: 14, top: 24, bottom: 42 };
    const points = c.series.flatMap(s => s.points);
    const xs = steps(points.map(p => p[0]), m.left, w - m.right), sy = scale(points.map(p => p[1]), h - m.bottom, m.top);
    const svg = canvas(w, h, `Line chart of ${c.label} over the steps: ${c.series.map(s => s.name).join(", ").slice(0, 300)}`);
    frame(svg, xs, sy, w, h, m, "step", c.unit ? `${c.label}, ${c.unit}` : c.label);
    (c.phases || []).forEach(([step, name]) => {
      const px = xs.at(step);
      svg.append(draw("line", { class: "phase", x1: px, x2: px, y1: m.top, y2: h - m.bottom }),
        draw("text", { class: "small", x: px + 3, y: m.top + 10 }, name));
    });
    const mine = designs[selected] ? designs[selected].name : null;
    c.series.forEach((s, i) => {
      const path = s.points.map((p, k) => `${k ? "L" : "M"}${xs.at(p[0])},${sy.at(p[1])}`).join("");
      svg.append(draw("g", { class: `curve ${colour(i)}${s.name === mine ? " chosen" : ""}` }, draw("path", { d: path }),
        ...(s.points.length < 30 ? s.points.map(p => draw("circle", { cx: xs.at(p[0]), cy: sy.at(p[1]), r: 2.5 })) : [])));
    });
    svg.addEventListener("mousemove", event => {
      const box = svg.getBoundingClientRect(), px = (event.clientX - box.left) * w / box.width;
      const near = points.reduce((a, b) => Math.abs(xs.at(b[0]) - px) < Math.abs(xs.at(a[0]) - px) ? b : a)[0];
      const told = c.series.flatMap(s => { const p = s.points.find(q => q[0] === near); return p ? [`${s.name}: ${digits(p[1], 4)}`] : []; });
      showTip([`step ${near}`, ...told.slice(0, 12)], event.clientX, event.clientY);
    });
    svg.addEventListener("mouseleave", hideTip);
    replace(key, c.series.length > 1 ? legend(c.series.map(s => s.name)) : "");
    replace(plot, svg);
  }
  views.push(paint);
}
function steps(values, from, to) { // whole numbers
  let low = Math.min(...values), high = Math.max(...values);
  if (low === high) { low -= 1; high += 1; }
  return { at: x => from + (to - from) * (x - low) / (high - low), ticks: linearTicks(low, high, to - from, 1) };
}

// ---- Setting up.
if (designs.length && data.axes.length > 1) scatter();
if (designs.length > 1 && data.dimensions.length) parallel();
if (data.breakdowns.length) breakdown();
if (data.curves.length) curves();
if (table) {
  for (const row of all("tbody tr", table)) {
    const i = Number(row.dataset.i), cell = row.cells[0];
    const pick = make("button", { type: "button", class: "pick", "aria-pressed": "false" }, ...cell.childNodes);
    pick.addEventListener("click", () => select(i));
    cell.append(pick);
  }
  table.addEventListener("filtered", () => {
    shown = new Set(all("tbody tr", table).filter(row => !row.hidden).map(row => Number(row.dataset.i)));
    refresh();
  });
}
const first = data.breakdowns.length ? designs.findIndex((_, i) => data.breakdowns[0].values[i]) : 0;
if (designs.length) select(Math.max(0, first), false); else refresh();
let waiting = 0;
addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(refresh, 100); });
})();
