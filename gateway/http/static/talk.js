// The microphone of a view: speak to its camera by WebRTC (WHIP), as G.711A that nobody encodes again.

import { api, query } from "./api.js";

const PCMA = "audio/PCMA";

/** Events: "change" (``speaking`` is another), "failed" (detail: an error for problemText). */
export class Microphone extends EventTarget {
  speaking = false;

  /** Browsers give a microphone to pages by HTTPS or on this machine only. */
  static get possible() { return Boolean(navigator.mediaDevices && window.RTCPeerConnection); }

  async start(channel) {
    if (this.speaking) return;
    this.#set(true);
    try {
      this.media = await navigator.mediaDevices.getUserMedia({ audio: true });
      const peer = this.peer = new RTCPeerConnection();
      peer.addEventListener("connectionstatechange", () => { if (peer === this.peer && peer.connectionState === "failed") this.stop(); });
      const way = peer.addTransceiver(this.media.getAudioTracks()[0], { direction: "sendonly" });
      way.setCodecPreferences(RTCRtpReceiver.getCapabilities("audio").codecs.filter((codec) => codec.mimeType === PCMA));
      await peer.setLocalDescription(await peer.createOffer());
      const path = `/api/channels/${channel.channel_id}/whip${query({ device_id: channel.device_id })}`;
      const answer = await api("POST", path, peer.localDescription.sdp, { raw: true, headers: { "Content-Type": "application/sdp" } });
      this.talk = answer.headers.get("Location");
      if (peer !== this.peer) { this.#leave(this.talk); return; }
      await peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
    } catch (error) {
      this.stop();
      this.dispatchEvent(new CustomEvent("failed", { detail: error }));
    }
  }

  /** Idempotent. */
  stop() {
    this.media?.getTracks().forEach((track) => track.stop());
    this.peer?.close();
    if (this.talk) this.#leave(this.talk);
    this.media = this.peer = this.talk = null;
    this.#set(false);
  }

  /** What the gateway tells of our talk: its end, or why the camera does not take it. */
  heard({ talk_id: talkId, state, cause, detail }) {
    if (!this.talk || !this.talk.endsWith(`/${talkId}`) || !["failed", "ended"].includes(state)) return;
    this.stop();
    if (state === "failed") this.dispatchEvent(new CustomEvent("failed", { detail: Object.assign(new Error(detail), { cause }) }));
  }

  #leave(talk) { api("DELETE", talk, null, { keepalive: true }).catch(() => {}); }

  #set(speaking) {
    if (this.speaking === speaking) return;
    this.speaking = speaking;
    this.dispatchEvent(new Event("change"));
  }
}
