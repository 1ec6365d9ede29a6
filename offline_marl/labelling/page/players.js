// Players of clips that share one clock, of environment steps: an episode that ended sooner is seen to end sooner. A clip
// is a sheet of pictures, places on a plane, or rows of numbers.
const SIZE = 320;
const REST = 0.7; // seconds at the end, before a film begins anew: one that is over at once would flash
const ENOUGH = 1.9; // seconds that the longest film takes at least, while nobody has chosen a speed

// Of these speeds the fastest that leaves enough time to see a film of so many seconds, and is not faster than the play was.
export const unhurried = (seconds, speeds) =>
  Math.max(Math.min(...speeds), ...speeds.filter((speed) => speed <= 1 && seconds / speed >= ENOUGH));

const loadSheet = (clip) => new Promise((done, fail) => {
  const image = new Image();
  image.onload = () => done(image);
  image.onerror = () => fail(new Error("its pictures are damaged"));
  image.src = clip.sheet;
});

export class Player {
  constructor(canvas, clip, target) {
    this.canvas = canvas;
    this.clip = clip;
    this.target = target;
    this.sheet = null;
    this.over = false; // whether the clock is past the last picture
    this.ready = clip.kind === "frames" ? loadSheet(clip).then((sheet) => { this.sheet = sheet; }) : Promise.resolve();
    const wide = clip.kind === "frames";
    canvas.width = wide ? clip.width : SIZE;
    canvas.height = wide ? clip.height : SIZE;
    if (clip.kind === "positions") this.bounds = bounds([clip]);
  }

  get seconds() { return this.clip.frames / this.clip.fps; }

  // Steps from one picture to the next, and from the first to the last.
  get every() { return this.clip.every || 1; }

  get reach() { return (this.clip.frames - 1) * this.every; }

  // Step: since the first picture; behind the last one, that stays. Reach: of the longest clip that is shown.
  draw(step, reach) {
    const { clip, canvas } = this, last = clip.frames - 1, picture = step / this.every;
    const pen = canvas.getContext("2d");
    const frame = Math.min(last, Math.round(picture));
    this.over = clip.kind !== "none" && Math.round(picture) > last;
    canvas.dataset.frame = frame;
    if (clip.kind === "frames" && this.sheet) {
      const left = (frame % clip.columns) * clip.width, top = Math.floor(frame / clip.columns) * clip.height;
      pen.drawImage(this.sheet, left, top, clip.width, clip.height, 0, 0, clip.width, clip.height);
    } else if (clip.kind === "positions") this.#positions(pen, Math.min(last, picture));
    else if (clip.kind === "series") this.#series(pen, frame, reach / this.every + 1);
    else { pen.fillStyle = "#e9ecef"; pen.fillRect(0, 0, canvas.width, canvas.height); }
  }

