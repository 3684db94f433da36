/* Puts the page together: which view is shown, and what is asked for when. */

const LIVE_SECONDS = 3, RESTING_SECONDS = 20;
const page = {overview: null, changedAt: {}, timer: null};
const VIEWS = {
  learning: {load: loadCurves},
  time: {load: loadCurves},
  pods: {load: () => loadPods(page.overview)},
  answers: {load: () => showAnswers(routeParameters()), renew: offerNewer},
  spec: {load: async () => { byId("yaml").textContent = await ask("job", {}, "text"); }, renew() {}},
};

function routeName() {
  const name = location.hash.slice(1).split("?")[0];
  return Object.hasOwn(VIEWS, name) ? name : "learning";
}

function routeParameters() { return new URLSearchParams(location.hash.split("?")[1] ?? ""); }

/* Shows the view that the address names, with what is recorded now. Throws what `ask` throws. */
async function showView() {
  const name = routeName();
  for (const each in VIEWS) byId(`view-${each}`).hidden = each !== name;
  for (const link of byId("tabs").querySelectorAll("a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  if (!page.overview) return;
  page.changedAt[name] = page.overview.changed_at;
  await VIEWS[name].load();
  drawAll();
}

/* Loads the view's data again if there are newer ones and nobody reads just now. */
async function renewView() {
  const name = routeName(), {load, renew} = VIEWS[name];
  if (page.changedAt[name] === page.overview.changed_at || isRead()) return;
  page.changedAt[name] = page.overview.changed_at;
  await (renew ?? load)();
}

/* Asks how the job is, now and every few seconds from now on. */
async function poll() {
  clearTimeout(page.timer);
  const first = page.overview === null;
  try {
    page.overview = await ask("overview");
    tellProblem(null, "master");
    showOverview(page.overview);
    await attempt(first ? showView() : renewView());
  } catch (error) {
    tellProblem(error, "master");
    if (error instanceof TokenRefused) return;
  }
  const seconds = page.overview?.live === false ? RESTING_SECONDS : LIVE_SECONDS;
  page.timer = setTimeout(() => { if (!document.hidden) poll(); }, seconds * 1000);
}

function showOverview(overview) {
  const {summary} = overview;
  byId("content").hidden = false;
  byId("token-form").hidden = true;
  byId("job").textContent = overview.job;
  document.title = `${overview.job} - Tandem`;
  byId("state").textContent = summary ? describe(summary) : `Not running; recorded up to iteration ${overview.last_iteration} of ${overview.iterations}`;
  byId("phases").hidden = !summary;
  byId("phases").replaceChildren(...PHASES.slice(1).map((phase) => {
    const made = html("li", "", phase);
    made.style.setProperty("--phase", `var(--${phase})`);
    if (summary?.phase === phase) made.setAttribute("aria-current", "step");
    return made;
  }));
  showEngines(overview);
}

function describe(summary) {
  const parts = [summary.phase, `iteration ${summary.iteration} of ${summary.iterations}`, `version ${summary.version}`,
    `${summary.engines_serving} ${summary.engines_serving === 1 ? "engine serves" : "engines serve"}`];
  if (summary.version < 0) parts.splice(2, 1);
  const told = [summary.message, summary.problem].filter(Boolean).join("; ");
  return parts.join(" · ") + (told ? ` — ${told}` : "");
}

byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, byId("token").value.trim());
  byId("token").value = "";
  poll();
});
byId("skip").addEventListener("click", (event) => { event.preventDefault(); byId("view").focus(); });
addEventListener("hashchange", () => {
  if (takeToken()) poll(); else attempt(showView());
});
document.addEventListener("visibilitychange", () => { if (!document.hidden && sessionStorage.getItem(TOKEN)) poll(); });
followTheme(byId("theme"));
setUpLearning();
setUpAnswers();
takeToken();
if (sessionStorage.getItem(TOKEN)) poll(); else askForToken();
