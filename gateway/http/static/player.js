// One live picture in a <video>: WebRTC by WHEP first, fragmented MP4 over WebSocket when that cannot be.

import { api, ApiError, query } from "./api.js";

const GATHER_MS = 800;
const FIRST_FRAME_MS = 6000;
const MAX_BEHIND_S = 2.5;
const KEEP_BEHIND_S = 12;
const RETRIES = 6;
/** Failures of the camera or the gateway: another protocol would fail as well. */
const FINAL = new Set([
  "not_found", "device_offline", "busy", "rejected", "invite_timeout", "sdp_not_accepted", "no_stream", "no_picture",
  "media_mismatch", "no_port", "no_ssrc", "no_address", "node_down", "transcoders_busy", "role_too_low", "not_logged_in", "ambiguous_channel", "unreachable",
]);

/**
 * Events: "opening", "playing", "stats", "failed", "stopped". ``facts`` holds protocol, codec, width, height,
 * fps, kbps, firstMs, lost.
 */
export class Player extends EventTarget {
  constructor(video) {
    super();
    this.video = video;
    this.channel = null;
    this.facts = {};
    this.turn = 0;
  }

  get busy() { return this.channel !== null; }

  async start(channel) {
    await this.stop();
    this.channel = channel;
    this.tries = 0;
    this.startedAt = performance.now();
    this.facts = {};
    await this.#open();
  }

  /** Ends the picture and tells the gateway at once. */
  async stop() {
    this.turn += 1;
    const had = this.channel !== null;
    this.channel = null;
    await this.#release();
    if (had) this.#tell("stopped");
  }

