"use strict";
(() => {
  const all = (selector, within = document) => Array.from(within.querySelectorAll(selector));
  const one = (id) => document.getElementById(id);

  // ---- sorting: numbers from the highest, text from A; missing values come last
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
    const rows = Array.from(table.tBodies[0].rows, (row) => [keyOf(row, column), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (numeric ? a - b : a.localeCompare(b, undefined, { numeric: true }));
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
    all("[aria-sort]", table).forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const button = head.querySelector("button");
    const name = button.getAttribute("aria-label") || button.textContent;
    one("announced").textContent = `Sorted by ${name}, ${order}.`;
  };
  all("table.sorted").forEach((table) => {
    all("thead tr:last-child th", table).forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => sort(table, head, column));
    });
  });

  // ---- charts are drawn when they come near the window, and before printing
  const sections = new Map(all(".leaderboard").map((section) => [section, { views: [], hot: "" }]));
  const theme = JSON.parse(one("chart-theme").textContent);
  const options = {
    actions: false, ast: true, config: theme, defaultStyle: false, mode: "vega-lite",
    renderer: "svg", tooltip: { disableDefaultStyle: true },
  };
  const rowOf = (section, label) =>
    all(".sorted tbody tr", section).find((row) => row.dataset.label === label);
  const highlight = (section, label) => {
    const state = sections.get(section);
    if (state.hot === label) return;
    state.hot = label;
    all("tr.hot", section).forEach((row) => row.classList.remove("hot"));
    if (label) rowOf(section, label)?.classList.add("hot");
    state.views.forEach(({ view }) => view.signal("hot", label).runAsync());
  };
  const update = (section) => {
    const left = new Set(all(".sorted tbody tr:not(.off)", section).map((row) => row.dataset.label));
    sections.get(section).views.forEach(({ view, labels }) => {
      view.signal("shown", labels.filter((label) => left.has(label))).runAsync();
    });
  };
  const draw = (place) => {
    if (place.dataset.drawn) return;
    place.dataset.drawn = "begun";
    const section = place.closest(".leaderboard");
    const spec = JSON.parse(place.nextElementSibling.textContent);
    vegaEmbed(place, spec, options).then(({ view }) => {
      sections.get(section).views.push({ view, labels: view.signal("shown") });
      view.addEventListener("mouseover", (event, item) => {
        highlight(section, item?.datum?.label || "");
      });
      view.addEventListener("mouseout", () => highlight(section, ""));
      update(section);
      place.dataset.drawn = "done";
    }, (error) => { place.textContent = `This chart cannot be drawn: ${error.message}`; });
  };
  const near = new IntersectionObserver((entries) => {
    entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => {
      near.unobserve(target);
      draw(target);
    });
  }, { rootMargin: "600px" });
  all(".chart").forEach((place) => near.observe(place));

  all(".sorted tbody tr").forEach((row) => {
    const section = row.closest(".leaderboard");
    const on = () => highlight(section, row.dataset.label);
    const off = () => highlight(section, "");
    row.addEventListener("mouseenter", on);
    row.addEventListener("mouseleave", off);
    row.addEventListener("focusin", on);
    row.addEventListener("focusout", off);
  });

  // ---- filters
  const form = one("controls");
  const rows = all("table.sorted tbody tr").map((row) => {
    const section = row.closest(".leaderboard");
    const { dataset, protocol } = section.dataset;
    const text = `${row.cells[0].textContent} ${dataset} ${protocol}`.toLowerCase();
    return { row, section, dataset, protocol, text, cameras: row.dataset.cameras };
  });
  const filter = () => {
    const words = one("f-text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = ["dataset", "protocol", "cameras"].map((key) => [key, one(`f-${key}`).value]);
    const unfiltered = !words.length && chosen.every(([, value]) => !value);
    const shown = new Set();
    const methods = new Set();
    let count = 0;
    rows.forEach((entry) => {
      const fits = words.every((word) => entry.text.includes(word))
        && chosen.every(([key, value]) => !value || entry[key] === value);
      entry.row.classList.toggle("off", !fits);
      if (!fits) return;
      count += 1;
      shown.add(entry.section.id);
      methods.add(entry.row.dataset.method);
    });
    sections.forEach((state, section) => {
      section.hidden = !shown.has(section.id);
      update(section);
    });
    all("nav [data-section]").forEach((item) => { item.hidden = !shown.has(item.dataset.section); });
    all(".method").forEach((method) => {
      method.hidden = !unfiltered && !methods.has(method.id);
    });
    one("nothing").hidden = count > 0;
    one("found").textContent = unfiltered ? `${count} rows` : `${count} of ${rows.length} rows`;
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

  // ---- a link to a closed part opens it
  const open = () => {
    const target = location.hash && one(decodeURIComponent(location.hash.slice(1)));
    if (target?.tagName !== "DETAILS") return;
    target.open = true;
    target.scrollIntoView();
    target.querySelector("summary").focus({ preventScroll: true });
  };
  addEventListener("hashchange", open);
  document.addEventListener("click", (event) => {  // following the same link again is no change
    const link = event.target.closest("a[href^='#']");
    if (link && link.getAttribute("href") === location.hash) open();
  });

  // ---- on paper everything is open and drawn
  let closed = [];
  addEventListener("beforeprint", () => {
    all(".chart").forEach(draw);
    closed = all("details:not([open])");
    closed.forEach((part) => { part.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((part) => { part.open = false; }));

  form.hidden = false;
  one("theme").hidden = false;
  filter();
  open();
})();
