// The viewer page: the list of live streams, the chosen one in the player, and the addresses to copy.
// Whatever comes from the server is shown with textContent only.

import { LivePlayer } from "./player.js";

const POLL_MS = 2500;
const POLL_WAITING_MS = 1000; // while the chosen stream is away
const CALM_MS = 2500; // the controls fade after so long without a move

const CODEC_NAMES = { h264: "H.264", hevc: "HEVC", av1: "AV1", vp9: "VP9", vp8: "VP8", aac: "AAC", mp3: "MP3", opus: "Opus", flac: "FLAC", ac3: "AC-3", eac3: "E-AC-3" };
const PLAYER_NAMES = { flv: "HTTP-FLV", hls: "HLS", native: "HLS" };

const $ = (id) => document.getElementById(id);
const root = document.documentElement;
const video = $("video");
const stage = $("stage");
const player = new LivePlayer(video);

let streams = []; // as listed by the server
let reachable = null; // null until the first answer
let rtmpPort = 1935;
let rtmpsPort = 0;
let { key: selected, shown } = readHash(); // "app/name" or null; what the viewer has to show for it, as "token=..."
let choice = choiceFromQuery();
let pollTimer = 0;

// What tests and scripts may look at: the player in use and the stream's key.
window.pyrtmp = Object.freeze({
  get player() {
    return player.player;
  },
  get stream() {
    return player.stream?.key ?? null;
  },
});

// ---- the address of the page -------------------------------------------------------------------------------------

/** `#app/name`, or `#app/name?token=...`: what stands behind `#` is in no server's log and in no Referer. */
function readHash() {
  const [path, ...query] = location.hash.slice(1).split("?");
  try {
    const key = decodeURIComponent(path);
    if (/^[^/].*\/[^/]+$/.test(key)) return { key, shown: query.join("?") };
  } catch {
    // a broken percent sequence
  }
  return { key: null, shown: "" };
}

function choiceFromQuery() {
  const wanted = new URLSearchParams(location.search).get("player");
  return wanted === "flv" || wanted === "hls" ? wanted : "auto";
}

function hashOf(key) {
  return "#" + key.split("/").map(encodeURIComponent).join("/");
}

function addresses(key) {
  const path = key.split("/").map(encodeURIComponent).join("/");
  const query = shown ? `?${shown}` : "";
  return {
    rtmp: `${rtmpBase()}/${path}${query}`,
    flv: new URL(`../${path}.flv${query}`, import.meta.url).href,
    hls: new URL(`../${path}.m3u8${query}`, import.meta.url).href,
  };
}

/** By TLS for those who came by TLS, where the server has it. */
function rtmpBase() {
  const secure = location.protocol === "https:" && rtmpsPort;
  return secure ? `rtmps://${location.hostname}:${rtmpsPort}` : `rtmp://${location.hostname}:${rtmpPort}`;
}

// ---- the list ------------------------------------------------------------------------------------------------------

const keyOf = (stream) => `${stream.app}/${stream.name}`;

