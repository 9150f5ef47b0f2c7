import type { PlanInput } from '../../../src/plan/schema.js';

export type Migrations = NonNullable<PlanInput['migrations']>;

/** A rule at work: a plan that it refuses, where and in what words, and a plan beside it that is accepted. */
export interface Case {
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

export type Gates = NonNullable<NonNullable<PlanInput['traffic']>['gates']>;

export const prometheus = (name: string, limits: { min: number; max?: number } = { min: 1 }): Gates[number] => ({
  ...{ metric: 'prometheus', name, connection: 'prometheus', query: 'up', ...limits },
});
export const asking = (query: string, requests?: string): Partial<PlanInput> => ({
  traffic: {
    gates: [
      {
        ...{ metric: 'prometheus', name: 'checkout', connection: 'prometheus', query, max: 0.001 },
        ...(requests === undefined ? {} : { requests }),
      },
    ],
  },
});

export const add = (more: object = {}): Migrations[number] => ({
  addColumn: { table: 'orders', column: 'note', type: 'text', ...more },
});
export const change = (more: object = {}): Migrations[number] => ({
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
export const sql = (up: string, down = 'DROP VIEW public.v', name = 'step'): Migrations[number] => ({
  sql: { name, up, down },
});
export const longSql = (bytes: number): Migrations[number] =>
  sql(`CREATE VIEW public.v AS SELECT '${'x'.repeat(bytes)}' AS v`);
export const index = (more: object = {}): Migrations[number] => ({
  createIndex: { table: 'orders', name: 'i', columns: ['total'], ...more },
});
export const key = (more: object): Migrations[number] => ({
  addConstraint: { table: 'orders', name: 'k', ...more },
});
export const check = (more: object = {}): Migrations[number] => ({
  addConstraint: { table: 'orders', name: 'c', check: 'total > 0', ...more },
});
export const pgbouncer = (more: object = {}, ...names: string[]) => ({
  databases: ['orders'],
  instances: (names.length === 0 ? ['pool'] : names).map((connection) => ({ connection, file: '/etc/orders.ini' })),
  ...more,
});
export const STAGES = [{ percent: 100, for: '1m' }];
export const haproxy = (more: object = {}) => ({
  haproxy: { backend: 'reads', instances: ['lb'], ...more },
  gates: [{ metric: 'lag' as const, max: '1s' }],
});
export const LEVEL = "CREATE TYPE public.level AS ENUM ('low', 'high')";
export const RANK = "CREATE FUNCTION public.rank(t text) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'";
export const NEW_TABLE = 'CREATE TABLE public.fresh (id bigint PRIMARY KEY, a text)';
export const VIEW = 'CREATE VIEW public.v AS SELECT 1 AS x';
