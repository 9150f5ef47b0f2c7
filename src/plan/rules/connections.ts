import { connectionVariable } from '../../postgres/session.js';
import { nearest } from '../nearest.js';
import type { CatalogRule, Rule } from '../rule.js';

/** Rules on the connections. Two names that differ only in case or in `-` and `_` are one variable of the worker. */

export const sameConnection: Rule = {
  name: 'same-connection',
  severity: 'error',
  why: 'a database can not be moved to itself: blue and green are two databases',
  *check({ plan: { blue, green } }) {
    if (connectionVariable(blue.connection) !== connectionVariable(green.connection)) return;
    yield {
      place: 'green.connection',
      message:
        blue.connection === green.connection
          ? `blue and green are both "${green.connection}"`
          : `"${blue.connection}" and "${green.connection}" are both read from VERDIGRIS_CONNECTION_${connectionVariable(green.connection)}`,
      instead: 'name the connection of the new database, such as "orders_green"',
    };
  },
};

export const unknownConnection: CatalogRule = {
  name: 'unknown-connection',
  severity: 'error',
  why: 'the worker could not reach the database, the PgBouncer or HAProxy, what a gate asks, or the webhook',
  *check({ plan }, _catalog, connections) {
    const known = new Set([...connections].map(connectionVariable));
    const named = [
      { place: 'blue.connection', connection: plan.blue.connection },
      { place: 'green.connection', connection: plan.green.connection },
      ...plan.traffic.gates.flatMap((gate, i) =>
        gate.metric === 'prometheus' ? [{ place: `traffic.gates[${i}].connection`, connection: gate.connection }] : [],
      ),
      ...(plan.traffic.scrape ?? []).map((connection, i) => ({ place: `traffic.scrape[${i}]`, connection })),
      ...(plan.traffic.webhooks ?? []).map(({ connection }, i) => ({
        place: `traffic.webhooks[${i}].connection`,
        connection,
      })),
      ...(plan.traffic.pgbouncer?.instances ?? []).map(({ connection }, i) => ({
        place: `traffic.pgbouncer.instances[${i}].connection`,
        connection,
      })),
      ...(plan.traffic.haproxy?.instances ?? []).map((connection, i) => ({
        place: `traffic.haproxy.instances[${i}]`,
        connection,
      })),
      ...(plan.notify ?? []).map(({ connection }, i) => ({ place: `notify[${i}].connection`, connection })),
    ];
    for (const { place, connection } of named) {
      if (known.has(connectionVariable(connection))) continue;
      const near = nearest(connection, connections);
      yield {
        place,
        message: `the worker knows no connection "${connection}"`,
        instead:
          near === undefined
            ? `set VERDIGRIS_CONNECTION_${connectionVariable(connection)} where the worker runs${known.size === 0 ? '' : `; it knows ${[...connections].sort().join(', ')}`}`
            : `write "${near}", or set VERDIGRIS_CONNECTION_${connectionVariable(connection)} where the worker runs`,
      };
    }
  },
};
