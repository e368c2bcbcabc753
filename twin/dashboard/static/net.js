// The only way to the server: questions by GET, and the socket that tells what is new.

const KEY = "pulsetwin-token";

/** Take the token out of the address bar, where it would be seen and kept, into this tab alone. */
export function takeToken() {
  const here = new URL(window.location.href);
  const given = here.searchParams.get("token");
  if (given) {
    sessionStorage.setItem(KEY, given);
    here.searchParams.delete("token");
    window.history.replaceState(null, "", here);
  }
  return token();
}

export const token = () => sessionStorage.getItem(KEY) ?? "";

/** Raised by `ask`: `status` is 0 where nobody answered. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function address(path, parameters = {}) {
  const made = new URL(path, window.location.origin);
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== "") made.searchParams.set(name, value);
  }
  return made;
}

/** What the server answers to a question, as an object. */
export async function ask(path, parameters = {}) {
  let answer;
  try {
    answer = await fetch(address(path, parameters), {
      headers: { Authorization: `Bearer ${token()}` },
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
    });
  } catch {
    throw new Refused(0, "nobody answers");
  }
  let body;
  try {
    body = await answer.json();
  } catch {
    throw new Refused(answer.status, `an answer that is no JSON (${answer.status})`);
  }
  if (!answer.ok) throw new Refused(answer.status, body?.error?.message ?? `refused with ${answer.status}`);
  return body;
}

/** Where a download comes from: a link cannot send a header, so the token is in it. */
export const exportAddress = (run, format) => address("/api/export", { run, format, token: token() }).href;

/**
 * Listen to the socket. `heard` has a function an event, and `link(state)` is told `up`, `down` (nobody answers, which
 * is tried again) or `strange` (the server is there and does not know this token).
 */
export function listen(heard, link) {
  const socket = window.io({
    transports: ["websocket"],
    query: { token: token() },
    reconnectionDelay: 500,
    reconnectionDelayMax: 2_000,
    timeout: 4_000,
  });
  socket.on("connect", () => link("up"));
  socket.on("disconnect", (reason) => {
    link("down");
    // The client does not come back by itself where the server closed the connection.
    if (reason === "io server disconnect") socket.connect();
  });
  socket.on("connect_error", async () => {
    try {
      await ask("/api/runs");
      link("down");
    } catch (refused) {
      link(refused.status === 401 || refused.status === 403 ? "strange" : "down");
    }
    if (!socket.active) window.setTimeout(() => socket.connect(), 2_000);
  });
  for (const [event, tell] of Object.entries(heard)) socket.on(event, tell);
  return socket;
}
