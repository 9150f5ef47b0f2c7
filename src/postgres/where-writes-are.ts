import { doctorCall } from '../doctor-call.js';
import { VerdigrisError } from '../errors.js';
import { otherSide, type Side } from '../side.js';
import { NewestRoute } from './newest-route.js';
import { asActor, type Run } from './ownership.js';
import type { WritesAre } from './pools.js';
import { readDecisionAsActor } from './promotion-decision.js';
import { withSession, type Databases } from './session.js';
import { hasState, readRoute, type Route } from './state.js';

export interface WritesAt {
  readonly writesOn: Side;
  readonly epoch: number;
  /** False where green has given the writes back and blue's own row does not say so yet: it is opened by the way back. */
  readonly isOpen?: false;
}

/** A green that does not answer keeps nobody for longer than this, ms. */
const GREEN_MS = 3_000;

/**
 * Where writes are, by the databases alone. Blue decides: it gives the writes away in a COMMIT of its own. But a blue that
 * was restored, or failed over to a replica that lacked that COMMIT, still says of itself what was true before it; so what
 * green says, and what the run has seen, must not contradict it. Of a way back that is decided green's row alone knows
 * until blue is open.
 *
 * @param known the epoch that the run has seen; no row that is true has one below it
 * @throws VerdigrisError WritesUncertain when blue's row is older than what is known
 */
export async function whereWritesAre(databases: Databases, run: Run, known: number): Promise<WritesAt> {
  // Whoever decides holds the actor's lock: with it a plain read is certain, and no writer waits for ours.
  return asActor(databases.blue, 'where are writes', async (blue) => {
    const isThere = (await hasState(blue)) && (await readRoute(blue, run.migration)) !== undefined;
    const { decided, epoch } = isThere
      ? await readDecisionAsActor(blue, run.migration, 'blue')
      : { decided: false, epoch: 0 };
    const onGreen = await routeOfGreen(databases, run);
    if (!decided) return uncontradicted({ writesOn: 'blue', epoch }, onGreen, known);
    const isGivenBack = onGreen?.writesOn === 'blue' && onGreen.epoch === epoch + 1;
    return isGivenBack ? { writesOn: 'blue', epoch: onGreen.epoch, isOpen: false } : { writesOn: 'green', epoch };
  });
}

function uncontradicted(byBlue: WritesAt, onGreen: Route | undefined, known: number): WritesAt {
  const since = onGreen?.writesOn === 'green' ? onGreen.epoch : 0;
  if (Math.max(known, since) <= byBlue.epoch) return byBlue;
  throw new VerdigrisError({
    type: 'WritesUncertain',
    message:
      `blue says that it has the writes since epoch ${byBlue.epoch}, but ` +
      (since > byBlue.epoch
        ? `green says that it has them since epoch ${since}`
        : `this run has moved them on to epoch ${known}`) +
      ': blue was restored, or has failed over to a server that lacks what was decided',
    nextStep:
      'bring back the blue that was current; or stay on green (retire). `verdigris doctor` shows what both sides say; nothing is undone by guess',
  });
}

/** Green's own row; undefined where it does not answer, or knows none. */
async function routeOfGreen(databases: Databases, { migration }: Run): Promise<Route | undefined> {
  const { green } = databases;
  const soon = { ...green, config: { ...green.config, connectionTimeoutMillis: GREEN_MS } };
  try {
    return await withSession(soon, { purpose: 'where are writes', answerWithinMs: GREEN_MS }, async (session) =>
      (await hasState(session)) ? await readRoute(session, migration) : undefined,
    );
  } catch {
    return undefined;
  }
}

/**
 * For what is only right while writes are on blue: it makes green anew, or takes away what green needs. A run whose own
 * memory says that writes are on blue may be wrong: its workflow was reset to an earlier point.
 *
 * @param asked what both sides are asked by. Default: sessions of its own, which are closed then
 * @throws VerdigrisError WritesOnGreen
 */
