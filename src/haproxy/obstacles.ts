import { VerdigrisError } from '../errors.js';
import type { PreflightFinding } from '../postgres/preflight/finding.js';
import { connectionVariable, type Databases } from '../postgres/session.js';
import type { Side } from '../side.js';
import type { Haproxies, Haproxy } from './haproxy.js';
import { Instance } from './instance.js';
import { whereLeads, type whoIsThere } from './reach.js';
import { ask } from './runtime-api.js';
import type { ShownServer, ShownStatistics } from './shown.js';

export type Obstacle = Omit<PreflightFinding, 'object'>;

export interface Question {
  readonly setup: Haproxies;
  readonly databases: Databases;
  readonly known: Awaited<ReturnType<typeof whoIsThere>>;
  /** A stage gives green everything. */
  readonly reaches100: boolean;
}

/** What this was tested with; 2.4 has every command that is used. */
const TESTED_FROM = '2.6';

/** Algorithms that share connections by the weights of the moment. `random` is shown as `unknown`. */
const BY_WEIGHT = ['roundrobin', 'leastconn', 'random', 'unknown'];

const LEVELS = ['user', 'operator', 'admin'];

/** All that keeps one HAProxy from sharing reads between blue and green. Looks only. */
export async function obstaclesOf(haproxy: Haproxy, question: Question): Promise<Obstacle[]> {
  const instance = new Instance(haproxy, question.setup);
  try {
    const level = (await ask(haproxy, 'show cli level')).trim();
    const version = /^Version: ([0-9.]+)/m.exec(await ask(haproxy, 'show info'))?.[1];
    if (!LEVELS.includes(level) || version === undefined) return [noRuntimeApi(haproxy)];
    const tables = await ask(haproxy, 'show table');
    const found = [...ofVersion(version), ...ofLevel(level)];
    const backend = await readBackend(instance);
    if ('severity' in backend) return [...found, backend];
    return [
      ...found,
      ...ofBackend(question.setup, backend.statistics),
      ...ofTables(question.setup, tables),
      ...ofOthers(question.setup, backend),
      ...ofBoth(question.setup, backend, question.reaches100),
      ...(await ofAddresses(question, haproxy, backend.servers)),
    ];
  } catch (error) {
    if (!(error instanceof VerdigrisError)) throw error;
    return [refusal('haproxy-api', error.what, error.nextStep)];
  }
}

interface Backend {
  readonly servers: readonly ShownServer[];
  readonly statistics: readonly ShownStatistics[];
}

async function readBackend(instance: Instance): Promise<Backend | Obstacle> {
  try {
    return { servers: await instance.servers(), statistics: await instance.statistics() };
  } catch (error) {
    if (!(error instanceof VerdigrisError) || error.type !== 'WeightsNotSet') throw error;
    return refusal('haproxy-backend', error.what, 'write the name of its backend, or "listen", into the plan');
  }
}

/** Something else answers: its page of statistics, the socket of its master process, another program. */
function noRuntimeApi({ connection }: Haproxy): Obstacle {
  return refusal(
    'haproxy-api',
    'what answers there is not the runtime API of a HAProxy',
    `let VERDIGRIS_CONNECTION_${connectionVariable(connection)} lead to a "stats socket" of its configuration: not to its page of statistics, nor to the socket of its master process (-S)`,
  );
}

function* ofVersion(version: string): Generator<Obstacle> {
  if (version.localeCompare(TESTED_FROM, 'en', { numeric: true }) >= 0) return;
  yield warning(
    'haproxy-version',
    `it is version ${version}, and ${TESTED_FROM} is the oldest that was tested`,
    `install ${TESTED_FROM} or later`,
  );
}

function* ofLevel(level: string): Generator<Obstacle> {
  if (level === 'admin') return;
  yield refusal(
    'haproxy-level',
    `its runtime API lets the worker look and not set weights (level "${level}")`,
    'write "level admin" on that "stats socket" line, and reload it',
  );
}

function* ofBackend({ backend }: Haproxies, statistics: readonly ShownStatistics[]): Generator<Obstacle> {
  const whole = statistics.find(({ name }) => name === 'BACKEND');
  if (whole === undefined) return;
  if (whole.mode !== 'tcp') {
    yield refusal(
      'haproxy-backend',
      `"${backend}" is in mode ${whole.mode}`,
      'write "mode tcp": PostgreSQL is no HTTP',
    );
  }
  if (!BY_WEIGHT.includes(whole.algorithm)) {
    yield refusal(
      'haproxy-balance',
      `"${backend}" has "balance ${whole.algorithm}", which does not share new connections by weights that change`,
      'write "balance roundrobin"',
    );
  }
}

function* ofTables({ backend }: Haproxies, tables: string): Generator<Obstacle> {
  if (!tables.split('\n').some((line) => line.startsWith(`# table: ${backend},`))) return;
  yield refusal(
    'haproxy-sticky',
    `"${backend}" has a stick-table: it may lead a client to the server of before, whatever its weight is`,
    'take "stick-table" and "stick on" out of it',
  );
}

