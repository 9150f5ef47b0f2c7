import { doctorCall } from '../doctor-call.js';
import { VerdigrisError } from '../errors.js';
import type { Side } from '../side.js';
import { NewestRoute } from './newest-route.js';
import { openActorSession, type Run } from './ownership.js';
import { readDecisionAsActor } from './promotion-decision.js';
import { closeSession, withSession, type Databases } from './session.js';
import { hasState, readRoute } from './state.js';

export interface WritesAt {
  readonly writesOn: Side;
  readonly epoch: number;
}

/** Green is asked only to contradict, and a green that does not answer keeps nobody for longer than this, ms. */
const GREEN_MS = 3_000;

/**
 * Where writes are, by the databases alone. Blue decides: it gives the writes away in a COMMIT of its own. But a blue that
 * was restored, or failed over to a replica that lacked that COMMIT, still says of itself what was true before it; so what
 * green says, and what the run has seen, must not contradict it.
 *
 * @param known the epoch that the run has seen; no row that is true has one below it
 * @throws VerdigrisError WritesUncertain when blue's row is older than what is known
 */
export async function whereWritesAre(databases: Databases, run: Run, known: number): Promise<WritesAt> {
  // Whoever decides holds the actor's lock: with it a plain read is certain, and no writer waits for ours.
  const blue = await openActorSession(databases.blue, 'where are writes');
  try {
    const isThere = (await hasState(blue)) && (await readRoute(blue, run.migration)) !== undefined;
    const { decided, epoch } = isThere
      ? await readDecisionAsActor(blue, run.migration, 'blue')
      : { decided: false, epoch: 0 };
    return decided
      ? { writesOn: 'green', epoch }
      : await uncontradicted(databases, run, { writesOn: 'blue', epoch }, known);
  } finally {
    await closeSession(blue);
  }
}

async function uncontradicted(databases: Databases, run: Run, byBlue: WritesAt, known: number): Promise<WritesAt> {
  const onGreen = await epochOfGreen(databases, run);
  const newest = Math.max(known, onGreen ?? 0);
  if (newest <= byBlue.epoch) return byBlue;
  throw new VerdigrisError({
    type: 'WritesUncertain',
    message:
      `blue says that it has the writes since epoch ${byBlue.epoch}, but ` +
      (onGreen !== undefined && onGreen > byBlue.epoch
        ? `green says that it has them since epoch ${onGreen}`
        : `this run has moved them on to epoch ${known}`) +
      ': blue was restored, or has failed over to a server that lacks what was decided',
    nextStep:
      'bring back the blue that was current; or stay on green (retire). `verdigris doctor` shows what both sides say; nothing is undone by guess',
  });
}

/** The epoch in which green has got the writes, by its own row; undefined where it says nothing of the kind. */
async function epochOfGreen(databases: Databases, { migration }: Run): Promise<number | undefined> {
  const { green } = databases;
  const soon = { ...green, config: { ...green.config, connectionTimeoutMillis: GREEN_MS } };
  try {
    return await withSession(soon, { purpose: 'where are writes', answerWithinMs: GREEN_MS }, async (session) => {
      const route = (await hasState(session)) ? await readRoute(session, migration) : undefined;
      return route?.writesOn === 'green' ? route.epoch : undefined;
    });
  } catch {
    return undefined;
  }
}

/**
 * For what is only right while writes are on blue: it makes green anew, or takes away what green needs. A run whose own
 * memory says that writes are on blue may be wrong: its workflow was reset to an earlier point.
 *
 * @throws VerdigrisError WritesOnGreen
 */
export async function refuseWhileGreenServes(databases: Databases, { migration }: Run): Promise<void> {
  const newest = new NewestRoute(databases, migration);
  try {
    const route = await newest.read();
    if (route?.side !== 'green') return;
    const names = { blue: databases.blue.connection, green: databases.green.connection };
    throw new VerdigrisError({
      type: 'WritesOnGreen',
      message: `green has the writes (epoch ${route.epoch}), and this would take away what it needs`,
      nextStep: `was the workflow reset to a point before the promotion? Ask \`${doctorCall(names, '--who-is-primary')}\`, end the run, and let \`${doctorCall(names, '--clean')}\` remove what is left`,
    });
  } finally {
    await newest.close();
  }
}
