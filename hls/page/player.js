// One live stream in one <video>: which player to use, when to reconnect, how to stay at the live edge.
//
// States, also on <html data-state>:
//   idle     nothing is selected, or the viewer paused
//   loading  a player was started and has not shown a frame yet
//   playing  the media clock advances
//   waiting  the stream is away, the buffer ran dry, or the browser wants a click before it plays
//   error    no player of this browser can show the stream
//
// Events: "change" whenever state, player or message changed.

const TICK_MS = 250;
const STALL_MS = 1200; // shorter hiccups are not worth a spinner
const RESTART_MS = 8000; // without progress for so long the connection is given up
const FIRST_FRAME_MS = 12000;
const PAUSE_KEEP_MS = 20000; // a paused live stream is only kept open for so long
const BACKOFF_MS = [500, 1000, 2000, 4000, 8000];
const STEADY_MS = 5000; // after so long without trouble the next trouble starts at the shortest delay

const FLV_VIDEO = new Set(["h264", "hevc", "av1"]); // what mpegts.js demuxes from FLV
const FLV_AUDIO = new Set(["aac", "mp3", "opus"]);
const MSE_TYPES = {
  h264: 'video/mp4; codecs="avc1.42E01E"',
  hevc: 'video/mp4; codecs="hvc1.1.6.L93.B0"',
  av1: 'video/mp4; codecs="av01.0.04M.08"',
};

// Each engine takes (video, stream, report) and returns {close, latency}.  `report` is called at most once, with
// "ended" (the connection is gone; try again) or "unsupported" (this player cannot show it; try another).

function openFlv(video, stream, report) {
  const source = { type: "flv", isLive: true, url: stream.flv };
  // An FLV header may announce a track that never comes, and the demuxer would wait for it for ever: the list knows better.
  if (stream.video || stream.audio) {
    source.hasVideo = Boolean(stream.video);
    source.hasAudio = Boolean(stream.audio);
  }
  const player = window.mpegts.createPlayer(source, {
    enableStashBuffer: false,
    lazyLoad: false,
    deferLoadAfterSourceOpen: false,
    autoCleanupSourceBuffer: true,
    autoCleanupMaxBackwardDuration: 30,
    autoCleanupMinBackwardDuration: 10,
    liveSync: true, // a little lag: play slightly faster
    liveSyncMaxLatency: 1.5,
    liveSyncTargetLatency: 0.8,
    liveSyncPlaybackRate: 1.1,
    liveBufferLatencyChasing: true, // a lot: jump
    liveBufferLatencyMaxLatency: 3,
    liveBufferLatencyMinRemain: 0.8,
  });
  const { ERROR, LOADING_COMPLETE } = window.mpegts.Events;
  player.on(ERROR, (type) => report(type === window.mpegts.ErrorTypes.NETWORK_ERROR ? "ended" : "unsupported"));
  player.on(LOADING_COMPLETE, () => report("ended"));
  player.attachMediaElement(video);
  player.load();
  return {
    close: () => player.destroy(),
    latency: () => null,
  };
}

function openHls(video, stream, report) {
  const { Hls } = window;
  const hls = new Hls({ liveSyncDurationCount: 2, maxLiveSyncPlaybackRate: 1.1, backBufferLength: 20 });
  let recovered = false;
  hls.on(Hls.Events.ERROR, (_event, data) => {
    if (!data.fatal) return;
    if (data.type === Hls.ErrorTypes.MEDIA_ERROR && !recovered) {
      recovered = true;
      hls.recoverMediaError();
    } else {
      report(data.type === Hls.ErrorTypes.NETWORK_ERROR ? "ended" : "unsupported");
    }
  });
  hls.loadSource(stream.hls);
  hls.attachMedia(video);
  return {
    close: () => hls.destroy(),
    latency: () => (hls.latency > 0 ? hls.latency : null),
    toLiveEdge: () => {
      if (hls.liveSyncPosition) video.currentTime = hls.liveSyncPosition;
    },
  };
}

function openNative(video, stream, report) {
  const failed = () => report(video.error?.code === MediaError.MEDIA_ERR_NETWORK ? "ended" : "unsupported");
  video.addEventListener("error", failed);
  video.src = stream.hls;
  return {
    close: () => {
      video.removeEventListener("error", failed);
      video.removeAttribute("src");
      video.load();
    },
    latency: () => null,
  };
}

const ENGINES = { flv: openFlv, hls: openHls, native: openNative };

