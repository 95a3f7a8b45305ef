// Long lists of models are searched as one types; the field above them takes any name without this.
"use strict";

document.addEventListener("input", (event) => {
  const box = event.target;
  if (!box.matches?.("[data-filter]")) return;
  const rows = [...(document.getElementById(box.dataset.filter)?.children ?? [])];
  const wanted = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of rows) row.hidden = !wanted.every((word) => row.dataset.words.includes(word));
  const told = box.parentElement.querySelector("[data-found]");
  const shown = rows.filter((row) => !row.hidden).length;
  told.textContent = wanted.length ? told.dataset.found.replace("{shown}", shown).replace("{all}", rows.length) : "";
});
// The enter key in the search shall not save the form around it.
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.matches?.("[data-filter]")) event.preventDefault();
});
