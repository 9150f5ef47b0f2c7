import { formatTableName } from '../plan/table-name.js';
import type { Plan } from '../plan/schema.js';
import { planWork } from '../postgres/migrate/plan-work.js';
import { listed } from '../postgres/preflight/finding.js';
import type { Console } from './console.js';
import type { Obstacle } from './obstacles.js';
import type { PgBouncer } from './pgbouncer.js';

/**
 * From 1.21 on PgBouncer keeps statements that a client has prepared, and prepares them anew on green: the client is not
 * told, and goes on by the columns that blue had. On one server PostgreSQL would refuse such a statement, and drivers know
 * that error; to green it is a new one.
 */
export async function preparedObstacles(
  { pooler }: { readonly pooler: Pick<PgBouncer, 'connection'> },
  control: Pick<Console, 'settings'>,
  plan: Pick<Plan, 'migrations'>,
): Promise<Obstacle[]> {
  const { tables } = await planWork(plan);
  const widened = tables.filter(({ columns }) => columns.length > 0).map(({ table }) => formatTableName(table));
  if (widened.length === 0) return [];
  const most = Number((await control.settings()).get('max_prepared_statements') ?? '0');
  if (!(most > 0)) return [];
  return [
    {
      severity: 'warning',
      check: 'pgbouncer-prepared',
      message: `PgBouncer "${pooler.connection}" keeps prepared statements (max_prepared_statements = ${most}), and the plan gives columns to ${listed(widened)}: where a driver remembers what columns a statement has, a prepared SELECT * of these fails on green, each time, until that client has connected anew; after a rollback it is the same`,
      remedy:
        'Name the columns in the application; or let it prepare nothing during the move; or restart it, or its pools, right after the promotion (docs/applications.md)',
    },
  ];
}
