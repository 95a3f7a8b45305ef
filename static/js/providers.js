// Filters long lists of models while the user types; without this script the field above them accepts any name.
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
// The enter key in the search must not submit the surrounding form.
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.matches?.("[data-filter]")) event.preventDefault();
});

// Selects the provider of a pasted key by its prefix; the server does the same if none is selected.
document.addEventListener("input", (event) => {
  const box = event.target;
  if (!box.matches?.("[data-recognise]")) return;
  const key = box.value.trim();
  let longest = 0;
  let found = [];
  for (const radio of box.form.querySelectorAll("input[data-shapes]")) {
    for (const shape of radio.dataset.shapes.split(" ")) {
      if (!shape || !key.startsWith(shape) || shape.length < longest) continue;
      if (shape.length > longest) found = [];
      longest = shape.length;
      found.push(radio);
    }
  }
  if (found.length === 1) {
    found[0].checked = true;
    document.getElementById("start-provider-errors")?.replaceChildren();
  }
  const told = document.getElementById(box.dataset.recognise);
  const names = found.map((radio) => radio.dataset.label).join(", ");
  const isSettled = found.length === 1 || found.some((radio) => radio.checked);
  told.textContent = found.length ? (isSettled ? told.dataset.one : told.dataset.some).replace("{names}", isSettled ? found.find((radio) => radio.checked).dataset.label : names) : "";
});
