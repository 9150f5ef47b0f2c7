import { describe, expect, it } from 'vitest';
import { planSchema, type PlanInput } from '../../src/plan/schema.js';
import { RULES } from '../../src/plan/rules/index.js';
import { countLaterSteps } from '../../src/plan/steps.js';
import { planWork } from '../../src/postgres/migrate/plan-work.js';
import { lint, planWith } from './lint-plan.js';

type Migrations = NonNullable<PlanInput['migrations']>;

/** A rule at work: a plan that it refuses, where and in what words, and a plan beside it that is accepted. */
interface Case {
  readonly rule: string;
  readonly severity?: 'warning';
  readonly refused: Partial<PlanInput> | Migrations;
  readonly place: string;
  readonly message: RegExp;
  readonly instead: RegExp;
  readonly accepted: Partial<PlanInput> | Migrations;
  /** Other rules that have something to say of the refused plan too. */
  readonly also?: readonly string[];
}

type Gates = NonNullable<NonNullable<PlanInput['traffic']>['gates']>;

const prometheus = (name: string, limits: { min: number; max?: number } = { min: 1 }): Gates[number] => ({
  ...{ metric: 'prometheus', name, connection: 'prometheus', query: 'up', ...limits },
});
const asking = (query: string, requests?: string): Partial<PlanInput> => ({
  traffic: {
    gates: [
      {
        ...{ metric: 'prometheus', name: 'checkout', connection: 'prometheus', query, max: 0.001 },
        ...(requests === undefined ? {} : { requests }),
      },
    ],
  },
});

const add = (more: object = {}): Migrations[number] => ({
  addColumn: { table: 'orders', column: 'note', type: 'text', ...more },
});
const change = (more: object = {}): Migrations[number] => ({
  changeType: {
    table: 'orders',
    column: 'total',
    newColumn: 'total_cents',
    type: 'bigint',
    up: 'total::bigint',
    down: 'total_cents::integer',
    ...more,
  },
});
const sql = (up: string, down = 'DROP VIEW public.v', name = 'step'): Migrations[number] => ({
  sql: { name, up, down },
});
const longSql = (bytes: number): Migrations[number] =>
  sql(`CREATE VIEW public.v AS SELECT '${'x'.repeat(bytes)}' AS v`);
const index = (more: object = {}): Migrations[number] => ({
  createIndex: { table: 'orders', name: 'i', columns: ['total'], ...more },
});
const key = (more: object): Migrations[number] => ({
  addConstraint: { table: 'orders', name: 'k', ...more },
});
const check = (more: object = {}): Migrations[number] => ({
  addConstraint: { table: 'orders', name: 'c', check: 'total > 0', ...more },
});
const pgbouncer = (more: object = {}, ...names: string[]) => ({
  databases: ['orders'],
  instances: (names.length === 0 ? ['pool'] : names).map((connection) => ({ connection, file: '/etc/orders.ini' })),
  ...more,
});
const STAGES = [{ percent: 100, for: '1m' }];
const haproxy = (more: object = {}) => ({
  haproxy: { backend: 'reads', instances: ['lb'], ...more },
  gates: [{ metric: 'lag' as const, max: '1s' }],
});
const LEVEL = "CREATE TYPE public.level AS ENUM ('low', 'high')";
const RANK = "CREATE FUNCTION public.rank(t text) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'";
const NEW_TABLE = 'CREATE TABLE public.fresh (id bigint PRIMARY KEY, a text)';
const VIEW = 'CREATE VIEW public.v AS SELECT 1 AS x';

