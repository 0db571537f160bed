"use strict";
(() => {
  const D = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const put = (parent, tag, text, attributes = {}) => {
    const made = parent.namespaceURI === SVG || tag === "svg" ? document.createElementNS(SVG, tag) : document.createElement(tag);
    if (text !== null && text !== undefined) made.textContent = text;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    parent.appendChild(made);
    return made;
  };
  const SVG = "http://www.w3.org/2000/svg";
  const COLOURS = 8;
  const names = [...new Set(D.runs.map((r) => r.name.replace(/ \(.*/, "")))];
  const colour = (run) => `c${names.indexOf(run.name.replace(/ \(.*/, "")) % COLOURS}`;
  const number = (v) => (v === null || v === undefined ? "–" : Math.abs(v) < 1e-3 && v !== 0 ? v.toExponential(2) : v.toFixed(3));
  const merit = (i, v) => {
    const way = D.metrics[i].better;
    return typeof way === "number" ? -Math.abs(v - way) : way === "lower" ? -v : v;
  };
  const state = { words: "", sort: null, down: true, picked: null, limit: 40 };

  // ---- which runs are shown
  const text = D.runs.map((r) => [r.name, r.place, `seed ${r.seed}`, r.state, ...r.settings].join(" ").toLowerCase());
  const shown = () => {
    const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
    return D.runs.map((_, i) => i).filter((i) => words.every((w) => text[i].includes(w)));
  };

  // ---- the table
  const differs = (c) => new Set(D.runs.map(c.of)).size > 1;
  const columns = [
    { label: "run", of: (r) => r.name },
    ...[
      { label: "on", of: (r) => r.place },
      { label: "seed", of: (r) => r.seed, number: true },
      { label: "warning", of: (r) => r.state },
    ].filter(differs),
    ...D.metrics.map((m, i) => ({ label: m.label, metric: i, number: true, of: (r) => (r.metrics[i] ? r.metrics[i][0] : null) })),
    ...D.settings.map((s, i) => ({ label: s.label, of: (r) => r.settings[i] })),
  ];
  const compare = (a, b) => {
    const x = Number(a), y = Number(b);
    if (a !== "" && b !== "" && a !== null && b !== null && !Number.isNaN(x) && !Number.isNaN(y)) return x - y;
    return String(a ?? "").localeCompare(String(b ?? ""));
  };
  function table() {
    const head = $("runs").tHead, body = $("runs").tBodies[0];
    head.replaceChildren();
    body.replaceChildren();
    const line = put(head, "tr");
    columns.forEach((c, i) => {
      const sorted = state.sort === i ? (state.down ? "descending" : "ascending") : "none";
      const cell = put(line, "th", null, { scope: "col", "aria-sort": sorted });
      if (c.number) cell.className = "number";
      const button = put(cell, "button", c.label + (state.sort === i ? (state.down ? " ▾" : " ▴") : ""), { type: "button" });
      button.onclick = () => {
        state.down = state.sort === i ? !state.down : !!c.number;
        state.sort = i;
        table();
        $("runs").tHead.rows[0].cells[i].firstChild.focus();
      };
    });
    const order = shown();
    if (state.sort !== null) {
      const of = columns[state.sort].of;
      const missing = (i) => of(D.runs[i]) === null || of(D.runs[i]) === "";
      order.sort((a, b) => missing(a) - missing(b) || (state.down ? -1 : 1) * compare(of(D.runs[a]), of(D.runs[b])));
    }
    const best = D.metrics.map((m, i) => {
      if (m.better === null) return null;
      const values = order.map((r) => D.runs[r].metrics[i]).filter(Boolean).map((v) => merit(i, v[0]));
      return values.length > 1 ? Math.max(...values) : null;
    });
    for (const i of order) {
      const run = D.runs[i];
      const row = put(body, "tr", null, { tabindex: "0", "data-run": i });
      if (i === state.picked) row.className = "picked";
      row.onclick = () => pick(i);
      row.onkeydown = (e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); pick(i); } };
      for (const c of columns) {
        const cell = put(row, "td", null, c.number ? { class: "number" } : {});
        if (c.metric === undefined) { cell.textContent = c.of(run); continue; }
        const v = run.metrics[c.metric];
        cell.textContent = v ? number(v[0]) : "–";
        if (v && v.length === 3) put(cell, "small", `[${number(v[1])}, ${number(v[2])}]`);
        if (v && best[c.metric] !== null && merit(c.metric, v[0]) === best[c.metric]) { cell.classList.add("best"); cell.title = "best of the shown"; }
      }
    }
    for (const b of D.before) {
      const row = put(body, "tr", null, { class: "reference" });
      for (const c of columns) {
        const v = c.metric === undefined ? null : b.metrics[c.metric];
        const said = c.metric !== undefined ? (v ? number(v[0]) : "–") : c.label === "run" ? "before unlearning" : c.label === "on" ? b.place : "";
        const cell = put(row, "td", said, c.number ? { class: "number" } : {});
        if (v && v.length === 3) put(cell, "small", `[${number(v[1])}, ${number(v[2])}]`);
      }
    }
    $("shown").textContent = `${order.length} of ${D.runs.length} runs`;
  }

  // ---- one run's card
  function pick(i) {
    state.picked = i;
    const run = D.runs[i], card = $("card");
    card.replaceChildren();
    card.hidden = false;
    put(card, "h3", `${run.name}, seed ${run.seed}, ${run.place}`);
    const line = put(card, "p");
    const command = put(line, "code", run.command);
    const button = put(line, "button", "copy", { type: "button" });
    button.onclick = () => {
      const told = () => { button.textContent = "copied"; };
      if (navigator.clipboard) navigator.clipboard.writeText(run.command).then(told, () => getSelection().selectAllChildren(command));
      else getSelection().selectAllChildren(command);
    };
    put(card, "p", `commit ${run.commit || "–"} · config ${run.digest || "–"} · ${run.folder}`, { class: "soft" });
    for (const warning of run.warnings) put(card, "p", `⚠ ${warning}`);
    const go = put(card, "button", "its rows", { type: "button" });
    go.onclick = () => { $("row-run").value = String(i); rows(true); $("rows").scrollIntoView(); };
    $("row-run").value = String(i);
    rows(true);
    all();
  }

  // ---- drawing
  const size = (svg, w, h) => { svg.replaceChildren(); svg.setAttribute("viewBox", `0 0 ${w} ${h}`); };
  const range = (values) => {
    const low = Math.min(...values), high = Math.max(...values), pad = (high - low) * 0.06 || 0.05;
    return [low - pad, high + pad];
  };
  const open = (mark, i) => {
    mark.setAttribute("tabindex", "0");
    mark.setAttribute("role", "button");
    mark.addEventListener("click", () => pick(i));
    mark.addEventListener("keydown", (e) => { if (e.key === "Enter") pick(i); });
  };
  const told = (run, keys) => `${run.name}${run.seed === undefined ? "" : `, seed ${run.seed}`}\n` +
    keys.map((k) => `${D.metrics[k].label}: ${run.metrics[k] ? number(run.metrics[k][0]) : "–"}`).join("\n");
  function front(points, x, y) {
    const beats = (a, b) => merit(x, a.x) >= merit(x, b.x) && merit(y, a.y) >= merit(y, b.y) && (a.x !== b.x || a.y !== b.y);
    return points.filter((p) => !points.some((q) => beats(q, p))).sort((a, b) => a.x - b.x);
  }
  function plane() {
    const svg = $("plane"), W = 620, H = 420, L = 56, B = 46, R = 12, T = 12, x = +$("x").value, y = +$("y").value;
    size(svg, W, H);
    const at = (r) => (r.metrics[x] && r.metrics[y] ? { x: r.metrics[x][0], y: r.metrics[y][0] } : null);
    const points = shown().map((i) => ({ i, run: D.runs[i], ...at(D.runs[i]) })).filter((p) => p.x !== undefined);
    const before = D.before.map((b) => ({ run: b, ...at(b) })).filter((p) => p.x !== undefined);
    if (!points.length) { put(svg, "text", "no run has both", { x: W / 2, y: H / 2 }); return; }
    const [x0, x1] = range([...points, ...before].map((p) => p.x)), [y0, y1] = range([...points, ...before].map((p) => p.y));
    const px = (v) => L + ((v - x0) / (x1 - x0)) * (W - L - R), py = (v) => H - B - ((v - y0) / (y1 - y0)) * (H - B - T);
    for (let k = 0; k <= 4; k++) {
      const vx = x0 + ((x1 - x0) * k) / 4, vy = y0 + ((y1 - y0) * k) / 4;
      put(svg, "line", null, { x1: px(vx), x2: px(vx), y1: T, y2: H - B, class: "grid" });
      put(svg, "line", null, { x1: L, x2: W - R, y1: py(vy), y2: py(vy), class: "grid" });
      put(svg, "text", vx.toFixed(2), { x: px(vx), y: H - B + 16, class: "tick", "text-anchor": "middle" });
      put(svg, "text", vy.toFixed(2), { x: L - 6, y: py(vy) + 4, class: "tick", "text-anchor": "end" });
    }
    put(svg, "text", D.metrics[x].label, { x: (L + W - R) / 2, y: H - 8, "text-anchor": "middle" });
    put(svg, "text", D.metrics[y].label, { x: 0, y: 0, transform: `translate(14 ${(H - B) / 2}) rotate(-90)`, "text-anchor": "middle" });
    put(svg, "polyline", null, { points: front(points, x, y).map((p) => `${px(p.x)},${py(p.y)}`).join(" "), class: "front" });
    for (const p of before) {
      const mark = put(svg, "path", null, { d: `M${px(p.x) - 5},${py(p.y) - 5}l10,10m0,-10l-10,10`, class: "before" });
      put(mark, "title", `before unlearning, ${p.run.place}\n${told(p.run, [x, y])}`);
    }
    const taken = [], best = new Set(front(points, x, y).map((p) => p.i));
    const free = (box) => taken.every((b) => box[0] > b[1] || box[1] < b[0] || box[2] > b[3] || box[3] < b[2]);
    points.sort((a, b) => (b.i === state.picked) - (a.i === state.picked) || best.has(b.i) - best.has(a.i));
    for (const p of points) taken.push([px(p.x) - 5, px(p.x) + 5, py(p.y) - 5, py(p.y) + 5]);
    for (const p of points) {
      const mark = put(svg, "circle", null, { cx: px(p.x), cy: py(p.y), r: p.i === state.picked ? 8 : 5, class: `${colour(p.run)} ${p.run.state ? "hollow" : ""}`, "aria-label": told(p.run, [x, y]) });
      put(mark, "title", told(p.run, [x, y]));
      open(mark, p.i);
      const label = p.run.name.slice(0, 36), right = px(p.x) > W * 0.6, wide = label.length * 5.6 + 8, left = px(p.x) + (right ? -8 - wide : 8);
      const box = [left, left + wide, py(p.y) - 6, py(p.y) + 7];
      if (free(box) || p.i === state.picked) {
        put(svg, "text", label, { x: px(p.x) + (right ? -9 : 9), y: py(p.y) + 4, class: "name", "text-anchor": right ? "end" : "start" });
        taken.push(box);
      }
    }
  }
  function threads() {
    const svg = $("threads"), W = 620, H = 420, T = 40, B = 30, S = 60;
    size(svg, W, H);
    const runs = shown().map((i) => [i, D.runs[i]]);
    const axes = [
      { label: "run", of: (r) => r.name.replace(/ \(.*/, "") },
      ...D.settings.map((s, i) => ({ label: s.label, of: (r) => r.settings[i] })).filter((a) => new Set(runs.map(([, r]) => a.of(r))).size > 1).slice(0, 6),
      ...[+$("x").value, +$("y").value].map((k) => ({ label: D.metrics[k].label, of: (r) => (r.metrics[k] ? r.metrics[k][0] : null) })),
    ];
    const step = (W - 2 * S) / Math.max(1, axes.length - 1);
    axes.forEach((axis, k) => {
      const values = [...new Set(runs.map(([, r]) => axis.of(r)).filter((v) => v !== null))].sort(compare);
      const numeric = values.every((v) => v !== "" && !Number.isNaN(Number(v)));
      const [low, high] = numeric && values.length ? [Number(values[0]), Number(values[values.length - 1])] : [0, values.length - 1];
      axis.at = (v) => {
        const n = numeric ? Number(v) : values.indexOf(v);
        return H - B - (high > low ? (n - low) / (high - low) : 0.5) * (H - B - T);
      };
      const x = S + k * step;
      put(svg, "line", null, { x1: x, x2: x, y1: T, y2: H - B, class: "axis" });
      put(svg, "text", axis.label, { x, y: k % 2 ? 28 : 14, "text-anchor": "middle", class: "name" });
      const marks = numeric && values.length > 8 ? [values[0], values[values.length - 1]] : values.slice(0, 12);
      for (const v of marks) put(svg, "text", typeof v === "number" ? number(v) : String(v).slice(0, 22), { x: x + 4, y: axis.at(v) + 4, class: "tick" });
    });
    for (const [i, run] of runs) {
      const points = axes.filter((a) => a.of(run) !== null).map((a) => `${S + axes.indexOf(a) * step},${a.at(a.of(run))}`);
      const mark = put(svg, "polyline", null, { points: points.join(" "), class: `thread ${colour(run)}${i === state.picked ? " picked" : ""}` });
      put(mark, "title", told(run, [+$("x").value, +$("y").value]));
      open(mark, i);
    }
  }
  function layers() {
    const svg = $("layers"), some = shown().map((i) => [i, D.runs[i]]).filter(([, r]) => r.layers.length && r.units).slice(0, 40);
    svg.parentNode.hidden = !some.length;
    if (!some.length) return;
    const depth = Math.max(...some.map(([, r]) => r.layers.length)), W = 1240, L = 300, h = 18, H = some.length * h + 62;
    size(svg, W, H);
    const share = (r, l) => (r.layers[l] ?? 0) / r.units, top = Math.max(1e-9, ...some.flatMap(([, r]) => r.layers.map((n) => n / r.units)));
    const w = (W - L - 12) / depth;
    some.forEach(([i, run], row) => {
      put(svg, "text", `${run.name}, seed ${run.seed}`.slice(0, 46), { x: L - 6, y: row * h + 14, "text-anchor": "end", class: "tick" });
      for (let l = 0; l < run.layers.length; l++) {
        const cell = put(svg, "rect", null, { x: L + l * w, y: row * h + 1, width: Math.max(1, w - 1), height: h - 2, class: "heat" });
        cell.style.fillOpacity = 0.04 + 0.96 * (share(run, l) / top);
        put(cell, "title", `${run.name}, layer ${l}: ${run.layers[l]} of ${run.units} (${(100 * share(run, l)).toFixed(1)} %)`);
        cell.addEventListener("click", () => pick(i));
      }
    });
    const y = some.length * h + 16, every = Math.max(1, Math.ceil(depth / 16));
    for (let l = 0; l < depth; l += every) put(svg, "text", l, { x: L + (l + 0.5) * w, y, "text-anchor": "middle", class: "tick" });
    put(svg, "text", "layer", { x: L - 6, y, "text-anchor": "end", class: "tick" });
    for (let k = 0; k <= 20; k++) {
      const box = put(svg, "rect", null, { x: L + k * 12, y: y + 10, width: 12, height: 10, class: "heat" });
      box.style.fillOpacity = 0.04 + (0.96 * k) / 20;
    }
    put(svg, "text", "0 %", { x: L, y: y + 34, class: "tick" });
    put(svg, "text", `${(100 * top).toFixed(1)} % of a layer's neurons`, { x: L + 252, y: y + 34, "text-anchor": "start", class: "tick" });
  }

  // ---- rows
  function changes(before, after) {
    const a = before.split(/(\s+)/), b = after.split(/(\s+)/);
    if (a.length * b.length > 90000) return [["del", before], ["ins", after]];
    const best = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
    for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--) best[i][j] = a[i] === b[j] ? best[i + 1][j + 1] + 1 : Math.max(best[i + 1][j], best[i][j + 1]);
    const parts = [];
    let i = 0, j = 0;
    const add = (kind, word) => { const last = parts[parts.length - 1]; if (last && last[0] === kind) last[1] += word; else parts.push([kind, word]); };
    while (i < a.length || j < b.length) {
      if (i < a.length && j < b.length && a[i] === b[j]) { add("span", a[i]); i++; j++; }
      else if (j >= b.length || (i < a.length && best[i + 1][j] >= best[i][j + 1])) add("del", a[i++]);
      else add("ins", b[j++]);
    }
    return parts;
  }
  function rows(anew) {
    if (anew) state.limit = 40;
    const run = $("row-run").value, split = $("row-split").value, kind = $("row-kind").value, words = $("row-words").value.toLowerCase();
    const found = D.rows.filter((r) => (run === "" || r.run === +run) && (split === "" || r.split === split) && (kind === "" || r.kind === kind) &&
      (words === "" || `${r.prompt} ${r.answer} ${r.after} ${r.id}`.toLowerCase().includes(words)));
    const list = $("row-list");
    list.replaceChildren();
    for (const r of found.slice(0, state.limit)) {
      const box = put(list, "article", null, { class: `row ${r.kind}` });
      const head = put(box, "p", null, { class: "soft" });
      put(head, "b", r.kind);
      put(head, "span", ` ${r.id} · score ${r.score === null ? "–" : r.score.toFixed(3)} · `);
      const link = put(head, "a", `${D.runs[r.run].name}, seed ${D.runs[r.run].seed}`, { href: "#explore" });
      link.onclick = () => pick(r.run);
      const told = put(box, "dl");
      for (const [name, value] of [["question", r.prompt], ["answer", r.answer], ["before", r.before], ["after", r.after]]) {
        put(told, "dt", name);
        put(told, "dd", value || "(empty)");
      }
      put(told, "dt", "changed");
      const diff = put(told, "dd");
      if (r.before === r.after) diff.textContent = "nothing";
      else for (const [tag, word] of changes(r.before, r.after)) put(diff, tag, word);
    }
    $("row-count").textContent = `${found.length} rows`;
    $("row-more").hidden = found.length <= state.limit;
  }

  // ---- set up
  const option = (select, value, label) => put(select, "option", label, { value });
  D.metrics.forEach((m, i) => { option($("x"), i, m.label); option($("y"), i, m.label); });
  const index = (key, otherwise) => Math.max(0, D.metrics.findIndex((m) => m.key === key)) || otherwise;
  $("x").value = String(index(D.axes[0], 0));
  $("y").value = String(index(D.axes[1], Math.min(1, D.metrics.length - 1)));
  option($("row-run"), "", "all");
  D.runs.forEach((r, i) => option($("row-run"), i, `${r.name}, seed ${r.seed}`));
  option($("row-split"), "", "all");
  [...new Set(D.rows.map((r) => r.split))].forEach((s) => option($("row-split"), s, s));
  function all() { table(); plane(); threads(); layers(); }
  $("filter").oninput = (e) => { state.words = e.target.value; all(); };
  $("x").onchange = $("y").onchange = () => { plane(); threads(); };
  for (const id of ["row-run", "row-split", "row-kind"]) $(id).onchange = () => rows(true);
  $("row-words").oninput = () => rows(true);
  $("row-more").onclick = () => { state.limit += 100; rows(false); };
  for (const picture of document.querySelectorAll("figure img")) {
    picture.tabIndex = 0;
    picture.title = "enlarge";
    const turn = () => picture.classList.toggle("large");
    picture.onclick = turn;
    picture.onkeydown = (e) => { if (e.key === "Enter") turn(); };
  }
  const root = document.documentElement;
  $("theme").onclick = () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  };
  all();
  rows(true);
  document.body.dataset.ready = "true";
})();