  #positions(pen, time) {
    const { clip } = this, { low, size } = this.bounds;
    const at = ([x, y]) => [((x - low[0]) / size) * SIZE, SIZE - ((y - low[1]) / size) * SIZE];
    pen.fillStyle = "#ffffff";
    pen.fillRect(0, 0, SIZE, SIZE);
    pen.strokeStyle = "#e3e6e9";
    pen.lineWidth = 1;
    for (let line = 0; line <= 8; line++) {
      const place = (line / 8) * SIZE;
      pen.strokeRect(0, 0, place, SIZE); pen.strokeRect(0, 0, SIZE, place);
    }
    for (const path of clip.landmarks) {
      const place = between(path, time);
      if (!place) continue;
      const [x, y] = at(place);
      pen.fillStyle = "#3b4148";
      pen.beginPath(); pen.moveTo(x, y - 9); pen.lineTo(x + 9, y); pen.lineTo(x, y + 9); pen.lineTo(x - 9, y); pen.fill();
    }
    clip.places.forEach((path, agent) => {
      const about = this.target === `agent_${agent}`, dim = this.target.startsWith("agent_") && !about;
      pen.globalAlpha = dim ? 0.45 : 1;
      pen.strokeStyle = pen.fillStyle = clip.agents[agent].color;
      pen.lineWidth = 2;
      pen.beginPath();
      path.slice(Math.max(0, Math.floor(time) - 8), Math.floor(time) + 1).filter(Boolean).map(at)
        .forEach(([x, y], step) => (step ? pen.lineTo(x, y) : pen.moveTo(x, y)));
      pen.stroke();
      const place = between(path, time);
      if (place) {
        const [x, y] = at(place);
        pen.beginPath(); pen.arc(x, y, 11, 0, 7); pen.fill();
        pen.lineWidth = about ? 5 : 1.5;
        pen.strokeStyle = "#14171a";
        pen.stroke();
        pen.fillStyle = "#14171a";
        pen.font = "bold 12px system-ui, sans-serif";
        pen.textAlign = "center";
        pen.fillText(String(agent), x, y + 4);
      }
      pen.globalAlpha = 1;
    });
  }

  // Pictures: for which there is room, so that a step is equally wide in all clips.
  #series(pen, frame, pictures) {
    const { clip } = this, count = clip.rows.reduce((sum, row) => sum + row.values.length + 1.5, 0);
    const high = SIZE / count, wide = SIZE / pictures;
    pen.fillStyle = "#ffffff";
    pen.fillRect(0, 0, SIZE, SIZE);
    let top = 0;
    for (const row of clip.rows) {
      pen.fillStyle = "#14171a";
      pen.font = `${Math.max(7, Math.min(11, high * 1.3))}px system-ui, sans-serif`;
      pen.textAlign = "left";
      pen.fillText(row.name, 2, top + high * 1.3);
      top += high * 1.5;
      for (const values of row.values) {
        values.forEach((value, step) => {
          pen.fillStyle = `hsl(${220 - 190 * value} 70% ${92 - 45 * Math.abs(value - 0.5) * 2}%)`;
          pen.fillRect(step * wide, top, wide + 0.5, high);
        });
        top += high;
      }
    }
    pen.fillStyle = "#14171a";
    pen.fillRect(frame * wide + wide / 2 - 1, 0, 2, SIZE);
  }
}

const bounds = (clips) => {
  const all = clips.flatMap((clip) => [...clip.places, ...clip.landmarks]).flat().filter(Boolean);
  const low = [-1.25, -1.25], high = [1.25, 1.25];
  for (const place of all) for (const axis of [0, 1]) {
    low[axis] = Math.min(low[axis], place[axis] - 0.2);
    high[axis] = Math.max(high[axis], place[axis] + 0.2);
  }
  const size = Math.max(high[0] - low[0], high[1] - low[1]);
  return { low: low.map((value, axis) => (value + high[axis] - size) / 2), size };
};

const between = (path, time) => {
  const before = path[Math.floor(time)], after = path[Math.min(path.length - 1, Math.ceil(time))], part = time % 1;
  if (!before || !after) return before || null;
  return [before[0] + (after[0] - before[0]) * part, before[1] + (after[1] - before[1]) * part];
};

// One clock for all players: where the clips differ in length, the longest sets it and the others wait at their ends.
export class Clock {
  constructor(moved) {
    this.moved = moved; // called with the part of the way, after each drawing
    this.players = [];
    this.longest = null;
    this.part = 0;
    this.rested = 0;
    this.speed = 1;
    this.loop = true;
    this.playing = false;
    this.last = null;
    requestAnimationFrame((now) => this.#tick(now));
  }

  show(players) {
    this.players = players;
    // One scale for all that is compared: a distance looks as long in one film as in the other.
    const planes = players.filter((player) => player.clip.kind === "positions");
    const shared = bounds(planes.map((player) => player.clip));
    for (const player of planes) player.bounds = shared;
    this.longest = players.reduce((one, other) => (one && one.reach >= other.reach ? one : other), null);
    this.seek(0);
  }

  seek(part) {
    this.part = Math.min(1, Math.max(0, part));
    for (const player of this.players) player.draw(this.part * this.longest.reach, this.longest.reach);
    this.moved(this.part);
  }

  step(count) {
    const frames = Math.max(2, this.longest ? this.longest.clip.frames : 0);
    this.playing = false;
    this.seek(Math.round(this.part * (frames - 1) + count) / (frames - 1));
  }

  #tick(now) {
    const passed = this.last === null ? 0 : Math.min(0.25, (now - this.last) / 1000);
    this.last = now;
    if (this.playing && this.longest) {
      const seconds = Math.max(0.2, this.longest.seconds);
      this.rested = this.part < 1 ? 0 : this.rested + passed;
      const again = this.loop && this.rested >= REST;
      if (this.part >= 1) this.playing = this.loop;
      this.seek(again ? 0 : this.part + (passed * this.speed) / seconds);
    }
    requestAnimationFrame((next) => this.#tick(next));
  }
}
