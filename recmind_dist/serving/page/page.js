"use strict";
// Everything that comes from the server is set as text, never as HTML.

const VIEWS = ["graph", "text", "content", "learnt_propagated", "learnt", "bias"];
const byId = (id) => document.getElementById(id);
let token = sessionStorage.getItem("token") || "";
let newest = 0; // number of the newest question: older answers that come late are dropped

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

async function call(path, body) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const options = { headers };
  if (body) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer: is it running?");
  }
  const reply = await response.json().catch(() => ({ error: `status ${response.status}` }));
  if (response.status === 401) askForToken(token !== "");
  if (!response.ok) throw new Error(reply.error);
  return reply;
}

function askForToken(wrong) {
  token = "";
  sessionStorage.removeItem("token");
  byId("ask").hidden = true;
  byId("token-form").hidden = false;
  byId("about").textContent = wrong ? "That token is wrong." : "This server asks for a token.";
  byId("token").focus();
}

async function open() {
  let about;
  try {
    const health = await call("/health");
    if (health.token && !token) return askForToken(false);
    about = await call("/about");
  } catch (error) {
    if (byId("token-form").hidden) say(error.message, true);
    return;
  }
  const { bundle, num_users: users, num_items: items } = about;
  byId("about").textContent =
    `${bundle.name}: ${users.toLocaleString()} users, ${items.toLocaleString()} items, ` +
    `${about.model}, version ${bundle.version}`;
  byId("token-form").hidden = true;
  byId("ask").hidden = false;
  const columns = Object.entries(about.columns).map(([name, type]) => `${name} (${type})`);
  byId("columns").textContent = `Columns: ${columns.join(", ")}. Such as: ${filterLike(about)}`;
  byId("k").max = Math.min(100, items);
  const reasons = [
    allow("history", about.folds_in, "No histories: this model ranks for users it knows."),
    allow("text", about.reads_text, "No texts: this bundle has no language model."),
  ];
  byId("cannot").textContent = reasons.filter(Boolean).join(" ");
  byId("cannot").hidden = !byId("cannot").textContent;
  if (!byId("user").value && about.examples.users.length) {
    byId("user").placeholder = `such as ${about.examples.users[0]}`;
  }
}

function filterLike(about) {
  const own = ["id", "title", "degree"];
  const name = Object.keys(about.columns).find((column) => !own.includes(column)) || "degree";
  const text = /string/.test(about.columns[name]);
  const column = /^[A-Za-z_]\w*$/.test(name) ? name : `column(${JSON.stringify(name)})`;
  return text ? `${column} == "…" and degree > 5` : `${column} > 5`;
}

function allow(kind, allowed, reason) {
  const radio = document.querySelector(`input[name=kind][value=${kind}]`);
  radio.disabled = !allowed;
  radio.parentElement.className = allowed ? "" : "off";
  return allowed ? "" : reason;
}

function kind() {
  return document.querySelector("input[name=kind]:checked").value;
}

function showKind() {
  for (const field of document.querySelectorAll("[data-kind]")) {
    field.hidden = field.dataset.kind !== kind();
  }
  byId("go").textContent = kind() === "similar" ? "Find similar items" : "Recommend";
  byId("seen-label").hidden = !["user", "history"].includes(kind());
}

function question() {
  const body = { k: Number(byId("k").value) };
  if (byId("where").value.trim()) body.where = byId("where").value.trim();
  if (kind() === "similar") return ["/similar", { ...body, item: byId("item").value.trim() }];
  if (byId("seen").checked) body.seen = "include";
  if (kind() === "user") body.user = byId("user").value.trim();
  if (kind() === "text") body.text = byId("text").value.trim();
  if (kind() === "history") {
    body.history = byId("history").value.split(/[,\n]/).map((id) => id.trim()).filter(Boolean);
  }
  return ["/recommend", body];
}

async function ask(event) {
  event.preventDefault();
  const number = ++newest;
  byId("answer").setAttribute("aria-busy", "true");
  try {
    const reply = await call(...question());
    if (number === newest) show(reply);
  } catch (error) {
    if (number === newest) say(error.message, true);
  } finally {
    if (number === newest) byId("answer").setAttribute("aria-busy", "false");
  }
}

function say(sentence, bad) {
  byId("message").textContent = sentence;
  byId("message").className = bad ? "bad" : "";
  byId("gates").textContent = "";
  byId("results").replaceChildren();
}

function show(reply) {
  const result = reply.results[0];
  const unknown = reply.unknown ? Object.values(reply.unknown).flat() : [];
  const left = unknown.length ? ` Not known and left out: ${unknown.join(", ")}.` : "";
  const count = result.items.length;
  say(`${count || "No"} ${count === 1 ? "item" : "items"}.${left}`, false);
  const gates = Object.entries(result.gates || {});
  if (gates.length) {
    const weights = gates.map(([view, weight]) => `${words(view)} ${(100 * weight).toFixed(0)} %`);
    byId("gates").textContent = `Weights of this user's views (γ): ${weights.join(", ")}`;
  }
  byId("results").replaceChildren(...result.items.map(card));
}

