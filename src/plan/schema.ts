import { z } from 'zod';
import { DURATION_PATTERN, parseDuration } from './duration.js';
import { NOTICE_EVENTS } from './notice-events.js';
import { WEBHOOK_SUBJECTS } from './webhook-events.js';
import { VERSION_PATTERN } from './version.js';
import { windows } from './window-schema.js';

/*
 * The plan: the input of the workflow. Plain JSON without a secret: databases are given by the names of connections,
 * which the worker resolves. Only `name`, `blue` and `green` are required.
 */

/** No part of a run lasts longer. */
const LONGEST = '365d';

const duration = z
  .string()
  .regex(DURATION_PATTERN, 'write a number and a unit, such as 500ms, 5s, 15m, 48h or 2d')
  .describe('A duration: a whole number and one of ms, s, m, h, d');

/** A duration within bounds: none without an end, and none that a clock or a timer can't say. */
function between(least: string, most: string) {
  const [leastMs, mostMs] = [parseDuration(least), parseDuration(most)];
  return duration.refine((text) => isBetween(text, leastMs, mostMs), `write a time from ${least} to ${most}`);
}

function isBetween(text: string, leastMs: number, mostMs: number): boolean {
  // What is no duration at all has been said already.
  if (!DURATION_PATTERN.test(text)) return true;
  const ms = parseDuration(text);
  return ms >= leastMs && ms <= mostMs;
}

const identifier = z
  .string()
  .min(1)
  .refine(
    (text) => new TextEncoder().encode(text).length <= 63,
    'PostgreSQL cuts identifiers at 63 bytes: write a shorter one',
  )
  .meta({ maxLength: 63 });

const table = z
  .string()
  .min(1)
  .describe('A table: orders, shop.orders or shop."Order Items" (without a schema: public)');

const expression = z.string().min(1).describe('A SQL expression over the columns of the row');

/** What a connection may be called. */
export const CONNECTION_PATTERN = /^[A-Za-z][A-Za-z0-9_-]*$/;

const connection = z
  .string()
  .regex(CONNECTION_PATTERN, 'a connection is a name, not an address: letters, digits, _ and -')
  .describe('The name of a connection; the worker reads it from VERDIGRIS_CONNECTION_<NAME>');

const addColumn = z.strictObject({
  table,
  column: identifier,
  type: z.string().min(1).describe('The type as in CREATE TABLE'),
  up: expression.optional().describe('Computes the column from the other columns of the row'),
  down: expression.optional().describe('Assigns another column from this one: "<column> = <expression>"'),
  default: expression.optional().describe('The DEFAULT of the column; must not be volatile'),
  notNull: z.boolean().default(false).describe('Set NOT NULL after the backfill, by a validated check'),
});

const changeType = z.strictObject({
  table,
  column: identifier.describe('The column as it is on blue; it stays'),
  newColumn: identifier.describe('The column of the new type, made beside the old one'),
  type: z.string().min(1),
  up: expression.describe('Computes the new column from the old one'),
  down: expression.describe('Computes the old column from the new one'),
  notNull: z.boolean().default(false),
});

const createIndex = z.strictObject({
  table,
  name: identifier,
  method: z.enum(['btree', 'hash', 'gin', 'gist', 'spgist', 'brin']).default('btree'),
  columns: z
    .array(z.string().min(1))
    .min(1)
    .describe('Columns, each with an optional operator class and order, or expressions in parentheses'),
  unique: z.boolean().default(false),
  include: z.array(identifier).default([]),
  where: expression.optional().describe('The predicate of a partial index'),
});

const referentialAction = z.enum(['NO ACTION', 'RESTRICT', 'CASCADE', 'SET NULL', 'SET DEFAULT']);

const foreignKey = z.strictObject({
  columns: z.array(identifier).min(1),
  references: z.strictObject({ table, columns: z.array(identifier).min(1) }),
  onDelete: referentialAction.default('NO ACTION'),
  onUpdate: referentialAction.default('NO ACTION'),
});

const keyColumns = z.array(identifier).min(1);

const addConstraint = z
  .strictObject({
    table,
    name: identifier,
    check: expression.optional(),
    foreignKey: foreignKey.optional(),
    unique: keyColumns.optional().describe('The columns of a unique constraint: its index is built without a lock'),
    primaryKey: keyColumns.optional().describe('The columns of a primary key: its index is built without a lock'),
  })
  .refine(
    (c) => [c.check, c.foreignKey, c.unique, c.primaryKey].filter((kind) => kind !== undefined).length === 1,
    'give one of "check", "foreignKey", "unique" and "primaryKey"',
  )
  .meta({ oneOf: ['check', 'foreignKey', 'unique', 'primaryKey'].map((kind) => ({ required: [kind] })) });

