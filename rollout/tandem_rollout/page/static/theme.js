/* Light and dark: as the system says, until the button says otherwise. */

function followTheme(button) {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = false;
  function show(name) {
    root.dataset.theme = name;
    button.setAttribute("aria-label", `switch to ${name === "dark" ? "light" : "dark"}`);
  }
  dark.addEventListener("change", () => { if (!chosen) show(dark.matches ? "dark" : "light"); });
  button.addEventListener("click", () => { chosen = true; show(root.dataset.theme === "dark" ? "light" : "dark"); });
  show(dark.matches ? "dark" : "light");
}