export async function refuseWhileGreenServes(
  databases: Databases,
  { migration }: Run,
  asked?: NewestRoute,
): Promise<void> {
  const route = await (asked === undefined ? newestRoute(databases, migration) : asked.read());
  if (route?.side !== 'green') return;
  const names = { blue: databases.blue.connection, green: databases.green.connection };
  throw new VerdigrisError({
    type: 'WritesOnGreen',
    message: `green has the writes (epoch ${route.epoch}), and this would take away what it needs`,
    nextStep: `was the workflow reset to a point before the promotion? Ask \`${doctorCall(names, '--who-is-primary')}\`, end the run, and let \`${doctorCall(names, '--clean')}\` remove what is left`,
  });
}

/**
 * For what is only right while green serves: it watches the way back, or ends it. A run in its standby window may be wrong
 * about that, too: its workflow was reset to a point before a rollback. A blue that was restored says of itself what was
 * true before the promotion: its epoch is below the one in which green has got the writes.
 *
 * @param since that epoch, as the run knows it
 * @throws VerdigrisError WritesOnBlue
 */
export async function refuseWhileBlueServes(databases: Databases, { migration }: Run, since: number): Promise<void> {
  const route = await newestRoute(databases, migration);
  if (route !== undefined) refuseGivenBack(databases, route, since);
}

/** The same by one row; of green's, read behind the lock of its actor, it stays true: nobody else decides meanwhile. */
export function refuseGivenBack(databases: Databases, { side, epoch }: WritesAre, since: number): void {
  if (side === 'blue' && epoch > since) throw writesOnBlue(databases, epoch);
}

/**
 * Why a side takes no writes although it was opened for an epoch: its own row does not know of that. A server that fails over
 * right then to a replica which is behind loses its opening, and so does one that is restored. It is not opened by us: rows
 * may be missing there, too. Undefined where its row says anything else.
 *
 * @param route its own row
 * @param epoch the one that it was opened for; nothing is asked where that is not known
 */
export function whyNotOpened(side: Side, route: Route | undefined, epoch = Infinity): string | undefined {
  if (route === undefined || !Number.isFinite(epoch)) return undefined;
  if (route.writesOn === side || route.epoch >= epoch) return undefined;
  return `${side} was opened for epoch ${epoch} and knows nothing of it, so nobody takes writes: it has failed over to a replica that was behind, or was restored, and rows may be missing there, too`;
}

/** The same as an error (NotOpened, retryable): what needs a side that takes writes waits until somebody has opened it. */
export function openingLost(
  databases: Databases,
  side: Side,
  route: Route | undefined,
  epoch: number,
): VerdigrisError | undefined {
  const why = whyNotOpened(side, route, epoch);
  return why === undefined ? undefined : openedByHand(databases, side, why);
}

/** That a side which has been given the writes is opened by people alone, as an error (NotOpened, retryable). */
export function openedByHand(databases: Databases, side: Side, why: string): VerdigrisError {
  const names = { blue: databases.blue.connection, green: databases.green.connection };
  return new VerdigrisError({
    type: 'NotOpened',
    message: why,
    nextStep: `compare its rows with those of ${otherSide(side)} where that can be waited for; it is opened as it is by: ${doctorCall(names, '--open --yes')}`,
    retryable: true,
    details: { byHand: true },
  });
}

function writesOnBlue(databases: Databases, epoch: number): VerdigrisError {
  const names = { blue: databases.blue.connection, green: databases.green.connection };
  return new VerdigrisError({
    type: 'WritesOnBlue',
    message: `writes have been given back to blue (epoch ${epoch}): there is no way back to be watched or ended, and green's fence stays`,
    nextStep: `was the workflow reset to a point before a rollback? Ask \`${doctorCall(names, '--who-is-primary')}\`; what that rollback has left, \`retire\` or the end of the window has the run undo`,
  });
}

async function newestRoute(databases: Databases, migration: string): Promise<WritesAre | undefined> {
  const newest = new NewestRoute(databases, migration);
  try {
    return await newest.read();
  } finally {
    await newest.close();
  }
}