function card(item, at) {
  const made = element("li");
  const title = element("div", "title", item.title || item.item_id);
  if (item.title) title.append(element("span", "id", item.item_id));
  const score = item.score === undefined
    ? `cosine ${item.cosine.toFixed(3)}`
    : item.score.toFixed(3);
  made.append(element("div", "rank", `${at + 1}`), title, element("div", "score", score));
  const why = element("div", "why");
  if (item.shares && Object.keys(item.shares).length) why.append(...shares(item.shares));
  if (item.nearest && item.nearest.length) {
    const near = item.nearest.map((one) => one.title || one.item_id);
    why.append(element("div", "near", `Near to: ${near.join(" · ")}`));
  }
  const like = element("button", "link", "items like this");
  like.type = "button";
  like.addEventListener("click", () => findSimilar(item.item_id));
  why.append(like);
  made.append(why);
  return made;
}

function shares(parts) {
  const names = Object.keys(parts).sort((a, b) => VIEWS.indexOf(a) - VIEWS.indexOf(b));
  const whole = names.reduce((sum, name) => sum + Math.abs(parts[name]), 0) || 1;
  const bar = element("div", "bar");
  bar.setAttribute("aria-hidden", "true"); // the numbers below say the same
  const legend = element("div", "shares");
  for (const name of names) {
    const known = VIEWS.includes(name) ? name : "bias";
    if (parts[name] > 0) {
      const piece = element("i", known);
      piece.style.flexGrow = parts[name] / whole;
      bar.append(piece);
    }
    legend.append(element("span", known, `${words(name)} ${parts[name].toFixed(3)}`));
  }
  return [bar, legend];
}

function words(name) {
  return name.replaceAll("_", " ");
}

function findSimilar(id) {
  document.querySelector("input[name=kind][value=similar]").checked = true;
  byId("item").value = id;
  showKind();
  byId("ask").requestSubmit();
  window.scrollTo({ top: 0 });
}

// A field with a list of suggestions below it: arrows choose, Enter takes, Escape closes.
function combobox(input, list, find, take) {
  let found = [];
  let chosen = -1;
  let timer;
  let last = 0;
  const close = () => {
    last += 1;
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };
  const choose = (at) => {
    chosen = at;
    [...list.children].forEach((option, place) => {
      option.setAttribute("aria-selected", String(place === at));
      if (place === at) option.scrollIntoView({ block: "nearest" });
    });
    if (at >= 0) input.setAttribute("aria-activedescendant", list.children[at].id);
  };
  const pick = (at) => {
    take(found[at].id);
    close();
  };
  const refresh = async () => {
    const number = ++last;
    if (!input.value.trim()) return close();
    const options = await find(input.value.trim()).catch(() => []);
    if (number !== last) return;
    found = options;
    list.replaceChildren(...found.map((option, at) => {
      const made = element("li", "", option.label);
      made.id = `${list.id}-${at}`;
      made.setAttribute("role", "option");
      made.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        pick(at);
      });
      return made;
    }));
    choose(-1);
    list.hidden = !found.length;
    input.setAttribute("aria-expanded", String(found.length > 0));
  };
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(refresh, 120);
  });
  input.addEventListener("blur", () => {
    clearTimeout(timer);
    close();
  });
  input.addEventListener("keydown", (event) => {
    if (list.hidden) return;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      choose((chosen + step + found.length + (chosen < 0 && step < 0 ? 1 : 0)) % found.length);
    } else if (event.key === "Enter" && chosen >= 0) {
      event.preventDefault();
      pick(chosen);
    } else if (event.key === "Escape") {
      event.preventDefault();
      close();
    }
  });
}

async function findUsers(prefix) {
  const reply = await call(`/users?prefix=${encodeURIComponent(prefix.slice(0, 200))}`);
  return reply.users.map((id) => ({ id, label: id }));
}

async function findItems(words) {
  const reply = await call(`/items?words=${encodeURIComponent(words.slice(0, 200))}`);
  return reply.items.map(({ item_id: id, title }) => ({ id, label: title ? `${title} · ${id}` : id }));
}

function addToHistory(id) {
  const before = byId("history").value.trim().replace(/,$/, "");
  byId("history").value = before ? `${before}\n${id}` : id;
  byId("add").value = "";
}

combobox(byId("user"), byId("user-list"), findUsers, (id) => { byId("user").value = id; });
combobox(byId("item"), byId("item-list"), findItems, (id) => { byId("item").value = id; });
combobox(byId("add"), byId("add-list"), findItems, addToHistory);
byId("ask").addEventListener("submit", ask);
byId("kinds").addEventListener("change", showKind);
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value;
  sessionStorage.setItem("token", token);
  open();
});
showKind();
open();