function playsFlv({ video, audio }) {
  if (!window.mpegts?.getFeatureList().mseLivePlayback) return false;
  const source = window.MediaSource ?? window.ManagedMediaSource;
  const videoFits = !video || (FLV_VIDEO.has(video.codec) && source.isTypeSupported(MSE_TYPES[video.codec]));
  return videoFits && (!audio || FLV_AUDIO.has(audio.codec));
}

/** The players worth trying for a stream, best first. */
function candidates(video, stream, choice) {
  const hls = [];
  if (window.Hls?.isSupported()) hls.push("hls");
  else if (video.canPlayType("application/vnd.apple.mpegurl")) hls.push("native");
  const flv = playsFlv(stream) ? ["flv"] : [];
  if (choice === "hls") return hls;
  if (choice === "flv") return flv;
  return [...flv, ...hls];
}

export class LivePlayer extends EventTarget {
  state = "idle";
  /** "flv", "hls", "native", or null while none is open. */
  player = null;
  message = "";
  detail = "";
  /** The browser refused to start by itself; play() from a click will do. */
  blocked = false;

  #video;
  #stream = null;
  #choice = "auto";
  #engine = null;
  #opened = 0; // when the engine was started, ms
  #openedTracks = "";
  #shown = false; // a frame of this engine was seen
  #progress = 0; // when the media clock last advanced, ms
  #position = 0; // where it was then, s
  #steadySince = 0;
  #attempt = 0;
  #failed = new Set(); // players that cannot show this stream
  #retry = 0; // timer
  #wanted = true; // false while the viewer has paused
  #pausedAt = 0;

