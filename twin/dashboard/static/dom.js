// Elements, and how they are changed: as text, and only where something is different.

const SVG = "http://www.w3.org/2000/svg";

/** Shapes of 16 x 16; `line` is drawn, the rest is filled. Each stands beside a word, never alone. */
const SHAPES = {
  running: "M8 3a5 5 0 1 0 0 10A5 5 0 0 0 8 3z",
  ended: "M4 4h8v8H4z",
  stopped: "M4 3h3v10H4zM9 3h3v10H9z",
  lost: "line M4 4l8 8M12 4l-8 8",
  stale: "line M8 2.5a5.5 5.5 0 1 0 .01 0M8 5v3.2l2.2 1.6",
  good: "line M3 8.5l3.2 3.2L13 4.8",
  warm: "M8 2.5l6.2 11H1.8z",
  hot: "M8 1.5L14.5 8 8 14.5 1.5 8z",
  over: "M5.2 1.5h5.6l3.7 3.7v5.6l-3.7 3.7H5.2l-3.7-3.7V5.2z",
  unknown: "line M5.4 6a2.6 2.6 0 1 1 3.8 2.3C8.3 8.8 8 9.2 8 10.200M8 12.600v.4",
  play: "M4.5 2.500v11l9-5.500z",
  pause: "M4 3h3v10H4zM9 3h3v10H9z",
  back: "line M9.5 3.500L5 8l4.5 4.5",
  on: "line M6.5 3.500L11 8l-4.5 4.5",
  newest: "line M3.5 3.500L8 8l-4.5 4.500M12 3.500v9",
  first: "line M12.5 3.500L8 8l4.5 4.500M4 3.500v9",
  sun: "line M8 5.200a2.8 2.8 0 1 0 .01 0M8 1v1.400M8 13.600V15M1 8h1.400M13.6 8H15M3 3l1 1M12 12l1 1M3 13l1-1M12 4l1-1",
  moon: "line M13 9.500A5.5 5.5 0 1 1 6.5 3 4.5 4.5 0 0 0 13 9.500z",
  linked: "line M2 8h12M11 5l3 3-3 3",
  unlinked: "line M2 8h4M10 8h4M7 4.500v7M9 4.500v7",
  shield: "line M8 2l5 2v4c0 3-2.2 5-5 6-2.8-1-5-3-5-6V4z",
};

/** An element with a class, attributes and children; strings become text. */
export function el(tag, className = "", attributes = {}, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

export function icon(name) {
  const drawn = document.createElementNS(SVG, "svg");
  drawn.setAttribute("viewBox", "0 0 16 16");
  drawn.setAttribute("aria-hidden", "true");
  drawn.classList.add("icon");
  const path = document.createElementNS(SVG, "path");
  drawn.append(path);
  setIcon(drawn, name);
  return drawn;
}

export function setIcon(drawn, name) {
  if (drawn.shape === name) return;
  drawn.shape = name;
  const shape = SHAPES[name];
  const line = shape.startsWith("line ");
  drawn.classList.toggle("drawn", line);
  drawn.firstChild.setAttribute("d", line ? shape.slice(5) : shape);
}

/** A text that is written only when it changes: most of what a page costs is drawing it again. */
export function setText(node, text) {
  if (node.shown === text) return;
  node.shown = text;
  // The text node itself is changed, so that no node comes and goes.
  if (node.firstChild && node.firstChild.nodeType === Node.TEXT_NODE && !node.firstChild.nextSibling) {
    node.firstChild.data = text;
  } else {
    node.textContent = text;
  }
}

export function setAttribute(node, name, value) {
  const key = `set:${name}`;
  if (node[key] === value) return;
  node[key] = value;
  if (value === null) node.removeAttribute(name);
  else node.setAttribute(name, value);
}

export function setClass(node, name, on) {
  if (node.classList.contains(name) !== on) node.classList.toggle(name, on);
}

/** How full a bar is, 0 to 1; null empties it. */
export function setShare(bar, share) {
  const scale = share === null ? 0 : Math.round(Math.max(0, Math.min(1, share)) * 500) / 500;
  if (bar.scale === scale) return;
  bar.scale = scale;
  bar.style.transform = `scaleX(${scale})`;
}

let serial = 0;

/** An id of its own, for labels. */
export function unique(stem) {
  serial += 1;
  return `${stem}-${serial}`;
}
