"use strict";
(() => {
  // Colours that the charts take from the page.
  const TOKENS = { "#010203": "--ink", "#010204": "--line", "#010205": "--paper", "#010206": "--quiet" };

  function themed(text) {
    const style = getComputedStyle(document.documentElement);
    for (const [token, name] of Object.entries(TOKENS)) {
      text = text.replaceAll(token, style.getPropertyValue(name).trim());
    }
    return JSON.parse(text);
  }

  async function draw(source) {
    const place = document.getElementById(source.dataset.chart);
    const figure = place.closest(".chart");
    figure.classList.add("drawn");
    try {
      place.replaceChildren();
      await Bokeh.embed.embed_item(themed(source.textContent), place);
    } catch (error) {
      figure.classList.remove("drawn"); // the picture stays
      console.warn(error);
    }
  }

  function drawAll() {
    if (typeof Bokeh === "undefined") return;
    Bokeh.set_log_level("warn");
    for (const drawn of Bokeh.documents.slice()) drawn.clear();
    for (const source of document.querySelectorAll("script[data-chart]")) draw(source);
  }

  // A number at the start of a cell; ±, thousands separators and percent signs are ignored. NaN for other text.
  function number(text) {
    const found = text.replaceAll(",", "").replace("−", "-").match(/^[<>≤+]?\s*(-?[\d.]+(?:e[-+]?\d+)?)/i);
    return found ? parseFloat(found[1]) : NaN;
  }

  function sort(table, column, ascending) {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, text: row.cells[column].textContent.trim() }));
    const filled = rows.filter((one) => one.text !== "" && one.text !== "–");
    const numeric = filled.every((one) => !Number.isNaN(number(one.text)));
    const sign = ascending ? 1 : -1;
    filled.sort((a, b) => sign * (numeric
      ? number(a.text) - number(b.text)
      : a.text.localeCompare(b.text, undefined, { numeric: true })));
    const empty = rows.filter((one) => !filled.includes(one));
    body.append(...[...filled, ...empty].map((one) => one.row));
  }

  function makeSortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      if (!button.textContent.trim()) button.setAttribute("aria-label", "first column");
      head.append(button);
      button.addEventListener("click", () => {
        const ascending = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        sort(table, column, ascending);
      });
    });
  }

  function makeFilterable(container, table) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    const count = document.createElement("span");
    input.type = "search";
    input.setAttribute("aria-label", `Filter: ${table.caption.textContent}`);
    count.setAttribute("role", "status");
    label.append("Filter ", input);
    const bar = document.createElement("div");
    bar.className = "filter";
    bar.append(label, count);
    container.prepend(bar);
    const rows = [...table.tBodies[0].rows];
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const cells = [...row.cells].map((cell) => cell.textContent.toLowerCase()).join(" ");
        row.hidden = !words.every((word) => cells.includes(word));
        shown += row.hidden ? 0 : 1;
      }
      count.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
    });
  }

  // Browsers may refuse the clipboard: the text stays selected, so that the reader can copy it with the keyboard.
  async function copy(code, status) {
    getSelection().selectAllChildren(code);
    try {
      await navigator.clipboard.writeText(code.textContent);
      status.textContent = "copied";
    } catch {
      status.textContent = document.execCommand("copy") ? "copied" : "selected; copy it with the keyboard";
    }
  }

  function makeCopyable(pre) {
    const bar = document.createElement("div");
    const button = document.createElement("button");
    const status = document.createElement("span");
    bar.className = "copy";
    button.type = "button";
    button.textContent = "Copy";
    button.setAttribute("aria-describedby", pre.getAttribute("aria-labelledby"));
    status.setAttribute("role", "status");
    button.addEventListener("click", () => copy(pre.firstElementChild, status));
    bar.append(button, status);
    pre.after(bar);
  }

  document.querySelectorAll("[data-copy]").forEach(makeCopyable);
  for (const container of document.querySelectorAll("[data-interactive]")) {
    const table = container.querySelector("table");
    makeSortable(table);
    makeFilterable(container, table);
  }
  drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
})();