  constructor(video) {
    super();
    this.#video = video;
    window.mpegts?.LoggingControl.applyConfig({ enableAll: false }); // what went wrong is said on the page
    video.addEventListener("pause", () => {
      // A hidden tab is paused by the browser and resumes by itself; everything else is the viewer's wish.
      // The event comes late: by then a new engine may have started the video again.
      if (this.#engine && video.paused && !video.ended && !document.hidden) this.pause();
    });
    video.addEventListener("play", () => this.play());
    video.addEventListener("ended", () => this.#ended());
    setInterval(() => this.#tick(), TICK_MS);
  }

  /** The URL and facts of the stream on show, or null. */
  get stream() {
    return this.#stream;
  }

  get paused() {
    return !this.#wanted;
  }

  /** Shows `stream` ({key, flv, hls, video, audio, live}) with the player chosen ("auto", "flv" or "hls"). */
  open(stream, choice) {
    this.#stream = stream;
    this.#choice = choice;
    this.#failed.clear();
    this.#attempt = 0;
    this.#wanted = true;
    this.#start();
  }

  /** Takes newer facts about the same stream; starts it when it has just come back. */
  update(stream) {
    const returned = stream.live && !this.#stream.live;
    this.#stream = stream;
    if (!this.#wanted) return;
    if (returned && !this.#engine) { // one that is open goes on by itself
      this.#failed.clear();
      this.#attempt = 0;
      this.#start();
    } else if (this.player === "flv" && this.#tracks().length > this.#openedTracks.length) {
      this.#start(); // the demuxer was told about fewer tracks than there are now
    } else if (!this.#engine && !stream.live) {
      this.#away();
    }
  }

  pause() {
    if (!this.#wanted) return;
    this.#wanted = false;
    this.#pausedAt = performance.now();
    this.#video.pause();
    clearTimeout(this.#retry);
    this.#set("idle", "Paused");
  }

  play() {
    const resumed = !this.#wanted;
    this.#wanted = true;
    if (!this.#stream) return;
    if (resumed && !this.#engine) this.#start();
    else if (resumed || this.blocked) {
      this.blocked = false;
      this.#set("loading", "");
      this.#progress = performance.now();
      this.toLiveEdge();
      this.#playVideo();
    }
  }

  /** Jumps to the newest picture. */
  toLiveEdge() {
    const { buffered } = this.#video;
    if (this.#engine?.toLiveEdge) this.#engine.toLiveEdge();
    else if (buffered.length) this.#video.currentTime = Math.max(buffered.end(buffered.length - 1) - 0.8, 0);
  }

  /** Seconds of media ahead of the one on show. */
  get buffer() {
    const { buffered, currentTime } = this.#video;
    return buffered.length ? Math.max(buffered.end(buffered.length - 1) - currentTime, 0) : 0;
  }

  /** Seconds behind the live edge where the player knows it, else null. */
  get latency() {
    return this.#engine?.latency() ?? null;
  }

  #tracks() {
    return (this.#stream.video ? "v" : "") + (this.#stream.audio ? "a" : "");
  }

  #start() {
    this.#close();
    if (!this.#stream.live) return this.#away();
    const possible = candidates(this.#video, this.#stream, this.#choice);
    const next = possible.find((kind) => !this.#failed.has(kind));
    if (!next) {
      const detail = this.#choice === "auto" ? "" : "Another player may do: choose Auto.";
      return this.#set("error", "This browser cannot play the stream", detail);
    }
    this.#opened = this.#progress = performance.now();
    this.#openedTracks = this.#tracks();
    this.#position = this.#steadySince = 0;
    this.#shown = false;
    this.player = next;
    this.#set("loading", "");
    let reported = false;
    const engine = ENGINES[next](this.#video, this.#stream, (reason) => {
      if (reported || (this.#engine && this.#engine !== engine)) return;
      reported = true;
      // The engine is still on the stack that reports.
      queueMicrotask(() => (reason === "ended" ? this.#ended() : this.#unsupported(next)));
    });
    this.#engine = engine;
    this.#playVideo();
  }

  #playVideo() {
    this.#video.play()?.catch((error) => {
      if (error.name !== "NotAllowedError" || !this.#engine) return; // AbortError: another load took its place
      this.blocked = true;
      this.#set("waiting", "Ready to play");
    });
  }

  #close() {
    clearTimeout(this.#retry);
    this.#engine?.close();
    this.#engine = this.player = null;
    this.blocked = false;
    this.#video.playbackRate = 1;
  }

  #away() {
    this.#close();
    this.#set("waiting", `${this.#stream.key} is not live`, "It starts here by itself as soon as somebody publishes it.");
  }

  /** The connection is over: the publisher left, the server restarted, the network broke. */
  #ended() {
    if (!this.#engine) return;
    this.#close();
    if (!this.#stream.live) return this.#away();
    const delay = BACKOFF_MS[Math.min(this.#attempt++, BACKOFF_MS.length - 1)] * (0.8 + 0.4 * Math.random());
    this.#set("waiting", "Reconnecting…");
    this.dispatchEvent(new Event("ended"));
    this.#retry = setTimeout(() => this.#start(), delay);
  }

  #unsupported(kind) {
    if (this.player !== kind) return;
    this.#failed.add(kind);
    this.#start();
  }

  #tick() {
    const now = performance.now();
    if (!this.#engine) return;
    if (!this.#wanted) {
      if (now - this.#pausedAt > PAUSE_KEEP_MS) this.#close();
      return;
    }
    if (this.blocked) return;
    const video = this.#video;
    if (video.paused && !document.hidden && !video.ended) this.#playVideo();

    if (video.currentTime !== this.#position && video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA) {
      this.#position = video.currentTime;
      this.#progress = now;
      this.#shown = true;
      this.#steadySince ||= now;
      if (now - this.#steadySince > STEADY_MS) this.#attempt = 0;
      if (this.state !== "playing") this.#set("playing", "");
      return;
    }
    if (document.hidden) return;
    const still = now - this.#progress;
    if (!this.#shown) {
      if (now - this.#opened > FIRST_FRAME_MS) this.#noPicture();
    } else if (still > STALL_MS) {
      this.#steadySince = 0;
      this.#jumpGap();
      if (this.state !== "waiting") this.#set("waiting", "Waiting for the picture…");
      if (still > RESTART_MS) this.#ended();
    }
  }

  /** Some proxies hold an endless response back: where there is another player, it gets its turn. */
  #noPicture() {
    const others = candidates(this.#video, this.#stream, this.#choice).filter((kind) => !this.#failed.has(kind));
    if (others.length > 1) this.#unsupported(this.player);
    else this.#ended();
  }

  /** A publisher that came back may leave a hole in the timeline, which browsers do not cross by themselves. */
  #jumpGap() {
    const { buffered, currentTime } = this.#video;
    for (let i = 0; i < buffered.length; i++) {
      if (buffered.start(i) > currentTime) {
        this.#video.currentTime = buffered.start(i) + 0.05;
        return;
      }
    }
  }

  #set(state, message, detail = "") {
    this.state = state;
    this.message = message;
    this.detail = detail;
    this.dispatchEvent(new Event("change"));
  }
}
