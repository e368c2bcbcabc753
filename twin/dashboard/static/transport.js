// Where the page stands in time: at the newest record, or wherever somebody went.

import { el, icon, setAttribute, setIcon, setText } from "./dom.js";
import { clock } from "./format.js";

const SPEEDS = [0.5, 1, 2, 5, 10, 25, 50, 100];

export class Transport {
  /** `changed` is called when somebody goes elsewhere; `jump` when the first difference of two runs is asked for. */
  constructor(root, { changed, jump }) {
    this.root = root;
    this.changed = changed;
    this.following = true;
    this.playing = false;
    this.ns = 0;
    this.lengthNs = 0;
    this.speed = 1;
    this.playedAt = 0;
    this.toggle = this.button("play", "Play", () => (this.playing ? this.pause() : this.play()));
    this.toggleShape = this.toggle.firstChild;
    this.scrub = el("input", "", { type: "range", min: "0", max: "0", step: "1", value: "0", "aria-label": "Time of the run" });
    this.scrub.addEventListener("input", () => this.go(Number(this.scrub.value) * 1e6));
    this.time = el("span", "time", {}, "");
    this.live = this.button("newest", "End", () => this.follow(), true);
    this.liveWord = this.live.lastChild;
    this.pick = el("select", "", { "aria-label": "Speed" }, ...SPEEDS.map((speed) => el("option", "", { value: speed, selected: speed === 1 }, `${speed}×`)));
    this.pick.addEventListener("change", () => {
      this.speed = Number(this.pick.value);
    });
    this.difference = el("button", "quiet", { type: "button", hidden: true }, "First difference");
    this.difference.addEventListener("click", jump);
    this.said = el("p", "said", { role: "status" });
    root.append(
      el("div", "buttons", {}, this.button("first", "To the beginning", () => this.go(0)),
        this.button("back", "A cycle back", () => this.step(-1)), this.toggle,
        this.button("on", "A cycle on", () => this.step(1)), this.live),
      this.scrub, this.time, this.pick, this.difference, this.said);
    // It covers the end of the page, which therefore ends so much lower.
    new ResizeObserver(() => {
      const height = `${root.offsetHeight}px`;
      document.body.style.paddingBottom = height;
      document.documentElement.style.scrollPaddingBottom = `calc(${height} + 12px)`;
    }).observe(root);
    document.addEventListener("keydown", (event) => this.key(event));
  }

  button(shape, name, act, worded = false) {
    const made = el("button", worded ? "quiet worded" : "quiet", { type: "button", title: name, "aria-label": name }, icon(shape), worded ? name : "");
    made.addEventListener("click", act);
    return made;
  }

  /** Space plays and pauses, wherever nothing else takes it. */
  key(event) {
    const taken = event.target.closest("button, select, input, a, summary, [contenteditable]");
    if (event.key !== " " || taken || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    if (this.playing) this.pause();
    else this.play();
  }

  play() {
    if (this.ns >= this.lengthNs) this.ns = 0;
    this.following = false;
    this.playing = true;
    this.playedAt = performance.now();
    this.changed();
  }

  pause() {
    this.tick();
    this.playing = false;
    this.following = false;
    this.changed();
  }

  follow() {
    this.playing = false;
    this.following = true;
    this.changed();
  }

  go(ns) {
    this.ns = Math.max(0, Math.min(this.lengthNs, ns));
    this.playedAt = performance.now();
    this.following = false;
    this.changed();
  }

  step(cycles) {
    this.playing = false;
    this.go(this.ns + cycles * this.periodNs);
  }

  /** How much of the run passes in the time that the page takes to ask for more of it. */
  get aheadNs() {
    return this.playing ? this.speed * 10e9 : 0;
  }

  /** Go on with time. */
  tick() {
    const now = performance.now();
    if (this.following) this.ns = this.lengthNs;
    else if (this.playing) {
      this.ns = Math.min(this.lengthNs, this.ns + (now - this.playedAt) * 1e6 * this.speed);
      if (this.ns >= this.lengthNs && !this.goesOn) this.playing = false;
    }
    this.playedAt = now;
  }

  /** What the runs that are shown allow: how long they are, whether one goes on, and how long a cycle is. */
  bounds({ lengthNs, goesOn, periodNs, several }) {
    Object.assign(this, { lengthNs, goesOn, periodNs });
    this.root.hidden = false;
    if (this.difference.hidden === several) this.difference.hidden = !several;
  }

  /** The slider as long as the run. While it is followed it stands at its end, and is seldom drawn anew. */
  slide() {
    const now = performance.now();
    if (this.following && this.slidAt && now - this.slidAt < 5_000) return;
    this.slidAt = this.following ? now : 0;
    setAttribute(this.scrub, "step", String(Math.max(1, Math.round(this.periodNs / 1e6))));
    setAttribute(this.scrub, "max", String(Math.ceil(this.lengthNs / 1e6)));
    const value = String(Math.round(this.ns / 1e6));
    if (this.scrub.value !== value) this.scrub.value = value;
  }

  show() {
    this.slide();
    const words = `${clock(this.ns)} of ${clock(this.lengthNs)}`;
    setText(this.time, words);
    // A slider that is followed would be read out all the time.
    if (!this.following && !this.playing) setAttribute(this.scrub, "aria-valuetext", words);
    setIcon(this.toggleShape, this.playing ? "pause" : "play");
    const name = this.playing ? "Pause" : "Play";
    setAttribute(this.toggle, "aria-label", name);
    setAttribute(this.toggle, "title", name);
    const end = this.goesOn ? "Live" : "End";
    if (this.liveWord.data !== end) this.liveWord.data = end;
    setAttribute(this.live, "title", this.goesOn ? "Follow the newest record" : "To the end");
    setAttribute(this.live, "aria-label", end);
    setAttribute(this.live, "aria-pressed", String(this.following));
  }

  say(words) {
    setText(this.said, words);
  }
}
