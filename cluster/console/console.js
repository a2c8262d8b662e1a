// The operators' console: asks the node every two seconds and shows what it says.

import { ApiError, ask, hasToken, setToken } from "./api.js";
import { Chart, Series } from "./chart.js";
import { Rows, Table, make, setText } from "./rows.js";
import { Streams } from "./streams.js";
import { bytes, duration, number, percent, rate } from "./words.js";

const POLL_MS = 2000;
const POLL_HIDDEN_MS = 10_000; // while nobody looks
const COUNT = 500; // streams and clients at most; the filter is over these

const $ = (id) => document.getElementById(id);
const root = document.documentElement;

let timer = 0;
let polls = 0; // only the newest counts: an order asks anew, whatever is under way
let known = null; // what the node said last
let live = null; // ids of the streams that were live then
let cpu = null; // the time of the CPU, and when

// ---- the parts of the page -----------------------------------------------------------------------------------------

const egress = new Series();
const egressChart = new Chart(egress, "Sent to viewers", rate, 600, 96);
$("egress").append(egressChart.element);

const tiles = new Rows($("tiles"), {
  keyOf: ([title]) => title,
  create: ([title]) => {
    const tile = make("div");
    tile.append(make("dt", "", title), make("dd"));
    return tile;
  },
  update: (tile, [, text]) => setText(tile.lastChild, text),
});

const streams = new Streams($("streams"), {
  end: (id) =>
    order(`End ${id}?`, "Its publisher and its viewers are disconnected. The publisher may come back.", "End stream", `api/v1/streams/${pathOf(id)}`, "DELETE", `${id} was ended.`),
  record: (id, on) =>
    on
      ? order(`Record ${id}?`, "It is written to a file from its newest key frame on, until its publisher leaves.", "Record", recordingOf(id), "POST", `${id} is recorded.`)
      : order(`Stop recording ${id}?`, "The file is completed. Until its publisher leaves there is no other one.", "Stop recording", recordingOf(id), "DELETE", `${id} is no longer recorded.`),
});
const recordingOf = (id) => `api/v1/recordings?stream=${encodeURIComponent(id)}`;

const clients = new Table(
  $("clients"),
  "Clients",
  [
    { title: "Address", text: (client) => client.ip, className: "mono" },
    { title: "Does", text: (client) => ROLES[client.role] ?? client.role },
    { title: "Stream", text: (client) => client.stream, name: true },
    { title: "Protocol", text: (client) => client.protocol.toUpperCase() },
    { title: "For", text: (client) => duration(client.alive) },
    { title: "Received", text: (client) => bytes(client.recv_bytes), className: "number" },
    { title: "Sent", text: (client) => bytes(client.send_bytes), className: "number" },
    { title: "Program", text: (client) => client.agent, name: true },
  ],
  (client) => client.id,
  {
    title: "Kick",
    of: (client) => `Kick ${client.ip}, ${ROLES[client.role] ?? client.role} ${client.stream}`,
    run: (client) =>
      order(`Kick ${client.ip}?`, `Its connection is closed (${[ROLES[client.role] ?? client.role, client.stream].filter(Boolean).join(" ")}). It may come back.`, "Kick", `api/v1/clients/${encodeURIComponent(client.id)}`, "DELETE", `${client.ip} was disconnected.`),
  },
);
const ROLES = { publish: "publishes", play: "plays", wait: "waits for", idle: "idle" };

const forwards = new Table(
  $("forwards"),
  "Passed on to other servers",
  [
    { title: "Stream", text: (forward) => forward.stream, name: true },
    { title: "To", text: (forward) => forward.target, name: true },
    { title: "State", text: (forward) => forward.state, state: (forward) => forward.state },
    { title: "For", text: (forward) => duration(forward.seconds) },
    { title: "Error", text: (forward) => forward.error ?? "", name: true },
    { title: "Reconnects", text: (forward) => number(forward.reconnects), className: "number" },
    { title: "Sent", text: (forward) => bytes(forward.bytes), className: "number" },
    { title: "Dropped", text: (forward) => number(forward.dropped), className: "number" },
  ],
  (forward) => `${forward.stream} ${forward.target}`,
);