const setNotNull = z.strictObject({
  table,
  column: identifier,
  up: expression.optional().describe('The value for rows that have NULL'),
});

const sql = z.strictObject({
  name: z.string().min(1).max(100),
  up: z.string().min(1),
  down: z.string().min(1).describe('What undoes "up" when the run is rolled back'),
});

const migration = z.union([
  z.strictObject({ addColumn }),
  z.strictObject({ changeType }),
  z.strictObject({ createIndex }),
  z.strictObject({ addConstraint }),
  z.strictObject({ setNotNull }),
  z.strictObject({ sql }),
]);

const stage = z.strictObject({
  percent: z.number().min(0).max(100).describe('Share of the users whose reads go to green, in percent'),
  for: between('0s', LONGEST).describe('How long the stage lasts at least'),
});

const minRequests = z.int().min(1).optional().describe('Wait for at least so many requests on green');

const onFail = z.enum(['rollback', 'pause']);

/** What every gate can say beside its question. */
const anyGate = {
  onFail: onFail.optional().describe('What a failure of this gate does; default: as traffic.onFail'),
  dryRun: z.boolean().optional().describe('true: the gate decides and is shown, but neither holds nor ends anything'),
};

const endpoint = z
  .string()
  .min(1)
  .max(200)
  .optional()
  .describe('Only requests of this endpoint, as the router names it');

const share = z.number().gt(0).lt(1);

const size = z.string().regex(/^[1-9][0-9]*(MB|GB|TB)$/, 'write a size such as 500MB, 20GB or 1TB');

const query = z
  .string()
  .min(1)
  .max(4_000)
  .refine(
    (text) => [...text.matchAll(/\{\{(.*?)\}\}/g)].every(([, name]) => PLACEHOLDERS.includes(name?.trim() ?? '')),
    'write {{migration}}, {{stage}}, {{side}} or {{window}} between double braces',
  );

/** What a query may hold between double braces. */
const PLACEHOLDERS: readonly string[] = ['migration', 'stage', 'side', 'window'];

const prometheusGate = z
  .strictObject({
    metric: z.literal('prometheus'),
    name: z
      .string()
      .min(1)
      .max(60)
      .regex(/^[^\r\n]+$/, 'write one line')
      .describe('What the gate is called in evidence'),
    connection: connection.describe(
      'The name of the connection to Prometheus; the worker reads an http:// or https:// address from VERDIGRIS_CONNECTION_<NAME>',
    ),
    query: query.describe(
      'PromQL with one number as its answer; may use {{migration}}, {{stage}}, {{side}} and {{window}}',
    ),
    requests: query
      .optional()
      .describe('PromQL: of how many requests "query" counts some; "max" is then the largest share of them'),
    max: z.number().optional().describe('Largest value, or share, on green'),
    min: z.number().optional().describe('Smallest value on green'),
    maxIncrease: z.number().min(0).optional().describe('Limit of green above blue: "query" is asked for both sides'),
    minRequests,
    ...anyGate,
  })
  .refine(
    (g) => g.max !== undefined || g.min !== undefined || g.maxIncrease !== undefined,
    'give "max", "min" or "maxIncrease"',
  )
  .refine(
    (g) =>
      g.requests === undefined ||
      (g.max !== undefined && g.max > 0 && g.max < 1 && g.min === undefined && g.maxIncrease === undefined),
    'with "requests", "max" is a share between 0 and 1 and stands alone',
  )
  .refine((g) => g.requests !== undefined || g.minRequests === undefined, '"minRequests" needs "requests"')
  .refine(
    (g) => g.maxIncrease === undefined || /\{\{\s*side\s*\}\}/.test(g.query),
    '"maxIncrease" needs {{side}} in the query: it is asked for green and for blue',
  )
  .meta({ anyOf: ['max', 'min', 'maxIncrease'].map((limit) => ({ required: [limit] })) });

