import { isRequestGate } from '../../gates/decide-requests.js';
import { isExactShare, SMALLEST_STEP } from '../../haproxy/weights.js';
import { connectionVariable } from '../../postgres/session.js';
import type { Rule } from '../rule.js';

/** Rules on read-only pools behind HAProxy. */

export const haproxyPercent: Rule = {
  name: 'haproxy-percent',
  severity: 'error',
  why: "HAProxy's weights are small whole numbers: the share would be another one than the stage, its gates and its approval speak of",
  *check({ plan: { traffic } }) {
    if (traffic.haproxy === undefined) return;
    for (const [i, { percent }] of traffic.stages.entries()) {
      if (isExactShare(percent)) continue;
      yield {
        place: `traffic.stages[${i}].percent`,
        message: `${percent} % can't be said in weights`,
        instead: `write a multiple of ${SMALLEST_STEP}`,
      };
    }
  },
};

export const haproxyServers: Rule = {
  name: 'haproxy-servers',
  severity: 'error',
  why: 'one server has one weight: nothing could be shared between it and itself',
  *check({ plan: { traffic } }) {
    const { haproxy } = traffic;
    if (haproxy === undefined || haproxy.blue !== haproxy.green) return;
    yield {
      place: 'traffic.haproxy.green',
      message: `blue and green are both the server "${haproxy.green}"`,
      instead: 'name the server of the backend that leads to green',
    };
  },
};

export const haproxyTwice: Rule = {
  name: 'haproxy-twice',
  severity: 'error',
  why: 'a HAProxy that is left out goes on sharing as before, and a name that is there twice is most likely one that was meant to be another',
  *check({ plan: { traffic, blue, green } }) {
    const seen = new Map([
      [connectionVariable(blue.connection), 'blue'],
      [connectionVariable(green.connection), 'green'],
    ]);
    for (const [i, connection] of (traffic.haproxy?.instances ?? []).entries()) {
      const place = `traffic.haproxy.instances[${i}]`;
      const other = seen.get(connectionVariable(connection));
      if (other !== undefined) {
        yield {
          place,
          message: `the connection "${connection}" is that of ${other}, too`,
          instead: 'give each process the name of a connection of its own, such as "haproxy_1" and "haproxy_2"',
        };
      }
      seen.set(connectionVariable(connection), place);
    }
  },
};

export const haproxyGates: Rule = {
  name: 'haproxy-gates',
  severity: 'warning',
  why: 'these gates count what routers report: HAProxy passes bytes on and knows no request, so where nobody uses the router a stage would wait for them until maxStageDuration',
  *check({ plan: { traffic } }) {
    if (traffic.haproxy === undefined || traffic.stages.length === 0) return;
    const gates = traffic.gates.filter((gate) => isRequestGate(gate) && gate.dryRun !== true);
    if (gates.length === 0) return;
    yield {
      place: 'traffic.gates',
      message: `${gates.map(({ metric }) => metric).join(', ')}: only applications with the router report requests`,
      instead:
        'when nobody uses the router, write gates such as { "metric": "lag", "max": "1s" } and { "metric": "prometheus", ... } instead',
    };
  },
};
