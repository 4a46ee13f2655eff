// Hints of matrices, values of curves, links into folded parts. Tables are table.js. Without scripts the pages still read.
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

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
    const anchor = location.hash.startsWith("#?") ? "" : decodeURIComponent(location.hash.slice(1));
    const target = anchor && document.getElementById(anchor);
    if (!target) return;
    if (target instanceof HTMLDetailsElement) target.open = true;
    target.scrollIntoView();
  };
  addEventListener("hashchange", open);
  open();
})();
