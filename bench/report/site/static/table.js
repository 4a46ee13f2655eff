// Search, filters, columns, copying; the view of a table stands in the address. Sorting is sortable.min.js.
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

  const out = new WeakSet(); // rows that search or filters leave out
  const MOST = 300; // rows shown until all are asked for: a browser lays out thousands slowly
  const columns = (table) => [...table.tHead.rows[0].cells].map((cell, index) => ({ cell, index }))
    .filter(({ cell }) => cell.dataset.copy !== "no" && !cell.dataset.hidden);
  const shown = (table) => [...table.tBodies].flatMap((body) => [...body.rows]).filter((row) => !out.has(row));
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

  // ---------------------------------------------------------------- the view in the address: #?q=…&sort=-clean&recipe=quick
  const view = () => new URLSearchParams(location.hash.startsWith("#?") ? location.hash.slice(2) : "");
  const remember = (parameters) => {
    const told = parameters.toString();
    if (!told && !location.hash.startsWith("#?")) return; // another anchor stays
    history.replaceState(null, "", told ? "#?" + told : location.pathname + location.search);
  };
  const key = (head) => (head.dataset.csv?.split("|")[0] ?? heading(head)).toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-");

  // ---------------------------------------------------------------- search, filters, columns
  const NONE = "(none)";
  const styles = make("style");
  document.head.append(styles);
  const rules = new Map();

  const enhance = (table, number) => {
    const keeps = table.dataset.search !== undefined;
    const heads = [...table.tHead.rows[0].cells];
    const bar = make("div", { className: "tools" });
    const rows = () => [...table.tBodies].flatMap((body) => [...body.rows]);
    const filters = [];
    const push = make("span", { className: "push" });
    const more = make("button", { type: "button", hidden: true });
    more.addEventListener("click", () => { whole = true; apply(); });
    let search = null, count = null, whole = false;
    const hidden = new Set(heads.filter((head) => head.dataset.off !== undefined).map(key));
    const usual = new Set(hidden);

    const order = (head) => head.getAttribute("aria-sort");
    const first = { head: heads.find(order) };
    first.order = first.head && order(first.head);
    const told = () => {
      const parameters = new URLSearchParams();
      if (search?.value) parameters.set("q", search.value);
      for (const { select, name } of filters) if (select.value) parameters.set(name, select.value);
      const sorted = heads.find(order);
      if (sorted && (sorted !== first.head || order(sorted) !== first.order)) {
        parameters.set("sort", (order(sorted) === "descending" ? "-" : "") + key(sorted));
      }
      const differing = heads.map(key).filter((name) => hidden.has(name) !== usual.has(name));
      if (differing.length) parameters.set("columns", differing.join(","));
      return parameters;
    };
    const apply = () => {
      const words = search ? search.value.toLowerCase().split(/\s+/).filter(Boolean) : [];
      const every = rows();
      let left = 0;
      for (const row of every) {
        const content = words.length ? text(row).toLowerCase() : "";
        const fits = words.every((word) => content.includes(word))
          && filters.every(({ select, index }) => !select.value || (text(row.cells[index]) || NONE) === select.value);
        out[fits ? "delete" : "add"](row);
        left += fits;
        row.hidden = !fits || (left > MOST && !whole);
      }
      count.textContent = left === every.length ? `${left} rows` : `${left} of ${every.length} rows`;
      more.hidden = whole || left <= MOST;
      more.textContent = `The first ${MOST} are shown: show all`;
    };
    const change = () => { apply(); remember(told()); };
    const layOut = () => {
      const gone = heads.map((head, index) => ({ head, index })).filter(({ head }) => hidden.has(key(head)));
      heads.forEach((head) => { delete head.dataset.hidden; });
      gone.forEach(({ head }) => { head.dataset.hidden = "yes"; });
      table.dataset.number = number;
      rules.set(number, gone.map(({ index }) =>
        `table[data-number="${number}"] > * > tr > :nth-child(${index + 1}) { display: none; }`).join("\n"));
      styles.textContent = [...rules.values()].join("\n");
      wide();
    };
    const scroll = table.closest(".scroll");
    const hint = make("span", { className: "hint", textContent: "scrolls sideways →", hidden: true });
    const wide = () => { hint.hidden = scroll.scrollWidth <= scroll.clientWidth + 1; };

    if (keeps && table.tBodies[0].rows.length > 1) {
      search = make("input", { type: "search", placeholder: "Search (press /)" });
      search.setAttribute("aria-label", "Search the table");
      search.addEventListener("input", change);
      bar.append(search);
      count = make("span", { className: "count" });
      count.setAttribute("role", "status");
      heads.filter((head) => head.dataset.filter !== undefined).forEach((head) => {
        const index = head.cellIndex;
        const values = [...new Set(rows().map((row) => text(row.cells[index]) || NONE))]
          .sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
        if (values.length < 2) return;
        const select = make("select", {}, make("option", { value: "", textContent: "all" }),
          ...values.map((value) => make("option", { value, textContent: value })));
        select.addEventListener("change", change);
        filters.push({ select, index, name: key(head) });
        bar.append(make("label", {}, heading(head), select));
      });
      bar.append(count, more);
    }
    if (keeps) {
      bar.append(hint);
      const menu = make("div", { className: "menu" });
      const boxes = heads.slice(2).map((head) => {
        const box = make("input", { type: "checkbox", checked: !hidden.has(key(head)) });
        box.addEventListener("change", () => {
          hidden[box.checked ? "delete" : "add"](key(head));
          layOut();
          remember(told());
        });
        menu.append(make("label", {}, box, heading(head)));
        return { box, name: key(head) };
      });
      const columnsMenu = make("details", { className: "columns-menu" }, make("summary", { textContent: "Columns" }), menu);
      document.addEventListener("click", (event) => { if (!columnsMenu.contains(event.target)) columnsMenu.open = false; });
      columnsMenu.addEventListener("keydown", (event) => {
        if (event.key !== "Escape") return;
        columnsMenu.open = false;
        columnsMenu.firstChild.focus();
      });
      const restore = () => {
        const given = view();
        if (search) search.value = given.get("q") ?? "";
        for (const { select, name } of filters) {
          select.value = given.get(name) ?? "";
          if (select.selectedIndex < 0) select.value = "";
        }
        const differing = (given.get("columns") ?? "").split(",");
        hidden.clear();
        heads.map(key).forEach((name) => { if (usual.has(name) !== differing.includes(name)) hidden.add(name); });
        boxes.forEach(({ box, name }) => { box.checked = !hidden.has(name); });
        const asked = given.get("sort");
        const wanted = asked ? heads.find((head) => key(head) === asked.replace(/^-/, "")) : first.head;
        const way = asked ? (asked.startsWith("-") ? "descending" : "ascending") : first.order;
        for (let turn = 0; wanted && order(wanted) !== way && turn < 2; turn += 1) wanted.firstElementChild.click();
        if (search) apply();
        layOut();
      };
      table.addEventListener("sort-end", () => {
        if (search) apply(); // others are the first now
        remember(told());
      });
      addEventListener("hashchange", () => { if (location.hash.startsWith("#?")) restore(); });
      addEventListener("resize", wide);
      push.append(columnsMenu);
      restore();
    }
    push.append(
      copyButton(make("button", { type: "button", textContent: "Copy CSV" }), () => csv(table)),
      copyButton(make("button", { type: "button", textContent: "Copy LaTeX" }), () => latex(table)));
    bar.append(push);
    table.closest("figure").querySelector(".scroll").before(bar);
    if (keeps) wide();
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
})();