  async #open() {
    const turn = this.turn;
    this.#tell("opening");
    try {
      if (!this.noWebRtc && webRtcShows()) {
        try {
          await this.#openWebRtc(turn);
          return;
        } catch (error) {
          if (turn !== this.turn) return;
          await this.#release();
          if (error instanceof ApiError && FINAL.has(error.cause)) throw error;
          this.noWebRtc = true; // this channel's codec or this network: MSE from now on
        }
      }
      await this.#openMse(turn);
    } catch (error) {
      if (turn !== this.turn || error.name === "AbortError") return;
      await this.#release();
      this.#tell("failed", error);
    }
  }

  async #openWebRtc(turn) {
    const pc = new RTCPeerConnection();
    this.pc = pc;
    pc.addTransceiver("video", { direction: "recvonly" });
    pc.addTransceiver("audio", { direction: "recvonly" });
    const stream = new MediaStream();
    pc.ontrack = (event) => { stream.addTrack(event.track); };
    await pc.setLocalDescription(await pc.createOffer());
    await gathered(pc);
    this.#check(turn);
    this.abort = new AbortController();
    const { channel_id, device_id } = this.channel;
    const response = await api("POST", `/api/channels/${channel_id}/whep${query({ device_id })}`, pc.localDescription.sdp, {
      headers: { "Content-Type": "application/sdp" }, raw: true, signal: this.abort.signal,
    });
    this.viewer = response.headers.get("Location");
    const answer = await response.text();
    this.#check(turn);
    await pc.setRemoteDescription({ type: "answer", sdp: answer });
    this.video.srcObject = stream;
    this.video.play().catch(() => {});
    this.facts.protocol = "WebRTC";
    await this.#firstFrame(turn, pc);
    pc.onconnectionstatechange = () => {
      if (turn === this.turn && ["failed", "closed"].includes(pc.connectionState)) this.#again(turn);
    };
    let last = await rtcStats(pc);
    this.#check(turn);
    if (last) this.facts.codec = last.codec;
    this.#tell("stats");
    this.timer = setInterval(async () => {
      const now = await rtcStats(pc);
      if (turn !== this.turn || !now) return;
      if (last) {
        this.#measure(now.bytes - last.bytes, now.frames - last.frames, (now.at - last.at) / 1000);
        this.#watchForSilence(turn, now.frames - last.frames);
      }
      Object.assign(this.facts, { codec: now.codec, lost: now.lost });
      last = now;
    }, 1000);
  }

  async #openMse(turn) {
    this.abort = new AbortController();
    const { channel_id, device_id } = this.channel;
    const asked = query({ device_id, accept: playable() });
    const live = await api("POST", `/api/channels/${channel_id}/live${asked}`, null, { signal: this.abort.signal });
    this.#check(turn);
    const socket = new WebSocket(live.ws);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    const source = new MediaSource();
    this.url = URL.createObjectURL(source);
    this.video.srcObject = null;
    this.video.src = this.url;
    const opened = new Promise((resolve) => source.addEventListener("sourceopen", resolve, { once: true }));
    let buffer = null;
    let bytes = 0;
    const waiting = [];
    const feed = () => {
      if (!buffer || buffer.updating || source.readyState !== "open") return;
      try {
        const end = buffer.buffered.length ? buffer.buffered.end(buffer.buffered.length - 1) : 0;
        if (buffer.buffered.length && this.video.currentTime - buffer.buffered.start(0) > KEEP_BEHIND_S + 8) {
          buffer.remove(0, this.video.currentTime - KEEP_BEHIND_S);
        } else if (waiting.length) {
          buffer.appendBuffer(waiting.shift());
        }
        if (end) this.#chase(buffer, end);
      } catch (error) {
        if (error.name === "QuotaExceededError") waiting.length = 0;
        else this.#again(turn);
      }
    };
    const failed = new Promise((_, reject) => {
      socket.onclose = () => { if (turn === this.turn) { reject(new ApiError(0, { cause: "unavailable" })); if (this.playing) this.#again(turn); } };
      socket.onmessage = async (message) => {
        if (turn !== this.turn) return;
        if (typeof message.data === "string") {
          const { mime } = JSON.parse(message.data);
          await opened;
          if (!MediaSource.isTypeSupported(mime)) {
            const codecs = /codecs="([^"]+)"/.exec(mime);
            reject(new ApiError(0, { cause: "codec_unsupported", detail: codecs ? codecs[1] : mime }));
            return;
          }
          this.facts.codec = /hvc1|hev1/.test(mime) ? "H265" : /avc1|avc3/.test(mime) ? "H264" : mime;
          buffer = source.addSourceBuffer(mime);
          buffer.mode = "segments";
          buffer.addEventListener("updateend", feed);
        } else {
          bytes += message.data.byteLength;
          waiting.push(message.data);
          if (waiting.length > 600) waiting.splice(1, 300); // the tab was asleep: the newest counts
        }
        feed();
      };
    });
    failed.catch(() => {});
    this.video.play().catch(() => {});
    this.facts.protocol = "fMP4 / WebSocket";
    await Promise.race([this.#firstFrame(turn, null), failed]);
    let last = { bytes, frames: this.video.getVideoPlaybackQuality().totalVideoFrames, at: performance.now() };
    this.timer = setInterval(() => {
      const now = { bytes, frames: this.video.getVideoPlaybackQuality().totalVideoFrames, at: performance.now() };
      this.#measure(now.bytes - last.bytes, now.frames - last.frames, (now.at - last.at) / 1000);
      this.#watchForSilence(turn, now.bytes - last.bytes);
      last = now;
      feed();
    }, 1000);
  }

  /** Stay near the live edge: the tab may have slept, the network stalled, or lost pictures left a hole. */
  #chase(buffer, end) {
    const video = this.video;
    const ranges = buffer.buffered;
    const last = ranges.start(ranges.length - 1);
    const behind = end - video.currentTime;
    let within = false;
    for (let i = 0; i < ranges.length; i += 1) within ||= video.currentTime >= ranges.start(i) && video.currentTime < ranges.end(i) - 0.12;
    if (!within && last > video.currentTime) video.currentTime = last + 0.02; // over the hole
    else if (behind > MAX_BEHIND_S) video.currentTime = Math.max(end - 0.4, last);
    else if (behind > 1.2) video.playbackRate = 1.08;
    else if (behind < 0.7) video.playbackRate = 1;
  }

  #firstFrame(turn, pc) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new ApiError(0, { cause: "no_picture" + (pc ? "_webrtc" : "") })), FIRST_FRAME_MS);
      const seen = () => {
        clearTimeout(timer);
        if (turn !== this.turn) { reject(new DOMException("stopped", "AbortError")); return; }
        this.playing = true;
        this.tries = 0;
        this.silent = 0;
        this.facts.firstMs = Math.round(performance.now() - this.startedAt);
        this.facts.width = this.video.videoWidth;
        this.facts.height = this.video.videoHeight;
        this.#tell("playing");
        resolve();
      };
      if (this.video.requestVideoFrameCallback) this.video.requestVideoFrameCallback(seen);
      else this.video.addEventListener("timeupdate", seen, { once: true });
      if (pc) {
        pc.oniceconnectionstatechange = () => {
          if (pc.iceConnectionState === "failed") { clearTimeout(timer); reject(new ApiError(0, { cause: "ice_failed" })); }
        };
      }
    });
  }

  #measure(bytes, frames, seconds) {
    this.facts.kbps = Math.max(0, Math.round((bytes * 8) / seconds / 1000));
    this.facts.fps = Math.max(0, Math.round(frames / seconds));
    this.facts.width = this.video.videoWidth || this.facts.width;
    this.facts.height = this.video.videoHeight || this.facts.height;
    this.#tell("stats");
  }

  #watchForSilence(turn, progress) {
    this.silent = progress > 0 ? 0 : (this.silent || 0) + 1;
    if (this.silent >= 8 && !document.hidden) this.#again(turn);
  }

  /** The picture broke off: open it again, waiting a little longer each time. */
  async #again(turn) {
    if (turn !== this.turn || this.channel === null) return;
    this.turn += 1;
    const mine = this.turn;
    await this.#release();
    this.tries += 1;
    if (this.tries > RETRIES) { this.#tell("failed", new ApiError(0, { cause: "no_stream" })); return; }
    this.#tell("opening", { again: true });
    setTimeout(() => {
      if (mine !== this.turn || this.channel === null) return;
      this.startedAt = performance.now();
      this.#open();
    }, Math.min(800 * this.tries, 5000));
  }

  #check(turn) {
    if (turn !== this.turn) throw new DOMException("stopped", "AbortError");
  }

  /** Lets go of everything of this turn; what a later turn opens is never touched. */
  async #release() {
    const { abort, pc, socket, url, viewer } = this;
    clearInterval(this.timer);
    this.playing = false;
    this.abort = this.pc = this.socket = this.url = this.viewer = null;
    if (abort) abort.abort();
    if (pc) pc.onconnectionstatechange = pc.oniceconnectionstatechange = null;
    if (socket) { socket.onclose = socket.onmessage = null; socket.close(); }
    this.video.srcObject = null;
    this.video.removeAttribute("src");
    this.video.load();
    if (url) URL.revokeObjectURL(url);
    // The gateway hears of the end before the connection closes; a page that goes away does not wait for the answer.
    if (viewer) {
      const told = api("DELETE", viewer, null, { keepalive: true }).catch(() => {});
      await Promise.race([told, new Promise((resolve) => setTimeout(resolve, 400))]);
    }
    if (pc) pc.close();
  }

  #tell(name, detail = null) { this.dispatchEvent(new CustomEvent(name, { detail })); }
}

