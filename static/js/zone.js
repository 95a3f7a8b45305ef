// A schedule keeps its user's clock: offer the zone of this browser.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const field = document.querySelector('input[name="time_zone"]');
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (field && field.value === "UTC" && zone) field.value = zone;
});