const pulls = new Table(
  $("pulls"),
  "Fetched from other nodes",
  [
    { title: "Stream", text: (pull) => pull.stream, name: true },
    { title: "From", text: (pull) => pull.upstream ?? "nobody yet", name: true },
    { title: "For", text: (pull) => duration(pull.seconds) },
    { title: "Changes of upstream", text: (pull) => number(pull.changes), className: "number" },
  ],
  (pull) => pull.stream,
);

const recordings = new Table(
  $("recordings"),
  "Recorded",
  [
    { title: "Stream", text: (recording) => recording.stream, name: true },
    { title: "State", text: (recording) => recording.state, state: (recording) => recording.state },
    { title: "For", text: (recording) => duration(recording.seconds) },
    { title: "File", text: (recording) => recording.file.split("/").at(-1), name: true },
    { title: "Length", text: (recording) => (recording.file ? duration(recording.media_seconds) : ""), className: "number" },
    { title: "Size", text: (recording) => (recording.file ? bytes(recording.bytes) : ""), className: "number" },
    { title: "Files complete", text: (recording) => number(recording.files), className: "number" },
    { title: "Dropped", text: (recording) => number(recording.dropped), className: "number" },
    { title: "Error", text: (recording) => recording.error, name: true },
  ],
  (recording) => recording.stream,
);

const nodes = new Table(
  $("nodes"),
  "Nodes",
  [
    { title: "Node", text: (node) => node.id, name: true },
    { title: "Role", text: (node) => node.role },
    { title: "Group", text: (node) => node.group },
    { title: "RTMP", text: (node) => node.rtmp, className: "mono" },
    { title: "HTTP", text: (node) => node.http, className: "mono" },
    { title: "Load", text: (node) => percent(node.stress), className: "number" },
    { title: "State", text: stateOf, state: stateOf },
  ],
  (node) => node.id,
);

function stateOf(node) {
  return node.draining ? "draining" : node.stress >= 1 ? "full" : "ready";
}

const workers = new Table(
  $("workers"),
  "Worker processes",
  [
    { title: "Worker", text: (worker) => String(worker.worker) },
    { title: "Process", text: (worker) => String(worker.pid) },
    { title: "CPU", text: (worker) => percent(worker.cpu_share), className: "number" },
    { title: "Memory", text: (worker) => bytes(worker.mem_kbyte * 1024), className: "number" },
    { title: "Streams", text: (worker) => number(worker.streams_held), className: "number" },
    { title: "Publishers", text: (worker) => number(worker.publishers), className: "number" },
    { title: "Viewers", text: (worker) => number(worker.viewers), className: "number" },
    { title: "Sends", text: (worker) => rate(worker.kbps_out), className: "number" },
    { title: "Restarts", text: (worker) => number(worker.restarts), className: "number" },
  ],
  (worker) => String(worker.worker),
);

const pathOf = (id) => id.split("/").map(encodeURIComponent).join("/");

// ---- asking ----------------------------------------------------------------------------------------------------------

async function poll() {
  clearTimeout(timer);
  polls += 1;
  const mine = polls;
  try {
    const summary = await ask("api/v1/summaries"); // alone: a wrong token counts once
    const [streamed, connected, forwarded, pulled, recorded] = await Promise.all(
      [`streams?count=${COUNT}`, `clients?count=${COUNT}`, "forwards", "pulls", "recordings"].map((path) => ask(`api/v1/${path}`)),
    );
    if (mine !== polls) return;
    known = {
      node: summary.server,
      data: summary.data,
      streams: streamed.streams,
      clients: connected.clients,
      forwards: forwarded.forwards,
      pulls: pulled.pulls,
      recordings: recorded.recordings,
    };
    record();
    setState("open");
    show();
    await Promise.all(streams.open.map(examine));
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (mine === polls) fail(error);
  } finally {
    if (mine === polls && root.dataset.state !== "locked") timer = setTimeout(poll, document.hidden ? POLL_HIDDEN_MS : POLL_MS);
  }
}