/** What Media Source Extensions decode here; the gateway brings other pictures into one of these. WebRTC needs no such
    word: its offer says it, and where it fails for H.265 or B-frames, this way is cheaper than transcoding. */
function playable() {
  const types = { h264: "avc1.640028", h265: "hvc1.1.6.L120.B0" };
  return Object.keys(types).filter((name) => MediaSource.isTypeSupported(`video/mp4; codecs="${types[name]}"`)).join(",");
}

/** Whether WebRTC here knows any codec of cameras. Firefox without its OpenH264 plugin does not; asking would only be refused.
    Looked up each time, because that plugin may arrive while the page is open. */
function webRtcShows() {
  if (!window.RTCPeerConnection) return false;
  const known = window.RTCRtpReceiver?.getCapabilities?.("video");
  return !known || known.codecs.some(({ mimeType }) => /^video\/h26[45]$/i.test(mimeType));
}

function gathered(pc) {
  if (pc.iceGatheringState === "complete") return Promise.resolve();
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, GATHER_MS);
    pc.addEventListener("icegatheringstatechange", () => {
      if (pc.iceGatheringState === "complete") { clearTimeout(timer); resolve(); }
    });
  });
}

async function rtcStats(pc) {
  let found = null;
  const report = await pc.getStats();
  report.forEach((row) => {
    if (row.type === "inbound-rtp" && row.kind === "video") {
      const codec = report.get(row.codecId);
      found = {
        bytes: row.bytesReceived, frames: row.framesDecoded || 0, lost: row.packetsLost || 0, at: row.timestamp,
        codec: codec ? codec.mimeType.replace("video/", "") : "",
      };
    }
  });
  return found;
}