const gate = z.union([
  z.strictObject({
    metric: z.literal('errorRate'),
    max: share.describe('Largest share of failed requests on green: 0.001 is 0.1 %'),
    endpoint,
    minRequests,
    ...anyGate,
  }),
  z
    .strictObject({
      metric: z.enum(['p50', 'p95', 'p99']),
      max: between('1ms', '1h').optional().describe('Absolute limit on green'),
      maxIncrease: between('1ms', '1h').optional().describe('Limit of green above blue over the same window'),
      minRequests,
      ...anyGate,
    })
    .refine((g) => g.max !== undefined || g.maxIncrease !== undefined, 'give "max" or "maxIncrease"')
    .meta({ anyOf: [{ required: ['max'] }, { required: ['maxIncrease'] }] }),
  z.strictObject({
    metric: z.literal('lag'),
    max: between('100ms', '1d').describe('How far green may be behind blue'),
    ...anyGate,
  }),
  z.strictObject({
    metric: z.literal('fallbackRate'),
    max: z.number().gt(0).lte(1).describe('Largest share of reads of green users that had to be read from blue'),
    minRequests,
    ...anyGate,
  }),
  z.strictObject({
    metric: z.literal('mismatchRate'),
    max: share.describe('Largest share of mirrored reads that green answers otherwise than blue'),
    minRequests,
    ...anyGate,
  }),
  z.strictObject({
    metric: z.literal('blockingLocks'),
    max: z.int().min(0).default(0).describe('Most sessions that may wait, on either side'),
    longerThan: between('100ms', '1d').default('5s').describe('A session counts when it has waited so long for a lock'),
    ...anyGate,
  }),
  z.strictObject({
    metric: z.literal('longTransactions'),
    max: between('1s', '30d').describe('How old the oldest open transaction of a client may be, on either side'),
    ...anyGate,
  }),
  z.strictObject({
    metric: z.literal('conflicts'),
    max: z.int().min(0).default(0).describe('Most conflicts and errors of replication since the stage opened'),
    ...anyGate,
  }),
  z.strictObject({
    metric: z.literal('retainedWal'),
    max: size.describe('Most WAL that blue may retain for green'),
    ...anyGate,
  }),
  z.strictObject({
    metric: z.literal('transactionVolume'),
    maxDrop: share.describe('By which share the transactions a second of both sides may fall below those before'),
    ...anyGate,
  }),
  z.strictObject({
    metric: z.literal('rowDifferences'),
    max: z
      .literal(0)
      .default(0)
      .describe('Rows that differ between blue and green, among those written since the last comparison'),
    ...anyGate,
  }),
  prometheusGate,
]);

const approvalPoint = z.union([z.enum(['traffic', 'promote', 'retire']), z.number().min(0).max(100)]);