async function poll() {
  clearTimeout(pollTimer);
  try {
    // A node that does not have the stream fetches it for those who wait for it.
    const waited = selected && player.state !== "playing" ? `?stream=${encodeURIComponent(selected)}&${shown}` : "";
    const response = await fetch(new URL(`streams.json${waited}`, import.meta.url), { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    const answer = await response.json();
    streams = answer.streams;
    rtmpPort = answer.rtmp_port;
    rtmpsPort = answer.rtmps_port;
    reachable = true;
    $("version").textContent = `pyrtmp ${answer.version}`;
  } catch {
    reachable = false; // the streams last known stay; what plays goes on playing
  }
  showList();
  follow();
  pollTimer = setTimeout(poll, player.state === "waiting" ? POLL_WAITING_MS : POLL_MS);
}

const rows = new Map(); // key -> <li>, kept so that the keyboard focus stays where it is

function makeRow(key) {
  const row = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  for (const part of ["dot", "name", "count", "facts"]) {
    const span = document.createElement("span");
    span.className = part;
    button.append(span);
  }
  button.querySelector(".name").textContent = key;
  button.addEventListener("click", () => {
    location.hash = hashOf(key);
  });
  row.append(button);
  return row;
}

function showList() {
  const keys = new Set(streams.map(keyOf));
  for (const [key, row] of rows) {
    if (!keys.has(key)) {
      row.remove();
      rows.delete(key);
    }
  }
  for (const [place, stream] of streams.entries()) {
    const key = keyOf(stream);
    if (!rows.has(key)) rows.set(key, makeRow(key));
    const row = rows.get(key);
    const there = $("streams").children[place] ?? null;
    if (there !== row) $("streams").insertBefore(row, there);
    row.querySelector(".count").textContent = stream.viewers === 1 ? "1 viewer" : `${stream.viewers} viewers`;
    row.querySelector(".facts").textContent = facts(stream).join(" · ");
    row.querySelector("button").setAttribute("aria-current", String(key === selected));
  }
  const count = streams.length;
  $("nothing").hidden = count > 0 || reachable === null;
  $("summary").textContent =
    reachable === false ? "The server does not answer, trying again…" : count === 1 ? "1 live stream" : `${count} live streams`;
}

function facts(stream) {
  const list = [];
  if (stream.video) {
    const { codec, width, height, fps } = stream.video;
    list.push(nameOf(codec) + (width ? ` ${width}×${height}` : "") + (fps ? ` ${Math.round(fps)} fps` : ""));
  }
  if (stream.audio && !stream.video) list.push(nameOf(stream.audio.codec));
  if (stream.kbps) list.push(rate(stream.kbps));
  if (stream.uptime >= 0) list.push(duration(stream.uptime));
  return list.map((fact) => fact.replaceAll(" ", "\u00a0")); // a narrow screen breaks between facts only
}

const nameOf = (codec) => CODEC_NAMES[codec] ?? String(codec);
const rate = (kbps) => (kbps < 1000 ? `${Math.round(kbps)} kbit/s` : `${(kbps / 1000).toFixed(1)} Mbit/s`);

function duration(seconds) {
  const minutes = Math.floor(seconds / 60);
  if (minutes < 1) return `${Math.floor(seconds)} s`;
  if (minutes < 60) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

// ---- the chosen stream -----------------------------------------------------------------------------------------------

/** Keeps the player on the chosen stream, or on the first one while none was chosen. */
function follow() {
  if (!selected && streams.length) {
    selected = keyOf(streams[0]);
    showList();
  }
  showAddresses();
  if (!selected) return show();
  const listed = streams.find((stream) => keyOf(stream) === selected);
  const { flv, hls } = addresses(selected);
  const target = { key: selected, flv, hls, video: listed?.video, audio: listed?.audio, kbps: listed?.kbps, live: Boolean(listed) };
  if (player.stream?.key === selected && player.stream.flv === flv) player.update(target);
  else if (reachable !== null) player.open(target, choice);
  show();
}

function showAddresses() {
  $("links").hidden = !selected;
  if (selected) {
    const { rtmp, flv, hls } = addresses(selected);
    setAddress("url-rtmp", rtmp);
    setAddress("url-flv", flv);
    setAddress("url-hls", hls);
  }
  const server = `${rtmpBase()}/live`;
  setAddress("publish-server", server);
  setText("publish-ffmpeg", `ffmpeg -re -i video.mp4 -c:v libx264 -preset veryfast -g 60 -c:a aac -f flv ${server}/mystream`);
}

/** Shows an address that a narrow screen may break after a slash. */
function setAddress(id, text) {
  if ($(id).textContent === text) return; // somebody may be selecting it
  const parts = text.split(/(?<=[^/]\/)(?=[^/])/).flatMap((part) => [part, document.createElement("wbr")]);
  $(id).replaceChildren(...parts);
}

/** Puts the player's state on the page. */
function show() {
  root.dataset.state = player.state;
  const { state, message, detail, blocked } = player;
  const soundOnly = player.stream?.audio && !player.stream.video;
  const busy = state === "loading" || (state === "waiting" && !blocked);
  stage.toggleAttribute("data-empty", !selected);
  stage.dataset.overlay = busy ? "busy" : state === "playing" && !soundOnly ? "none" : "still";
  if (!selected && reachable) {
    setText("message", "Nothing is live yet");
    setText("detail", "Publish a stream to the address given on this page, and it starts here by itself.");
  } else {
    setText("message", state === "playing" && soundOnly ? "Sound only" : message);
    setText("detail", detail);
  }
  $("start").hidden = !(blocked || player.paused);
  setText("title", selected ?? "No stream selected");
  const pageTitle = selected ? `${selected} · pyrtmp` : "Live · pyrtmp";
  if (document.title !== pageTitle) document.title = pageTitle;
  stage.toggleAttribute("data-paused", player.paused || blocked);
  $("pause").setAttribute("aria-label", player.paused || blocked ? "Play" : "Pause");
  showVolume();
  showStats();
}

/** Writing the same text again would make screen readers say it again. */
function setText(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function showStats() {
  const playing = player.state === "playing";
  const behind = player.latency ?? player.buffer;
  stage.toggleAttribute("data-live", playing && behind < (player.player === "flv" ? 3 : 20));
  const stats = $("stats");
  if (!player.stream || !player.player) return stats.replaceChildren();
  const { video: picture, audio, kbps } = player.stream;
  const quality = video.getVideoPlaybackQuality();
  const parts = [PLAYER_NAMES[player.player]];
  const size = video.videoWidth ? `${video.videoWidth}×${video.videoHeight}` : "";
  if (picture || size) parts.push([picture && nameOf(picture.codec), size, picture?.fps && `${Math.round(picture.fps)} fps`].filter(Boolean).join(" "));
  if (audio) parts.push([nameOf(audio.codec), audio.sample_rate && `${audio.sample_rate / 1000} kHz`].filter(Boolean).join(" "));
  if (kbps) parts.push(rate(kbps));
  if (player.latency !== null) parts.push(`${player.latency.toFixed(1)} s behind live`);
  parts.push(`buffer ${player.buffer.toFixed(1)} s`);
  const dropped = quality.droppedVideoFrames;
  if (size) parts.push(dropped === 1 ? "1 frame dropped" : `${dropped} frames dropped`);
  stats.replaceChildren(
    ...parts.map((text) => {
      const span = document.createElement("span");
      span.textContent = text;
      return span;
    }),
  );
}

player.addEventListener("change", show);
player.addEventListener("ended", poll);
setInterval(showStats, 1000);

window.addEventListener("hashchange", () => {
  const next = readHash();
  if (!next.key || (next.key === selected && next.shown === shown)) return;
  ({ key: selected, shown } = next);
  showList();
  follow();
});

// ---- controls --------------------------------------------------------------------------------------------------------

for (const radio of document.querySelectorAll("#players input")) {
  radio.checked = radio.value === choice;
  radio.addEventListener("change", () => {
    choice = radio.value;
    const address = new URL(location.href);
    if (choice === "auto") address.searchParams.delete("player");
    else address.searchParams.set("player", choice);
    history.replaceState(null, "", address);
    if (player.stream) player.open(player.stream, choice);
  });
}

function togglePause() {
  if (player.paused || player.blocked) player.play();
  else player.pause();
}

function toggleMute() {
  video.muted = !video.muted;
  if (!video.muted && video.volume === 0) video.volume = 1;
}

function toggleFullscreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else if (stage.requestFullscreen) stage.requestFullscreen();
  else video.webkitEnterFullscreen?.(); // iPhones give full screen to the video alone
}

function showVolume() {
  const loud = !video.muted && video.volume > 0;
  stage.toggleAttribute("data-loud", loud);
  const silent = player.stream?.video && !player.stream.audio;
  $("unmute").hidden = loud || Boolean(silent);
  $("mute").setAttribute("aria-label", loud ? "Mute" : "Unmute");
  $("mute").setAttribute("aria-pressed", String(!loud));
  $("volume").value = video.muted ? 0 : video.volume;
}

// The attribute alone does not mute a video for autoplay in every browser.
video.muted = true;
video.addEventListener("volumechange", showVolume);

$("pause").addEventListener("click", togglePause);
$("start").addEventListener("click", togglePause);
$("mute").addEventListener("click", toggleMute);
$("unmute").addEventListener("click", toggleMute);
$("edge").addEventListener("click", () => player.toLiveEdge());
$("fullscreen").addEventListener("click", toggleFullscreen);
$("volume").addEventListener("input", (event) => {
  video.volume = event.target.valueAsNumber;
  video.muted = video.volume === 0;
});

const KEYS = { " ": togglePause, k: togglePause, m: toggleMute, f: toggleFullscreen, l: () => player.toLiveEdge() };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, button, a, summary")) return;
  const action = KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

let calmTimer = 0;
for (const kind of ["pointermove", "pointerdown", "focusin"]) {
  stage.addEventListener(kind, () => {
    stage.removeAttribute("data-calm");
    clearTimeout(calmTimer);
    calmTimer = setTimeout(() => stage.toggleAttribute("data-calm", player.state === "playing"), CALM_MS);
  });
}

// ---- copying ---------------------------------------------------------------------------------------------------------

/** The clipboard API exists on https and localhost only; a page of a LAN address needs the old way. */
async function copy(element) {
  if (navigator.clipboard) return navigator.clipboard.writeText(element.textContent);
  const range = document.createRange();
  range.selectNodeContents(element);
  const selection = getSelection();
  selection.removeAllRanges();
  selection.addRange(range);
  if (!document.execCommand("copy")) throw new Error("not allowed");
}

for (const button of document.querySelectorAll("[data-copy]")) {
  let reset = 0;
  button.addEventListener("click", async () => {
    let result = "Copied";
    try {
      await copy($(button.dataset.copy));
    } catch {
      result = "Select it"; // the address stays selectable by one click
    }
    button.textContent = result;
    button.dataset.done = "";
    $("announce").textContent = result;
    clearTimeout(reset);
    reset = setTimeout(() => {
      button.textContent = "Copy";
      delete button.dataset.done;
      $("announce").textContent = "";
    }, 1800);
  });
}

showAddresses();
show();
poll();
