import { VerdigrisError } from '../../errors.js';
import { firstLine } from '../../failure-text.js';
import { probePeer } from '../peer-probe.js';
import { withoutSecrets } from '../scrub.js';
import { connectionVariable, openSession, closeSession } from '../session.js';
import { CANCELED, NO_RIGHT, sqlState } from '../sqlstate.js';
import { systemIdentifier } from '../system-identifier.js';
import { leadsToItself } from './peer-address.js';
import { oneRow, type Found, type PairCheck, type SideContext } from './check.js';

/** Whether each server reaches the other: see probePeer. */
export const peerConnection: PairCheck = {
  name: 'peer-connection',
  run: async ({ blue, green, reachWithinMs }) => {
    const { standby } = await oneRow<{ standby: boolean }>(green.session, 'SELECT pg_is_in_recovery() AS standby');
    const [toGreen, toBlue] = await Promise.all([
      standby ? [notTried(blue)] : tryToReach(green, blue, reachWithinMs),
      tryToReach(blue, green, reachWithinMs),
    ]);
    return [
      ...toGreen.map((found) => ({ side: 'green' as const, ...found })),
      ...toBlue.map((found) => ({ side: 'blue' as const, ...found })),
    ];
  },
};

/** A standby can't make a subscription, and nothing else on it logs in as one would. */
function notTried(blue: SideContext): Found {
  return {
    severity: 'warning',
    object: blue.database.connection,
    message:
      "green is a standby still, so whether its server reaches blue with the address and user of this connection can't be tried; it is needed right after the promotion",
    remedy:
      'Try it on green\'s machine: psql "<that address> replication=database" -c IDENTIFY_SYSTEM, for the database that is moved. If it fails after all, the run waits until blue\'s pg_hba.conf and firewall admit it',
  };
}

async function tryToReach(from: SideContext, to: SideContext, withinMs: number): Promise<Found[]> {
  const session = await openSession(from.database, { purpose: 'preflight probe', statementTimeoutMs: withinMs });
  try {
    await probePeer(session, to.database.peerConninfo, { forMs: withinMs });
    return (await reachesItself(from, to)) ? [itself(from, to)] : [];
  } catch (error) {
    return [unreachable(from, to, error, withinMs)];
  } finally {
    await closeSession(session);
  }
}

/** Such as `localhost`, by which the worker reaches the other one, and on the server itself leads to itself. */
async function reachesItself(from: SideContext, to: SideContext): Promise<boolean> {
  const [one, other] = [await systemIdentifier(from.session), await systemIdentifier(to.session)];
  if (one === null || other === null || one === other) return false;
  const { port } = await oneRow<{ port: string }>(from.session, `SELECT current_setting('port') AS port`);
  return leadsToItself(to.database.peerConninfo, port);
}

function itself(from: SideContext, to: SideContext): Found {
  return {
    severity: 'error',
    object: to.database.connection,
    message: `the address by which the server of ${from.side} is to reach ${to.side} is that of its own machine and port: it reaches itself, and its subscription would know no table`,
    remedy: setPeer(from, to),
  };
}

function setPeer(from: SideContext, to: SideContext): string {
  const variable = `VERDIGRIS_CONNECTION_${connectionVariable(to.database.connection)}`;
  return `Set ${variable}_PEER to the address by which ${from.side}'s server reaches ${to.side}`;
}

/** Somebody holds what the trial needs. */
function notAsked(from: SideContext, to: SideContext, { message, nextStep }: VerdigrisError): Found {
  return {
    severity: 'error',
    object: to.database.connection,
    message: `whether the server of ${from.side} reaches ${to.side} could not be tried: ${firstLine(message)}`,
    remedy: `${nextStep.charAt(0).toUpperCase()}${nextStep.slice(1)}`,
  };
}

function unreachable(from: SideContext, to: SideContext, error: unknown, withinMs: number): Found {
  if (error instanceof VerdigrisError) return notAsked(from, to, error);
  const state = sqlState(error);
  const reason = withoutSecrets(error, [from.database, to.database]).replace(/^subscription "[^"]*" /, '');
  if (state === NO_RIGHT) {
    return {
      severity: 'error',
      object: 'CREATE SUBSCRIPTION',
      message: `the user of "${from.database.connection}" may not make subscriptions: ${reason}`,
      remedy:
        from.version >= 16
          ? 'GRANT pg_create_subscription to it'
          : 'Before PostgreSQL 16 only a superuser may (on managed services: their own administrator role)',
    };
  }
  return {
    severity: 'error',
    object: to.database.connection,
    message: `the server of ${from.side} can't reach ${to.side}: ${state === CANCELED ? `no answer within ${withinMs / 1_000} s` : reason}`,
    remedy:
      `${setPeer(from, to)}; ` +
      `let ${to.side}'s pg_hba.conf and firewall admit it, with a user that has REPLICATION and a password`,
  };
}
