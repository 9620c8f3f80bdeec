// The theme, before the page is drawn. It is kept in the browser, and not in addresses, because it
// belongs to the person and not to what is shown.
"use strict";
try {
  const theme = localStorage.getItem("headwater-theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
} catch { /* Some browsers refuse storage. */ }
