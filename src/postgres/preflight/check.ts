import type { Plan } from '../../plan/schema.js';
import type { TableName } from '../../plan/table-name.js';
import type { Side } from '../../side.js';
import type { TableInfo } from '../catalog.js';
import type { Database, Session } from '../session.js';
import type { PreflightFinding } from './finding.js';

/** One side, as a check sees it. Checks read and leave nothing behind. */
export interface SideContext {
  readonly side: Side;
  readonly database: Database;
  readonly session: Session;
  readonly plan: Plan;
  readonly runId: string;
  /** The major version. */
  readonly version: number;
  readonly isSuperuser: boolean;
  /** The tables that the plan moves; read once. */
  readonly tables: () => Promise<readonly TableInfo[]>;
  /** What a schema copy would leave there: see excludedRelations(). Read once. */
  readonly excluded: () => Promise<readonly TableName[]>;
}

/** Both sides, for checks that compare them. */
export interface PairContext {
  readonly blue: SideContext;
  readonly green: SideContext;
  /** How long a server may try to reach the other one: a host that drops packets never answers. */
  readonly reachWithinMs: number;
}

/** What a check finds; the name and the side are put to it. */
export type Found = Omit<PreflightFinding, 'check' | 'side'>;

/** The ways in which green can get its first rows. */
export type BootstrapMethod = Plan['bootstrap']['method'];

/** For what green must be when its schema is copied: a standby of blue has everything of blue. */
export const NEW_GREEN: readonly BootstrapMethod[] = ['copy', 'tablesync'];

/** A question to one side. It runs whatever the others find. */
export interface SideCheck {
  readonly name: string;
  /** The sides that it is asked on. */
  readonly sides: readonly Side[];
  /** The bootstrap methods for which it is asked; all when left out. */
  readonly methods?: readonly BootstrapMethod[];
  /** What it finds never refuses a run: so a failure of it does not either, and it has less time. Default: false */
  readonly onlyWarns?: boolean;
  readonly run: (context: SideContext) => Promise<readonly Found[]>;
}

/** A question that needs both sides. */
export interface PairCheck {
  readonly name: string;
  /** The bootstrap methods for which it is asked; all when left out. */
  readonly methods?: readonly BootstrapMethod[];
  readonly run: (pair: PairContext) => Promise<readonly (Found & { readonly side: PreflightFinding['side'] })[]>;
}

export const BOTH_SIDES: readonly Side[] = ['blue', 'green'];

/** The one row of a query that has one. */
export async function oneRow<Row extends object>(session: Session, sql: string, values: unknown[] = []): Promise<Row> {
  const { rows } = await session.query<Row>(sql, values);
  const row = rows[0];
  if (row === undefined) throw new Error('a query of the preflight returned no row');
  return row;
}
