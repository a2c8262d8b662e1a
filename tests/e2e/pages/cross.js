// Plays ?url= with ?player=flv (mpegts.js) or hls (hls.js), as a web site on another origin than the server would.

const query = new URLSearchParams(location.search);
const url = query.get("url");
const kind = query.get("player");
const video = document.querySelector("video");
const state = document.documentElement.dataset;
const fail = (error) => {
  state.state = "error";
  console.error(JSON.stringify(error));
};

window.pyrtmp = { player: kind, stream: url };
video.addEventListener("playing", () => (state.state = "playing"));
video.addEventListener("waiting", () => (state.state = "waiting"));

if (kind === "flv") {
  mpegts.LoggingControl.applyConfig({ enableAll: false });
  const player = mpegts.createPlayer(
    { type: "flv", isLive: true, url, cors: true },
    { enableStashBuffer: false, lazyLoad: false, liveSync: true },
  );
  player.on(mpegts.Events.ERROR, (type, detail, info) => fail({ type, detail, info }));
  player.attachMediaElement(video);
  player.load();
} else {
  const hls = new Hls({ liveSyncDurationCount: 2 });
  hls.on(Hls.Events.ERROR, (_event, data) => data.fatal && fail({ type: data.type, details: data.details }));
  hls.loadSource(url);
  hls.attachMedia(video);
}
video.play().catch((error) => error.name !== "AbortError" && fail(String(error)));
