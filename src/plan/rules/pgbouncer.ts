import { connectionVariable } from '../../postgres/session.js';
import type { Rule } from '../rule.js';

/** Rules on applications behind PgBouncer. */

export const pgbouncerStages: Rule = {
  name: 'pgbouncer-stages',
  severity: 'warning',
  why: 'PgBouncer knows no users: its clients move as a whole, with the promotion. Stages need the router in the application, and their gates wait for its requests',
  *check({ plan: { traffic } }) {
    const shares = traffic.stages.filter(({ percent }) => percent > 0);
    // Behind HAProxy, a pool of their own moves by stages.
    if (traffic.pgbouncer === undefined || traffic.haproxy !== undefined || shares.length === 0) return;
    yield {
      place: 'traffic.stages',
      message: `stages of ${shares.map(({ percent }) => `${percent} %`).join(', ')} mean nothing to what goes through PgBouncer`,
      instead: 'write "stages": [] when nobody uses the router; keep them when some applications do',
    };
  },
};

export const pgbouncerEntries: Rule = {
  name: 'pgbouncer-entries',
  severity: 'error',
  why: 'an entry leads to one place: what applications connect to is led to where the entries of blue and green say',
  *check({ plan: { traffic } }) {
    if (traffic.pgbouncer === undefined) return;
    const { databases, blue, green } = traffic.pgbouncer;
    const seen = new Set<string>();
    const names = [
      ...databases.map((name, i) => ({ name, place: `traffic.pgbouncer.databases[${i}]` })),
      { name: blue ?? `${databases[0] ?? ''}_blue`, place: 'traffic.pgbouncer.blue' },
      { name: green ?? `${databases[0] ?? ''}_green`, place: 'traffic.pgbouncer.green' },
    ];
    for (const { name, place } of names) {
      if (seen.has(name)) {
        yield {
          place,
          message: `the entry "${name}" is there twice`,
          instead: 'name each entry once: those of the applications, one for blue, one for green',
        };
      }
      seen.add(name);
    }
  },
};

export const pgbouncerTwice: Rule = {
  name: 'pgbouncer-twice',
  severity: 'error',
  why: 'a PgBouncer that is left out is one whose clients stay behind, and a name that is there twice is most likely one that was meant to be another',
  *check({ plan: { traffic, blue, green } }) {
    const seen = new Map([
      [connectionVariable(blue.connection), 'blue'],
      [connectionVariable(green.connection), 'green'],
    ]);
    for (const [i, { connection }] of (traffic.pgbouncer?.instances ?? []).entries()) {
      const place = `traffic.pgbouncer.instances[${i}]`;
      const other = seen.get(connectionVariable(connection));
      if (other !== undefined) {
        yield {
          place: `${place}.connection`,
          message: `the connection "${connection}" is that of ${other}, too`,
          instead: 'give each process the name of a connection of its own, such as "pgbouncer_1" and "pgbouncer_2"',
        };
      }
      seen.set(connectionVariable(connection), place);
    }
  },
};
