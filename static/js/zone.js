// Schedules run in their user's time zone: preselect the browser's.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const field = document.querySelector('input[name="time_zone"]');
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (field && field.value === "UTC" && zone) field.value = zone;
});
