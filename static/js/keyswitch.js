// Enhancements of pages beyond HTML and htmx; each page works without them.
"use strict";

const shows = 6000; // ms until a transient toast disappears

function toast(text, look = "is-attention") {
  if ([...document.querySelectorAll("[data-toast] > span")].some((words) => words.textContent === text)) return;
  const box = document.createElement("div");
  box.className = `toast ${look}`;
  box.dataset.toast = "";
  box.dataset.stays = "";
  const words = document.createElement("span");
  words.textContent = text;
  const close = document.createElement("button");
  close.type = "button";
  close.className = "btn btn-quiet";
  close.dataset.dismiss = "";
  close.textContent = gettext("Dismiss");
  box.append(words, close);
  document.getElementById("messages")?.append(box);
}

function settleToasts(root) {
  for (const box of root.querySelectorAll("[data-toast]:not([data-stays]):not([data-timed])")) {
    box.dataset.timed = "";
    const leave = () => (box.matches(":hover, :focus-within") ? setTimeout(leave, 1500) : box.remove());
    setTimeout(leave, shows);
  }
}

// A typed key is visible only while its toggle is on, and is hidden when the form is sent.
function reveal(button, visible) {
  const input = document.getElementById(button.getAttribute("aria-controls"));
  if (!input) return;
  input.type = visible ? "text" : "password";
  button.setAttribute("aria-pressed", String(visible));
  button.querySelector("[data-when=hidden]").hidden = visible;
  button.querySelector("[data-when=visible]").hidden = !visible;
}

// On a narrow screen the row of tabs is wider than the screen.
document.querySelector(".tabs [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });

document.addEventListener("click", (event) => {
  const target = event.target instanceof Element ? event.target : null;
  if (!target) return;
  const dismiss = target.closest("[data-dismiss]");
  if (dismiss) dismiss.closest("[data-toast]")?.remove();
  const eye = target.closest("[data-reveal]");
  if (eye) reveal(eye, eye.getAttribute("aria-pressed") !== "true");
  const fill = target.closest("[data-fill]");
  if (fill) {
    const input = document.getElementById(fill.dataset.fill);
    input.value = fill.dataset.value;
    input.dispatchEvent(new Event("input", { bubbles: true }));
    input.focus();
  }
  const copy = target.closest("[data-copy]");
  if (copy) copyFrom(copy);
  for (const open of document.querySelectorAll("details.account[open]")) {
    if (!open.contains(target)) open.open = false;
  }
});

async function copyFrom(button) {
  const source = button.dataset.copy ? document.getElementById(button.dataset.copy) : button.closest(".highlight")?.querySelector("pre");
  if (!source) return;
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(source.value ?? source.textContent);
    button.textContent = gettext("Copied");
  } catch {
    button.textContent = gettext("Select and copy by hand");
  }
  setTimeout(() => { button.textContent = before; }, 1800);
}

function isUntouched(field) {
  if (field.type === "hidden" || !field.matches("input, select, textarea")) return true;
  if (field.type === "checkbox" || field.type === "radio") return field.checked === field.defaultChecked;
  if (field.options) return field.selectedIndex === Math.max(0, [...field.options].findIndex((one) => one.defaultSelected));
  return field.value === field.defaultValue;
}

// Escape closes a menu, else the focused form, unless typed text would be lost.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented || event.isComposing) return;
  const open = document.querySelector("details.account[open]");
  if (open) {
    open.open = false;
    open.querySelector("summary").focus();
    return;
  }
  const form = event.target.closest?.("form");
  const leave = form?.querySelector("[data-leave]");
  if (leave && [...form.elements].every(isUntouched)) leave.click();
});

// Message drafts are kept in this tab's storage; logging out removes them.
document.addEventListener("submit", (event) => {
  if (!event.target.action?.endsWith("/logout/")) return;
  try {
    sessionStorage.clear();
  } catch {
    // No storage, so there are no drafts to remove.
  }
});

function hideTyped(form) {
  for (const eye of form?.querySelectorAll("[data-reveal][aria-pressed=true]") ?? []) reveal(eye, false);
}
document.addEventListener("submit", (event) => hideTyped(event.target));
document.addEventListener("htmx:beforeRequest", (event) => hideTyped(event.target.closest("form")));