const entry = z
  .string()
  .min(1)
  .max(63)
  .regex(/^[^\r\n"]+$/, 'write the name without quotes');

const pgbouncer = z.strictObject({
  databases: z.array(entry).min(1).describe('Entries of [databases] that applications connect to'),
  blue: entry
    .optional()
    .describe(
      'The entry that says where blue is, as PgBouncer reaches it; default: the first of databases and "_blue"',
    ),
  green: entry.optional().describe('The same for green; default: the first of databases and "_green"'),
  instances: z
    .array(
      z.strictObject({
        connection: connection.describe(
          'The name of the connection to the admin console of one process; the worker reads it from VERDIGRIS_CONNECTION_<NAME>',
        ),
        file: z
          .string()
          .regex(/^\/[^\0]+$/, 'write the whole path, beginning with /')
          .describe('The file that its configuration includes, by the path that the worker sees'),
      }),
    )
    .min(1)
    .max(64)
    .describe('Every PgBouncer that applications go through'),
  pauseTimeout: between('10ms', '10m')
    .default('1s')
    .describe('How long running transactions may take to end before a pause, in which all clients wait, is given up'),
});

const haproxyName = z
  .string()
  .min(1)
  .max(100)
  .regex(/^[A-Za-z0-9_.:-]+$/, 'write the name as it stands in the configuration: letters, digits, _ . : and -');

const haproxy = z.strictObject({
  backend: haproxyName.describe('The backend (or "listen") that shares the connections of a read-only pool'),
  blue: haproxyName.default('blue').describe('The server in it that leads to blue'),
  green: haproxyName.default('green').describe('The server in it that leads to green'),
  instances: z
    .array(connection)
    .min(1)
    .max(64)
    .describe(
      'Names of connections to the runtime API of every HAProxy that applications go through; ' +
        'the worker reads unix:/path or tcp://host:port from VERDIGRIS_CONNECTION_<NAME>',
    ),
  openConnections: z
    .enum(['cut', 'leave'])
    .default('cut')
    .describe('What happens to open connections to green when reads go back to blue: weights move only new ones'),
});

const notify = z.strictObject({
  connection: connection.describe(
    'The name of the connection to the webhook; the worker reads its URL from VERDIGRIS_CONNECTION_<NAME>, and what it signs with from VERDIGRIS_CONNECTION_<NAME>_SECRET',
  ),
  form: z
    .enum(['json', 'slack'])
    .default('json')
    .describe('What is sent: the whole event as JSON, or a line for Slack'),
  events: z.array(z.enum(NOTICE_EVENTS)).min(1).optional().describe('Which events are sent; by default all'),
});

const flagd = z.strictObject({
  path: z
    .string()
    .regex(/^\/[^\0]+$/, 'write the whole path, beginning with /')
    .describe('The file that is written for flagd, by the path that the worker sees; nothing else may be in it'),
});

const trafficWebhook = z.strictObject({
  connection: connection.describe(
    'The name of the connection to the webhook; the worker reads its URL from VERDIGRIS_CONNECTION_<NAME>, and what it signs with from VERDIGRIS_CONNECTION_<NAME>_SECRET',
  ),
  on: z
    .array(z.enum(WEBHOOK_SUBJECTS))
    .min(1)
    .refine(
      (on) => on.includes('rollback'),
      'write "rollback" too: whoever has led traffic to green must hear of the way back',
    )
    .meta({ contains: { const: 'rollback' } })
    .default([...WEBHOOK_SUBJECTS])
    .describe('What it is called for'),
  timeout: between('100ms', '10m').default('10s').describe('How long one request may take, from 100ms to 10m'),
  deadline: between('1s', '30d')
    .default('10m')
    .describe('How long the run waits until what it asks for is effective; one that is told goes on to be told'),
  onRefuse: z
    .enum(['pause', 'rollback'])
    .default('pause')
    .describe('What a refusal does: "pause" holds a stage, and sends a promotion back to its approval'),
});

const instances = z
  .strictObject({
    minVersion: z
      .string()
      .max(100)
      .regex(VERSION_PATTERN, 'write a version such as 2.1.0: numbers with dots between them')
      .optional()
      .describe(
        'The least version of the application, in the order of Semantic Versioning: 1.10 after 1.9, 2.1.0-rc.1 before 2.1.0',
      ),
    atLeast: z.int().min(1).max(100_000).optional().describe('How many instances must report'),
  })
  .refine((i) => i.minVersion !== undefined || i.atLeast !== undefined, 'give "minVersion" or "atLeast"')
  .meta({ anyOf: [{ required: ['minVersion'] }, { required: ['atLeast'] }] });

/** The gates of a plan that names none. */
export const DEFAULT_GATES: readonly z.output<typeof gate>[] = [
  { metric: 'errorRate', max: 0.001 },
  { metric: 'p99', maxIncrease: '50ms' },
  { metric: 'lag', max: '1s' },
];

const traffic = z.strictObject({
  flag: z.string().min(1).default('use-green-db').describe('Key of the cohorts: the same users stay in a larger stage'),
  stages: z.array(stage).default([
    { percent: 1, for: '15m' },
    { percent: 10, for: '15m' },
    { percent: 50, for: '15m' },
    { percent: 100, for: '15m' },
  ]),
  gates: z
    .array(gate)
    .min(1, 'a shift of traffic needs at least one gate')
    .default([...DEFAULT_GATES]),
  approval: z
    .strictObject({
      before: z
        .array(approvalPoint)
        .default(['promote'])
        .describe('What waits for an approval: "traffic", a stage by its percent, "promote", "retire"'),
      by: z
        .array(z.string().trim().min(1).max(100))
        .min(1)
        .optional()
        .describe('Who may approve; by default anybody who can send messages to the run'),
      quorum: z.int().min(1).max(20).default(1).describe('How many different people must approve'),
      validFor: between('1s', LONGEST)
        .default('24h')
        .describe('An approval that is older than this does not count any more'),
      remindAfter: between('1s', LONGEST)
        .default('4h')
        .describe(
          'Approvers are told again when nobody has answered for so long, then after twice the time, and so on',
        ),
    })
    .prefault({}),
  onFail: onFail.default('rollback').describe('What a failed gate does, where the gate itself does not say'),
  scrape: z
    .array(connection)
    .min(1)
    .max(64)
    .optional()
    .describe(
      'Names of connections to the metrics pages of routers, for those that write no counters to the database; ' +
        'the worker reads http:// or https:// addresses from VERDIGRIS_CONNECTION_<NAME>',
    ),
  maxStageDuration: between('0s', LONGEST)
    .default('4h')
    .describe('A stage that has no sufficient evidence so long after its "for" pauses the run'),
  instances: instances
    .optional()
    .describe('What must be deployed before a stage: instances of the application with the code for both schemas'),
  flagd: flagd.optional().describe('For applications that ask flagd: its file is kept at the percentage in force'),
  haproxy: haproxy
    .optional()
    .describe('For read-only pools behind HAProxy: a stage is a share of their new connections'),
  webhooks: z
    .array(trafficWebhook)
    .min(1)
    .max(8)
    .refine(
      (all) => new Set(all.map(({ connection: name }) => name)).size === all.length,
      'name each webhook once: "on" has all that it is called for',
    )
    .optional()
    .describe(
      'Webhooks behind which traffic moves, such as DNS or a load balancer: they are asked before, and told after',
    ),
  pgbouncer: pgbouncer.optional().describe('For applications behind PgBouncer: they follow the promotion as a whole'),
});

/** The schema of a plan. Unknown fields are errors; every other field than name, blue and green has a default. */
export const planSchema = z.strictObject({
  $schema: z.string().optional().describe('For editors; ignored'),
  version: z.literal(1).default(1).describe('Version of the form of the plan'),
  name: z
    .string()
    .regex(/^[a-z][a-z0-9_-]{0,39}$/, 'up to 40 lower-case letters, digits, _ and -, a letter first')
    .describe('Name of the migration; the workflow id is verdigris/<name>'),
  blue: z.strictObject({ connection }),
  green: z.strictObject({
    connection,
    afterRollback: z
      .enum(['keep', 'drop'])
      .default('keep')
      .describe('Green after a rollback from a promoted state: its rows written there are kept or dropped'),
  }),
  tables: z
    .strictObject({
      include: z.array(z.string().min(1)).min(1).default(['*.*']).describe('schema.table patterns; * is a wildcard'),
      exclude: z.array(z.string().min(1)).default([]),
    })
    .prefault({}),
  bootstrap: z
    .strictObject({
      method: z
        .enum(['copy', 'standby', 'tablesync'])
        .default('copy')
        .describe(
          'How green gets its first rows: "copy" from an exported snapshot in parallel, "standby" from a physical standby ' +
            'that becomes green, "tablesync" by PostgreSQL itself',
        ),
      parallel: z.int().min(1).max(64).default(4).describe('How many pieces are copied at once (copy)'),
      pace: z
        .enum(['auto', 'full'])
        .default('auto')
        .describe('"auto" keeps the copy out of the way while others work on blue; "full" does not look (copy)'),
      maxRate: z
        .string()
        .regex(/^[1-9][0-9]*(MB|GB)$/, 'write a size such as 50MB or 1GB')
        .optional()
        .describe('Most bytes a second that all copies together read from blue (copy)'),
    })
    .prefault({}),
  replicate: z
    .strictObject({
      streams: z
        .int()
        .min(1)
        .max(16)
        .default(1)
        .describe('Over how many subscriptions the tables are spread; tables bound by foreign keys stay together'),
      maxLag: between('100ms', '1d').default('1s').describe('The lag below which replication counts as caught up'),
      holdFor: between('0s', '1d').default('5s').describe('How long the lag must stay there'),
      maxRetainedWal: z
        .string()
        .regex(/^[1-9][0-9]*(MB|GB|TB)$/, 'write a size such as 500MB, 20GB or 1TB')
        .default('50GB')
        .describe('Retained WAL above which the run is given up, so that the disk never fills'),
    })
    .prefault({}),
  backfill: z
    .strictObject({
      batch: between('1ms', '10m').default('250ms').describe('Time that one batch should take; its size follows'),
      maxLag: between('100ms', '1d').default('5s').describe('The backfill waits while green is further behind'),
      parallel: z.int().min(1).max(64).default(2).describe('How many ranges, of one table or of several, run at once'),
      besideOthers: z
        .strictObject({
          batch: between('1ms', '10m')
            .default('10ms')
            .describe('Time that one batch should take then, at most that of batch'),
          parallel: z.int().min(1).max(64).default(1).describe('How many ranges run at once then, at most parallel'),
        })
        .prefault({})
        .describe('The pace while sessions of others are at work in the database'),
      pauseAbove: z
        .strictObject({
          transactionsPerSecond: z.int().min(1).optional().describe("On either side, the backfill's own left out"),
          activeSessions: z.int().min(1).optional().describe('Sessions of others that are at work, on either side'),
        })
        .prefault({})
        .describe('The backfill waits while a side is busier than this'),
    })
    .prefault({}),
  indexes: z
    .strictObject({
      // Its default is filled in below: whether the plan names it decides what is the other one's.
      parallel: z.int().min(1).max(64).optional().describe('How many indexes are built at once').meta({ default: 2 }),
      parallelOffline: z
        .int()
        .min(1)
        .max(64)
        .optional()
        .describe('How many while nobody uses green; by default parallel where the plan names it, else 4'),
      maxBlocking: between('100ms', '1h')
        .default('2s')
        .describe('A build that another session has waited for so long is cancelled and tried again'),
      memory: z
        .string()
        .regex(/^[1-9][0-9]*(MB|GB)$/, 'write a size such as 512MB or 2GB')
        .optional()
        .describe("maintenance_work_mem of each build; by default a share of green's shared_buffers"),
    })
    // While nobody uses green's tables there is nobody to spare: four builds keep its processors busy, when one of them
    // merges or writes what it has sorted. A number that somebody has named is a limit at all times.
    .transform((indexes) => ({
      ...indexes,
      parallel: indexes.parallel ?? 2,
      parallelOffline: indexes.parallelOffline ?? indexes.parallel ?? 4,
    }))
    .prefault({}),
  verify: z
    .strictObject({
      parallel: z.int().min(1).max(64).default(2).describe('How many ranges, of one table or of several, run at once'),
      rest: z
        .number()
        .min(0)
        .max(0.99)
        .default(0.1)
        .describe('Share of the time in which the verification rests, so that it stays out of the way'),
    })
    .prefault({}),
  migrations: z.array(migration).default([]),
  traffic: traffic.prefault({}),
  promote: z
    .strictObject({
      maxHold: between('50ms', '10m').default('2s').describe('Longest time that writes may be held in one try'),
      attempts: z.int().min(1).max(100).default(5),
      sequenceGap: z.int().min(0).default(1000).describe('How many values sequences skip on the new side'),
      comparedWithin: between('1s', LONGEST)
        .default('10m')
        .describe(
          'How old the comparison may be when writes move: else rows that have changed since are compared again first',
        ),
      refuseWith: z
        .enum(['25006', '57014'])
        .default('25006')
        .describe(
          'SQLSTATE of a write that a closed side refuses: 25006 (read-only transaction), or 57014 (cancelled), ' +
            'which a function with EXCEPTION WHEN OTHERS does not swallow',
        ),
    })
    .prefault({}),
  windows: windows.optional().describe('When the steps of a run may begin; a rollback never waits'),
  notify: z.array(notify).max(8).optional().describe('Webhooks that are told what happens'),
  onFailure: z
    .enum(['auto', 'rollback', 'hold'])
    .default('auto')
    .describe(
      'What a step that fails for good does: roll the run back, or hold it until somebody resumes or rolls back; ' +
        '"auto" holds when a row of the application is in the way, which can be corrected, and rolls back otherwise',
    ),
  standby: z
    .strictObject({
      for: between('1s', LONGEST).default('48h').describe('How long blue is kept current after the promotion'),
      verifyEvery: between('1s', LONGEST).default('1h').describe('How often blue is compared with green in that time'),
    })
    .prefault({}),
});

/** A plan as it is written: only name, blue and green are required. */
export type PlanInput = z.input<typeof planSchema>;
/** A plan with every default filled in. */
export type Plan = z.output<typeof planSchema>;

export type Migration = Plan['migrations'][number];
export type AddColumn = z.output<typeof addColumn>;
export type ChangeType = z.output<typeof changeType>;
export type CreateIndex = z.output<typeof createIndex>;
export type AddConstraint = z.output<typeof addConstraint>;
export type SetNotNull = z.output<typeof setNotNull>;
export type SqlStep = z.output<typeof sql>;
export type Stage = Plan['traffic']['stages'][number];
export type Gate = Plan['traffic']['gates'][number];
export type Windows = NonNullable<Plan['windows']>;
export type TrafficWebhook = NonNullable<Plan['traffic']['webhooks']>[number];
export type Notify = NonNullable<Plan['notify']>[number];
export type ApprovalPoint = Plan['traffic']['approval']['before'][number];
