// Light or dark: as the system has it, or as chosen here and kept.
import { html, useEffect, useState } from "./html.js";

const system = matchMedia("(prefers-color-scheme: dark)");
const changed = new EventTarget();
export const theme = () => document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light");

// Redraws what is drawn with colours of the theme.
export function useTheme() {
  const [now, setNow] = useState(theme());
  useEffect(() => {
    const look = () => setNow(theme());
    system.addEventListener("change", look);
    changed.addEventListener("theme", look);
    return () => {
      system.removeEventListener("change", look);
      changed.removeEventListener("theme", look);
    };
  }, []);
  return now;
}

export function ThemeSwitch() {
  const [chosen, setChosen] = useState(localStorage.getItem("theme") ?? "");
  const choose = (event) => {
    const value = event.target.value;
    if (value) document.documentElement.dataset.theme = value;
    else delete document.documentElement.dataset.theme;
    if (value) localStorage.setItem("theme", value);
    else localStorage.removeItem("theme");
    setChosen(value);
    changed.dispatchEvent(new Event("theme"));
  };
  return html`<label class="quiet-label"><span class="word">Appearance</span>
    <select value=${chosen} onChange=${choose}>
      <option value="">as the system</option><option value="light">light</option><option value="dark">dark</option>
    </select></label>`;
}