// The browser may restore the page from its cache, which must not contain a typed key.
window.addEventListener("pagehide", () => {
  for (const input of document.querySelectorAll("[data-secret]")) input.value = "";
});

// Responses replace the error messages, not the fields: mark invalid fields, and focus the first one.
document.addEventListener("htmx:afterRequest", (event) => {
  if (!(event.detail.elt instanceof Element)) return;
  const form = event.detail.elt.closest("form.credential-form");
  if (!form || ![200, 401, 422].includes(event.detail.xhr.status)) return;
  let first = null;
  for (const place of form.querySelectorAll("[data-errors-for]")) {
    const input = document.getElementById(place.dataset.errorsFor);
    const wrong = place.childElementCount > 0;
    if (wrong) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
    first = first ?? (wrong ? input : null);
  }
  first?.focus();
});

document.addEventListener("htmx:afterSettle", () => settleToasts(document));

// If a response replaces the focused element, focus the new content instead of the top of the page.
let held = false;
document.addEventListener("htmx:beforeSwap", (event) => {
  const focused = document.activeElement;
  held = focused !== document.body && event.detail.target.contains(focused);
});
document.addEventListener("htmx:afterSettle", (event) => {
  const lost = held && (document.activeElement ?? document.body) === document.body;
  held = false;
  if (!lost || !event.target.isConnected || event.target === document.body) return;
  if (event.target.tabIndex < 0) event.target.tabIndex = -1;
  event.target.focus({ preventScroll: true });
});
document.addEventListener("htmx:responseError", (event) => {
  const words = gettext("The site could not do that (%s). Nothing was changed. Reload the page and try again.");
  toast(words.replace("%s", event.detail.xhr.status), "is-broken");
});
document.addEventListener("htmx:sendError", () => toast(gettext("The site cannot be reached. What you typed is still here; try again when you are back online.")));
document.addEventListener("htmx:timeout", () => toast(gettext("The site took too long to answer. Reload the page to see where things stand.")));

settleToasts(document);

// A switch changes at once, and goes back if the request fails.
const turned = new WeakMap();
const again = new Set(); // ids of switches pressed again during their request
document.addEventListener("click", (event) => {
  const button = event.target.closest?.("form > [role=switch]");
  if (!button || !turned.has(button.form)) return;
  event.preventDefault();
  again.delete(button.id) || again.add(button.id);
  button.setAttribute("aria-checked", String(button.getAttribute("aria-checked") !== "true"));
}, true);
document.addEventListener("htmx:beforeRequest", (event) => {
  const form = event.detail.elt;
  const button = form.matches?.("form") ? form.querySelector(":scope > [role=switch]") : null;
  if (!button) return;
  turned.set(form, button.getAttribute("aria-checked"));
  button.setAttribute("aria-checked", String(button.getAttribute("aria-checked") !== "true"));
});
document.addEventListener("htmx:beforeSwap", (event) => {
  const { requestConfig, xhr } = event.detail;
  if (!turned.has(requestConfig?.elt) || xhr.status !== 503) return; // other errors have their own messages
  event.detail.shouldSwap = false;
  toast(gettext("The site could not do that just now. Nothing was changed; try again in a moment."));
});
document.addEventListener("htmx:afterRequest", (event) => {
  const asking = event.detail.elt;
  const before = turned.get(asking);
  turned.delete(asking);
  const isDone = event.detail.successful && event.detail.xhr.status < 400;
  const pressed = before !== undefined && again.delete(asking.querySelector("[role=switch]")?.id);
  // The response has replaced the old switch.
  if (pressed && isDone) document.getElementById(asking.querySelector("[role=switch]").id)?.click();
  if (before !== undefined && !isDone) asking.querySelector("[role=switch]")?.setAttribute("aria-checked", before);
  if (!asking.matches?.(".default-choice input")) return;
  for (const choice of document.querySelectorAll(".default-choice input")) {
    if (isDone) choice.defaultChecked = choice.checked;
    else choice.checked = choice.defaultChecked;
  }
});
