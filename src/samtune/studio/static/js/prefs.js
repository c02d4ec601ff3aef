// What a person prefers: theme, opacity, keys. Kept in a cookie, because the studio's port, and with it the origin of
// localStorage, changes with every start; cookies of 127.0.0.1 do not look at the port.

const NAME = "samtune-studio";
const DEFAULTS = { theme: "system", opacity: 0.4, keys: {}, hover: true, brush: 12 };

function read() {
  const found = document.cookie.split("; ").find((part) => part.startsWith(`${NAME}=`));
  try {
    return { ...DEFAULTS, ...JSON.parse(decodeURIComponent(found.slice(NAME.length + 1))) };
  } catch {
    return { ...DEFAULTS };
  }
}

export const prefs = read();

export function prefer(changes) {
  Object.assign(prefs, changes);
  document.cookie = `${NAME}=${encodeURIComponent(JSON.stringify(prefs))}; max-age=31536000; path=/; SameSite=Strict`;
}

const dark = matchMedia("(prefers-color-scheme: dark)");

/** Light, dark, or as the system says. */
export function applyTheme() {
  const { theme } = prefs;
  document.documentElement.dataset.theme = theme === "system" ? (dark.matches ? "dark" : "light") : theme;
}

dark.addEventListener("change", applyTheme);
