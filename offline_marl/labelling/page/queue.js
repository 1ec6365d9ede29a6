// Answers that are yet to reach the server: kept in this browser until it has acknowledged them, each under a name of its
// own, so that several tabs lose nothing to each other; sent in their order, each with a key that makes a second arrival
// harmless. Answers about another folder than the one that is served stay where they are. Another server may listen at the
// same address at any time, so that none is given up, or sent after a silence, before it is known which folder is served.
const PAUSES = [500, 1000, 2000, 5000, 10000];
const PREFIX = "answer.";

export class Queue {
  constructor(send, told, served) {
    this.send = send; // (path, body) => Response, or a rejection where nobody answers
    this.told = told; // called whenever something has changed, with what a reply says of progress, as who answered sees it
    this.served = served; // asks which folder is served and sets `store`, or rejects
    this.all = read();
    this.store = null; // of the folder that is served, once it is known
    this.doubt = false; // whether that may be another one by now
    this.online = true;
    this.tries = 0;
    this.timer = null;
    this.busy = false;
    this.trouble = "";
    addEventListener("online", () => this.flush());
    addEventListener("offline", () => { this.online = false; this.told(); });
  }

  get items() { return this.all.filter((item) => item.store === this.store); }

  get elsewhere() { return this.store === null ? 0 : this.all.length - this.items.length; }

  // Store: of the folder that it is about.
  push(path, body, store) {
    const item = { name: nameAfter([...names(), ...this.all.map((other) => other.name)], body.key), store, path, body };
    this.all.push(item);
    try {
      localStorage.setItem(item.name, JSON.stringify(item));
    } catch {
      item.unkept = true; // it is held in memory alone
    }
    this.told();
    this.flush();
  }

  #remove(item) {
    this.all = this.all.filter((other) => other !== item);
    try { localStorage.removeItem(item.name); } catch { /* nothing was kept */ }
    this.told();
  }

  // What waits and was not sent yet can still be dropped; the first one may be on its way.
  drop(question) {
    const { items } = this;
    const place = items.findLastIndex((item) => item.path === "/api/answers" && item.body.question === question);
    if (place < 0 || (place === 0 && (this.busy || this.tries))) return false;
    this.#remove(items[place]);
    return true;
  }

  holds(question) { return this.items.some((item) => item.body.question === question); }

  async flush() {
    if (this.busy || !this.items.length) return;
    this.busy = true;
    clearTimeout(this.timer);
    try {
      for (let item = this.items[0]; item; item = this.items[0]) {
        if (this.doubt) {
          await this.served();
          this.doubt = false;
          continue;
        }
        if (gone(item)) {
          this.#remove(item);
          continue;
        }
        const reply = await this.send(item.path, item.body);
        const said = await reply.json().catch(() => ({}));
        if (reply.ok) {
          this.online = true;
          this.trouble = "";
        } else if ([404, 409, 422].includes(reply.status)) {
          await this.served();
          if (item.store !== this.store) continue;
          // It can never be stored: it is told aloud, and stands in the way of no other.
          this.trouble = `An answer was refused: ${said.error || reply.status}`;
        } else {
          this.trouble = said.error || `The server answers ${reply.status}.`;
          throw new Error(this.trouble);
        }
        this.tries = 0;
        this.#remove(item);
        if (said.progress) this.told(said.progress, item.body.annotator);
      }
    } catch (error) {
      this.online = !(error instanceof TypeError) && error.name !== "TimeoutError";
      this.doubt ||= !this.online;
      const pause = PAUSES[Math.min(this.tries++, PAUSES.length - 1)];
      this.timer = setTimeout(() => this.flush(), pause);
    } finally {
      this.busy = false;
      this.told();
    }
  }
}

// Whether another tab has sent it, or taken it back before it was.
const gone = (item) => {
  try { return !item.unkept && localStorage.getItem(item.name) === null; } catch { return false; }
};

const names = () => {
  try { return Object.keys(localStorage).filter((name) => name.startsWith(PREFIX)).sort(); } catch { return []; }
};

// A name behind all that wait, of other tabs too. No time of day: clocks are set back, and an undo is to stay behind its answer.
const nameAfter = (others, key) => {
  const last = Math.max(0, ...others.map((name) => parseInt(name.slice(PREFIX.length), 10) || 0));
  return `${PREFIX}${String(last + 1).padStart(15, "0")}.${key}`;
};

const read = () => {
  const found = [];
  for (const name of names()) {
    try { found.push({ ...JSON.parse(localStorage.getItem(name)), name }); } catch { /* it was damaged */ }
  }
  return found.filter((item) => item.path && item.body && item.body.key);
};
