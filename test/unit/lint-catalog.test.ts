import { describe, expect, it } from 'vitest';
import { lintAgainstCatalog, lintConnections } from '../../src/plan/lint.js';
import { CATALOG_RULES } from '../../src/plan/rules/index.js';
import type { PlanInput } from '../../src/plan/schema.js';
import { planSchema } from '../../src/plan/schema.js';
import type { CatalogSummary } from '../../src/postgres/catalog-summary.js';
import { planWith } from './lint-plan.js';

type CatalogTable = CatalogSummary['tables'][number];
type Column = CatalogTable['columns'][number];

const column = (name: string, type: string, more: Partial<Column> = {}): Column => ({
  name,
  type,
  notNull: false,
  generated: false,
  identity: '',
  hasDefault: false,
  ...more,
});

const orders: CatalogTable = {
  schema: 'public',
  name: 'orders',
  columns: [
    column('id', 'bigint', { notNull: true, identity: 'd' }),
    column('total', 'integer', { notNull: true }),
    column('big', 'bigint'),
    column('price', 'numeric(10,2)'),
    column('note', 'character varying(50)'),
    column('at', 'timestamp with time zone'),
    column('twice', 'integer', { generated: true }),
    column('Odd Name', 'text'),
  ],
  key: ['id'],
  replicaIdentity: 'd',
  partitioned: false,
};
const items: CatalogTable = { ...orders, schema: 'shop', name: 'Order Items' };
const parts: CatalogTable = { ...orders, name: 'parts', key: ['id'], replicaIdentity: 'i', partitioned: true };
const dated: CatalogTable = { ...parts, name: 'dated', partitionKey: ['at', 'total'] };
const whole: CatalogTable = { ...orders, name: 'whole', replicaIdentity: 'f' };
const byIndex: CatalogTable = { ...orders, name: 'by_index', replicaIdentity: 'i' };
const log: CatalogTable = { ...orders, name: 'log', key: null };

const CONNECTIONS = new Set(['orders_blue', 'orders_green']);

async function lint(parts: Partial<PlanInput>, tables: readonly CatalogTable[] = [orders, items]) {
  return lintAgainstCatalog(planSchema.parse(planWith(parts)), { tables }, CONNECTIONS);
}

type Migration = NonNullable<PlanInput['migrations']>[number];
const add = (more: object = {}): Migration => ({ addColumn: { table: 'orders', column: 'x', type: 'text', ...more } });
const change = (from: string, type: string): Migration => ({
  changeType: { table: 'orders', column: from, newColumn: 'y', type, up: from, down: 'y' },
});

const dropIndex = (name: string): Migration => ({
  sql: { name: `drop ${name}`, up: `DROP INDEX CONCURRENTLY ${name}`, down: 'SELECT 1' },
});
const key = (table: string, more: object): Migration => ({ addConstraint: { table, name: 'k', ...more } });

