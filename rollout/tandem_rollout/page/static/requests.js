/* Talks to the master, with the job's token. */

const TOKEN = "tandem-token";
const byId = (id) => document.getElementById(id);

class TokenRefused extends Error {}

/* Takes the token out of the address (#token=...), so that nobody copies it along with a link; whether there was one. */
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given === null) return false;
  sessionStorage.setItem(TOKEN, given);
  history.replaceState(null, "", location.pathname + location.search + "#learning");
  return true;
}

/* The answer to GET /v1/<path>, parameters that are empty left out. Throws TokenRefused, or an Error with what was said. */
async function ask(path, parameters = {}, kind = "json") {
  const given = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const query = given.length ? `?${new URLSearchParams(given)}` : "";
  let answer;
  try {
    answer = await fetch(`../v1/${path}${query}`, {headers: {Authorization: `Bearer ${sessionStorage.getItem(TOKEN) ?? ""}`}});
  } catch {
    throw new Error("The master does not answer. It is tried again every few seconds.");
  }
  if (answer.status === 401) throw new TokenRefused("This is not the job's token.");
  if (!answer.ok) throw new Error(await saidBy(answer));
  return kind === "json" ? answer.json() : answer.text();
}

async function saidBy(answer) {
  try {
    const {detail} = await answer.json();
    return typeof detail === "string" ? detail : detail.map((each) => `${each.loc.slice(1).join(".")}: ${each.msg}`).join("; ");
  } catch {
    return `The master answered with status ${answer.status}.`;
  }
}

const problems = {};

/* Shows what went wrong with `what`, or that nothing does any more (null); a refused token asks for another one. */
function tellProblem(error, what = "view") {
  problems[what] = error?.message ?? "";
  const said = [...new Set(Object.values(problems).filter(Boolean))].join(" ");
  byId("problem").hidden = !said;
  byId("problem").textContent = said;
  if (error instanceof TokenRefused) {
    sessionStorage.removeItem(TOKEN);
    askForToken();
  }
}

/* Waits for `work`, and shows what went wrong with it. */
async function attempt(work) {
  try {
    await work;
    tellProblem(null);
  } catch (error) {
    tellProblem(error);
  }
}

function askForToken() {
  byId("token-form").hidden = false;
  byId("content").hidden = true;
  byId("token").focus();
}
