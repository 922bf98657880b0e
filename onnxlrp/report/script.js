
"use strict";
// pictures open enlarged; Escape and Close shut them
const dialog = document.querySelector("dialog");
for (const button of document.querySelectorAll("button.zoom")) {
  button.setAttribute("aria-haspopup", "dialog");
  button.addEventListener("click", () => {
    dialog.querySelector("div.zoom")?.remove();
    const copy = document.createElement("div");
    copy.className = button.className;
    copy.style.cssText = button.style.cssText;
    copy.append(...[...button.children].map((part) => part.cloneNode(true)));
    dialog.append(copy);
    dialog.showModal();
  });
}
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
// how much of the input shows beneath the relevance
for (const mix of document.querySelectorAll(".mix")) {
  mix.hidden = false;
  const slider = mix.querySelector("input");
  const stack = mix.closest("figure").querySelector(".stack");
  slider.addEventListener("input", () => stack.style.setProperty("--mix", slider.value / 100));
}
// long tables: only rows that hold the text
for (const filter of document.querySelectorAll(".filter")) {
  filter.hidden = false;
  const rows = filter.nextElementSibling.querySelectorAll("tbody tr");
  filter.addEventListener("input", () => {
    const wanted = filter.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
}
document.documentElement.dataset.ready = "yes";
