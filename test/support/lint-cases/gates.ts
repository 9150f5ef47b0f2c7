import { type Case, asking, haproxy, STAGES, pgbouncer, prometheus } from './parts.js';

/** What the lint says of gates, PgBouncer and HAProxy. */
export const GATE_CASES: readonly Case[] = [
  {
    rule: 'pgbouncer-stages',
    severity: 'warning',
    refused: { traffic: { stages: [{ percent: 100, for: '1m' }], pgbouncer: pgbouncer() } },
    place: 'traffic.stages',
    message: /100 % mean nothing/,
    instead: /"stages": \[\]/,
    accepted: { traffic: { stages: [], pgbouncer: pgbouncer() } },
  },
  {
    rule: 'pgbouncer-entries',
    refused: { traffic: { stages: [], pgbouncer: pgbouncer({ blue: 'orders' }) } },
    place: 'traffic.pgbouncer.blue',
    message: /"orders" is there twice/,
    instead: /once/,
    accepted: { traffic: { stages: [], pgbouncer: pgbouncer({ blue: 'orders_old' }) } },
  },
  {
    rule: 'pgbouncer-twice',
    refused: { traffic: { stages: [], pgbouncer: pgbouncer({}, 'pool_1', 'POOL-1') } },
    place: 'traffic.pgbouncer.instances[1].connection',
    message: /"POOL-1" is that of traffic.pgbouncer.instances\[0\], too/,
    instead: /pgbouncer_2/,
    accepted: { traffic: { stages: [], pgbouncer: pgbouncer({}, 'pool_1', 'pool_2') } },
  },
  {
    rule: 'haproxy-percent',
    refused: { traffic: { ...haproxy(), stages: [{ percent: 0.1, for: '1m' }, ...STAGES] } },
    place: 'traffic.stages[0].percent',
    message: /0.1 % can't be said in weights/,
    instead: /multiple of 0.5/,
    accepted: { traffic: { ...haproxy(), stages: [{ percent: 0.5, for: '1m' }, ...STAGES] } },
  },
  {
    rule: 'haproxy-servers',
    refused: { traffic: haproxy({ blue: 'db', green: 'db' }) },
    place: 'traffic.haproxy.green',
    message: /both the server "db"/,
    instead: /leads to green/,
    accepted: { traffic: haproxy({ blue: 'db', green: 'db2' }) },
  },
  {
    rule: 'haproxy-twice',
    refused: { traffic: haproxy({ instances: ['lb_1', 'LB-1'] }) },
    place: 'traffic.haproxy.instances[1]',
    message: /"LB-1" is that of traffic.haproxy.instances\[0\], too/,
    instead: /haproxy_2/,
    accepted: { traffic: haproxy({ instances: ['lb_1', 'lb_2'] }) },
  },
  {
    rule: 'haproxy-gates',
    severity: 'warning',
    refused: { traffic: { ...haproxy(), gates: [{ metric: 'errorRate', max: 0.001 }] } },
    place: 'traffic.gates',
    message: /errorRate: only applications with the router/,
    instead: /"lag"/,
    accepted: { traffic: haproxy() },
  },
  {
    rule: 'every-gate-dry-run',
    refused: { traffic: { gates: [{ metric: 'lag', max: '1s', dryRun: true }] } },
    place: 'traffic.gates',
    message: /every gate has "dryRun"/,
    instead: /leave "dryRun" out/,
    accepted: {
      traffic: {
        gates: [
          { metric: 'lag', max: '1s', dryRun: true },
          { metric: 'errorRate', max: 0.001 },
        ],
      },
    },
  },
  {
    rule: 'stage-without-gate',
    severity: 'warning',
    refused: {
      traffic: {
        gates: [
          { metric: 'mismatchRate', max: 0.001 },
          { metric: 'lag', max: '1s', dryRun: true },
        ],
      },
    },
    place: 'traffic.stages[3]',
    message: /mismatchRate is not asked in a stage of 100 %/,
    instead: /add a gate that asks green itself/,
    accepted: {
      traffic: {
        gates: [
          { metric: 'mismatchRate', max: 0.001 },
          { metric: 'lag', max: '1s' },
        ],
      },
    },
  },
  {
    rule: 'lag-not-watched',
    severity: 'warning',
    refused: {
      traffic: {
        gates: [
          { metric: 'errorRate', max: 0.001 },
          { metric: 'lag', max: '1s', dryRun: true },
        ],
      },
    },
    place: 'traffic.gates',
    message: /errorRate: no gate fails when green falls behind blue/,
    instead: /add \{ "metric": "lag", "max": "1s" \}/,
    accepted: {
      traffic: {
        gates: [
          { metric: 'errorRate', max: 0.001 },
          { metric: 'fallbackRate', max: 0.01 },
        ],
      },
    },
  },
  {
    rule: 'gates-of-one-name',
    refused: { traffic: { gates: [prometheus('checkout'), prometheus('search'), prometheus('checkout')] } },
    place: 'traffic.gates[2].name',
    message: /traffic\.gates\[0\]\.name is "checkout", too/,
    instead: /a name of its own/,
    accepted: { traffic: { gates: [prometheus('checkout'), prometheus('search')] } },
  },
  {
    rule: 'limits-that-nothing-keeps',
    refused: { traffic: { gates: [prometheus('load', { min: 2, max: 1 })] } },
    place: 'traffic.gates[0].min',
    message: /at least 2 and at most 1 is allowed/,
    instead: /write "min": 1, "max": 2/,
    accepted: { traffic: { gates: [prometheus('load', { min: 1, max: 1 })] } },
  },
  {
    rule: 'counts-of-fixed-range',
    refused: asking(
      'sum(increase(http_total{side="{{side}}", code=~"[45].."}[5m])) or vector(0)',
      'sum(increase(http_total{side="{{side}}"}[{{ window }}]))',
    ),
    place: 'traffic.gates[0].query',
    message: /increase counts over \[5m\], which slides/,
    instead: /write increase\(...\[\{\{window\}\}\]\)/,
    accepted: asking(
      'sum(increase(http_total{side="{{side}}", code=~"[45].."}[{{window}}])) or vector(0)',
      'sum(increase(http_total{side="{{side}}"}[{{window}}]))',
    ),
  },
  {
    rule: 'counts-recorded-over-range',
    severity: 'warning',
    refused: asking('sum(job:errors:increase5m{side="{{side}}"})', 'sum(job:requests:increase5m{side="{{side}}"})'),
    place: 'traffic.gates[0].requests',
    message: /job:requests:increase5m is no counter/,
    instead: /increase\(...\[\{\{window\}\}\]\)/,
    accepted: asking('sum(job:errors:total{of="job:errors:rate5m"})', 'sum(job:requests:total)'),
  },
  {
    rule: 'range-hides-the-end',
    severity: 'warning',
    refused: asking('max_over_time(sum(rate(failed[1m]))[15m:30s])'),
    place: 'traffic.gates[0].query',
    message: /\[15m:30s\] looks back further than 2 min over a query/,
    instead: /rate\(...\[15m\]\)/,
    accepted: asking('sum(rate(failed[15m]))'),
  },
];
