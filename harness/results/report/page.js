"use strict";
(() => {
  const all = (selector, within = document) => Array.from(within.querySelectorAll(selector));
  const one = (id) => document.getElementById(id);
  const say = (text) => { one("said").textContent = text; };

  // ---- sorting: numbers from the highest, words from the first; what is missing comes last
  const keyOf = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.value === undefined) return cell.textContent.trim().toLowerCase();
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };
  const sort = (table, head, column) => {
    const numeric = head.classList.contains("n");
    const first = numeric ? "descending" : "ascending";
    const second = numeric ? "ascending" : "descending";
    const order = head.getAttribute("aria-sort") === first ? second : first;
    const sign = order === "ascending" ? 1 : -1;
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, (row) => [keyOf(row, column), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (numeric ? a - b : a.localeCompare(b, undefined, { numeric: true }));
    });
    body.append(...rows.map(([, row]) => row));
    all("[aria-sort]", table).forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const button = head.querySelector("button");
    say(`Sorted by ${button.getAttribute("aria-label") || button.textContent}, ${order}.`);
  };
  all("table.sorted").forEach((table) => {
    all("thead tr:last-child th", table).forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => sort(table, head, column));
    });
  });

  // ---- a row and its lines in the charts
  const partners = new Map();
  all("[data-row]").forEach((part) => {
    const parts = partners.get(part.dataset.row) || [];
    parts.push(part);
    partners.set(part.dataset.row, parts);
  });
  const light = (row, on) => {
    const parts = partners.get(row).filter((part) => part.tagName !== "TR");
    parts.forEach((part) => {
      part.classList.toggle("hot", on);
      part.ownerSVGElement.classList.toggle("some", on);
    });
  };
  partners.forEach((parts, row) => parts.forEach((part) => {
    part.addEventListener("mouseenter", () => light(row, true));
    part.addEventListener("mouseleave", () => light(row, false));
    part.addEventListener("focusin", () => light(row, true));
    part.addEventListener("focusout", () => light(row, false));
  }));

  // ---- filters
  const form = one("controls");
  const rows = all("table.sorted tbody tr").map((row) => {
    const board = row.closest(".board");
    const { dataset, protocol } = board.dataset;
    const text = `${row.cells[0].textContent} ${dataset} ${protocol}`.toLowerCase();
    return { row, board, dataset, protocol, text, cameras: row.dataset.cameras };
  });
  const filter = () => {
    const words = one("f-text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = ["dataset", "protocol", "cameras"].map((key) => [key, one(`f-${key}`).value]);
    const free = !words.length && wanted.every(([, value]) => !value);
    const boards = new Set();
    const methods = new Set();
    let count = 0;
    rows.forEach((entry) => {
      const fits = words.every((word) => entry.text.includes(word))
        && wanted.every(([key, value]) => !value || entry[key] === value);
      partners.get(entry.row.dataset.row).forEach((part) => part.classList.toggle("off", !fits));
      if (!fits) return;
      count += 1;
      boards.add(entry.board.id);
      methods.add(entry.row.dataset.method);
    });
    all(".board").forEach((board) => { board.hidden = !boards.has(board.id); });
    all("nav [data-board]").forEach((item) => { item.hidden = !boards.has(item.dataset.board); });
    all(".method").forEach((method) => { method.hidden = !free && !methods.has(method.id); });
    one("nothing").hidden = count > 0;
    one("found").textContent = free ? `${count} rows` : `${count} of ${rows.length} rows`;
  };
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  one("clear").addEventListener("click", () => { form.reset(); one("f-text").focus(); });

  // ---- light and dark
  one("f-theme").addEventListener("change", (event) => {
    const root = document.documentElement;
    if (event.target.value) root.dataset.theme = event.target.value;
    else delete root.dataset.theme;
  });

  // ---- links into closed parts open them
  const open = () => {
    const target = location.hash && one(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    if (target.tagName === "DETAILS") {
      target.open = true;
      target.scrollIntoView();
      target.querySelector("summary").focus({ preventScroll: true });
    }
  };
  addEventListener("hashchange", open);
  document.addEventListener("click", (event) => {  // the same link a second time is no change
    const link = event.target.closest("a[href^='#']");
    if (link && link.getAttribute("href") === location.hash) open();
  });

  // ---- on paper everything is open
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    closed.forEach((part) => { part.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((part) => { part.open = false; }));

  form.hidden = false;
  one("theme").hidden = false;
  filter();
  open();
})();
