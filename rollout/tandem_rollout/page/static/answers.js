/* The browser of answers. Its filter stands in the address: a link shows the same answers to others who have the token. */

const FILTERS = ["iteration_from", "iteration_to", "reward_from", "reward_to", "tokens_from", "tokens_to", "correct", "order"];
const browser = {filter: null, next: "", ids: [], matching: 0, asked: 0, changedAt: 0, typed: ""};

function answerAddress(id, parameters) {
  const changed = new URLSearchParams(parameters);
  if (id === null) changed.delete("id"); else changed.set("id", id);
  const text = changed.toString();
  return text ? `#answers?${text}` : "#answers";
}

/* What the address asks for. */
async function showAnswers(parameters) {
  const filter = Object.fromEntries(FILTERS.map((name) => [name, parameters.get(name) ?? ""]));
  const same = browser.filter !== null && FILTERS.every((name) => filter[name] === browser.filter[name]);
  if (!same) {
    // What the form itself asked for stands in it, and perhaps already more.
    if (location.hash !== browser.typed) fillForm(filter);
    browser.filter = filter;
    try {
      await loadAnswers();
    } catch (error) {
      browser.filter = null;  // the next attempt asks anew
      throw error;
    }
  } else if (browser.changedAt !== page.overview.changed_at) {
    offerNewer();
  }
  for (const link of byId("answer-list").querySelectorAll("a")) link.href = answerAddress(link.dataset.id, parameters);
  await showAnswer(parameters.get("id"), parameters);
}

function fillForm(filter) {
  for (const name of FILTERS) byId("filter").elements[name].value = filter[name] || (name === "order" ? "newest" : "");
}

async function loadAnswers(after = "") {
  const number = ++browser.asked;
  const found = await ask("answers", {...browser.filter, after});
  if (number !== browser.asked) return;  // the filter has changed meanwhile
  if (!after) {
    byId("answer-list").replaceChildren();
    Object.assign(browser, {ids: [], matching: found.matching, changedAt: page.overview.changed_at});
    byId("renew").hidden = true;
  }
  const parameters = routeParameters();
  byId("answer-list").append(...found.answers.map((line) => lineElement(line, parameters)));
  browser.ids.push(...found.answers.map((line) => line.id));
  browser.next = found.next;
  byId("more").hidden = !found.next;
  byId("matching").textContent = `${browser.matching.toLocaleString("en")} answers, ${browser.ids.length.toLocaleString("en")} shown`;
  markCurrent(parameters.get("id"));
  if (byId("answer").dataset.id) byId("answer").querySelector(".steps").replaceWith(stepsElement(byId("answer").dataset.id, parameters));
}

function lineElement(line, parameters) {
  const made = html("li"), link = html("a"), head = html("span", "head");
  link.href = answerAddress(line.id, parameters);
  link.dataset.id = line.id;
  head.append(verdict(line.correct), html("span", "", `reward ${formatNumber(line.reward)}`), html("span", "", `${line.tokens} tokens`),
    html("span", "", line.iteration === null ? "in no batch yet" : `iteration ${line.iteration}`));
  link.append(head, html("span", "excerpt prompt", line.prompt), html("span", "excerpt", line.text || "(empty)"));
  made.append(link);
  return made;
}

function verdict(correct) { return html("span", `verdict ${correct ? "right" : "wrong"}`, correct ? "✓ right" : "✗ wrong"); }

function markCurrent(id) {
  for (const link of byId("answer-list").querySelectorAll("a")) {
    if (link.dataset.id === id) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
  }
}

async function showAnswer(id, parameters) {
  markCurrent(id);
  byId("browser").classList.toggle("open", id !== null);
  const pane = byId("answer");
  if (id === null) {
    // Back to where one was in the list.
    [...byId("answer-list").querySelectorAll("a")].find((link) => link.dataset.id === pane.dataset.id)?.focus();
    delete pane.dataset.id;
    pane.replaceChildren(html("p", "muted", "Choose an answer: it is shown here with its segments, its reward and the rest of its group."));
    return;
  }
  if (pane.dataset.id !== id) {
    const answer = await ask(`answers/${encodeURIComponent(id)}`);
    if (routeParameters().get("id") !== id) return;  // another one was chosen meanwhile
    pane.replaceChildren(...answerElements(answer, parameters));
    pane.dataset.id = id;
    pane.scrollTop = 0;
    if (matchMedia("(max-width: 900px)").matches) {
      scrollTo(0, 0);
      pane.focus({preventScroll: true});
    }
  }
  pane.querySelector(".steps")?.replaceWith(stepsElement(id, parameters));
}

function answerElements(answer, parameters) {
  const title = html("h3", "", `Answer ${answer.index + 1} to prompt ${answer.prompt_id}`);
  const facts = [
    ["length", `${answer.tokens.toLocaleString("en")} tokens`],
    ["ended by", answer.finish_reason],
    ["versions", answer.first_version === answer.last_version ? answer.first_version : `${answer.first_version} to ${answer.last_version}`],
    ["drawn in", `iteration ${answer.created_iteration}`],
    ["trained on in", answer.iteration === null ? "no batch yet" : `iteration ${answer.iteration}`],
    ["group", answer.group_id],
  ];
  return [html("div", "steps"), title, rewardElement(answer), factsElement(facts), groupElement(answer, parameters),
    html("h4", "", "Prompt"), html("pre", "prompt", answer.prompt || "(not recorded)"),
    html("h4", "", "Answer"), ...pieceElements(answer)];
}