async function examine(id) {
  try {
    streams.showDoctor((await ask(`api/v1/streams/${pathOf(id)}`)).stream);
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 404) throw error; // 404: it ended meanwhile
  }
}

function fail(error) {
  if (error.status === 401 || error.status === 403) {
    setState("locked");
    setText($("summary"), "Locked");
    setText($("entry-error"), error.status === 403 ? error.message : hasToken() ? "The node does not take this token." : "");
    setToken("");
    $("token").value = "";
    $("token").focus();
    return;
  }
  // What was known last stays.
  setText($("summary"), error.status ? `The node says: ${error.message}` : "The node does not answer, trying again…");
  root.dataset.reachable = "no";
}

function setState(state) {
  root.dataset.state = state;
  $("entry").hidden = state !== "locked";
  $("board").hidden = state === "locked" || known === null;
  $("orders").hidden = state !== "open";
  $("forget").hidden = !hasToken();
}

// ---- showing ---------------------------------------------------------------------------------------------------------

function record() {
  const { data } = known;
  egress.add(data.now_ms, data.kbps.send_30s);
  streams.record(known.streams, data.now_ms);
  const before = cpu;
  cpu = [data.now_ms, data.self.cpu_seconds];
  // A worker that was replaced takes its seconds along.
  known.cpu = before && cpu[0] > before[0] ? Math.max(0, (cpu[1] - before[1]) / ((cpu[0] - before[0]) / 1000)) : null;
  const now = new Set(known.streams.filter((stream) => stream.publish.active).map((stream) => stream.id));
  if (live) {
    const began = [...now].filter((id) => !live.has(id)).map((id) => `${id} is live.`);
    const ended = [...live].filter((id) => !now.has(id)).map((id) => `${id} has ended.`);
    const news = [...began, ...ended].map((text) => text.slice(-120));
    if (news.length) announce(news.length > 4 ? `${began.length} streams began, ${ended.length} ended.` : news.join(" "));
  }
  live = now;
}

function show() {
  const { data } = known;
  delete root.dataset.reachable;
  setText($("summary"), `${known.node}, ${data.ready ? "ready" : "draining"}`);
  setText($("version"), `pyrtmp ${data.self.version}`);
  $("drain").disabled = !data.ready;
  tiles.show([
    ["Load", percent(data.cluster?.stress ?? 0)],
    ["CPU", known.cpu === null ? "…" : percent(known.cpu)],
    ["Memory", bytes(data.self.mem_kbyte * 1024)],
    ["Up", duration(data.self.uptime)],
    ["Live streams", number(data.streams.live)],
    ["Publishers", number(data.clients.publishers)],
    ...Object.entries(data.clients.viewers).map(([protocol, count]) => [`${protocol.toUpperCase()} viewers`, number(count)]),
    ["Received", rate(data.kbps.recv_30s)],
  ]);
  setText($("egress-now"), rate(data.kbps.send_30s));
  egressChart.draw();
  showLists();
}

function showLists() {
  if (!known) return;
  const wanted = $("filter").value.trim().toLowerCase();
  const has = (...texts) => !wanted || texts.some((text) => String(text ?? "").toLowerCase().includes(wanted));
  const { data } = known;
  const shown = {
    streams: known.streams.filter((stream) => has(stream.id, stream.upstream, stream.health, stream.state, stream.video?.codec, stream.audio?.codec)),
    clients: known.clients.filter((client) => has(client.ip, client.stream, client.agent, client.protocol, client.role)),
    forwards: known.forwards.filter((forward) => has(forward.stream, forward.target, forward.state, forward.error)),
    pulls: known.pulls.filter((pull) => has(pull.stream, pull.upstream)),
    recordings: known.recordings.filter((recording) => has(recording.stream, recording.state, recording.file, recording.error)),
    nodes: (data.cluster?.nodes ?? []).filter((node) => has(node.id, node.role, node.group, node.rtmp, node.http)),
    workers: data.workers,
  };
  const all = { ...known, nodes: data.cluster?.nodes ?? [], workers: data.workers };
  streams.show(shown.streams, { ...known, watch, recordable: data.self.recordable });
  clients.show(shown.clients);
  forwards.show(shown.forwards);
  pulls.show(shown.pulls);
  recordings.show(shown.recordings);
  nodes.show(shown.nodes);
  workers.show(shown.workers);
  for (const name of Object.keys(shown)) {
    const [few, many] = [shown[name].length, all[name].length];
    setText($(`${name}-count`), few === many ? `${many}${many === COUNT ? " first" : ""}` : `${few} of ${many}`);
  }
  for (const name of ["forwards", "pulls", "recordings", "workers"]) $(`${name}-section`).hidden = all[name].length === 0;
  for (const [name, words] of [["streams", "Nothing is live."], ["clients", "Nobody is connected."]]) {
    $(name).hidden = shown[name].length === 0;
    $(`${name}-none`).hidden = shown[name].length > 0;
    setText($(`${name}-none`), all[name].length ? "Nothing matches the filter." : words);
  }
}