/** Servers that would have a part of the connections beside blue and green. */
function* ofOthers(setup: Haproxies, { servers, statistics }: Backend): Generator<Obstacle> {
  const backups = statistics.filter(({ isBackup }) => isBackup).map(({ name }) => name);
  for (const { name, weight, configuredWeight, isHeld } of servers) {
    if (Object.values(setup.servers).includes(name) || backups.includes(name)) continue;
    if (isHeld || (weight === 0 && configuredWeight === 0)) continue;
    yield refusal(
      'haproxy-servers',
      `the server "${name}" of "${setup.backend}" takes connections beside blue and green, so a stage would not be the share that it says`,
      `make it "backup", or put several servers of one side into a "listen" of their own and lead "${setup.servers.blue}" there`,
    );
  }
}

function* ofBoth(setup: Haproxies, { servers, statistics }: Backend, reaches100: boolean): Generator<Obstacle> {
  for (const side of ['blue', 'green'] as const) {
    const name = setup.servers[side];
    const server = servers.find((one) => one.name === name);
    const counted = statistics.find((one) => one.name === name);
    if (server === undefined || counted === undefined) {
      const all = servers.map((one) => one.name).join(', ');
      yield refusal(
        'haproxy-backend',
        `"${setup.backend}" has no server "${name}"; it has ${all}`,
        'mend the name',
        side,
      );
      continue;
    }
    if (counted.isBackup) {
      yield refusal(
        'haproxy-servers',
        `the server "${name}" is "backup": its weight counts only when no other is up`,
        'take "backup" off it',
        side,
      );
    }
    yield* ofWeights(setup, side, server);
    yield* ofAgent(side, server);
    yield* ofHealth(side, server, counted.status);
  }
  if (!reaches100 || statistics.some(({ isBackup, name }) => isBackup && name !== setup.servers.green)) return;
  yield warning(
    'haproxy-fallback',
    'at 100 % blue has the weight 0: when green fails then, nothing takes connections until the reads are taken back',
    'add a server to the backend that leads to blue again, with "backup" and "check": docs/haproxy.md',
  );
}

function* ofWeights({ backend }: Haproxies, side: Side, server: ShownServer): Generator<Obstacle> {
  const { name, weight, configuredWeight, isDisabledByConfiguration } = server;
  const isRight = (one: number): boolean => (side === 'green' ? one === 0 : one > 0);
  const wanted = side === 'green' ? '0' : 'more than 0';
  if (!isRight(weight)) {
    yield refusal(
      'haproxy-weights',
      `the server "${name}" has the weight ${weight} now, before anything has moved: it must be ${wanted}`,
      `"set server ${backend}/${name} weight ${side === 'green' ? 0 : 200}" on its runtime API`,
      side,
    );
  }
  if (!isRight(configuredWeight)) {
    yield refusal(
      'haproxy-restart',
      `its configuration gives the server "${name}" the weight ${configuredWeight}, which it has again after every restart: it must be ${wanted}`,
      side === 'green' ? 'write "weight 0" on its line' : 'write "weight 200" on its line',
      side,
    );
  }
  if (isDisabledByConfiguration) {
    yield refusal(
      'haproxy-restart',
      `its configuration has the server "${name}" "disabled", as it is again after every restart`,
      'take "disabled" off its line',
      side,
    );
  }
}

/** Its answers may set the weight each time, and then the watch of a stage holds it. */
function* ofAgent(side: Side, { name, hasAgent }: ShownServer): Generator<Obstacle> {
  if (!hasAgent) return;
  yield warning(
    'haproxy-agent',
    `the server "${name}" has an agent: where that answers with a percentage, it sets the weight again and again, and no stage passes`,
    'take "agent-check" off its line, or let the agent answer without a percentage',
    side,
  );
}

function* ofHealth(side: Side, { name, isUp, isHeld }: ShownServer, status: string): Generator<Obstacle> {
  if (isHeld) {
    yield refusal(
      'haproxy-health',
      `the server "${name}" is held by somebody: ${status}`,
      'set its state to "ready"',
      side,
    );
  } else if (!isUp) {
    yield refusal(
      'haproxy-health',
      `the server "${name}" is ${status} by its health check`,
      'see what its check says',
      side,
    );
  } else if (status === 'no check') {
    yield warning(
      'haproxy-health',
      `the server "${name}" has no health check: when it fails, it goes on getting its share`,
      'write "check inter 500ms fall 2" on its line, with "option pgsql-check"',
      side,
    );
  }
}

async function ofAddresses(
  { setup, databases, known }: Question,
  haproxy: Haproxy,
  servers: readonly ShownServer[],
): Promise<Obstacle[]> {
  const found = await Promise.all(
    (['blue', 'green'] as const).map(async (side) => {
      const server = servers.find(({ name }) => name === setup.servers[side]);
      if (server === undefined) return [];
      const leads = await whereLeads(databases, side, server, known, haproxy.address);
      if (leads.to === 'its side' || leads.to === 'a standby of its side') return [];
      if (leads.to !== 'unknown') {
        return [
          refusal(
            'haproxy-reach',
            `the server "${server.name}" leads to ${leads.to}`,
            `write the address of ${side}`,
            side,
          ),
        ];
      }
      const unseen = `whether the server "${server.name}" leads to ${side} could not be seen from here: ${leads.why}`;
      return [warning('haproxy-reach', unseen, 'see that its address is right', side)];
    }),
  );
  return found.flat();
}

function refusal(check: string, message: string, remedy: string, side: Obstacle['side'] = 'both'): Obstacle {
  return { severity: 'error', check, side, message, remedy };
}

function warning(check: string, message: string, remedy: string, side: Obstacle['side'] = 'both'): Obstacle {
  return { severity: 'warning', check, side, message, remedy };
}
