// Parts of the page that are made of numbers: the answers, and the verification reports.

const TOP = 5;

/** Adds an element with text to a parent, and returns it. */
export function add(parent, tag, text = "", properties = {}) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(text);
  parent.append(element);
  return element;
}

/** Returns the answer of a model: its first classes now, and a mark where they were as trained. */
export function answer({ precision, bytes, result, trained }, className) {
  const found = document.createElement("article");
  add(found, "h3", precision);
  const list = add(found, "ol");
  const ranked = [...result.probabilities.keys()].sort(
    (one, other) => result.probabilities[other] - result.probabilities[one],
  );
  for (const index of ranked.slice(0, TOP)) {
    const [now, before] = [result, trained].map(({ probabilities }) => 100 * probabilities[index]);
    const row = add(list, "li");
    add(row, "span", className(index), { className: "name" });
    const was = result === trained ? "" : ` (was ${before.toFixed(1)}%)`;
    add(row, "span", `${now.toFixed(1)}%${was}`, { className: "share" });
    const bar = add(row, "div", "", { className: "bar" });
    add(bar, "span").style.width = `${now}%`;
    if (result !== trained) add(bar, "i").style.left = `${before}%`;
  }
  const size = bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
  add(found, "p", `${result.milliseconds.toFixed(1)} ms in this browser, ${size}`, { className: "hint" });
  return found;
}

/** Returns a model's verification report as a table that opens; it was made with the file. */
export function verification({ file, report }) {
  if (!report) {
    const text = `${file} has no verification report beside it.`;
    return Object.assign(document.createElement("p"), { textContent: text });
  }
  const found = document.createElement("details");
  add(found, "summary", `Verification of ${file} against ${report.truth}: ${report.verdict}`);
  const table = add(found, "table");
  const line = (cells, tag = "td") => {
    const row = add(table, "tr");
    for (const cell of cells) add(row, tag, cell);
  };
  line(["", "found", "limit"], "th");
  for (const [stage, { passed, limits = {}, ...numbers }] of Object.entries(report.stages)) {
    line([stage, { true: "passed", false: "FAILED" }[passed] ?? "not checked", ""], "th");
    for (const [key, value] of Object.entries(numbers)) {
      line([key.replaceAll("_", " "), text(value), text(limits[key])]);
    }
  }
  for (const note of report.notes) add(found, "p", note);
  add(found, "p", `${report.data}; ${report.date}; sha256 of the file ${report.sha256}`, { className: "hint" });
  return found;
}

function text(value) {
  if (value === undefined || value === null) return "";
  if (typeof value === "number") return Number.isInteger(value) ? `${value}` : value.toPrecision(4);
  if (Array.isArray(value)) return value.map(text).join(", ") || "none";
  if (typeof value === "object") {
    return Object.entries(value).map(([key, each]) => `${key} ${text(each)}`).join(", ");
  }
  return `${value}`;
}
