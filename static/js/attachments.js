// Uploads chosen files ahead of their form; without this script they are sent with the form itself.
"use strict";

const sending = new WeakMap(); // form → number of running uploads

function settleForm(form, change) {
  const left = (sending.get(form) ?? 0) + change;
  sending.set(form, left);
  form.toggleAttribute("data-uploading", left > 0);
}

function refuse(place, words) {
  const line = document.createElement("li");
  line.className = "error";
  line.textContent = words;
  place.querySelector("[data-attachment-errors]").append(line);
}

async function send(place, file) {
  const list = place.querySelector("[data-attachment-list]");
  const waiting = document.createElement("li");
  waiting.className = "attachment is-waiting";
  const ring = document.createElement("span");
  ring.className = "ring";
  const name = document.createElement("span");
  name.className = "truncate";
  name.textContent = file.name;
  waiting.append(ring, name);
  list.append(waiting);
  const body = new FormData();
  body.append("files", file);
  const headers = { ...JSON.parse(document.body.getAttribute("hx-headers")), "HX-Request": "true" };
  try {
    const answer = await fetch(place.dataset.upload, { method: "POST", body, headers, redirect: "error" });
    const html = [201, 422, 429].includes(answer.status) ? await answer.text() : "";
    if (answer.status === 201) waiting.insertAdjacentHTML("beforebegin", html);
    else if (html) place.querySelector("[data-attachment-errors]").insertAdjacentHTML("beforeend", html);
    else refuse(place, gettext("%s could not be sent; it may be too large.").replace("%s", file.name));
  } catch {
    refuse(place, gettext("%s could not be sent: the site cannot be reached.").replace("%s", file.name));
  }
  waiting.remove();
}

async function sendAll(place, files) {
  const form = place.closest("form");
  place.querySelector("[data-attachment-errors]").replaceChildren();
  settleForm(form, files.length);
  for (const file of files) {
    await send(place, file);
    settleForm(form, -1);
  }
  form.dispatchEvent(new Event("attachments", { bubbles: true }));
}

document.addEventListener("change", (event) => {
  const place = event.target.closest?.("[data-attachments]");
  if (!place || event.target.type !== "file") return;
  const files = [...event.target.files];
  event.target.value = "";
  sendAll(place, files);
});

document.addEventListener("click", (event) => {
  const button = event.target.closest?.("[data-detach]");
  if (!button) return;
  const place = button.closest("[data-attachments]");
  if (button.dataset.detach) {
    const headers = { ...JSON.parse(document.body.getAttribute("hx-headers")), "HX-Request": "true" };
    fetch(button.dataset.detach, { method: "POST", headers, redirect: "error" }).catch(() => {});
  }
  button.closest("[data-attachment]").remove();
  place?.querySelector("input[type=file]").focus();
  place?.closest("form").dispatchEvent(new Event("attachments", { bubbles: true }));
});

// Pasted and dropped files are handled like chosen ones.
function placeOf(target) {
  return target.closest?.("form")?.querySelector("[data-attachments]");
}
document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  const place = files.length ? placeOf(event.target) : null;
  if (!place) return;
  event.preventDefault();
  sendAll(place, files);
});
document.addEventListener("dragover", (event) => {
  if (event.dataTransfer?.types.includes("Files") && placeOf(event.target)) event.preventDefault();
});
document.addEventListener("drop", (event) => {
  const files = [...(event.dataTransfer?.files ?? [])];
  const place = files.length ? placeOf(event.target) : null;
  if (!place) return;
  event.preventDefault();
  sendAll(place, files);
});

document.addEventListener("submit", (event) => {
  if ((sending.get(event.target) ?? 0) > 0) event.preventDefault();
}, true);
document.addEventListener("htmx:confirm", (event) => {
  if ((sending.get(event.target) ?? 0) > 0) event.preventDefault();
});
