import { VerdigrisError } from '../errors.js';
import type { Databases } from '../postgres/session.js';
import { bring, notAll } from './bring.js';
import type { Haproxies, Haproxy } from './haproxy.js';
import { Instance } from './instance.js';
import { whereLeads, whoIsThere, type Leads } from './reach.js';
import { isNotRunning } from './runtime-api.js';
import type { ShareReader } from './share.js';
import type { ShownServer } from './shown.js';

/** Every HAProxy answers and has both servers. @throws VerdigrisError WeightsNotSet, which names each that has not */
export async function refuseAway(setup: Haproxies): Promise<void> {
  await onAll(setup, async (instance) => {
    const names = (await instance.servers()).map(({ name }) => name);
    const missing = Object.values(setup.servers).filter((name) => !names.includes(name));
    if (missing.length > 0) throw instance.failed(`has no server ${missing.join(', ')} in "${setup.backend}"`);
  });
}

/**
 * Nobody reads on green any more, and no restart of a HAProxy would lead there: before a retirement its configuration may
 * have been made ready for green already. One that does not run leads nobody anywhere, and nobody can ask what it begins
 * with.
 *
 * @param share says 0 %
 * @returns warnings: those that do not run
 * @throws VerdigrisError WeightsNotSet, which names each that may still lead there, or would
 */
export async function refuseReadsOnGreen(setup: Haproxies, share: ShareReader): Promise<string[]> {
  const warnings: string[] = [];
  await onAll(setup, async (instance, haproxy) => {
    try {
      await bring(setup, haproxy, share);
      const open = await instance.connectionsTo('green');
      if (open > 0) throw instance.failed(`still has ${open} connections to green`);
      const why = whyNotBlueAlone(setup, await instance.servers());
      if (why !== undefined) throw configuredForGreen(haproxy, why);
    } catch (error) {
      if (!isNotRunning(error)) throw error;
      warnings.push(`HAProxy "${haproxy.connection}" does not run: see that its configuration leads to blue alone`);
    }
  });
  return warnings;
}

/** What would lead reads to green after a restart, or to nobody. */
function whyNotBlueAlone({ servers: { blue, green } }: Haproxies, servers: readonly ShownServer[]): string | undefined {
  const [onBlue, onGreen] = [servers.find(({ name }) => name === blue), servers.find(({ name }) => name === green)];
  if (onGreen !== undefined && onGreen.configuredWeight > 0 && !onGreen.isDisabledByConfiguration)
    return `its configuration gives the server "${green}" the weight ${onGreen.configuredWeight}`;
  if (onBlue?.configuredWeight === 0) return `its configuration gives the server "${blue}" the weight 0`;
  return undefined;
}

/** It can be mended while the rollback tries again; everything else is undone by then. */
function configuredForGreen({ connection }: Haproxy, why: string): VerdigrisError {
  return new VerdigrisError({
    type: 'WeightsNotSet',
    message: `HAProxy "${connection}" would not lead the reads to blue alone when it is restarted, and green gets no more rows: ${why}`,
    nextStep: 'write "weight 200" for blue and "weight 0" for green into its configuration again, and reload it',
    retryable: true,
  });
}

/**
 * Nobody reads on blue any more, and no restart of a HAProxy would lead there: blue is about to be left as it is, and
 * would answer with ever older rows.
 *
 * @param share says 100 %
 * @returns warnings: those that do not run, and servers that could not be looked at
 * @throws VerdigrisError WeightsNotSet; `retryable` where connections only have to end
 */
