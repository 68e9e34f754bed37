(() => {
  const root = document.documentElement;
  const button = document.querySelector("button");
  const dark = () => root.dataset.theme
    ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const name = () => { button.textContent = dark() ? "Light" : "Dark"; };
  // A page that is opened from a file may have no storage.
  try { root.dataset.theme = localStorage.getItem("theme") || ""; } catch { /* none */ }
  if (!root.dataset.theme) delete root.dataset.theme;
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* none */ }
    name();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
  button.hidden = false;
  name();
})();

// While the pointer is over curves, the legend shows their values there.
for (const figure of document.querySelectorAll("figure:has(.dot)")) {
  const svg = figure.querySelector("svg[role]");
  const dots = [...figure.querySelectorAll(".dot")];
  const values = [...figure.querySelectorAll(".legend b")];
  const at = figure.querySelector(".at");
  const ends = values.map((_, k) => dots.filter((dot) => dot.dataset.series == k).at(-1));
  const axis = svg.querySelector(".axis").textContent;
  const show = (nearest, words) => {
    for (const dot of dots) dot.classList.toggle("here", nearest.includes(dot));
    nearest.forEach((dot, k) => { values[k].textContent = dot.dataset.y; });
    at.textContent = words;
  };
  const leave = () => show(ends, `last ${axis}`);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    const nearest = [];
    for (const dot of dots) {
      const k = dot.dataset.series, other = nearest[k];
      const far = (one) => Math.abs(one.cx.baseVal.value - x);
      if (!other || far(dot) < far(other)) nearest[k] = dot;
    }
    show(nearest, `${axis} ${nearest[0].dataset.x}`);
  });
  svg.addEventListener("pointerleave", leave);
  leave();
}
