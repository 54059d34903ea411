"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", (event) => {
    if (event.target.closest("a")) return;
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    const key = (row) => {
      const cell = row.cells[column], number = parseFloat(cell.dataset.value ?? cell.textContent);
      return cell.classList.contains("number") ? number : cell.textContent;
    };
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (typeof x === "string") return ascending ? x.localeCompare(y) : y.localeCompare(x);
      if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y); // a missing number stays at the end
      return ascending ? x - y : y - x;
    };
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
  }));
  for (const head of heads) {
    head.tabIndex = 0;
    head.addEventListener("keydown", (event) => {
      if (event.target !== head || !["Enter", " "].includes(event.key)) return;
      event.preventDefault();
      head.click();
    });
  }
}


document.getElementById("theme")?.addEventListener("click", () => {
  const root = document.documentElement;
  const now = root.style.colorScheme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  root.style.colorScheme = now === "dark" ? "light" : "dark";
});

// filters: what is hidden is hidden in all tables, figures and strips; the address keeps it
const filters = document.getElementById("filters");
if (filters) {
  const box = filters.elements.solver, tasks = [...filters.querySelectorAll("button")];
  const apply = () => {
    const words = box.value.toLowerCase().split(/[,\s]+/).filter(Boolean);
    const hidden = new Set(tasks.filter((b) => b.ariaPressed === "false").map((b) => b.value));
    const left = new Set();
    for (const part of document.querySelectorAll("[data-solver], [data-task]")) {
      const { solver, task } = part.dataset;
      const away = (task !== undefined && hidden.has(task)) ||
        (solver !== undefined && words.length > 0 && !words.some((word) => solver.toLowerCase().includes(word)));
      if (part instanceof SVGElement) part.style.display = away ? "none" : "";
      else part.hidden = away;
      if (!away && solver !== undefined && part.matches("tr")) left.add(solver);
    }
    filters.querySelector("output").textContent = words.length ? `${left.size} solver${left.size === 1 ? "" : "s"}` : "";
    const kept = new URLSearchParams();
    if (words.length) kept.set("solver", words.join(","));
    if (hidden.size) kept.set("hide", [...hidden].join(","));
    history.replaceState(null, "", kept.size ? `#?${kept}` : location.hash.startsWith("#?") ? "#" : location.hash);
  };
  const given = new URLSearchParams(location.hash.startsWith("#?") ? location.hash.slice(2) : "");
  box.value = given.get("solver") ?? "";
  for (const button of tasks) {
    button.ariaPressed = String(!(given.get("hide") ?? "").split(",").includes(button.value));
    button.addEventListener("click", () => {
      button.ariaPressed = String(button.ariaPressed === "false");
      apply();
    });
  }
  box.addEventListener("input", apply);
  filters.addEventListener("submit", (event) => event.preventDefault());
  if (given.size) apply();
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input")) return;
    event.preventDefault();
    box.focus();
  });
}

