// The table of metrics: one row for each subject and method, sorted by a click on, or Enter in, the head of a column.
(() => {
  const { columns, rows, legend } = data.metrics;
  if (!rows.length) return;

  const collator = new Intl.Collator(undefined, { numeric: true });
  const labels = [
    ["dataset", "data set"],
    ["unit", data.metrics.unit],
    ["method", "method"],
  ].filter(([key]) => key !== "dataset" || new Set(rows.map((row) => row.dataset)).size > 1);
  const heads = [
    ...labels.map(([key, text]) => ({ text, value: (row) => row[key], isName: true })),
    ...columns.map(({ label }, i) => ({ text: label, value: (row) => row.means[i] })),
  ];
  let sorted = { head: null, descending: false };

  function compare(a, b) {
    if (a === null || b === null) return 0;
    return typeof a === "number" ? a - b : collator.compare(a, b);
  }

  // What has no value comes last, whichever way; those of all subjects stay on top.
  function inOrder(group) {
    if (!sorted.head) return group;
    const { value } = sorted.head;
    const sign = sorted.descending ? -1 : 1;
    const missing = (row) => Number(value(row) === null);
    return [...group].sort((a, b) => missing(a) - missing(b) || sign * compare(value(a), value(b)));
  }

  function cell(row, head, i) {
    if (head.isName) return element(head.text === "method" ? "th" : "td", head.value(row), { class: "name" });
    const [mean, spread] = [row.means, row.spreads].map((values) => values[i - labels.length]);
    const made = element("td", mean === null ? "" : mean.toFixed(columns[i - labels.length].digits));
    if (spread) made.append(" ", element("small", spread));
    return made;
  }

  function body(kind) {
    const made = element("tbody", "", { class: kind });
    for (const row of inOrder(rows.filter(({ is_summary }) => is_summary === (kind === "summary")))) {
      const line = element("tr");
      line.append(...heads.map((head, i) => cell(row, head, i)));
      made.append(line);
    }
    return made;
  }

  function head() {
    const groups = element("tr");
    groups.append(element("td", "", { colspan: labels.length, class: "name" }));
    columns.forEach(({ group }, i) => {
      if (i && columns[i - 1].group === group) groups.lastChild.colSpan += 1;
      else groups.append(element("th", group, { scope: "colgroup" }));
    });
    const names = element("tr");
    for (const column of heads) {
      const made = element("th", "", { scope: "col", class: column.isName ? "name" : "" });
      const button = element("button", column.text, { type: "button" });
      button.addEventListener("click", () => sort(column, made));
      made.append(button);
      names.append(made);
    }
    const top = element("thead");
    top.append(groups, names);
    return top;
  }

  function sort(column, made) {
    // Numbers from the largest, names from the first.
    sorted = { head: column, descending: sorted.head === column ? !sorted.descending : !column.isName };
    for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    made.setAttribute("aria-sort", sorted.descending ? "descending" : "ascending");
    for (const old of table.querySelectorAll("tbody")) old.remove();
    table.append(body("summary"), body("units"));
  }

  const table = byId("table");
  table.append(head(), body("summary"), body("units"));
  byId("legend").textContent = legend;
  byId("metrics").hidden = false;
})();