const CASES: readonly Case[] = [
  {
    rule: 'same-connection',
    refused: { green: { connection: 'orders_blue' } },
    place: 'green.connection',
    message: /both "orders_blue"/,
    instead: /orders_green/,
    accepted: { green: { connection: 'orders_blue2' } },
  },
  {
    rule: 'same-connection',
    refused: { green: { connection: 'Orders-Blue' } },
    place: 'green.connection',
    message: /both read from VERDIGRIS_CONNECTION_ORDERS_BLUE/,
    instead: /orders_green/,
    accepted: {},
  },
  {
    rule: 'invalid-table-name',
    refused: [add({ table: 'a.b.c' })],
    place: 'migrations[0].addColumn.table',
    message: /"a\.b\.c" is not the name of a table/,
    instead: /schema\."Odd name"/,
    accepted: [add({ table: 'shop."a.b.c"' })],
  },
  {
    rule: 'invalid-table-name',
    refused: { tables: { include: ['public.*', 'shop."x'] } },
    place: 'tables.include[1]',
    message: /not a pattern/,
    instead: /quotes/,
    accepted: { tables: { include: ['public.*', 'shop."x"'] } },
  },
  {
    rule: 'table-not-moved',
    refused: { tables: { include: ['shop.*'] }, migrations: [add()] },
    place: 'migrations[0].addColumn.table',
    message: /public\.orders is not among the tables/,
    instead: /tables\.include/,
    accepted: { tables: { include: ['shop.*', 'orders'] }, migrations: [add()] },
  },
  {
    rule: 'reserved-schema',
    refused: [add({ table: 'verdigris.route' })],
    place: 'migrations[0].addColumn.table',
    message: /reserved/,
    instead: /schema of your own/,
    accepted: [add({ up: 'verdigris.try_jsonb(total)::text' })],
  },
  {
    rule: 'reserved-schema',
    refused: [sql('GRANT SELECT ON public.a TO x; ALTER SEQUENCE verdigris.fence RESTART')],
    place: 'migrations[0].sql.up',
    message: /changes schema verdigris/,
    instead: /leave it alone/,
    accepted: [sql('CREATE VIEW public.v AS SELECT verdigris.try_jsonb(payload) FROM public.orders')],
  },
  {
    rule: 'duplicate-name',
    refused: [add(), add()],
    place: 'migrations[1].addColumn.column',
    message: /column "note" is already made by migrations\[0\]/,
    instead: /another name/,
    accepted: [add(), add({ table: 'shop.orders' })],
  },
  {
    rule: 'duplicate-name',
    refused: [index(), index({ table: 'others' })],
    place: 'migrations[1].createIndex.name',
    message: /index "i"/,
    instead: /another name/,
    accepted: [index(), index({ table: 'shop.orders' })],
  },
  {
    rule: 'duplicate-name',
    refused: [check(), check()],
    place: 'migrations[1].addConstraint.name',
    message: /constraint "c"/,
    instead: /another name/,
    accepted: [check(), check({ table: 'others' })],
  },
  {
    rule: 'duplicate-name',
    refused: [sql(VIEW), sql('CREATE VIEW public.w AS SELECT 1')],
    place: 'migrations[1].sql.name',
    message: /step "step"/,
    instead: /another name/,
    accepted: [sql(VIEW), sql('CREATE VIEW public.w AS SELECT 1', 'DROP VIEW public.w', 'other')],
  },
  {
    rule: 'invalid-expression',
    refused: [add({ up: 'total; DROP TABLE orders' })],
    place: 'migrations[0].addColumn.up',
    message: /total; DROP TABLE/,
    instead: /one SQL expression/,
    accepted: [add({ up: "total || ';' -- a comment" })],
  },
  {
    rule: 'invalid-expression',
    refused: [add({ default: 'total' })],
    place: 'migrations[0].addColumn.default',
    message: /can't read the column "total"/,
    instead: /"up": "total"/,
    accepted: [add({ default: "'none'" })],
  },
  {
    rule: 'invalid-expression',
    refused: [add({ type: 'integer NOT NULL' })],
    place: 'migrations[0].addColumn.type',
    message: /more than a type/,
    instead: /"notNull"/,
    accepted: [add({ type: 'shop."Order State"[]' })],
  },
  {
    rule: 'invalid-expression',
    refused: [index({ columns: ['total', 'Order No desc'] })],
    place: 'migrations[0].createIndex.columns[1]',
    message: /Order No/,
    instead: /in quotes/,
    accepted: [index({ columns: ['total', '"Order No" desc', '(lower(a))', 'b jsonb_path_ops'] })],
  },
  {
    rule: 'invalid-expression',
    refused: [check({ check: 'total >' })],
    place: 'migrations[0].addConstraint.check',
    message: /syntax error/,
    instead: /one SQL expression/,
    accepted: [check()],
  },
  {
    rule: 'invalid-down',
    refused: [add({ up: 'total', down: 'note::int' })],
    place: 'migrations[0].addColumn.down',
    message: /<column> = <expression>/,
    instead: /"status = note::text"/,
    accepted: [add({ up: 'total', down: 'total = note::int' })],
  },
  {
    rule: 'invalid-down',
    refused: [change({ down: 'total_cents::' })],
    place: 'migrations[0].changeType.down',
    message: /syntax error/,
    instead: /one SQL expression/,
    accepted: [change()],
  },
  {
    rule: 'invalid-index',
    refused: [index({ method: 'gin', unique: true })],
    place: 'migrations[0].createIndex.unique',
    message: /gin index can't be unique/,
    instead: /btree/,
    accepted: [index({ unique: true, include: ['a'] })],
  },
  {
    rule: 'invalid-index',
    refused: [key({ unique: ['a', 'b', 'a'] })],
    place: 'migrations[0].addConstraint.unique',
    message: /"a" is in it twice/,
    instead: /once/,
    accepted: [key({ unique: ['a', 'b'] })],
  },
  {
    rule: 'second-primary-key',
    refused: [key({ primaryKey: ['a'] }), key({ name: 'k2', primaryKey: ['b'] })],
    place: 'migrations[1].addConstraint.primaryKey',
    message: /public\.orders gets its primary key from migrations\[0\]\.addConstraint/,
    instead: /"unique"/,
    accepted: [key({ primaryKey: ['a'] }), key({ name: 'k2', unique: ['b'] })],
  },
  {
    rule: 'duplicate-name',
    refused: [index({ name: 'k' }), key({ unique: ['a'] })],
    place: 'migrations[1].addConstraint.name',
    message: /index "k" is already made by migrations\[0\]/,
    instead: /another name/,
    accepted: [index({ name: 'k' }), check({ name: 'k' })],
  },
  {
    rule: 'used-before-added',
    refused: [key({ unique: ['note'] }), add()],
    place: 'migrations[0].addConstraint.unique[0]',
    message: /"note", which only migrations\[1\]\.addColumn adds/,
    instead: /move migrations\[1\] before migrations\[0\]/,
    accepted: [add(), key({ unique: ['note'] })],
  },
  {
    rule: 'made-too-late',
    refused: [sql(LEVEL, 'DROP TYPE public.level'), add({ type: 'public.level[]' })],
    place: 'migrations[1].addColumn.type',
    message: /type public\.level is made only by migrations\[0\]\.sql\.up/,
    instead: /on blue before the run/,
    accepted: [add({ type: 'public.level' }), sql(LEVEL.replace('level', 'another'), 'DROP TYPE public.another')],
  },
  {
    rule: 'made-too-late',
    refused: [add({ up: "coalesce(a, 'low')::level" }), sql(LEVEL, 'DROP TYPE public.level')],
    place: 'migrations[0].addColumn.up',
    message: /type public\.level/,
    instead: /on blue before the run/,
    // Of a table elsewhere nobody knows which "level" it would be.
    accepted: [add({ table: 'shop.orders', up: 'a::level' }), sql(LEVEL, 'DROP TYPE public.level')],
  },
  {
    rule: 'made-too-late',
    refused: [sql(NEW_TABLE, 'DROP TABLE public.fresh'), add({ table: 'fresh', up: 'a' })],
    place: 'migrations[1].addColumn.table',
    message: /table public\.fresh is made only by migrations\[0\]/,
    instead: /CREATE TABLE/,
    accepted: [
      sql(NEW_TABLE, 'DROP TABLE public.fresh'),
      index({ table: 'fresh', columns: ['a'] }),
      check({ table: 'fresh', check: 'public.rank(a) > 0' }),
      sql(`${RANK}; ${LEVEL}`, 'DROP FUNCTION public.rank; DROP TYPE public.level', 'more'),
    ],
  },
  {
    rule: 'function-made-too-late',
    severity: 'warning',
    refused: [sql(RANK, 'DROP FUNCTION public.rank'), add({ up: 'rank(a)' })],
    place: 'migrations[1].addColumn.up',
    message: /function public\.rank is made only by migrations\[0\]\.sql\.up/,
    instead: /on blue before the run/,
    accepted: [sql(RANK.replace('CREATE', 'CREATE OR REPLACE'), 'SELECT 1'), add({ up: 'public.rank(a)' })],
  },
  {
    rule: 'not-null-without-value',
    refused: [add(), key({ primaryKey: ['note'] })],
    place: 'migrations[1].addConstraint.primaryKey',
    message: /"note" is part of the primary key/,
    instead: /migrations\[0\]\.addColumn/,
    accepted: [add({ up: 'a' }), key({ primaryKey: ['note'] })],
  },
  {
    rule: 'not-one-value',
    refused: [add({ up: '(SELECT max(x) FROM public.others)' })],
    place: 'migrations[0].addColumn.up',
    message: /a subquery/,
    instead: /same row/,
    accepted: [add({ up: 'greatest(total, other)' })],
  },
  {
    rule: 'not-one-value',
    refused: [add({ up: 'count(*)' })],
    place: 'migrations[0].addColumn.up',
    message: /aggregate count\(\)/,
    instead: /same row/,
    accepted: [add({ up: 'length(a)' })],
  },
  {
    rule: 'volatile-up',
    refused: [add({ type: 'timestamptz', up: 'now()' })],
    place: 'migrations[0].addColumn.up',
    message: /now\(\)/,
    instead: /"default" instead of "up"/,
    accepted: [add({ type: 'timestamptz', up: 'created_at' })],
  },
  {
    rule: 'volatile-up',
    refused: [change({ up: 'total + pg_catalog.random()::bigint' })],
    place: 'migrations[0].changeType.up',
    message: /random\(\)/,
    instead: /columns of the row/,
    accepted: [change()],
  },
  {
    rule: 'volatile-up',
    refused: [add({ up: 'coalesce(a, CURRENT_TIMESTAMP::text)' })],
    place: 'migrations[0].addColumn.up',
    message: /CURRENT_TIMESTAMP/,
    instead: /columns of the row/,
    accepted: [add({ up: "coalesce(a, 'now()')" })],
  },
  {
    rule: 'volatile-up',
    refused: [
      ...['to_tsvector(a)', 'plainto_tsquery(a)', 'pg_catalog.to_tsquery(a)', 'phraseto_tsquery(a)'].map((up) =>
        add({ up }),
      ),
      ...['websearch_to_tsquery(a)', `jsonb_to_tsvector(a::jsonb, '"all"')`].map((up) => add({ up })),
    ],
    place: 'migrations[0].addColumn.up',
    message: /(tsvector|tsquery)\(\) without a text search configuration depends on default_text_search_config/,
    instead: /to_tsvector\('english', body\)/,
    accepted: [
      add({ up: "to_tsvector('english', a)" }),
      add({ up: "websearch_to_tsquery('pg_catalog.simple', a)" }),
      add({ default: "to_tsvector('none')" }),
    ],
  },
  {
    rule: 'volatile-expression',
    refused: [index({ where: "to_tsvector(a) @@ 'b'" })],
    place: 'migrations[0].createIndex.where',
    message: /default_text_search_config/,
    instead: /name the configuration/,
    accepted: [index({ where: "to_tsvector('simple', a) @@ 'b'" })],
  },
  {
    rule: 'volatile-expression',
    refused: [index({ where: 'created_at > now()' })],
    place: 'migrations[0].createIndex.where',
    message: /now\(\)/,
    instead: /fixed value/,
    accepted: [index({ where: "created_at > '2026-01-01'" })],
  },
  {
    rule: 'volatile-default',
    refused: [add({ type: 'uuid', default: 'gen_random_uuid()' })],
    place: 'migrations[0].addColumn.default',
    message: /gen_random_uuid\(\) gives another value for each row/,
    instead: /md5\(id::text\)::uuid/,
    accepted: [add({ type: 'uuid', up: 'md5(id::text)::uuid' })],
  },
  {
    rule: 'volatile-default',
    refused: [add({ type: 'bigserial' })],
    place: 'migrations[0].addColumn.type',
    message: /nextval/,
    instead: /bigint/,
    accepted: [add({ type: 'bigint' })],
  },
  {
    rule: 'time-default',
    severity: 'warning',
    refused: [add({ type: 'timestamptz', default: 'now()' })],
    place: 'migrations[0].addColumn.default',
    message: /now\(\) is not the time at which a row was made/,
    instead: /"up": "created_at"/,
    accepted: [add({ type: 'timestamptz', default: "'2026-01-01'" })],
  },
  {
    rule: 'default-and-up',
    severity: 'warning',
    refused: [add({ up: 'a', default: "'x'" })],
    place: 'migrations[0].addColumn.default',
    message: /both "up" and "default"/,
    instead: /coalesce\(a, 'x'\)/,
    accepted: [add({ up: "coalesce(a, 'x')" })],
  },
  {
    rule: 'up-reads-itself',
    refused: [add({ up: "coalesce(note, 'x')" })],
    place: 'migrations[0].addColumn.up',
    message: /reads "note"/,
    instead: /columns that blue has/,
    accepted: [{ setNotNull: { table: 'orders', column: 'note', up: "coalesce(note, 'x')" } }],
  },
  {
    rule: 'circular-up',
    severity: 'warning',
    refused: [
      change(),
      add({ up: 'total_cents::text' }),
      { setNotNull: { table: 'orders', column: 'total', up: 'length(note)' } },
    ],
    place: 'migrations[2].setNotNull.up',
    message: /"total" is filled from "note", which is computed from "total"/,
    instead: /from other columns/,
    // Neither a column that is computed from others, nor two that stand in for each other.
    accepted: [
      change(),
      add({ up: 'lower(title)' }),
      { setNotNull: { table: 'orders', column: 'total', up: 'coalesce(length(note), weight)' } },
      { setNotNull: { table: 'orders', column: 'weight', up: 'coalesce(total, 0)' } },
    ],
  },
  {
    rule: 'disconnected-column',
    refused: [change({ down: '0' })],
    place: 'migrations[0].changeType.down',
    message: /does not read "total_cents"/,
    instead: /over "total_cents"/,
    accepted: [change()],
  },
  {
    rule: 'disconnected-column',
    refused: [change({ column: 'Total', up: 'Total::bigint' })],
    place: 'migrations[0].changeType.up',
    message: /does not read "Total": without quotes SQL reads it as "total"/,
    instead: /over "Total"/,
    accepted: [change({ column: 'Total', up: '"Total"::bigint' })],
  },
  {
    rule: 'down-target',
    refused: [add({ up: 'a', down: 'a = note' }), add({ column: 'b', up: 'a', down: 'a = b' })],
    place: 'migrations[1].addColumn.down',
    message: /"a" is already filled by migrations\[0\]\.addColumn\.down/,
    instead: /one new column/,
    accepted: [add({ up: 'a', down: 'a = note' }), add({ column: 'b', up: 'c', down: 'c = b' })],
  },
  {
    rule: 'down-target',
    refused: [add({ column: 'x' }), add({ up: 'a', down: 'x = note' })],
    place: 'migrations[1].addColumn.down',
    message: /which this plan adds/,
    instead: /a column that blue has/,
    accepted: [add({ up: 'a', down: 'a = note' })],
  },
  {
    rule: 'used-before-added',
    refused: [index({ columns: ['note'] }), add()],
    place: 'migrations[0].createIndex.columns[0]',
    message: /"note", which only migrations\[1\]\.addColumn adds/,
    instead: /move migrations\[1\] before migrations\[0\]/,
    accepted: [add(), index({ columns: ['note'] })],
  },
  {
    rule: 'not-null-without-value',
    refused: [add({ notNull: true })],
    place: 'migrations[0].addColumn.notNull',
    message: /neither "up" nor "default"/,
    instead: /add "up"/,
    accepted: [add({ notNull: true, default: "''" })],
  },
  {
    rule: 'not-null-without-value',
    refused: [add({ notNull: true, default: 'NULL::text' })],
    place: 'migrations[0].addColumn.notNull',
    message: /always NULL/,
    instead: /add "up"/,
    accepted: [add({ notNull: true, up: 'a' })],
  },
  {
    rule: 'not-null-without-value',
    refused: [{ setNotNull: { table: 'orders', column: 'status' } }],
    place: 'migrations[0].setNotNull',
    message: /"status" becomes NOT NULL/,
    instead: /coalesce\(status/,
    accepted: [add({ default: "''" }), { setNotNull: { table: 'public.orders', column: 'note' } }],
  },
  {
    rule: 'not-null-without-value',
    refused: [sql('ALTER TABLE public.orders ADD COLUMN x integer NOT NULL')],
    place: 'migrations[0].sql.up',
    message: /NOT NULL column without a value/,
    instead: /"notNull": true/,
    accepted: [sql('ALTER TABLE public.orders ADD COLUMN x integer NOT NULL DEFAULT 1')],
    also: ['column-in-raw-sql', 'squawk'],
  },
  {
    rule: 'up-may-be-null',
    severity: 'warning',
    refused: [change({ up: 'verdigris.try_jsonb(total)', type: 'jsonb', notNull: true })],
    place: 'migrations[0].changeType.up',
    message: /verdigris\.try_jsonb gives NULL/,
    instead: /coalesce\(verdigris/,
    accepted: [change({ up: "coalesce(verdigris.try_jsonb(total), '{}')", type: 'jsonb', notNull: true })],
  },
  {
    rule: 'narrowing',
    refused: [add({ type: 'varchar(50)' }), change({ column: 'note', type: 'varchar(20)', up: 'left(note, 20)' })],
    place: 'migrations[1].changeType.type',
    message: /at most 20 characters, the old column holds 50/,
    instead: /holds every value of the old one/,
    accepted: [add({ type: 'varchar(50)' }), change({ column: 'note', type: 'varchar(255)', up: 'note' })],
  },
  {
    rule: 'direct-type-change',
    refused: [change({ newColumn: 'total', down: 'total' })],
    place: 'migrations[0].changeType.newColumn',
    message: /name of the old one, "total"/,
    instead: /"total_bigint"/,
    accepted: [change()],
    also: ['up-reads-itself', 'down-target'],
  },
  {
    rule: 'direct-type-change',
    refused: [sql('ALTER TABLE public.orders ALTER payload TYPE jsonb USING payload::jsonb')],
    place: 'migrations[0].sql.up',
    message: /ALTER COLUMN payload TYPE .* public\.orders/,
    instead: /"newColumn": "payload_new"/,
    accepted: [sql('CREATE TABLE public.n (a int); ALTER TABLE public.n ALTER a TYPE bigint')],
  },
  {
    rule: 'drop-or-rename',
    refused: [sql('DROP TABLE shop."Old orders"')],
    place: 'migrations[0].sql.up',
    message: /drops the table shop\.Old orders/,
    instead: /another run/,
    accepted: [sql(VIEW, 'DROP VIEW public.v; DROP TABLE public.t')],
  },
  {
    rule: 'drop-or-rename',
    refused: [sql('ALTER TABLE public.orders DROP COLUMN note')],
    place: 'migrations[0].sql.up',
    message: /drops the column "note" of public\.orders/,
    instead: /another run/,
    accepted: [sql('CREATE TABLE public.n (a int, b int); ALTER TABLE public.n DROP COLUMN b')],
  },
  {
    rule: 'drop-or-rename',
    refused: [sql('ALTER TABLE public.orders RENAME COLUMN note TO remark')],
    place: 'migrations[0].sql.up',
    message: /renames a column of orders/,
    instead: /"up": "note" and "down": "note = remark"/,
    accepted: [sql('ALTER INDEX public.i RENAME TO j')],
  },
  {
    rule: 'drop-or-rename',
    refused: [sql('ALTER TABLE public.orders RENAME TO purchases')],
    place: 'migrations[0].sql.up',
    message: /renames the table orders/,
    instead: /CREATE VIEW/,
    accepted: [sql('CREATE VIEW public.purchases AS SELECT * FROM public.orders')],
  },
  {
    rule: 'loosened-constraint',
    refused: [sql('ALTER TABLE public.orders ALTER note DROP NOT NULL')],
    place: 'migrations[0].sql.up',
    message: /lets "note" of public\.orders be NULL/,
    instead: /another run/,
    accepted: [sql('ALTER TABLE public.orders ALTER note SET STATISTICS 500')],
  },
  {
    rule: 'enum-value-on-green',
    refused: [sql(`ALTER TYPE shop.state ADD VALUE 'held'`)],
    place: 'migrations[0].sql.up',
    message: /adds 'held' to shop\.state on green alone/,
    instead: /on blue before the migration/,
    accepted: [sql(`CREATE TYPE shop.new_state AS ENUM ('held')`, 'DROP TYPE shop.new_state')],
  },
  {
    rule: 'sql-syntax',
    refused: [sql('CREATE VEIW public.v AS SELECT 1')],
    place: 'migrations[0].sql.up',
    message: /syntax error at or near "VEIW"/,
    instead: /correct the SQL/,
    accepted: [sql(VIEW)],
  },
  {
    rule: 'sql-syntax',
    refused: [sql(VIEW, 'DROP VEIW public.v')],
    place: 'migrations[0].sql.down',
    message: /syntax error/,
    instead: /correct the SQL/,
    accepted: [sql(VIEW)],
  },
  {
    rule: 'sql-syntax',
    refused: [sql('-- later')],
    place: 'migrations[0].sql.up',
    message: /no statement/,
    instead: /take the step out/,
    accepted: [sql(`-- now\n${VIEW}`)],
  },
  {
    rule: 'transaction-control',
    refused: [sql(`BEGIN; ${VIEW}; COMMIT`)],
    place: 'migrations[0].sql.up',
    message: /BEGIN/,
    instead: /leave BEGIN/,
    accepted: [sql(`CREATE FUNCTION public.f() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'`, VIEW)],
  },
  {
    rule: 'server-wide',
    refused: [sql('DROP DATABASE shop')],
    place: 'migrations[0].sql.up',
    message: /DROP DATABASE shop/,
    instead: /by hand/,
    accepted: [sql(VIEW)],
  },
  {
    rule: 'server-wide',
    refused: [sql("ALTER SYSTEM SET work_mem = '1GB'")],
    place: 'migrations[0].sql.up',
    message: /ALTER SYSTEM/,
    instead: /by hand/,
    accepted: [sql(VIEW)],
  },
  {
    rule: 'touches-replication',
    refused: [sql('ALTER SUBSCRIPTION s DISABLE')],
    place: 'migrations[0].sql.up',
    message: /ALTER SUBSCRIPTION/,
    instead: /leave it to Verdigris/,
    accepted: [sql(VIEW)],
  },
  {
    rule: 'touches-replication',
    refused: [sql('ALTER TABLE public.orders DISABLE TRIGGER ALL')],
    place: 'migrations[0].sql.up',
    message: /what is replicated/,
    instead: /leave it to Verdigris/,
    accepted: [sql('ALTER TABLE public.orders SET (fillfactor = 90)')],
  },
  {
    rule: 'changes-rows',
    refused: [sql('TRUNCATE public.orders')],
    place: 'migrations[0].sql.up',
    message: /changes rows of public\.orders/,
    instead: /on blue/,
    accepted: [
      sql('CREATE TABLE public.kinds (k text PRIMARY KEY); INSERT INTO public.kinds SELECT kind FROM public.orders'),
    ],
  },
  {
    rule: 'changes-rows',
    refused: [sql('WITH gone AS (DELETE FROM public.orders RETURNING id) SELECT count(*) FROM gone')],
    place: 'migrations[0].sql.up',
    message: /changes rows of public\.orders/,
    instead: /"up" of addColumn/,
    accepted: [sql('WITH few AS (SELECT 1) SELECT count(*) FROM few')],
  },
  {
    rule: 'unqualified-name',
    severity: 'warning',
    refused: [sql('CREATE VIEW v AS SELECT 1')],
    place: 'migrations[0].sql.up',
    message: /"v" has no schema/,
    instead: /public\.v/,
    accepted: [sql('CREATE VIEW public.v AS WITH w AS (SELECT 1) SELECT * FROM w')],
  },
  {
    rule: 'unqualified-name',
    severity: 'warning',
    refused: [sql(VIEW, 'DROP VIEW v')],
    place: 'migrations[0].sql.down',
    message: /"v" has no schema/,
    instead: /public\.v/,
    accepted: [sql(VIEW, 'DROP VIEW public.v')],
  },
  {
    rule: 'opaque-sql',
    severity: 'warning',
    refused: [sql('DO $$ BEGIN PERFORM 1; END $$')],
    place: 'migrations[0].sql.up',
    message: /can't be checked/,
    instead: /statements themselves/,
    accepted: [sql('SELECT 1')],
  },
  {
    rule: 'column-in-raw-sql',
    severity: 'warning',
    refused: [sql('ALTER TABLE public.orders ADD COLUMN x integer')],
    place: 'migrations[0].sql.up',
    message: /adds the column "x" to public\.orders/,
    instead: /"addColumn": \{ "table": "public\.orders", "column": "x"/,
    accepted: [sql('CREATE TABLE public.n (a int); ALTER TABLE public.n ADD COLUMN x integer')],
  },
  {
    rule: 'index-without-concurrently',
    refused: [sql('CREATE INDEX i ON public.orders (total)')],
    place: 'migrations[0].sql.up',
    message: /CREATE INDEX i on public\.orders is not CONCURRENTLY/,
    instead: /"createIndex"/,
    accepted: [sql('CREATE INDEX CONCURRENTLY i ON public.orders (total)', 'DROP INDEX CONCURRENTLY public.i')],
  },
  {
    rule: 'index-without-concurrently',
    refused: [sql('CREATE INDEX i ON public.orders (total)', 'DROP INDEX public.i')],
    place: 'migrations[0].sql.up',
    message: /not CONCURRENTLY/,
    instead: /repairs it/,
    accepted: [sql('CREATE TABLE public.n (a int); CREATE INDEX i ON public.n (a)')],
  },
  {
    rule: 'constraint-without-not-valid',
    refused: [sql('ALTER TABLE public.orders ADD CONSTRAINT positive CHECK (total > 0)')],
    place: 'migrations[0].sql.up',
    message: /ADD CONSTRAINT positive on public\.orders is not NOT VALID/,
    instead: /"addConstraint"/,
    accepted: [sql('ALTER TABLE public.orders ADD CONSTRAINT positive CHECK (total > 0) NOT VALID')],
  },
  {
    rule: 'constraint-without-not-valid',
    refused: [sql('ALTER TABLE public.orders ALTER note SET NOT NULL')],
    place: 'migrations[0].sql.up',
    message: /SET NOT NULL on "note"/,
    instead: /"setNotNull"/,
    accepted: [sql('CREATE TABLE public.n (a int); ALTER TABLE public.n ALTER a SET NOT NULL')],
  },
  {
    rule: 'rewrites-table',
    refused: [sql('VACUUM FULL public.orders')],
    place: 'migrations[0].sql.up',
    message: /locks a whole table/,
    instead: /take it out/,
    accepted: [sql('VACUUM ANALYZE public.orders')],
  },
  {
    rule: 'rewrites-table',
    refused: [sql('ALTER TABLE public.orders SET UNLOGGED')],
    place: 'migrations[0].sql.up',
    message: /rewrites public\.orders/,
    instead: /another run/,
    accepted: [sql('ALTER TABLE public.orders SET (fillfactor = 90)')],
  },
  {
    rule: 'concurrently-not-alone',
    refused: [sql(`${VIEW}; CREATE INDEX CONCURRENTLY i ON public.orders (total)`)],
    place: 'migrations[0].sql.up',
    message: /CREATE INDEX CONCURRENTLY i/,
    instead: /step of its own/,
    accepted: [sql('CREATE INDEX CONCURRENTLY i ON public.orders (total);')],
  },
  {
    rule: 'squawk',
    refused: [sql('ALTER TABLE public.orders ADD CONSTRAINT u UNIQUE (total)')],
    place: 'migrations[0].sql.up',
    message: /UNIQUE.*ACCESS EXCLUSIVE.*squawk: disallowed-unique-constraint/,
    instead: /CONCURRENTLY/,
    accepted: [sql('CREATE TABLE public.n (a int); ALTER TABLE public.n ADD CONSTRAINT u UNIQUE (a)')],
  },
  {
    rule: 'squawk',
    refused: [sql('REINDEX TABLE public.orders')],
    place: 'migrations[0].sql.up',
    message: /require-concurrent-reindex/,
    instead: /concurrently/,
    accepted: [sql('REINDEX TABLE CONCURRENTLY public.orders')],
  },
  {
    rule: 'stages-not-growing',
    refused: {
      traffic: {
        stages: [
          { percent: 50, for: '1m' },
          { percent: 10, for: '1m' },
          { percent: 100, for: '1m' },
        ],
      },
    },
    place: 'traffic.stages[1].percent',
    message: /10 % follows stage 50 %/,
    instead: /above 50/,
    accepted: {
      traffic: {
        stages: [
          { percent: 10, for: '1m' },
          { percent: 100, for: '1m' },
        ],
      },
    },
  },
  {
    rule: 'stages-not-growing',
    refused: {
      traffic: {
        stages: [
          { percent: 100, for: '1m' },
          { percent: 100, for: '1m' },
        ],
      },
    },
    place: 'traffic.stages[1].percent',
    message: /100 % follows stage 100 %/,
    instead: /raise "for"/,
    accepted: {},
  },
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
    rule: 'stages-below-100',
    severity: 'warning',
    refused: { traffic: { stages: [{ percent: 10, for: '1m' }] } },
    place: 'traffic.stages',
    message: /last stage is 10 %/,
    instead: /"percent": 100/,
    accepted: {},
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
  {
    rule: 'gates-without-stages',
    severity: 'warning',
    refused: { traffic: { stages: [], gates: [{ metric: 'lag', max: '1s' }] } },
    place: 'traffic.gates',
    message: /the gate is never asked: "stages" is empty/,
    instead: /give at least one stage/,
    accepted: { traffic: { stages: [] } },
  },
  {
    rule: 'quorum-out-of-reach',
    refused: { traffic: { approval: { by: ['ada', ' Ada'], quorum: 2 } } },
    place: 'traffic.approval.quorum',
    message: /2 different people must approve, and "by" names 1/,
    instead: /at most 1/,
    accepted: { traffic: { approval: { by: ['ada', 'grace'], quorum: 2 } } },
  },
  {
    rule: 'quorum-of-anybody',
    severity: 'warning',
    refused: { traffic: { approval: { quorum: 2 } } },
    place: 'traffic.approval.quorum',
    message: /2 people must approve/,
    instead: /"by"/,
    accepted: { traffic: { approval: { by: ['ada', 'grace'], quorum: 2 } } },
  },
  {
    rule: 'approver-unseen',
    severity: 'warning',
    refused: { traffic: { approval: { by: ['ada', '\u200b\u2060'] } } },
    place: 'traffic.approval.by[1]',
    message: /no character that is seen/,
    instead: /the name of a person/,
    accepted: { traffic: { approval: { by: ['ada', '\u200bgrace', '李', '👩🏽‍💻', '.'] } } },
  },
  ...['\u2800', '\u3164', '\u00ad', '\u034f', '\0'].map((name): Case => ({
    rule: 'approver-unseen',
    severity: 'warning',
    refused: { traffic: { approval: { by: [name] } } },
    place: 'traffic.approval.by[0]',
    message: /no character that is seen/,
    instead: /leave it out/,
    accepted: { traffic: { approval: { by: [`${name}a`] } } },
  })),
  {
    rule: 'approval-before-nothing',
    severity: 'warning',
    refused: { traffic: { approval: { before: [], by: ['ada'] } } },
    place: 'traffic.approval.before',
    message: /^"by" says who approves, and "before" is empty: nothing waits for them/,
    instead: /"before": \["promote"\]/,
    accepted: { traffic: { approval: { before: [] } } },
  },
  {
    rule: 'approval-before-nothing',
    severity: 'warning',
    refused: { traffic: { approval: { before: [], by: ['ada', 'grace'], quorum: 2 } } },
    place: 'traffic.approval.before',
    message: /^"by" and "quorum" say who approves/,
    instead: /leave "by" and "quorum" out/,
    accepted: { traffic: { approval: { by: ['ada', 'grace'], quorum: 2 } } },
  },
  {
    rule: 'approval-shorter-than-windows',
    severity: 'warning',
    refused: { windows: { promote: ['Sat 02:00-04:00'] }, traffic: { approval: { before: ['promote'] } } },
    place: 'traffic.approval.validFor',
    message: /counts for 24h, and windows.promote \(Sat 02:00-04:00\) is closed for up to 166 h/,
    instead: /"validFor": "7d"/,
    accepted: {
      windows: { promote: ['Sat 02:00-04:00'], traffic: ['daily 01:00-05:00', 'Mon-Fri 22:00-01:00'] },
      traffic: { approval: { before: ['traffic', 10, 'promote'], validFor: '7d' } },
    },
  },
  {
    rule: 'approval-shorter-than-windows',
    severity: 'warning',
    refused: { windows: { traffic: ['Mon-Fri 22:00-04:00'] }, traffic: { approval: { before: [10] } } },
    place: 'traffic.approval.validFor',
    message: /windows.traffic \(Mon-Fri 22:00-04:00\) is closed for up to 66 h/,
    instead: /"validFor": "3d"/,
    accepted: { windows: { traffic: ['daily 22:00-04:00'] }, traffic: { approval: { before: [10] } } },
  },
  {
    rule: 'unknown-approval-stage',
    refused: { traffic: { approval: { before: [25, 'promote'] } } },
    place: 'traffic.approval.before[0]',
    message: /no stage of 25 %/,
    instead: /1, 10, 50, 100/,
    accepted: { traffic: { approval: { before: ['traffic', 50, 'promote', 'retire'] } } },
  },
  {
    rule: 'time-too-short',
    severity: 'warning',
    refused: { standby: { for: '59s' } },
    place: 'standby.for',
    message: /59s is less than a minute/,
    instead: /at least "1m"/,
    accepted: { standby: { for: '1m' } },
  },
  {
    rule: 'time-too-short',
    severity: 'warning',
    refused: { standby: { for: '1h', verifyEvery: '30s' } },
    place: 'standby.verifyEvery',
    message: /30s is less than a minute/,
    instead: /at least "1m"/,
    accepted: { standby: { for: '1h', verifyEvery: '1m' } },
  },
  {
    rule: 'time-too-short',
    severity: 'warning',
    refused: { traffic: { approval: { validFor: '1s' } } },
    place: 'traffic.approval.validFor',
    message: /1s is less than a minute/,
    instead: /"24h"/,
    accepted: { traffic: { approval: { validFor: '5m' } } },
  },
  {
    rule: 'short-standby',
    severity: 'warning',
    refused: { standby: { for: '30m' } },
    place: 'standby.for',
    message: /possible for 30 min after/,
    instead: /"48h"/,
    accepted: { standby: { for: '1h' } },
  },
  {
    rule: 'plan-too-large',
    // However often it compares: only what it tells counts.
    refused: { standby: { for: '365d' }, migrations: [longSql(30_000)] },
    place: 'plan',
    message: /plan of 3\d kB in about 19\d\d activities is a history of \d\d MB/,
    instead: /shorter "standby"/,
    accepted: { standby: { for: '30d', verifyEvery: '1m' }, migrations: [longSql(30_000)] },
  },
  {
    rule: 'plan-too-large',
    refused: { migrations: [longSql(100_000)] },
    place: 'plan',
    message: /plan of 10\d kB/,
    instead: /make the plan smaller/,
    accepted: { migrations: [longSql(50_000)] },
  },
  {
    rule: 'plan-too-large',
    // Only what is an activity of its own counts: columns are made in one, and so are indexes that follow each other.
    refused: Array.from({ length: 350 }, (_, i) => check({ name: `positive_${i}`, check: `total > ${i}` })),
    place: 'plan',
    message: /in about \d+ activities/,
    instead: /fewer steps/,
    accepted: {
      migrations: [
        ...Array.from({ length: 300 }, (_, i) => add({ column: `added_${i}` })),
        ...Array.from({ length: 100 }, (_, i) => index({ name: `index_${i}` })),
      ],
    },
  },
];

const partsOf = (what: Case['refused']): Partial<PlanInput> => (Array.isArray(what) ? { migrations: what } : what);

describe.each(CASES)('$rule at $place: $message', (example) => {
  it('is refused with rule, place, why and what to write instead', async () => {
    const findings = await lint(partsOf(example.refused));
    const finding = findings.find(({ rule, place }) => rule === example.rule && place === example.place);
    expect(finding, JSON.stringify(findings, null, 2)).toMatchObject({
      severity: example.severity ?? 'error',
      message: expect.stringMatching(example.message) as string,
      why: RULES.find(({ name }) => name === example.rule)?.why,
      instead: expect.stringMatching(example.instead) as string,
    });
  });

  it('is not said of the plan that does it right', async () => {
    expect((await lint(partsOf(example.accepted))).filter(({ rule }) => rule === example.rule)).toEqual([]);
  });
});

describe('a gate on counts', () => {
  const fixed = async (query: string, requests: string): Promise<string[]> =>
    (await lint(asking(query, requests))).map(({ rule, place }) => `${rule} ${place}`);
  const [query, requests] = ['traffic.gates[0].query', 'traffic.gates[0].requests'].map(
    (place) => `counts-of-fixed-range ${place}`,
  );

  it.each([
    ['increase over minutes', 'sum(increase(failed[5m]))', 'sum(increase(served[5m]))', [query, requests]],
    ['a rate', 'failed', 'sum(rate(served{path="(a"}[1m]))', [requests]],
    ['a range of seconds', 'failed', 'increase(served[300])', [requests]],
    ['a subquery that slides', 'failed', 'sum_over_time(served[1h:1m])', [requests]],
    ['a bare range', 'failed', 'served[5m]', [requests]],
  ])('can never decide by %s, and is refused', async (_what, failed, served, found) => {
    expect(await fixed(failed, served)).toEqual(found);
  });

  it.each([
    ['counters as they are', 'sum(failed{code=~"[5m]"}) # [5m]', "sum(served{by='[5m]'})"],
    ['the stage', 'sum(increase(failed[{{window}}])) or vector(0)', 'sum(increase(served[ {{ window }} ]))'],
    ['counters that are scraped seldom', 'last_over_time(failed[10m])', 'sum by (a) (max_over_time(served[10m]))'],
    ['what is added up over the stage', 'failed', 'sum_over_time(sum(increase(served[1m]))[{{window}}:1m])'],
  ])('is fine with %s', async (_what, failed, served) => {
    expect(await fixed(failed, served)).toEqual([]);
  });
});

describe('a gate on counts of a recording rule', () => {
  const warned = async (query: string): Promise<boolean> =>
    (await lint(asking('failed', query))).some(({ rule }) => rule === 'counts-recorded-over-range');

  it.each(['job:requests:rate5m', 'sum(path:requests:sum_irate1m)', 'a:b:delta90s + c'])(
    'is warned of %s',
    async (query) => {
      expect(await warned(query)).toBe(true);
    },
  );

  it.each([
    'job:requests:total',
    'sum(rate5m)',
    'increase(job:requests:sum[{{window}}])',
    'sum_over_time(job:requests:increase1m[{{window}}:1m])',
  ])('is fine with %s', async (query) => {
    expect(await warned(query)).toBe(false);
  });

  it('is fine where the number itself is judged', async () => {
    const findings = await lint(asking('sum(job:errors:rate5m) / sum(job:requests:rate5m)'));
    expect(findings.map(({ rule }) => rule)).not.toContain('counts-recorded-over-range');
  });
});

describe('a gate on a number', () => {
  it.each([
    ['the last minutes', 'sum(rate(failed[2m])) or vector(0)', []],
    ['a range of a series, which is asked over the last minutes too', 'rate(failed[1h])', []],
    ['a range where something else answers', 'sum(rate(failed[5m])) or vector(0)', ['range-hides-the-end']],
    ['the stage where something else answers', 'sum(increase(a[{{window}}])) or vector(0)', ['range-hides-the-end']],
    ['a subquery over the stage', 'max_over_time(failed[{{window}}:1m])', []],
  ])('over %s', async (_what, query, rules) => {
    expect((await lint(asking(query))).map(({ rule }) => rule)).toEqual(rules);
  });
});

describe('the lint', () => {
  it('has a case for every rule, here or where squawk is missing', () => {
    const shown = new Set([...CASES.map(({ rule }) => rule), 'squawk-missing']);
    expect(RULES.map(({ name }) => name).filter((name) => !shown.has(name))).toEqual([]);
  });

  it('says so when this platform has no squawk, and goes on without it', async () => {
    const platform = Object.getOwnPropertyDescriptor(process, 'platform');
    Object.defineProperty(process, 'platform', { ...platform, value: 'sunos' });
    try {
      expect(await lint({ migrations: [sql('REINDEX TABLE public.orders')] })).toMatchObject([
        { rule: 'squawk-missing', severity: 'warning', message: expect.stringContaining('sunos') as string },
      ]);
      expect(await lint({ migrations: [add()] })).toEqual([]);
    } finally {
      Object.defineProperty(process, 'platform', platform ?? {});
    }
  });

  it('says of a column in raw SQL that what is written into it on green has no way back', async () => {
    const [found] = await lint({ migrations: [sql('ALTER TABLE public.orders ADD COLUMN x integer')] });
    expect(found).toMatchObject({
      rule: 'column-in-raw-sql',
      message: expect.stringContaining(
        'to public.orders: what the application writes into it on green has no way',
      ) as string,
      why: expect.stringContaining(
        'once green serves the feed to blue leaves it out, and a rollback goes on',
      ) as string,
      instead: expect.stringContaining('with a "down", what is written into it comes back') as string,
    });
  });

  it('puts errors before warnings and keeps every finding', async () => {
    const findings = await lint({
      migrations: [
        add({ default: 'now()' }),
        sql('DO $$ BEGIN END $$'),
        sql('DROP TABLE public.a; DROP TABLE public.b', VIEW, 'x'),
      ],
    });
    expect(findings.map(({ rule }) => rule)).toEqual([
      'drop-or-rename',
      'drop-or-rename',
      'time-default',
      'opaque-sql',
    ]);
  });

  it('never fails on SQL that it does not expect', async () => {
    const odd = ['', ';', '\0', '(', `'`, '$$', '/*', '1e', 'é'.repeat(5000), '('.repeat(200), 'SELECT'];
    for (const text of odd.filter((t) => t !== '')) {
      const findings = await lint({
        migrations: [
          add({ up: text, down: text, default: text, type: text }),
          index({ columns: [text] }),
          sql(text, text),
        ],
      });
      expect(findings.length).toBeGreaterThan(0);
    }
  });
});

it('counts the steps as they are done', async () => {
  const migrations = [
    ...[add(), index({ name: 'a' }), add({ column: 'b', notNull: true, up: `''` }), index({ name: 'b' }), change()],
    ...[index({ name: 'c' }), check(), change({ newColumn: 'd', notNull: true }), index({ name: 'd' })],
    ...[longSql(1), longSql(1), index({ name: 'e' }), { setNotNull: { table: 'orders', column: 'note', up: `''` } }],
  ];
  for (let length = 0; length <= migrations.length; length++) {
    const { migrations: steps } = planSchema.parse(planWith({ migrations: migrations.slice(0, length) }));
    expect(countLaterSteps({ migrations: steps })).toBe((await planWork({ migrations: steps })).steps.length);
  }
});