// the viewer: the images of one strip, moved and zoomed together
const viewer = document.getElementById("viewer");
if (viewer) {
  const panels = viewer.querySelector(".panels"), errors = viewer.querySelector("[name=error]");
  let zoom = 1, x = 0, y = 0, drag = null, opener = null;
  const place = () => {
    x = Math.min(0, Math.max(1 - zoom, x));
    y = Math.min(0, Math.max(1 - zoom, y));
    for (const [name, value] of [["--zoom", zoom], ["--x", x], ["--y", y]]) panels.style.setProperty(name, value);
  };
  const scale = (factor, at = [0.5, 0.5]) => {
    const next = Math.min(32, Math.max(1, zoom * factor)), grown = next / zoom;
    [x, y, zoom] = [at[0] - (at[0] - x) * grown, at[1] - (at[1] - y) * grown, next];
    place();
  };
  const pixels = (image) => {
    const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight), pen = canvas.getContext("2d");
    pen.drawImage(image, 0, 0);
    return pen.getImageData(0, 0, canvas.width, canvas.height);
  };
  const difference = (a, b) => {
    const size = a.data.length / 4, found = new Float32Array(size);
    for (let i = 0; i < size; i++)
      for (let c = 0; c < 3; c++) found[i] += Math.abs(a.data[4 * i + c] - b.data[4 * i + c]) / 765;
    return found;
  };
  // black, blue, magenta, orange, yellow: brightness grows with the error, whoever looks and in print
  const stops = [[0, 0, 4], [59, 15, 112], [183, 55, 121], [251, 136, 97], [252, 253, 191]];
  const paint = (values, most, width, height) => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width, height];
    const pen = canvas.getContext("2d"), picture = pen.createImageData(width, height);
    values.forEach((value, i) => {
      const t = Math.min(0.9999, value / most) * (stops.length - 1), k = Math.floor(t), u = t - k;
      for (let c = 0; c < 3; c++) picture.data[4 * i + c] = stops[k][c] + u * (stops[k + 1][c] - stops[k][c]);
      picture.data[4 * i + 3] = 255;
    });
    pen.putImageData(picture, 0, 0);
    return canvas;
  };
  const showErrors = (on) => {
    errors.ariaPressed = String(on);
    for (const canvas of panels.querySelectorAll("canvas")) canvas.remove();
    viewer.querySelector(".scale").hidden = !on;
    if (!on) return;
    const views = [...panels.querySelectorAll(".view")], truth = views[0].querySelector("img"), data = pixels(truth);
    const maps = views.slice(1).map((view) => {
      const image = view.querySelector("img");
      const fits = view.dataset.solver !== undefined && image.naturalWidth === data.width && image.naturalHeight === data.height;
      return fits ? [view, difference(data, pixels(image))] : null;
    }).filter(Boolean);
    // one scale for all: the 99th percentile over all of them
    const all = Float32Array.from(maps.flatMap(([, values]) => [...values])).sort();
    const most = Math.max(all[Math.floor(0.99 * (all.length - 1))] ?? 0, 1 / 255);
    viewer.querySelector(".scale span").textContent = most.toPrecision(2);
    for (const [view, values] of maps) view.append(paint(values, most, data.width, data.height));
  };
  const show = (button) => {
    const strip = button.closest(".strip"), task = strip.ariaLabel;
    opener = button;
    panels.replaceChildren();
    for (const figure of strip.querySelectorAll("figure:not([hidden])")) {
      const own = figure.querySelector("button");
      if (!own) continue;
      const panel = document.createElement("figure"), view = document.createElement("div");
      view.className = "view";
      if (figure.dataset.solver !== undefined) view.dataset.solver = figure.dataset.solver;
      const image = own.querySelector("img").cloneNode();
      image.decoding = "sync";
      view.append(image);
      panel.append(view, figure.querySelector("figcaption").cloneNode(true));
      panel.classList.toggle("chosen", own === button);
      panels.append(panel);
    }
    const first = button.querySelector("img"), shape = first.naturalWidth / first.naturalHeight;
    const count = panels.children.length;
    let size = innerWidth < 640 ? 144 : 176;
    for (let columns = 1; columns <= count; columns++) { // as large as lets all be seen at once
      const width = (innerWidth - 34 - 10 * (columns - 1)) / columns, rows = Math.ceil(count / columns);
      if (rows * (width / shape + 52) <= innerHeight - 120) size = Math.max(size, Math.floor(width) - 1);
    }
    panels.style.setProperty("--panel-size", `${size}px`);
    panels.style.setProperty("--shape", shape);
    viewer.querySelector("strong").textContent = `${task} · ${button.dataset.caption.split(" · ")[1]}`;
    [zoom, x, y] = [1, 0, 0];
    place();
    showErrors(false);
    viewer.showModal();
  };
  for (const button of document.querySelectorAll(".strip button")) button.addEventListener("click", () => show(button));
  const actions = {
    error: () => showErrors(errors.ariaPressed !== "true"), in: () => scale(1.5), out: () => scale(1 / 1.5),
    reset: () => { [zoom, x, y] = [1, 0, 0]; place(); }, close: () => viewer.close(),
  };
  for (const button of viewer.querySelectorAll(".bar button")) button.addEventListener("click", () => actions[button.name]());
  viewer.addEventListener("close", () => opener?.focus());
  viewer.addEventListener("keydown", (event) => {
    const name = { e: "error", "+": "in", "=": "in", "-": "out", 0: "reset" }[event.key];
    const step = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!name && !step) return;
    event.preventDefault();
    if (name) return actions[name]();
    [x, y] = [x + step[0] / 4, y + step[1] / 4];
    place();
  });
  const within = (event) => {
    const view = event.target.closest(".view");
    if (!view) return null;
    const area = view.getBoundingClientRect();
    return [(event.clientX - area.x) / area.width, (event.clientY - area.y) / area.height, area];
  };
  panels.addEventListener("wheel", (event) => {
    const at = within(event);
    if (!at) return;
    event.preventDefault();
    scale(Math.exp(-event.deltaY / 400), at);
  }, { passive: false });
  panels.addEventListener("pointerdown", (event) => {
    const at = within(event);
    if (at) drag = { at, from: [x, y] };
  });
  addEventListener("pointermove", (event) => {
    if (!drag) return;
    const [startX, startY, area] = drag.at;
    x = drag.from[0] + (event.clientX - area.x) / area.width - startX;
    y = drag.from[1] + (event.clientY - area.y) / area.height - startY;
    place();
  });
  addEventListener("pointerup", () => { drag = null; });
}

// a large page opens with what is in sight; the rest is laid out section by section right after, whole for whoever copies it
const waiting = [...document.querySelectorAll("section, .strip")];
const layOutNext = () => {
  const next = waiting.shift();
  if (!next) return;
  next.style.contentVisibility = "visible";
  setTimeout(layOutNext, 20);
};
addEventListener("load", () => setTimeout(layOutNext, 20));
