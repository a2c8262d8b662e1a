// The list of streams: one row each, which opens to its facts and what the doctor says.

import { Chart, Series } from "./chart.js";
import { Rows, make, plain, setText } from "./rows.js";
import { bytes, duration, rate } from "./words.js";

const SEVERITIES = { unknown: "Looking", good: "Good", advice: "Advice", warning: "Warning", problem: "Problem" };

export class Streams {
  #rows;
  #parts = new Map(); // stream id -> its elements
  #charts = new Map(); // stream id -> its series
  #orders;

  /** `orders`, what the operator wants: `{ end(id), record(id, on) }`. */
  constructor(parent, orders) {
    this.#orders = orders;
    this.#rows = new Rows(parent, {
      keyOf: (stream) => stream.id,
      create: (stream) => this.#create(stream),
      update: (_, stream) => this.#update(stream),
    });
  }

  /** Ids of the live ones that are open. */
  get open() {
    return [...this.#parts].filter(([, parts]) => parts.live && parts.details.open).map(([id]) => id);
  }

  /** Takes the bit rates of all streams, also of those that are not shown. */
  record(streams, time) {
    const ids = new Set(streams.map((stream) => stream.id));
    for (const id of this.#charts.keys()) if (!ids.has(id)) this.#charts.delete(id);
    for (const stream of streams) this.#seriesOf(stream.id).add(time, stream.recv_kbps);
  }

  /** `context`: `{ watch(id), clients, forwards, pulls, recordings, recordable }`. */
  show(streams, context) {
    this.context = context;
    this.#rows.show(streams);
    const ids = new Set(streams.map((stream) => stream.id));
    for (const id of this.#parts.keys()) if (!ids.has(id)) this.#parts.delete(id);
  }

  /** What the node says when it is asked for one stream. */
  showDoctor(stream) {
    const parts = this.#parts.get(stream.id);
    if (!parts) return;
    const known = stream.health !== "unknown";
    parts.good.hidden = stream.doctor.length > 0;
    parts.good.classList.toggle("quiet", !known);
    setText(parts.good, known ? "Nothing to complain about." : "It has just begun: still looking.");
    parts.findings.show(stream.doctor);
  }

  #seriesOf(id) {
    if (!this.#charts.has(id)) this.#charts.set(id, new Series());
    return this.#charts.get(id);
  }

  #create({ id }) {
    const item = make("li", "stream");
    const details = make("details");
    const summary = make("summary");
    const name = make("bdi", "name", id);
    name.title = plain(id);
    const facts = make("span", "facts");
    const small = new Chart(this.#seriesOf(id), "Bit rate", rate, 160, 32);
    const now = make("span", "rate");
    const viewers = make("span", "viewers");
    const health = make("span", "health");
    summary.append(health, name, facts, small.element, now, viewers);

    const body = make("div", "body");
    const large = new Chart(this.#seriesOf(id), "Bit rate over time", rate);
    const figure = make("figure", "traffic");
    figure.append(make("figcaption", "", "Bit rate from the publisher"), large.element);
    const list = make("dl", "facts-list");
    const pairs = new Rows(list, {
      keyOf: ([title]) => title,
      create: ([title]) => {
        const pair = make("div");
        const value = make("dd");
        value.append(make("bdi"));
        pair.append(make("dt", "", title), value);
        return pair;
      },
      update: (pair, [, text]) => setText(pair.lastChild.firstChild, text),
    });
    const doctor = make("div", "doctor");
    const good = make("p", "good");
    const findings = make("ul");
    doctor.append(make("h3", "", "Stream doctor"), good, findings);
    const actions = make("div", "actions");
    const watch = make("a", "button", "Watch");
    watch.target = "_blank";
    watch.rel = "noopener";
    const end = make("button", "danger", "End stream");
    end.type = "button";
    end.setAttribute("aria-label", plain(`End stream ${id}`));
    end.addEventListener("click", () => this.#orders.end(id));
    const record = make("button", "", "Record");
    record.type = "button";
    record.addEventListener("click", () => this.#orders.record(id, !this.#recordingOf(id)));
    actions.append(watch, record, end);
    body.append(figure, doctor, list, actions);
    details.append(summary, body);
    item.append(details);
    this.#parts.set(id, {
      details, facts, small, now, viewers, health, large, pairs, doctor, good, watch, record,
      findings: new Rows(findings, { keyOf: (finding) => finding.id, create: makeFinding, update: showFinding }),
    });
    return item;
  }

  #update(stream) {
    const parts = this.#parts.get(stream.id);
    const live = (parts.live = stream.publish.active);
    parts.doctor.hidden = !live;
    const health = live ? stream.health : "off";
    parts.health.dataset.health = health;
    setText(parts.health, live ? SEVERITIES[health] ?? health : "Off air");
    setText(parts.facts, live ? media(stream).join(" · ") : stream.state);
    setText(parts.now, live ? rate(stream.recv_kbps) : "");
    setText(parts.viewers, people(stream));
    parts.small.draw();
    if (!parts.details.open) return;
    parts.large.draw();
    const { watch } = this.context;
    const url = watch(stream.id);
    parts.watch.hidden = !url;
    if (url) parts.watch.href = url;
    parts.watch.setAttribute("aria-label", plain(`Watch ${stream.id} in a new tab`));
    const recorded = this.#recordingOf(stream.id);
    parts.record.hidden = !live || !this.context.recordable || Boolean(stream.upstream); // what is fetched is recorded elsewhere
    setText(parts.record, recorded ? "Stop recording" : "Record");
    parts.record.setAttribute("aria-label", plain(`${recorded ? "Stop recording" : "Record"} ${stream.id}`));
    parts.pairs.show(this.#facts(stream).filter(([, text]) => text));
  }

  #recordingOf(id) {
    return this.context.recordings.find((recording) => recording.stream === id);
  }

  #facts(stream) {
    const { clients, forwards, pulls, recordings } = this.context;
    const publisher = clients.find((client) => client.id === stream.publish.cid);
    const { total, ...viewers } = stream.viewers;
    const { video, audio } = stream;
    return [
      ["Picture", video ? [video.codec, video.profile, video.width && `${video.width}×${video.height}`, stream.fps && `${stream.fps.toFixed(1)} fps`].filter(Boolean).join(", ") : "none"],
      ["Sound", audio ? [audio.codec, audio.profile, audio.sample_rate && `${audio.sample_rate / 1000} kHz`, audio.channel && `${audio.channel} ch`].filter(Boolean).join(", ") : "none"],
      ["Key frame every", stream.gop_ms ? `${(stream.gop_ms / 1000).toFixed(1)} s` : ""],
      ["Viewers", Object.entries(viewers).map(([protocol, number]) => `${number} ${protocol.toUpperCase()}`).join(", ") || "none"],
      ["Waiting", stream.waiting ? String(stream.waiting) : ""],
      ["On air for", stream.publish.active ? duration(stream.uptime) : ""],
      ["Received", bytes(stream.recv_bytes)],
      ["Sent", bytes(stream.send_bytes)],
      ["Publisher", publisher ? `${publisher.ip} ${publisher.agent}` : ""],
      ["Fetched from", stream.upstream ?? pulls.find((pull) => pull.stream === stream.id)?.upstream ?? ""],
      ["Worker", stream.worker === null ? "" : String(stream.worker)],
      ...forwards
        .filter((forward) => forward.stream === stream.id)
        .map((forward) => [`To ${forward.target}`, [forward.state, forward.error].filter(Boolean).join(": ")]),
      ...recordings
        .filter((recording) => recording.stream === stream.id)
        .map(({ state, file, media_seconds, error }) => ["Recorded", [file ? `${state}, ${duration(media_seconds)}` : state, error].filter(Boolean).join(": ")]),
    ];
  }
}

function makeFinding() {
  const item = make("li");
  const head = make("p", "finding");
  head.append(make("strong"), document.createTextNode(" "), make("span"));
  item.append(head, make("p", "effect"), make("p", "remedy"));
  return item;
}

function showFinding(item, { severity, finding, effect, remedy }) {
  const [head, seen, change] = item.children;
  item.dataset.health = severity;
  setText(head.firstChild, `${SEVERITIES[severity] ?? severity}:`);
  setText(head.lastChild, finding);
  setText(seen, effect);
  setText(change, remedy);
}

function media({ video, audio, fps }) {
  const list = [];
  if (video) list.push([video.codec, video.width && `${video.width}×${video.height}`, fps && `${Math.round(fps)} fps`].filter(Boolean).join(" "));
  if (audio) list.push(audio.codec);
  return list.map((fact) => fact.replaceAll(" ", "\u00a0"));
}

function people({ viewers, waiting }) {
  const watching = viewers.total === 1 ? "1 viewer" : `${viewers.total} viewers`;
  return waiting ? `${watching}, ${waiting} waiting` : watching;
}