const CASES: readonly {
  rule: string;
  severity?: 'warning';
  refused: Partial<PlanInput>;
  tables?: readonly CatalogTable[];
  place: string;
  message: RegExp;
  instead: RegExp;
  accepted: Partial<PlanInput>;
}[] = [
  {
    rule: 'unknown-connection',
    refused: { green: { connection: 'orders_gren' } },
    place: 'green.connection',
    message: /no connection "orders_gren"/,
    instead: /write "orders_green", or set VERDIGRIS_CONNECTION_ORDERS_GREN/,
    accepted: { green: { connection: 'Orders-Green' } },
  },
  {
    rule: 'unknown-table',
    refused: { migrations: [add({ table: 'ordrs' })] },
    place: 'migrations[0].addColumn.table',
    message: /no table public\.ordrs on blue/,
    instead: /write "public\.orders"/,
    accepted: { migrations: [add({ table: 'public.orders' })] },
  },
  {
    rule: 'unknown-table',
    refused: { migrations: [add({ table: 'Order Items' })] },
    place: 'migrations[0].addColumn.table',
    message: /no table/,
    instead: /shop\.\\"Order Items\\"/,
    accepted: { migrations: [add({ table: 'shop."Order Items"' })] },
  },
  {
    rule: 'unknown-table',
    refused: { tables: { include: ['public.*', 'sales.*'] } },
    place: 'tables.include[1]',
    message: /"sales\.\*"/,
    instead: /the tables are|write/,
    accepted: { tables: { include: ['public.*', 'shop.*'] } },
  },
  {
    rule: 'unknown-table',
    refused: {
      migrations: [
        {
          addConstraint: {
            table: 'orders',
            name: 'c',
            foreignKey: { columns: ['big'], references: { table: 'users', columns: ['id'] } },
          },
        },
      ],
    },
    place: 'migrations[0].addConstraint.foreignKey.references.table',
    message: /no table public\.users/,
    instead: /the tables are public\.orders/,
    accepted: {
      migrations: [
        {
          sql: {
            name: 'users',
            up: 'CREATE TABLE public.users (id bigint PRIMARY KEY)',
            down: 'DROP TABLE public.users',
          },
        },
        {
          addConstraint: {
            table: 'orders',
            name: 'c',
            foreignKey: { columns: ['big'], references: { table: 'users', columns: ['id'] } },
          },
        },
      ],
    },
  },
  {
    rule: 'unknown-column',
    refused: { migrations: [add({ up: 'totl::text' })] },
    place: 'migrations[0].addColumn.up',
    message: /public\.orders has no column "totl"/,
    instead: /write total/,
    accepted: { migrations: [add({ up: 'total::text' })] },
  },
  {
    rule: 'unknown-column',
    refused: { migrations: [{ createIndex: { table: 'orders', name: 'i', columns: ['total'], include: ['y'] } }] },
    place: 'migrations[0].createIndex.include[0]',
    message: /no column "y"/,
    instead: /the columns are id, total/,
    accepted: {
      migrations: [add(), { createIndex: { table: 'orders', name: 'i', columns: ['total'], include: ['x'] } }],
    },
  },
  {
    rule: 'unknown-column',
    refused: { migrations: [add({ up: "to_jsonb(orders) ->> 'id'" })] },
    place: 'migrations[0].addColumn.up',
    message: /"orders" is the whole row of public\.orders/,
    instead: /name the columns that "up" needs/,
    accepted: { migrations: [key('orders', { check: 'right_total(orders)' })] },
  },
  {
    rule: 'unknown-column',
    refused: { migrations: [{ createIndex: { table: 'orders', name: 'i', columns: ['orders'] } }] },
    place: 'migrations[0].createIndex.columns[0]',
    message: /public\.orders has no column "orders"/,
    instead: /the columns are id, total/,
    accepted: { migrations: [{ createIndex: { table: 'orders', name: 'i', columns: ['(right_total(orders))'] } }] },
  },
  {
    rule: 'column-exists',
    refused: { migrations: [add({ column: 'note' })] },
    place: 'migrations[0].addColumn.column',
    message: /has a column "note" already/,
    instead: /another name/,
    accepted: { migrations: [add()] },
  },
  {
    rule: 'table-without-key',
    refused: {},
    tables: [orders, log],
    place: 'tables',
    message: /public\.log has no primary key/,
    instead: /ALTER TABLE public\.log ADD PRIMARY KEY/,
    accepted: { tables: { include: ['*.*'], exclude: ['public.log'] } },
  },
  {
    rule: 'second-primary-key',
    refused: { migrations: [key('orders', { primaryKey: ['total'] })] },
    tables: [orders, byIndex],
    place: 'migrations[0].addConstraint.primaryKey',
    message: /public\.orders has a primary key already, \(id\)/,
    instead: /"unique"/,
    accepted: { migrations: [key('orders', { unique: ['total'] }), key('by_index', { primaryKey: ['total'] })] },
  },
  {
    rule: 'second-primary-key',
    refused: { migrations: [key('whole', { primaryKey: ['total'] })] },
    tables: [whole],
    place: 'migrations[0].addConstraint.primaryKey',
    message: /public\.whole has a primary key already, \(id\)/,
    instead: /"unique"/,
    accepted: { migrations: [key('whole', { unique: ['total'] })] },
  },
  {
    rule: 'partition-key',
    severity: 'warning',
    refused: { migrations: [add({ table: 'dated', up: 'at::text', down: 'at = x::timestamptz' })] },
    tables: [dated],
    place: 'migrations[0].addColumn.down',
    message: /"down" fills "at", by which public\.dated is partitioned: after the promotion an INSERT/,
    instead: /give "at" as well in each INSERT/,
    accepted: {
      migrations: [add({ table: 'dated', up: 'note', down: 'note = x' }), add({ table: 'dated', column: 'z' })],
    },
  },
  {
    rule: 'key-on-partitioned-table',
    refused: { migrations: [key('parts', { unique: ['id'] })] },
    tables: [orders, parts],
    place: 'migrations[0].addConstraint.unique',
    message: /public\.parts is partitioned/,
    instead: /"columns": \["id"\], "unique": true/,
    accepted: { migrations: [key('orders', { unique: ['id'] })] },
  },
  {
    rule: 'primary-key-nullable',
    refused: { migrations: [key('by_index', { primaryKey: ['id', 'note'] })] },
    tables: [byIndex],
    place: 'migrations[0].addConstraint.primaryKey[1]',
    message: /"note" of public\.by_index can be NULL on blue/,
    instead: /setNotNull/,
    accepted: {
      migrations: [
        { setNotNull: { table: 'by_index', column: 'note', up: "coalesce(note, '')" } },
        key('by_index', { primaryKey: ['id', 'note'] }),
      ],
    },
  },
  {
    rule: 'loosened-constraint',
    refused: { migrations: [dropIndex('public.orders_note_key')] },
    tables: [{ ...orders, uniqueIndexes: ['orders_note_key'] }],
    place: 'migrations[0].sql.up',
    message: /drops the unique index "orders_note_key" of public\.orders/,
    instead: /another run/,
    accepted: { migrations: [dropIndex('public.orders_note'), dropIndex('shop.orders_note_key')] },
  },
  {
    rule: 'loosened-constraint',
    refused: { migrations: [dropIndex('public.orders_note_key')] },
    tables: [{ ...orders, uniqueIndexes: ['orders_note_key'] }],
    place: 'migrations[0].sql.up',
    message: /drops the unique index/,
    instead: /another run/,
    accepted: {
      migrations: [
        { createIndex: { table: 'orders', name: 'j', columns: ['note'], unique: true } },
        dropIndex('public.orders_note_key'),
      ],
    },
  },
  {
    rule: 'narrowing',
    refused: { migrations: [change('note', 'varchar(20)')] },
    place: 'migrations[0].changeType.type',
    message: /at most 20 characters/,
    instead: /holds every value/,
    accepted: { migrations: [change('note', 'text')] },
  },
  {
    rule: 'narrowing',
    refused: { migrations: [change('big', 'integer')] },
    place: 'migrations[0].changeType.type',
    message: /int4 is narrower than int8/,
    instead: /holds every value/,
    accepted: { migrations: [change('total', 'bigint')] },
  },
  {
    rule: 'narrowing',
    refused: { migrations: [change('price', 'numeric(8,2)')] },
    place: 'migrations[0].changeType.type',
    message: /fewer digits/,
    instead: /holds every value/,
    accepted: { migrations: [change('price', 'bigint')] },
  },
  {
    rule: 'narrowing',
    refused: { migrations: [change('at', 'date')] },
    place: 'migrations[0].changeType.type',
    message: /date is narrower than timestamptz/,
    instead: /holds every value/,
    accepted: { migrations: [change('at', 'text')] },
  },
  {
    rule: 'down-may-not-fit',
    severity: 'warning',
    refused: { migrations: [change('total', 'bigint')] },
    place: 'migrations[0].changeType.down',
    message: /"total" \(integer\)/,
    instead: /old range/,
    accepted: { migrations: [change('note', 'jsonb')] },
  },
  {
    rule: 'without-effect',
    severity: 'warning',
    refused: { migrations: [change('note', 'varchar(50)')] },
    place: 'migrations[0].changeType.type',
    message: /character varying\(50\) already/,
    instead: /leave the step out/,
    accepted: { migrations: [change('note', 'text')] },
  },
  {
    rule: 'without-effect',
    severity: 'warning',
    refused: { migrations: [{ setNotNull: { table: 'orders', column: 'total', up: '0' } }] },
    place: 'migrations[0].setNotNull',
    message: /NOT NULL already/,
    instead: /leave the step out/,
    accepted: { migrations: [{ setNotNull: { table: 'orders', column: 'note', up: "''" } }] },
  },
  {
    rule: 'generated-column',
    refused: { migrations: [add({ up: 'twice', down: 'twice = x::int' })] },
    place: 'migrations[0].addColumn.down',
    message: /"twice", which is a generated column/,
    instead: /generated from/,
    accepted: { migrations: [add({ up: 'twice', down: 'total = x::int' })] },
  },
];