/** Where a stream plays: the viewers' page of this node, or "".  By HTTPS for who came by HTTPS, to a name that is in the
 * certificate; others are redirected there where the node wants that. */
function watch(id) {
  const secure = location.protocol === "https:" && known.data.self.https_port;
  const prefix = known.data.cluster?.http_prefix ?? "";
  if (secure) return `https://${location.hostname}:${secure}${prefix}/#${pathOf(id)}`;
  const own = known.data.cluster?.nodes.find((node) => node.id === known.node);
  const port = own?.http.match(/:(\d+)$/)?.[1];
  return port ? `http://${location.hostname}:${port}${prefix}/#${pathOf(id)}` : "";
}

function announce(text) {
  setText($("announce"), text);
}

// ---- orders ----------------------------------------------------------------------------------------------------------

let answer = () => {};

/** Asks the operator; true for yes.  The browser gives the focus back to where it was. */
function confirmed(title, text, yes) {
  setText($("confirm-title"), title);
  setText($("confirm-text"), text);
  setText($("confirm-yes"), yes);
  $("confirm").showModal();
  $("confirm-no").focus();
  return new Promise((resolve) => {
    answer = resolve;
  });
}

for (const [button, yes] of [["confirm-no", false], ["confirm-yes", true]]) {
  $(button).addEventListener("click", () => {
    $("confirm").close();
    answer(yes);
  });
}
$("confirm").addEventListener("cancel", () => answer(false)); // Escape

async function order(title, text, yes, path, method, done) {
  if (!(await confirmed(title, text, yes))) return;
  notice("");
  try {
    const said = await ask(path, method);
    announce(typeof done === "function" ? notice(done(said), false) : done);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) return fail(error);
    notice(`${yes}: ${error.message}`);
  }
  poll();
}

/** Shows a line above everything; returns it. */
function notice(text, bad = true) {
  const line = $("notice");
  setText(line, text);
  line.hidden = !text;
  line.dataset.kind = bad ? "bad" : "good";
  return text;
}

$("reload").addEventListener("click", () =>
  order("Reload the settings?", "The node reads its configuration again; what can change while it runs does. Nobody is disconnected.", "Reload", "api/v1/reload", "POST", ({ changed, needs_restart }) =>
    [
      changed.length ? `Changed: ${changed.join(", ")}.` : "The settings are the same as before.",
      needs_restart.length ? `Not until the node is started again: ${needs_restart.join(", ")}.` : "",
    ].join(" "),
  ),
);
$("drain").addEventListener("click", () =>
  order("Drain this node?", "It takes nobody new, hands everybody over to other nodes where there are any, and ends.", "Drain", "api/v1/drain", "POST", () => "The node drains, then it ends."),
);

$("forget").addEventListener("click", () => {
  setToken("");
  location.reload();
});

$("entry-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken($("token").value.trim());
  poll();
});

$("filter").addEventListener("input", showLists);
$("streams").addEventListener("toggle", showLists, true); // the event does not bubble
$("streams").addEventListener("toggle", (event) => event.target.open && poll(), true);
document.addEventListener("visibilitychange", () => document.hidden || root.dataset.state === "locked" || poll());

poll();
