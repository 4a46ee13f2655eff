// Search, filters, copying and hints for tables and charts. Sorting is sortable.min.js. Without scripts the pages still read.
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const text = (element) => element.textContent.replace(/\s+/g, " ").trim();

  // ---------------------------------------------------------------- what a table gives away
  const NUMBER = /^[-+−]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i;
  const csvField = (value) => {
    // A spreadsheet must not take text from outside for a formula.
    const safe = /^ *[=+\-@\t\r\n]/.test(value) && !NUMBER.test(value) ? "'" + value : value;
    return /[",\n\r]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
  };
  const TEX = {
    "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_", "{": "\\{", "}": "\\}",
    "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}",
    "[": "{[}", "]": "{]}", "*": "{*}", "`": "\\textasciigrave{}",
    "±": "$\\pm$", "–": "--", "—": "---", "−": "$-$", "×": "$\\times$", "→": "$\\rightarrow$", "↓": "$\\downarrow$", "∞": "$\\infty$",
    "ℓ": "$\\ell$", "ε": "$\\varepsilon$", "λ": "$\\lambda$", "δ": "$\\delta$", "α": "$\\alpha$", "β": "$\\beta$",
    "✗": "$\\times$", "†": "$\\dagger$", "≤": "$\\le$", "²": "$^2$", "·": "$\\cdot$", "…": "\\ldots{}", '"': "''",
  };
  const tex = (value) => [...value]
    .map((letter, at, every) => (letter + every[at + 1] === "--" ? "-{}" : TEX[letter] ?? letter)).join("");

  const columns = (table) => [...table.tHead.rows[0].cells].map((cell, index) => ({ cell, index }))
    .filter(({ cell }) => cell.dataset.copy !== "no");
  const shown = (table) => [...table.tBodies].flatMap((body) => [...body.rows]).filter((row) => !row.hidden);
  const copied = (cell) => cell.dataset.copy ?? text(cell);
  const heading = (cell) => cell.dataset.head ?? text(cell);

  const csv = (table) => {
    const wanted = columns(table);
    const heads = wanted.flatMap(({ cell }) => cell.dataset.csv?.split("|") ?? [heading(cell)]);
    const lines = shown(table).map((row) => wanted.flatMap(({ cell, index }) => {
      const own = row.cells[index];
      if (cell.dataset.csv === undefined) return [own.dataset.csv ?? copied(own)];
      const values = (own.dataset.csv ?? copied(own)).split("|");
      const width = cell.dataset.csv.split("|").length;
      return Array.from({ length: width }, (_, place) => values[place] ?? "");
    }));
    return [heads, ...lines].map((line) => line.map(csvField).join(",")).join("\n") + "\n";
  };
  const latex = (table) => {
    const wanted = columns(table);
    const line = (cells) => "  " + cells.join(" & ") + " \\\\";
    const rows = shown(table).map((row) => line(wanted.map(({ index }) => {
      const cell = row.cells[index], value = tex(copied(cell));
      return cell.classList.contains("best") ? `\\textbf{${value}}` : value;
    })));
    const shape = wanted.map(({ cell }) => (cell.classList.contains("number") || table.classList.contains("heat") ? "r" : "l"));
    return ["\\begin{tabular}{" + shape.join("") + "}", "  \\toprule", line(wanted.map(({ cell }) => tex(heading(cell)))),
      "  \\midrule", ...rows, "  \\bottomrule", "\\end{tabular}", ""].join("\n");
  };

  const toClipboard = async (value) => {
    try {
      await navigator.clipboard.writeText(value);
      return true;
    } catch { // an older browser, or one that allows it to secure pages only
      const area = make("textarea", { value });
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      return done;
    }
  };
  const copyButton = (button, value) => {
    const label = button.textContent;
    button.addEventListener("click", async () => {
      button.textContent = (await toClipboard(value())) ? "Copied" : "Not allowed";
      setTimeout(() => { button.textContent = label; }, 1400);
    });
    return button;
  };

  // ---------------------------------------------------------------- search and filters
  const NONE = "(none)";
  const enhance = (table) => {
    const bar = make("div", { className: "tools" });
    const count = make("span", { className: "count" });
    count.setAttribute("role", "status");
    const filters = [];
    let search = null;
    const apply = () => {
      const words = search ? search.value.toLowerCase().split(/\s+/).filter(Boolean) : [];
      const rows = [...table.tBodies].flatMap((body) => [...body.rows]);
      for (const row of rows) {
        const content = text(row).toLowerCase();
        row.hidden = !words.every((word) => content.includes(word))
          || filters.some(({ select, index }) => select.value && (text(row.cells[index]) || NONE) !== select.value);
      }
      const left = rows.filter((row) => !row.hidden).length;
      count.textContent = left === rows.length ? `${rows.length} rows` : `${left} of ${rows.length} rows`;
    };
    if (table.dataset.search !== undefined && table.tBodies[0].rows.length > 1) {
      search = make("input", { type: "search", placeholder: "Search (press /)" });
      search.setAttribute("aria-label", "Search the table");
      search.addEventListener("input", apply);
      bar.append(search);
      all("th[data-filter]", table.tHead).forEach((head) => {
        const index = head.cellIndex;
        const values = [...new Set([...table.tBodies[0].rows].map((row) => text(row.cells[index]) || NONE))].sort();
        if (values.length < 2) return;
        const select = make("select", {}, make("option", { value: "", textContent: "all" }),
          ...values.map((value) => make("option", { value, textContent: value })));
        select.addEventListener("change", apply);
        filters.push({ select, index });
        bar.append(make("label", {}, heading(head), select));
      });
      bar.append(count);
      apply();
    }
    const push = make("span", { className: "push" },
      copyButton(make("button", { type: "button", textContent: "Copy CSV" }), () => csv(table)),
      copyButton(make("button", { type: "button", textContent: "Copy LaTeX" }), () => latex(table)));
    bar.append(push);
    table.closest("figure").querySelector(".scroll").before(bar);
  };
  all("table.data").forEach(enhance);
  all("button.copy").forEach((button) => {
    button.hidden = false;
    copyButton(button, () => button.dataset.text);
  });
  document.addEventListener("keydown", (event) => {
    const field = document.querySelector(".tools input[type=search]");
    if (event.key === "/" && field && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      field.focus();
    }
  });

  // ---------------------------------------------------------------- matrices: hints by pointer and by keys
  const tip = make("div", { id: "tip", hidden: true });
  tip.setAttribute("role", "tooltip");
  const show = (cell) => {
    tip.textContent = cell.dataset.tip;
    tip.hidden = false;
    const at = cell.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const below = at.bottom + 8 + own.height < innerHeight;
    tip.style.left = Math.max(8, Math.min(at.left, innerWidth - own.width - 8)) + "px";
    tip.style.top = (below ? at.bottom + 8 : Math.max(8, at.top - own.height - 8)) + "px";
    cell.setAttribute("aria-describedby", "tip");
  };
  const hide = (cell) => {
    tip.hidden = true;
    cell?.removeAttribute("aria-describedby");
  };
  if (document.querySelector("[data-tip]")) document.body.append(tip);
  all("[data-tip]").forEach((cell) => {
    cell.addEventListener("pointerenter", () => show(cell));
    cell.addEventListener("pointerleave", () => hide(cell));
    cell.addEventListener("focus", () => show(cell));
    cell.addEventListener("blur", () => hide(cell));
    cell.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (event.key === "Escape") hide(cell);
      if (!step) return;
      const row = cell.closest("tbody").rows[cell.parentNode.sectionRowIndex + step[0]];
      const next = row?.cells[cell.cellIndex + step[1]];
      if (next?.dataset.tip === undefined) return;
      event.preventDefault();
      cell.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  });

  // ---------------------------------------------------------------- curves: values under the pointer
  all("[data-chart]").forEach((figure) => {
    const { left, right, width, lines } = JSON.parse(figure.dataset.chart);
    const picture = figure.querySelector("svg.chart"), cursor = picture.querySelector(".cursor");
    const output = figure.querySelector(".readout");
    const length = Math.max(...lines.map((line) => line.values.length));
    let place = length - 1;
    const read = (index) => {
      place = Math.max(0, Math.min(length - 1, index));
      const x = length > 1 ? left + ((right - left) * place) / (length - 1) : (left + right) / 2;
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
      cursor.style.visibility = "visible";
      output.textContent = `epoch ${place + 1}: ` + lines.filter((line) => line.values[place] != null)
        .map((line) => `${line.name} ${Number(line.values[place].toPrecision(4))}`).join(", ");
    };
    const clear = () => {
      cursor.style.visibility = "hidden";
      output.textContent = "";
    };
    picture.addEventListener("pointermove", (event) => {
      const box = picture.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * width;
      read(Math.round(((x - left) / (right - left)) * (length - 1)));
    });
    picture.addEventListener("pointerleave", clear);
    figure.addEventListener("blur", clear);
    figure.addEventListener("focus", () => read(place));
    figure.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, Home: -length, End: length }[event.key];
      if (!step) return;
      event.preventDefault();
      read(place + step);
    });
  });

  // ---------------------------------------------------------------- a link to an evaluation opens it
  const open = () => {
    const target = location.hash.length > 1 ? document.getElementById(decodeURIComponent(location.hash.slice(1))) : null;
    if (target instanceof HTMLDetailsElement) target.open = true;
  };
  addEventListener("hashchange", open);
  open();
})();