/* To the neighbours in the list, and on a phone back to it. */
function stepsElement(id, parameters) {
  const made = html("div", "steps controls"), back = html("a", "back", "← all answers");
  back.href = answerAddress(null, parameters);
  made.append(back);
  const place = browser.ids.indexOf(Number(id));
  for (const [text, neighbour] of [["previous", browser.ids[place - 1]], ["next", place < 0 ? undefined : browser.ids[place + 1]]]) {
    const link = html("a", "step", text);
    if (neighbour === undefined) link.setAttribute("aria-disabled", "true"); else link.href = answerAddress(neighbour, parameters);
    made.append(link);
  }
  return made;
}

function rewardElement(answer) {
  const made = html("div", "reward"), total = html("p", "total");
  total.append(verdict(answer.correct), html("span", "", `reward ${formatNumber(answer.reward)}`));
  const parts = html("dl", "parts");
  for (const [name, value] of Object.entries(answer.parts)) {
    const meter = html("meter");
    Object.assign(meter, {min: 0, max: 1, value});
    meter.setAttribute("aria-label", name);
    const cell = html("dd");
    cell.append(meter, html("span", "", formatNumber(value)));
    parts.append(html("dt", "", name), cell);
  }
  made.append(total, parts);
  return made;
}

function factsElement(facts) {
  const made = html("dl", "facts");
  for (const [name, value] of facts) {
    const fact = html("div");
    fact.append(html("dt", "", name), html("dd", "", String(value)));
    made.append(fact);
  }
  return made;
}

function groupElement(answer, parameters) {
  const made = html("div", "group"), list = html("ol");
  made.append(html("span", "muted", `rewards in the group: `), list);
  for (const sibling of answer.group) {
    const item = html("li"), link = html("a", sibling.correct ? "right" : "wrong", `${sibling.correct ? "✓" : "✗"} ${formatNumber(sibling.reward)}`);
    link.href = answerAddress(sibling.id, parameters);
    link.setAttribute("aria-label", `answer ${sibling.index + 1}, ${sibling.correct ? "right" : "wrong"}, reward ${formatNumber(sibling.reward)}`);
    if (sibling.id === answer.id) link.setAttribute("aria-current", "true");
    item.append(link);
    list.append(item);
  }
  return made;
}

/* The text with each piece in its version's colour, and what each piece is. */
function pieceElements(answer) {
  if (!answer.pieces.length) {
    return [html("pre", "", answer.text || "(empty)"), html("p", "muted", "Which version made which part was not recorded.")];
  }
  const text = html("pre", "pieces"), legend = html("ol", "legend");
  const characters = [...answer.text];  // lengths count whole characters, which JavaScript's strings do not
  let place = 0, segment = 1;
  for (const piece of answer.pieces) {
    const part = html("span", `piece v${piece.version % COLOURS}`, characters.slice(place, place + piece.characters).join(""));
    part.title = `version ${piece.version}, iteration ${piece.iteration}`;
    text.append(part);
    place += piece.characters;
    const item = html("li"), ended = piece.finish_reason ? `, ended by ${piece.finish_reason}` : ", goes on with the next version";
    item.append(html("i", `swatch v${piece.version % COLOURS}`),
      `segment ${segment}: version ${piece.version}, iteration ${piece.iteration}, ${piece.tokens} tokens${ended}`);
    legend.append(item);
    if (piece.finish_reason) segment++;
  }
  if (!answer.text) text.append("(empty)");
  return [text, legend];
}

/* The first page anew is offered, not forced upon somebody who reads. */
function offerNewer() {
  if (browser.filter !== null) byId("renew").hidden = false;
}

function setUpAnswers() {
  const filter = byId("filter"), list = byId("answer-list");
  filter.addEventListener("change", () => {
    const given = FILTERS.map((name) => [name, filter.elements[name].value]);
    const kept = given.filter(([name, value]) => value !== "" && !(name === "order" && value === "newest"));
    browser.typed = answerAddress(null, new URLSearchParams(kept));
    location.hash = browser.typed;
  });
  filter.addEventListener("submit", (event) => event.preventDefault());
  filter.addEventListener("reset", () => { location.hash = "#answers"; });
  byId("more").addEventListener("click", () => attempt(loadAnswers(browser.next)));
  byId("renew").addEventListener("click", () => attempt(loadAnswers()));
  list.addEventListener("keydown", (event) => {
    const step = {ArrowDown: 1, ArrowUp: -1}[event.key];
    if (!step) return;
    const links = [...list.querySelectorAll("a")];
    links[links.indexOf(document.activeElement) + step]?.focus();
    event.preventDefault();
  });
}