export async function refuseReadsOnBlue(setup: Haproxies, share: ShareReader, databases: Databases): Promise<string[]> {
  const warnings: string[] = [];
  let known: ReturnType<typeof whoIsThere> | undefined;
  const leads = async (server: ShownServer, haproxy: Haproxy): Promise<Leads> =>
    whereLeads(databases, 'blue', server, await (known ??= whoIsThere(databases)), haproxy.address);
  await onAll(setup, async (instance, haproxy) => {
    try {
      const servers = await instance.servers();
      const blue = servers.find(({ name }) => name === setup.servers.blue);
      const why = whyBlueAgain(setup, servers);
      if (why !== undefined) throw configured(haproxy, why);
      for (const server of othersThan(setup.servers.green, servers)) {
        const there = await leads(server, haproxy);
        if (there.to === 'its side') throw configured(haproxy, leadsToBlue(server));
        if (there.to === 'a standby of its side')
          throw configured(haproxy, `${leadsToBlue(server)}: to a standby of it`);
        if (there.to === 'unknown') warnings.push(unseen(haproxy, server, there.why));
      }
      if (blue === undefined) return;
      await bring(setup, haproxy, share);
      // Without their number: people are told of each new reason, and not of each connection that ends.
      if ((await instance.connectionsTo('blue')) > 0)
        throw instance.failed('still has connections to blue, which will not be kept current: they must end');
    } catch (error) {
      if (!isNotRunning(error)) throw error;
      warnings.push(`HAProxy "${haproxy.connection}" does not run: see that its configuration leads to green alone`);
    }
  });
  return warnings;
}

/** What would lead reads to blue after a restart. */
function whyBlueAgain({ servers: { blue, green } }: Haproxies, servers: readonly ShownServer[]): string | undefined {
  const [onBlue, onGreen] = [servers.find(({ name }) => name === blue), servers.find(({ name }) => name === green)];
  if (onGreen === undefined) return `it has no server "${green}"`;
  if (onGreen.configuredWeight === 0) return `its configuration gives the server "${green}" the weight 0`;
  if (onBlue === undefined) return undefined;
  if (onBlue.configuredWeight > 0)
    return `its configuration gives the server "${blue}" the weight ${onBlue.configuredWeight}`;
  const again = servers.find(({ name, address }) => name !== blue && isSame(address, onBlue.address));
  return again === undefined ? undefined : leadsToBlue(again);
}

function leadsToBlue({ name }: ShownServer): string {
  return `its server "${name}" leads to blue, too`;
}

function unseen({ connection }: Haproxy, { name }: ShownServer, why: string): string {
  return `HAProxy "${connection}": whether its server "${name}" leads to blue could not be seen: ${why}`;
}

/** Those that would get connections after a restart: `backup` ones when green fails. */
function othersThan(green: string, servers: readonly ShownServer[]): ShownServer[] {
  return servers.filter(
    ({ name, configuredWeight, isDisabledByConfiguration }) =>
      name !== green && configuredWeight > 0 && !isDisabledByConfiguration,
  );
}

function isSame(a: ShownServer['address'], b: ShownServer['address']): boolean {
  return a !== undefined && b !== undefined && a.host === b.host && a.port === b.port;
}

function configured({ connection }: Haproxy, why: string): VerdigrisError {
  return new VerdigrisError({
    type: 'WeightsNotSet',
    message: `HAProxy "${connection}" would lead reads to blue, which will not be kept current, when it is restarted: ${why}`,
    nextStep: 'write green into its configuration (docs/haproxy.md has the lines), reload it, then resume',
  });
}

/** Asks all beside each other. One that needs a person makes the whole need one. */
async function onAll(setup: Haproxies, work: (instance: Instance, haproxy: Haproxy) => Promise<void>): Promise<void> {
  const results = await Promise.allSettled(
    setup.instances.map((haproxy) => work(new Instance(haproxy, setup), haproxy)),
  );
  const reasons = results.flatMap((result) => (result.status === 'rejected' ? [result.reason as unknown] : []));
  const [first] = reasons;
  if (first === undefined) return;
  throw (
    reasons.find((reason) => reason instanceof VerdigrisError && !reason.retryable) ??
    (reasons.length === 1 ? first : notAll(reasons))
  );
}
