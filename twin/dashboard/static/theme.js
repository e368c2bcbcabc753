// Dark or light: as the reader's system has it, until the reader says otherwise here.

import { icon, setAttribute, setIcon } from "./dom.js";

const KEY = "pulsetwin-theme";
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function stored() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

const isDark = () => (stored() ? stored() === "dark" : dark.matches);

/** Make `button` the switch; `changed` is called whenever colours are others. */
export function themeSwitch(button, changed) {
  const shape = icon("sun");
  button.append(shape);
  const apply = () => {
    const chosen = stored();
    if (chosen) document.documentElement.dataset.theme = chosen;
    const name = isDark() ? "Light colours" : "Dark colours";
    setIcon(shape, isDark() ? "sun" : "moon");
    setAttribute(button, "aria-label", name);
    setAttribute(button, "title", name);
    changed();
  };
  button.addEventListener("click", () => {
    try {
      localStorage.setItem(KEY, isDark() ? "light" : "dark");
    } catch {
      document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    }
    apply();
  });
  dark.addEventListener("change", apply);
  apply();
}