describe.each(CASES)(
  '$rule at $place: $message',
  ({ rule, severity, refused, tables, place, message, instead, accepted }) => {
    it('is refused with rule, place, why and what to write instead', async () => {
      const findings = await lint(refused, tables);
      expect(
        findings.find((finding) => finding.rule === rule && finding.place === place),
        JSON.stringify(findings, null, 2),
      ).toMatchObject({
        severity: severity ?? 'error',
        message: expect.stringMatching(message) as string,
        why: CATALOG_RULES.find(({ name }) => name === rule)?.why,
        instead: expect.stringMatching(instead) as string,
      });
    });

    it('is not said of the plan that does it right', async () => {
      expect((await lint(accepted, tables)).filter((finding) => finding.rule === rule)).toEqual([]);
    });
  },
);

describe('the lint against a catalog', () => {
  it('has a case for every rule', () => {
    const shown = new Set(CASES.map(({ rule }) => rule));
    expect(CATALOG_RULES.map(({ name }) => name).filter((name) => !shown.has(name))).toEqual([]);
  });

  it('tells a name that SQL folds to lower case how to be quoted', async () => {
    const quoted: CatalogTable = { ...orders, columns: [...orders.columns, column('userId', 'bigint')] };
    const findings = await lint({ migrations: [add({ up: 'userId::text' })] }, [quoted]);
    expect(findings).toMatchObject([
      { rule: 'unknown-column', instead: expect.stringContaining('"\\"userId\\""') as string },
    ]);
  });

  it('judges the connections of PgBouncers and HAProxies, too', async () => {
    const instances = ['pool_1', 'pool_2'].map((connection) => ({
      connection,
      file: `/etc/pgbouncer/${connection}.ini`,
    }));
    const traffic = {
      pgbouncer: { databases: ['orders'], instances },
      haproxy: { backend: 'reads', instances: ['lb'] },
    };
    const plan = planSchema.parse(planWith({ traffic }));
    const known = new Set([...CONNECTIONS, 'POOL_1']);
    expect((await lintConnections(plan, known)).map(({ place }) => place)).toEqual([
      'traffic.pgbouncer.instances[1].connection',
      'traffic.haproxy.instances[0]',
    ]);
    expect(await lintConnections(plan, new Set([...known, 'POOL_2', 'LB']))).toEqual([]);
  });

  it('judges the connections of gates and metrics pages, too', async () => {
    const gate = { metric: 'prometheus' as const, name: 'up', connection: 'prometheus', query: 'up', min: 1 };
    const plan = planSchema.parse(planWith({ traffic: { gates: [gate], scrape: ['pages'] } }));
    expect((await lintConnections(plan, CONNECTIONS)).map(({ place }) => place)).toEqual([
      'traffic.gates[0].connection',
      'traffic.scrape[0]',
    ]);
    expect(await lintConnections(plan, new Set([...CONNECTIONS, 'PROMETHEUS', 'PAGES']))).toEqual([]);
  });

  it('judges connections without a catalog', async () => {
    const plan = planSchema.parse(planWith({ blue: { connection: 'nowhere' } }));
    expect(await lintConnections(plan, CONNECTIONS)).toMatchObject([
      {
        rule: 'unknown-connection',
        place: 'blue.connection',
        instead: expect.stringContaining('it knows orders_blue') as string,
      },
    ]);
  });
});
